"""Questions that both sides read, and how MeZO's code is given a batch of them.

a row = [bos] tok(prompt + candidate), one for every candidate; the candidate is scored
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from benchmarks.fidelity.public import Inputs
from tests import tiny


class Question(NamedTuple):
    """A prompt, the texts that may follow it, and which one is right."""

    prompt: str
    candidates: tuple[str, ...]
    answer: int


def questions() -> list[list[Question]]:
    """Three batches of two: candidates of one token and of several, two of them or three."""
    asked = []
    for place, subject in enumerate(tiny.SUBJECTS):
        words = (tiny.BLAME, tiny.PRAISE)[place % 2][place // 2]
        texts = (" was a bore", " good", " made me smile") if place == 0 else tiny.CANDIDATES
        asked.append(Question(f"{subject} {words} so it", texts, place % 2))
    return [asked[:2], asked[2:4], asked[4:]]


def public_inputs(checkpoint: Path, asked: Sequence[Question]) -> Inputs:
    """A batch as MeZO's collator makes it: a row per candidate, padded on the left."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    rows, lengths = [], []
    for question in asked:
        prompt = tokenizer(question.prompt, add_special_tokens=False).input_ids
        for text in question.candidates:
            ids = tokenizer(question.prompt + text, add_special_tokens=False).input_ids
            rows.append(torch.tensor([tokenizer.bos_token_id, *ids]))
            lengths.append(len(ids) - len(prompt))
    each = torch.tensor([len(question.candidates) for question in asked])
    padded = [
        pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")
        for tensors, value in (
            (rows, tokenizer.pad_token_id),
            ([torch.ones_like(row) for row in rows], 0),
        )
    ]
    answers = torch.tensor([question.answer for question in asked])
    return {
        "input_ids": padded[0],
        "attention_mask": padded[1],
        "labels": answers.repeat_interleave(each),
        "option_len": torch.tensor(lengths),
        "num_options": each.repeat_interleave(each),
    }
