"""Examples → rows of tokens, as a model of their kind reads and scores them.

    causal    full = [bos] tok(prompt) · option
              option = what tok(prompt + candidate) has after tok(prompt), where it begins so;
                       else prompt and candidate merge, and option = tok(candidate)
              option token i is scored at position i − 1, whose output predicts it
              row = full without its last token: nothing scored depends on that one
    masked    row = tok(prompt with one mask); the candidates' single tokens, scored at the mask

Candidates of one token after the same tokens share a row (C alternatives, S = 1); others take a
row each (C = 1, S option tokens). Both give the mean log-probability of the option's tokens, so
they mix in one batch. Rows are padded on the right: positions are explicit, so padding moves
nothing. Too long a prompt loses tokens on its left, never the bos, which is there once, whether
the prompt is written with one or not.

So a row begins with the very tokens that generation continues, and every character of a candidate
is scored, whatever the tokenizer merges. Candidates that become the same tokens are refused: no
training could tell them apart.

The stripping of spaces and the truncation are MeZO's (Malladi et al. 2023, large_models/utils.py);
so is the option where nothing merges.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tokenizers import Tokenizer

from zofx.errors import UsageError
from zofx.tasks.rows import Encoded, Row, collate, merged_row
from zofx.tasks.types import MASK, Example

SHORTEST = 4

MOST_CHARACTERS: Final = 1 << 24
"""Of a prompt with a candidate: some million tokens."""

ANCHORS: Final = ("\n", ".", "0", "a")
"""Texts to put before a candidate, so that it is not the beginning of one; the first that does not
merge with it is taken."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the conventions of a model.

    Attributes:
        tokenizer: the model's; its own padding and truncation are not used.
        bos_id: put first in every causal row; None for models without.
        pad_id: fills rows on the right, under attention mask 0.
        mask_id: the mask token of a masked model; None for a causal one.
        max_length: tokens a row may have: the task's limit or the model's positions, whichever is
            less.
        truncate: shorten longer prompts; when False they are an error.
        multiple: row length is rounded up to a multiple of this (within max_length), so that few
            shapes occur.
    """

    tokenizer: Tokenizer
    bos_id: int | None
    pad_id: int
    mask_id: int | None
    max_length: int
    truncate: bool = True
    multiple: int = 8

    def __post_init__(self) -> None:
        if self.max_length < SHORTEST:
            raise UsageError(
                f"max_length {self.max_length}: a row needs at least {SHORTEST} tokens "
                "(a special token on either side, a prompt, and what follows it)"
            )
        if self.tokenizer.padding or self.tokenizer.truncation:
            plain = Tokenizer.from_str(self.tokenizer.to_str())
            plain.no_padding()
            plain.no_truncation()
            object.__setattr__(self, "tokenizer", plain)

    def encode(
        self, examples: Sequence[Example], *, gold_only: bool = False, relative: bool = False
    ) -> Encoded:
        """The batch of some examples.

        Args:
            examples: B of them, at least one.
            gold_only: score the gold candidate alone: what likelihood training needs.
            relative: whether only differences between an example's candidates count: where these
                share a row, the batch is then a relative one.

        Raises:
            UsageError: naming the example: too long, no token to score, no mask, a label word of
                several tokens.
        """
        chosen = [_gold(example) if gold_only else example for example in examples]
        rows = [row for index, example in enumerate(chosen) for row in self.rows(example, index)]
        length = self._padded(max(len(row.tokens) for row in rows))
        encoded = collate(chosen, rows, length, self.pad_id)
        batch = replace(encoded.batch, relative=relative and len(rows) == len(chosen))
        return replace(encoded, batch=batch, examples=tuple(examples))

    def prompt(self, example: Example, room: int = 1) -> tuple[int, ...]:
        """The ids of a prompt to be continued, cut on its left as rows are.

        Args:
            example: whose prompt; its candidates play no part.
            room: tokens of a row that a prompt which is cut leaves free, at least one.

        Raises:
            UsageError: naming the example: nothing to continue, or too long without truncation.
        """
        _require_readable(example)
        bos = self._bos
        ids = self.prompt_ids(example)
        if not bos + ids:
            raise UsageError(f"{_name(example)}: the prompt is empty; there is nothing to continue")
        limit = self.max_length - len(bos) - (room if self.truncate else 1)
        if len(ids) > limit and not self.truncate:
            raise UsageError(self._too_long(example, len(bos) + len(ids) + 1))
        return bos + ids[-limit:]

    def rows(self, example: Example, index: int = 0) -> list[Row]:
        """The rows of an example, before padding.

        Args:
            example: whose rows.
            index: its place in a batch.

        Raises:
            UsageError: as in `encode`.
        """
        _require_readable(example)
        if self.mask_id is not None:
            return [self._masked_row(index, example, self.mask_id)]
        prompt = self.prompt_ids(example)
        rows = [self._option_row(index, c, example, prompt) for c in range(len(example.candidates))]
        self._require_different(example, [row.targets for row in rows])
        shared = len({(row.tokens, row.positions) for row in rows}) == 1
        return [merged_row(rows)] if shared and len(rows[0].positions) == 1 else rows

    @property
    def _bos(self) -> tuple[int, ...]:
        return () if self.bos_id is None else (self.bos_id,)

    def prompt_ids(self, example: Example) -> tuple[int, ...]:
        """The tokens of a prompt without bos, whatever follows: to be scored, or to be written."""
        ids = self._ids(example.prompt.strip(" "))
        return ids[1:] if self._bos and ids[:1] == self._bos else ids

    def option_ids(
        self, example: Example, candidate: int, prompt: tuple[int, ...]
    ) -> tuple[tuple[int, ...], bool]:
        """The tokens of a candidate after the prompt's, and whether the two merge.

        Args:
            example: whose candidate.
            candidate: its index.
            prompt: as `prompt_ids` has it.
        """
        before = example.prompt.strip(" ")
        whole = (example.prompt + example.candidates[candidate]).strip(" ")
        full = self._ids(whole)
        full = full[1:] if self._bos and full[:1] == self._bos else full
        if full[: len(prompt)] == prompt:
            return full[len(prompt) :], False
        return self._continuation(whole[len(before) :]), True

    def _continuation(self, text: str) -> tuple[int, ...]:
        """The tokens of a text in the middle of another one: no tokenizer adds a space there."""
        for anchor in ANCHORS:
            alone, both = self._ids(anchor), self._ids(anchor + text)
            if alone and both[: len(alone)] == alone:
                return both[len(alone) :]
        return self._ids(text)

    def _require_different(self, example: Example, tokens: Sequence[object]) -> None:
        """Candidates differ in what is scored.

        Raises:
            UsageError: two of them are the same tokens.
        """
        first: dict[object, int] = {}
        for index, ids in enumerate(tokens):
            other = first.setdefault(ids, index)
            if other != index:
                one, two = (example.candidates[i] for i in (other, index))
                raise UsageError(
                    f"{_name(example)}: candidates {one!r} and {two!r} are the same tokens to this "
                    f"model, {self._written(ids)}, so nothing can tell them apart; write them so "
                    "that they differ, in words that the tokenizer knows"
                )

    def _written(self, ids: Any) -> str:
        """Token ids as the tokenizer names them."""
        flat = [ids] if isinstance(ids, int) else [i for position in ids for i in position]
        return " ".join(repr(self.tokenizer.id_to_token(i) or f"#{i}") for i in flat)

    def _option_row(
        self, index: int, candidate: int, example: Example, prompt: tuple[int, ...]
    ) -> Row:
        """A causal row: the tokens of a prompt and of one candidate, which are scored."""
        text = example.candidates[candidate]
        ids, merged = self.option_ids(example, candidate, prompt)
        full, option = prompt + ids, len(ids)
        if option < 1:
            raise UsageError(f"{_name(example)}: candidate {text!r} adds no token to the prompt")
        bos = self._bos
        room = self.max_length - len(bos)
        if len(full) > room and not self.truncate:
            raise UsageError(self._too_long(example, len(full) + len(bos)))
        tokens = (*bos, *full[-room:])
        if option >= len(tokens):
            raise UsageError(
                f"{_name(example)}: nothing precedes candidate {text!r} ({option} tokens) in a row "
                f"of at most {self.max_length}; shorten it, or give the example a prompt"
            )
        cut = max(len(full) - room, 0)
        earlier = (len(bos) + i - cut for i in self._turn_tokens(example))
        scored = (*(i for i in earlier if i > 0), *range(len(tokens) - option, len(tokens)))
        positions, targets = tuple(i - 1 for i in scored), tuple((tokens[i],) for i in scored)
        return Row(index, (candidate,), tokens[:-1], positions, targets, cut, merged)

    def _turn_tokens(self, example: Example) -> list[int]:
        """Which tokens of a prompt begin within its turns."""
        if not example.turns:
            return []
        text = example.prompt.strip(" ")
        moved = len(example.prompt) - len(example.prompt.lstrip(" "))
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        skipped = len(encoding.ids) - len(self.prompt_ids(example))  # a bos that is written
        return [
            index - skipped
            for index, (first, _) in enumerate(encoding.offsets)
            if any(start <= first + moved < end for start, end in example.turns)
        ]

    def _masked_row(self, index: int, example: Example, mask_id: int) -> Row:
        """A row of a masked model, with the special tokens its tokenizer adds."""
        text = example.prompt.replace(MASK, self.tokenizer.id_to_token(mask_id) or "")
        encoding = self.tokenizer.encode(text)
        tokens = self._window(example, encoding.ids, encoding.special_tokens_mask, mask_id)
        words = tuple(self._word(example, word) for word in example.candidates)
        self._require_different(example, words)
        cut = len(encoding.ids) - len(tokens)
        return Row(index, tuple(range(len(words))), tokens, (tokens.index(mask_id),), (words,), cut)

    def _window(
        self, example: Example, ids: list[int], special: list[int], mask_id: int
    ) -> tuple[int, ...]:
        """The row cut to max_length: on its left, unless the mask is there; special tokens stay."""
        if ids.count(mask_id) != 1:
            raise UsageError(
                f"{_name(example)}: the prompt has {ids.count(mask_id)} masks; "
                f"write {MASK} exactly once"
            )
        if len(ids) <= self.max_length:
            return tuple(ids)
        if not self.truncate:
            raise UsageError(self._too_long(example, len(ids)))
        own = [i for i, added in enumerate(special) if not added or ids[i] == mask_id]
        head, body, tail = ids[: own[0]], ids[own[0] : own[-1] + 1], ids[own[-1] + 1 :]
        room = self.max_length - len(head) - len(tail)
        start = min(len(body) - room, body.index(mask_id))
        return (*head, *body[start : start + room], *tail)

    def _word(self, example: Example, word: str) -> int:
        ids = self._ids(word)
        if len(ids) != 1:
            raise UsageError(
                f"{_name(example)}: label word {word!r} is {len(ids)} tokens of this tokenizer; "
                "a mask holds one"
            )
        return ids[0]

    def _ids(self, text: str) -> tuple[int, ...]:
        (encoding,) = self.tokenizer.encode_batch_fast(
            [text], add_special_tokens=False
        )  # no offsets
        return tuple(encoding.ids)

    def _too_long(self, example: Example, length: int) -> str:
        return (
            f"{_name(example)}: {length} tokens do not fit the {self.max_length} positions of the "
            "model; shorten the prompt, or cut it with --truncate"
        )

    def _padded(self, length: int) -> int:
        return min(-(-length // self.multiple) * self.multiple, self.max_length)


def _require_readable(example: Example) -> None:
    """Check the size of a prompt before a tokenizer spends minutes and gigabytes on it.

    Raises:
        UsageError: it is too large for any model.
    """
    length = len(example.prompt) + max(map(len, example.candidates))
    if length > MOST_CHARACTERS:
        raise UsageError(
            f"{_name(example)}: a text of {length / 1e6:,.1f} million characters is longer than "
            f"any row ({MOST_CHARACTERS / 1e6:,.1f} million); shorten it, or cut it into several"
        )


def _name(example: Example) -> str:
    return example.id or f"'{example.prompt[:40]}'"


def _gold(example: Example) -> Example:
    """The example with its gold candidate only."""
    gold = example.candidates[example.answer]
    return Example(example.prompt, (gold,), id=example.id, turns=example.turns)
