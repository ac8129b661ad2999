"""The prompts of MeZO's tasks: record → example, one function per data set.

    encode(record) = prompt         verbalize(record, candidate) = prompt + candidate

Candidates follow the prompt directly; a space is part of a candidate only where it is written.
Records have the columns of the hub's data sets; GLUE's names for the same columns (sentence1,
sentence2) are read too.

Causal prompts: Malladi et al. 2023 (arXiv 2305.17333), large_models/templates.py at 552cb1b;
WinoGrande: ZO-Bench (Zhang et al. 2024, arXiv 2402.11592), after Trinh & Le's partial evaluation.
Masked prompts: Table 13 of the former.
"""

from collections.abc import Mapping

from zofx.errors import UsageError
from zofx.tasks.types import MASK, Example, Record, Template, label, pick, text, texts

YES_NO = ("Yes", "No")
NO_YES = ("No", "Yes")
ENTAILMENT = ("entailment", "not_entailment")
COMMITMENT = ("entailment", "contradiction", "neutral")
BOOLEAN = ("false", "true")


def sst2(record: Record) -> Example:
    """Is a sentence of a film review negative (0) or positive (1)?"""
    prompt = f"{text(record, 'sentence', 'text').strip()} It was"
    return Example(prompt, (" terrible", " great"), label(record, ("negative", "positive")))


def sst2_masked(record: Record) -> Example:
    """The same question with the word to be guessed before a full stop."""
    prompt = f"{text(record, 'sentence', 'text').strip()} It was {MASK} ."
    return Example(prompt, (" terrible", " great"), label(record, ("negative", "positive")))


def rte(record: Record) -> Example:
    """Does a premise entail a hypothesis: yes (0) or no (1)?"""
    premise, hypothesis = _pair(record)
    prompt = f'{premise}\nDoes this mean that "{hypothesis}" is true? Yes or No?\n'
    return Example(prompt, YES_NO, label(record, ENTAILMENT))


def cb(record: Record) -> Example:
    """Does a premise commit its speaker to a hypothesis: yes (0), no (1) or maybe (2)?"""
    premise, hypothesis = _pair(record)
    prompt = f'Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n'
    return Example(prompt, ("Yes", "No", "Maybe"), label(record, COMMITMENT))


def rte_masked(record: Record) -> Example:
    """The premise as a question, answered by the masked word, then the hypothesis."""
    return Example(_masked_pair(record), (" Yes", " No"), label(record, ENTAILMENT))


def cb_masked(record: Record) -> Example:
    """As `rte_masked`, with a third word."""
    return Example(_masked_pair(record), (" Yes", " No", " Maybe"), label(record, COMMITMENT))


def _pair(record: Record) -> tuple[str, str]:
    return text(record, "premise", "sentence1"), text(record, "hypothesis", "sentence2")


def _masked_pair(record: Record) -> str:
    premise, hypothesis = _pair(record)
    return f"{premise} ? {MASK} , {hypothesis}"


def boolq(record: Record) -> Example:
    """Does a passage answer a question with yes (0) or no (1)? The stored answer is a boolean."""
    question = text(record, "question")
    question = question[:1].upper() + question[1:]
    question = question if question.endswith("?") else f"{question}?"
    answer = 1 - label(record, BOOLEAN, "answer", "label")
    return Example(f"{text(record, 'passage')} {question}\n", YES_NO, answer)


def wsc(record: Record) -> Example:
    """Does a pronoun (span 2) refer to a noun (span 1): no (0) or yes (1)?"""
    pronoun, noun = text(record, "span2_text").lower(), text(record, "span1_text")
    prompt = (
        f"{text(record, 'text')}\n"
        f'In the previous sentence, does the pronoun "{pronoun}" refer to {noun}? Yes or No?\n'
    )
    return Example(prompt, NO_YES, label(record, BOOLEAN))


def wic(record: Record) -> Example:
    """Has a word the same meaning in two sentences: no (0) or yes (1)?"""
    prompt = (
        f'Does the word "{text(record, "word")}" have the same meaning in these two sentences? '
        f"Yes, No?\n{text(record, 'sentence1')}\n{text(record, 'sentence2')}\n"
    )
    return Example(prompt, NO_YES, label(record, BOOLEAN))


