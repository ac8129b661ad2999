"""Examples as MeZO's family of trainers reads them: a row per candidate.

    row      = [bos] tok(prompt + candidate), the last `option` tokens of which are scored
    batch    = rows padded on the left to a multiple of 8
    classification     every candidate's row; its loss compares them
    language model     the right candidate's row alone; its loss is that of the option's tokens

Rows are made once before training and batches in the step, as these trainers do.
Source: Malladi et al. 2023 (arXiv 2305.17333), large_models/run.py and utils.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from zofx.session import MULTIPLE
from zofx.tasks.encode import Encoder
from zofx.tasks.types import Example

Inputs: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One candidate after its prompt.

    Attributes:
        ids: of the whole row.
        option: how many of the last are the candidate's.
        answer: the right candidate of its example.
        candidates: rows of its example; 0 where the loss is a language model's.
    """

    ids: tuple[int, ...]
    option: int
    answer: int
    candidates: int


def rows_of(example: Example, encoder: Encoder, *, gold_only: bool) -> list[Row]:
    """The rows of an example.

    Args:
        example: a prompt and its candidates.
        encoder: tokenizer, bos and length limit.
        gold_only: whether the loss is a language model's.
    """
    texts = (example.candidates[example.answer],) if gold_only else example.candidates
    prompt = len(_ids(encoder, example.prompt))
    bos = () if encoder.bos_id is None else (encoder.bos_id,)
    rows = []
    for text in texts:
        ids = _ids(encoder, example.prompt + text)
        kept = ids[-(encoder.max_length - len(bos)) :]
        count = 0 if gold_only else len(texts)
        rows.append(Row((*bos, *kept), len(ids) - prompt, example.answer, count))
    return rows


def collate(rows: Sequence[Row], pad_id: int) -> Inputs:
    """A batch under the names that MeZO's forward takes.

    Returns:
        input_ids and attention_mask i64[R, T], option_len i64[R], labels: i64[R] with num_options
        i64[R], or i64[R, T] without.
    """
    length = -(-max(len(row.ids) for row in rows) // MULTIPLE) * MULTIPLE
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, length - len(row.ids) :] = torch.tensor(row.ids)
        mask[place, length - len(row.ids) :] = 1
    option = torch.tensor([row.option for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, "option_len": option}
    if not rows[0].candidates:
        return {**inputs, "labels": ids}
    counts = torch.tensor([row.candidates for row in rows])
    return {**inputs, "labels": torch.tensor([row.answer for row in rows]), "num_options": counts}


def _ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer.encode(text.strip(" "), add_special_tokens=False).ids
