"""Every prompt, from one literal record in the schema of its data set, character by character."""

from dataclasses import replace
from typing import Any

import pytest

from zofx.errors import UsageError
from zofx.tasks import TASKS
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.types import Example, Task

Case = tuple[str, dict[str, Any], Example]

CAUSAL: tuple[Case, ...] = (
    (
        "sst2",
        {"sentence": "a smart , sweet film ", "label": 1, "idx": 0},
        Example("a smart , sweet film It was", (" terrible", " great"), 1),
    ),
    (
        "rte",
        {"premise": "Cats sleep.", "hypothesis": "Animals sleep.", "label": 0, "idx": 0},
        Example(
            'Cats sleep.\nDoes this mean that "Animals sleep." is true? Yes or No?\n',
            ("Yes", "No"),
            0,
        ),
    ),
    (
        "rte",
        {
            "index": "7",
            "sentence1": "It rains.",
            "sentence2": "It is dry.",
            "label": "not_entailment",
        },
        Example(
            'It rains.\nDoes this mean that "It is dry." is true? Yes or No?\n', ("Yes", "No"), 1
        ),
    ),
    (
        "cb",
        {"premise": "Ann: Did he win? Bob: I doubt it.", "hypothesis": "he won", "label": 2},
        Example(
            "Suppose Ann: Did he win? Bob: I doubt it. "
            'Can we infer that "he won"? Yes, No, or Maybe?\n',
            ("Yes", "No", "Maybe"),
            2,
        ),
    ),
    (
        "cb",
        {"premise": "She left.", "hypothesis": "she stayed", "label": "contradiction"},
        Example(
            'Suppose She left. Can we infer that "she stayed"? Yes, No, or Maybe?\n',
            ("Yes", "No", "Maybe"),
            1,
        ),
    ),
    (
        "boolq",
        {"question": "is ice solid", "answer": True, "passage": "Ice is frozen water."},
        Example("Ice is frozen water. Is ice solid?\n", ("Yes", "No"), 0),
    ),
    (
        "boolq",
        {"question": "is ice hot?", "answer": False, "passage": "Ice is frozen water."},
        Example("Ice is frozen water. Is ice hot?\n", ("Yes", "No"), 1),
    ),
    (
        "wsc",
        {
            "text": "Mark told Pete many lies about himself.",
            "span1_index": 2,
            "span2_index": 6,
            "span1_text": "Pete",
            "span2_text": "Himself",
            "label": 0,
        },
        Example(
            "Mark told Pete many lies about himself.\nIn the previous sentence, does the pronoun "
            '"himself" refer to Pete? Yes or No?\n',
            ("No", "Yes"),
            0,
        ),
    ),
    (
        "wic",
        {"word": "bank", "sentence1": "The river's bank.", "sentence2": "A bank loan.", "label": 0},
        Example(
            'Does the word "bank" have the same meaning in these two sentences? Yes, No?\n'
            "The river's bank.\nA bank loan.\n",
            ("No", "Yes"),
            0,
        ),
    ),
    (
        "multirc",
        {"paragraph": "Tom ran home.", "question": "Who ran?", "answer": "Tom", "label": 1},
        Example(
            "Tom ran home.\nQuestion: Who ran?\n"
            'I found this answer "Tom". Is that correct? Yes or No?\n',
            ("No", "Yes"),
            1,
        ),
    ),
    (
        "copa",
        {
            "premise": "The glass fell. ",
            "choice1": "It broke.",
            "choice2": "I caught it.",
            "question": "effect",
            "label": 1,
        },
        Example("The glass fell so ", ("it broke.", "I caught it."), 1),
    ),
    (
        "copa",
        {
            "premise": "The glass fell.",
            "choice1": "The cat pushed it.",
            "choice2": "The sun rose.",
            "question": "cause",
            "label": 0,
        },
        Example("The glass fell because ", ("the cat pushed it.", "the sun rose."), 0),
    ),
    (
        "record",
        {
            "passage": "Rome fell.\n@highlight\nGoths came to Rome",
            "query": "@placeholder was sacked by Goths",
            "entities": ["Goths", "Rome", "Goths", "Rome City"],
            "answers": ["Rome", "Rome City"],
        },
        Example(
            "Rome fell.\n- Goths came to Rome\n-",
            (
                " Goths was sacked by Goths",
                " Rome was sacked by Goths",
                " Rome City was sacked by Goths",
            ),
            1,
            accepted=(1, 2),
        ),
    ),
    (
        "squad",
        {
            "title": "Ants",
            "context": "An ant has six legs.",
            "question": "How many legs? ",
            "answers": {"text": ["six", "six legs"], "answer_start": [11, 11]},
        },
        Example(
            "Title: Ants\nContext: An ant has six legs.\nQuestion: How many legs?\nAnswer:",
            (" six\n",),
            references=("six", "six legs"),
        ),
    ),
    (
        "drop",
        {
            "passage": "They won 3 games and lost 2.",
            "question": "How many games?",
            "answers_spans": {"spans": ["5"], "types": ["number"]},
        },
        Example(
            "Passage: They won 3 games and lost 2.\nQuestion: How many games?\nAnswer:",
            (" 5\n",),
            references=("5",),
        ),
    ),
    (
        "winogrande",
        {
            "sentence": "The cup did not fit the bag because the _ was too big.",
            "option1": "cup",
            "option2": "bag",
            "answer": "1",
        },
        Example(
            "The cup did not fit the bag because the ", ("cup was too big.", "bag was too big."), 0
        ),
    ),
    (
        "trec",
        {"question": "Who wrote Emma ?", "label": "HUM"},
        Example(
            "Question: Who wrote Emma ?\nThe answer is a",
            (" abbreviation", " description", " thing", " person", " place", " number"),
            3,
        ),
    ),
    (
        "imdb",
        {"text": "A dull film.", "label": "0", "source": "imdb"},
        Example("A dull film. It was", (" terrible", " great"), 0),
    ),
    (
        "siqa",
        {
            "passage": "Kai sang.",
            "question": "How does Kai feel? ",
            "options": ["glad", "ill"],
            "answer": 0,
        },
        Example("Kai sang.\nQuestion: How does Kai feel?\nAnswer:", (" glad", " ill"), 0),
    ),
    (
        "piqa",
        {"question": "open a jar", "options": ["twist the lid", "eat the lid"], "answer": 0},
        Example("Question: open a jar\nAnswer:", (" twist the lid", " eat the lid"), 0),
    ),
)

