"""Prompts → greedy texts, and where a text ends.

    prompt ──Encoder──▶ ids ──generate──▶ new ids ──tokenizer──▶ text, cut at `stop`

A text ends before its first `stop`, or at an end-of-sequence token, or when it is full. `stop` is a
string: any token that holds it ends the row, for byte-pair tokenizers merge a newline with what
stands beside it.

Answers of up to 50 tokens, ended by a newline: Malladi et al. 2023 (arXiv 2305.17333), App. E.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from zofx.session import Session
from zofx.tasks.encode import Encoder
from zofx.tasks.generation import generate
from zofx.tasks.types import Example, references
from zofx.zo.types import FloatArray, Key

NEW_TOKENS = 50
"""The most tokens of an answer, unless a gold one is longer."""

NEWLINE = "\n"


@dataclass(frozen=True)
class Decoder:
    """How a model's texts are written.

    Attributes:
        encoder: prompts to ids; its max_length bounds prompt and text together.
        vocabulary: how many tokens the model knows.
        end_ids: its end-of-sequence tokens.
        stop: a text ends before it; None for none.
        max_new_tokens: the most tokens of a text.
    """

    encoder: Encoder
    vocabulary: int
    end_ids: frozenset[int]
    stop: str | None = None
    max_new_tokens: int = NEW_TOKENS

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a row: those of the end, and those whose text holds `stop`."""
        if self.stop is None:
            return self.end_ids
        tokenizer = self.encoder.tokenizer
        known = range(tokenizer.get_vocab_size())
        written = tokenizer.decode_batch([[index] for index in known], skip_special_tokens=False)
        return self.end_ids | {i for i in known if self.stop in written[i]}

    def answers(
        self,
        session: Session,
        examples: Sequence[Example],
        keys: Sequence[Key] = (),
        matrix: FloatArray | None = None,
    ) -> list[list[str]]:
        """What P probes answer to B examples, P × B texts.

        Args:
            session: an open artifact.
            examples: whose prompts are continued.
            keys: Q directions.
            matrix: f32[P, Q]; None is one probe without a direction.

        Raises:
            UsageError: naming the example whose prompt is too long.
            DivergenceError: the model's probabilities are not numbers.
        """
        # A prompt that may be cut leaves room for a whole text, yet keeps half of the row.
        room = min(self.max_new_tokens, self.encoder.max_length // 2)
        prompts = [self.encoder.prompt(example, room) for example in examples]
        texts = generate(
            session,
            prompts,
            keys=keys,
            matrix=matrix,
            max_new_tokens=self.max_new_tokens,
            stop_ids=self.stop_ids,
            pad_id=self.encoder.pad_id,
            max_positions=self.encoder.max_length,
            vocabulary=self.vocabulary,
        )
        return [[self.text(p, new) for p, new in zip(prompts, rows, strict=True)] for rows in texts]

    def judged(self, example: Example) -> Example:
        """The example with references that are text alone: special tokens at their end are none."""
        golds = gold_texts(self.encoder, self.end_ids, references(example))
        return replace(example, references=tuple(golds))

    def text(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """New tokens as they read after the prompt, without what ended them."""
        kept = [index for index in new if index not in self.end_ids]
        before, whole, alone = (
            self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True)
            for ids in (prompt, [*prompt, *kept], kept)
        )
        # Many tokenizers drop the space that a text begins with: behind its prompt it is kept.
        written = whole[len(before) :] if whole.startswith(before) else alone
        return written if self.stop is None else written.partition(self.stop)[0]


def gold_texts(encoder: Encoder, end_ids: Collection[int], texts: Sequence[str]) -> list[str]:
    """Gold answers as texts: without the special tokens that they may end with.

    Args:
        encoder: whose tokenizer names them.
        end_ids: the ends of a text, whether the tokenizer calls them special or not.
        texts: as the task has them.
    """
    added = encoder.tokenizer.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    special |= {encoder.tokenizer.id_to_token(index) or "" for index in end_ids}
    ends = tuple(special - {""})
    return [_without_ends(text, ends) for text in texts]


def _without_ends(text: str, ends: tuple[str, ...]) -> str:
    while ends and text.endswith(ends):
        text = text.removesuffix(max((end for end in ends if text.endswith(end)), key=len))
    return text


def stop_of(golds: Sequence[str]) -> str | None:
    """What ends an answer: a newline, where it ends every gold one and is nowhere else in it."""
    once = [gold.count(NEWLINE) == 1 and gold.endswith(NEWLINE) for gold in golds]
    return NEWLINE if once and all(once) else None
