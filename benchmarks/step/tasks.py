"""Synthetic tasks: so many candidates after so many tokens, in any model's own words.

    six-64      6 candidates of one token after rows of 64 tokens
    two-256     2 candidates of one token after 256
    span-64     one continuation of 8 tokens after 64: a language model's loss

A word is a text that is one token of the model, so lengths are exact.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from zofx.errors import UsageError

SYNTHETIC: Final = re.compile(r"(six|two|span)-(\d+)")
CANDIDATES: Final = {"six": 6, "two": 2, "span": 1}
SPAN: Final = 8
EXAMPLES: Final = 128
WORDS: Final = 512
WORD: Final = re.compile(r"[a-z]+\d*")


def is_synthetic(task: str) -> bool:
    """Whether the task is one of these."""
    return SYNTHETIC.fullmatch(task) is not None


def write_synthetic(task: str, tokenizer: Tokenizer, adds_bos: bool, path: Path) -> None:
    """Write a task's examples as a .jsonl file.

    Args:
        task: its name.
        tokenizer: the model's.
        adds_bos: whether its rows begin with a token more.
        path: the file to make.

    Raises:
        UsageError: the tokenizer has too few words.
    """
    match = SYNTHETIC.fullmatch(task)
    assert match is not None
    kind, length = match[1], int(match[2]) - adds_bos
    words = one_token_words(tokenizer)
    rng = np.random.Generator(np.random.Philox(key=0))
    lines = [_line(kind, length, words, rng) for _ in range(EXAMPLES)]
    for line in lines:
        tokens = len(tokenizer.encode(str(line["prompt"]), add_special_tokens=False).ids)
        if tokens != length:
            raise UsageError(f"{task}: a prompt of {length} words is {tokens} tokens of this model")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def one_token_words(tokenizer: Tokenizer) -> list[str]:
    """Up to 512 words that are one token wherever they stand, evenly from the vocabulary.

    Raises:
        UsageError: fewer than twelve.
    """
    singles = []
    for number in range(tokenizer.get_vocab_size()):
        word = tokenizer.decode([number]).strip()
        if WORD.fullmatch(word) and all(
            len(tokenizer.encode(text, add_special_tokens=False).ids) == 1
            for text in (word, f" {word}")
        ):
            singles.append(word)
    words = sorted(set(singles))
    if len(words) < 2 * CANDIDATES["six"]:
        raise UsageError(
            f"this tokenizer has {len(words)} words of one token, too few for a synthetic task; "
            "give a task of one's own"
        )
    return words[:: -(-len(words) // WORDS)]


def _line(
    kind: str, length: int, words: Sequence[str], rng: np.random.Generator
) -> dict[str, object]:
    prompt = " ".join(rng.choice(words, length))
    if kind == "span":
        return {"prompt": prompt, "completion": " " + " ".join(rng.choice(words, SPAN))}
    candidates = [f" {word}" for word in words[: CANDIDATES[kind]]]
    return {
        "prompt": prompt, "candidates": candidates, "answer": int(rng.integers(len(candidates))),
    }  # fmt: skip