def multirc(record: Record) -> Example:
    """Is an answer to a question about a paragraph correct: no (0) or yes (1)?"""
    prompt = (
        f"{text(record, 'paragraph')}\nQuestion: {text(record, 'question')}\n"
        f'I found this answer "{text(record, "answer")}". Is that correct? Yes or No?\n'
    )
    return Example(prompt, NO_YES, label(record, BOOLEAN))


def copa(record: Record) -> Example:
    """Which of two sentences is the cause, or the effect, of a premise?"""
    relations = {"cause": " because ", "effect": " so "}
    relation = text(record, "question")
    if relation not in relations:
        raise UsageError(f"question {relation!r} is neither 'cause' nor 'effect'")
    premise = text(record, "premise").rstrip().removesuffix(".")
    choices = (_inner(text(record, "choice1")), _inner(text(record, "choice2")))
    return Example(premise + relations[relation], choices, label(record, ("choice1", "choice2")))


def _inner(sentence: str) -> str:
    """A sentence as it reads after a conjunction: the first word in lower case, except "I"."""
    first, space, rest = sentence.partition(" ")
    return (first if first == "I" else first.lower()) + space + rest


def record_cloze(record: Record) -> Example:
    """Which entity of a news passage fills the gap of a query? Several may: the first is gold."""
    passage, query = text(record, "passage"), text(record, "query")
    entities = tuple(dict.fromkeys(texts(record, "entities")))
    accepted = tuple(entities.index(a) for a in texts(record, "answers") if a in entities)
    if not accepted:
        raise UsageError("none of 'answers' is among 'entities'")
    prompt = passage.replace("@highlight\n", "- ") + "\n-"
    candidates = tuple(" " + query.replace("@placeholder", entity) for entity in entities)
    return Example(prompt, candidates, accepted[0], accepted)


def squad(record: Record) -> Example:
    """Answer a question with words of its context; generation, ended by a newline."""
    prompt = (
        f"Title: {text(record, 'title')}\nContext: {text(record, 'context')}\n"
        f"Question: {text(record, 'question').strip()}\nAnswer:"
    )
    return _answered(prompt, record, "answers", "text")


def drop(record: Record) -> Example:
    """Answer a question that needs counting or comparing in a passage; generation as in `squad`."""
    prompt = f"Passage: {text(record, 'passage')}\nQuestion: {text(record, 'question')}\nAnswer:"
    return _answered(prompt, record, "answers_spans", "spans")


def _answered(prompt: str, record: Record, field: str, part: str) -> Example:
    """Completed by the first answer of a record that nests them, as field → part → list."""
    nested = pick(record, field)
    if not isinstance(nested, Mapping):
        raise UsageError(f"field {field!r} is {nested!r}; expected an object with {part!r}")
    answers = texts(nested, part)
    if not answers:
        raise UsageError("the record has no answer")
    return Example(prompt, (f" {answers[0]}\n",), references=tuple(answers))


def winogrande(record: Record) -> Example:
    """Which option fills the gap? What precedes it is the prompt, an option and the rest follow."""
    before, gap, after = text(record, "sentence").partition("_")
    if not gap:
        raise UsageError("the sentence has no gap '_'")
    options = (text(record, "option1") + after, text(record, "option2") + after)
    answer = str(pick(record, "answer"))
    if answer not in ("1", "2"):
        raise UsageError(f"answer {answer!r} is neither '1' nor '2'")
    return Example(before, options, int(answer) - 1)


def options(record: Record) -> Example:
    """A question with answers of several words, each a continuation; the prompt is zofx's own."""
    passage = f"{record['passage'].strip()}\n" if record.get("passage") else ""
    prompt = f"{passage}Question: {text(record, 'question').strip()}\nAnswer:"
    choices = texts(record, "options")
    return Example(prompt, tuple(f" {choice}" for choice in choices), pick(record, "answer"))


def topic(words: tuple[str, ...], classes: tuple[str, ...]) -> Template:
    """What a question asks for, as the noun that ends a sentence about its answer."""

    def template(record: Record) -> Example:
        prompt = f"Question: {text(record, 'question')}\nThe answer is a"
        candidates = tuple(f" {word}" for word in words)
        return Example(prompt, candidates, label(record, classes))

    return template


def topic_masked(words: tuple[str, ...], classes: tuple[str, ...]) -> Template:
    """The masked word names the class of the question that follows it."""

    def template(record: Record) -> Example:
        candidates = tuple(f" {word}" for word in words)
        return Example(f"{MASK} : {text(record, 'question')}", candidates, label(record, classes))

    return template