MASKED: tuple[Case, ...] = (
    (
        "sst2",
        {"sentence": "a dull film ", "label": 0},
        Example("a dull film It was [MASK] .", (" terrible", " great"), 0),
    ),
    (
        "rte",
        {"premise": "Cats sleep.", "hypothesis": "Dogs bark.", "label": 1},
        Example("Cats sleep. ? [MASK] , Dogs bark.", (" Yes", " No"), 1),
    ),
    (
        "cb",
        {"premise": "Cats sleep.", "hypothesis": "Dogs bark.", "label": 2},
        Example("Cats sleep. ? [MASK] , Dogs bark.", (" Yes", " No", " Maybe"), 2),
    ),
    (
        "trec",
        {"question": "Where is Rome ?", "label": "LOC"},
        Example(
            "[MASK] : Where is Rome ?",
            (" Expression", " Description", " Entity", " Human", " Location", " Number"),
            4,
        ),
    ),
)


def holding(task: Task, record: dict[str, Any]) -> Task:
    """The task on one record."""
    return replace(task, load=lambda: Pool([record], test=[]), sizes=Sizes(1, 0, 0))


@pytest.mark.parametrize(("name", "record", "expected"), CAUSAL, ids=[case[0] for case in CAUSAL])
def test_causal_prompt(name: str, record: dict[str, Any], expected: Example) -> None:
    """A record of the data set's schema becomes exactly this example."""
    (example,) = holding(TASKS[name], record).splits().train
    assert example == replace(expected, id=f"{name} train record 0")


@pytest.mark.parametrize(("name", "record", "expected"), MASKED, ids=[case[0] for case in MASKED])
def test_masked_prompt(name: str, record: dict[str, Any], expected: Example) -> None:
    """For a masked model the same record has its mask and one-word labels."""
    (example,) = holding(TASKS[name], record).splits(masked=True).train
    assert example == replace(expected, id=f"{name} train record 0")


BAD: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        "sst2",
        {"text_": "x", "label": 0},
        "sst2 train record 0: there is no field 'sentence' or 'text'; there are: text_, label; "
        "the records must have the schema of nyu-mll/glue, sst2",
    ),
    (
        "sst2",
        {"sentence": "x", "label": -1},
        "sst2 train record 0: label -1 is none of negative, positive, nor an index below 2; "
        "the records must have the schema of nyu-mll/glue, sst2",
    ),
    (
        "copa",
        {"premise": "x", "choice1": "a", "choice2": "b", "question": "why", "label": 0},
        "copa train record 0: question 'why' is neither 'cause' nor 'effect'; "
        "the records must have the schema of aps/super_glue, copa",
    ),
    (
        "record",
        {"passage": "p", "query": "q", "entities": ["A"], "answers": ["B"]},
        "record train record 0: none of 'answers' is among 'entities'; "
        "the records must have the schema of aps/super_glue, record",
    ),
    (
        "squad",
        {"title": "t", "context": "c", "question": "q", "answers": {"text": []}},
        "squad train record 0: the record has no answer; "
        "the records must have the schema of rajpurkar/squad",
    ),
    (
        "squad",
        {"title": "t", "context": "c", "question": "q", "answers": "six"},
        "squad train record 0: field 'answers' is 'six'; expected an object with 'text'; "
        "the records must have the schema of rajpurkar/squad",
    ),
    (
        "sst2",
        {"sentence": 3, "label": 0},
        "sst2 train record 0: field 'sentence' or 'text' is 3; expected text; "
        "the records must have the schema of nyu-mll/glue, sst2",
    ),
    (
        "record",
        {"passage": "p", "query": "q", "entities": "A", "answers": ["B"]},
        "record train record 0: field 'entities' is 'A'; expected a list of texts; "
        "the records must have the schema of aps/super_glue, record",
    ),
    (
        "winogrande",
        {"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"},
        "winogrande train record 0: the sentence has no gap '_'; "
        "the records must have the schema of allenai/winogrande, winogrande_m",
    ),
    (
        "winogrande",
        {"sentence": "a _ b", "option1": "a", "option2": "b", "answer": ""},
        "winogrande train record 0: answer '' is neither '1' nor '2'; "
        "the records must have the schema of allenai/winogrande, winogrande_m",
    ),
)


@pytest.mark.parametrize(("name", "record", "message"), BAD, ids=[case[2][:40] for case in BAD])
def test_bad_record(name: str, record: dict[str, Any], message: str) -> None:
    """A record that does not fit names its place, the field and the schema."""
    with pytest.raises(UsageError) as error:
        holding(TASKS[name], record).splits()
    assert str(error.value) == message


def test_no_masked_prompt() -> None:
    """A task without a masked prompt says so before reading data."""
    with pytest.raises(UsageError, match=r"task 'copa' has no prompt for a masked language model"):
        TASKS["copa"].splits(masked=True)


def test_table() -> None:
    """Every row of the table holds the task of its name."""
    assert [TASKS[name].name for name in TASKS] == list(TASKS)
