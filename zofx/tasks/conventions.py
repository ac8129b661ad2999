"""What a model, as a manifest describes it, expects of its texts: bos, padding, mask, markup."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from zofx.tasks.encode import Encoder
from zofx.tasks.types import NO_LIMIT, Markup, Task


def encoder_for(
    tokenizer: Tokenizer,
    model: Mapping[str, Any],
    task: Task | None,
    truncate: bool,
    vocabulary: int | None = None,
    max_length: int | None = None,
) -> Encoder:
    """How a model reads a task's examples, or anyone's.

    A task's own length limit shortens prompts, as its source does, and so does one that is asked
    for; the model's positions do so only when asked, because that is no property of the task.

    Args:
        tokenizer: the model's.
        model: as in a manifest: `Manifest.model`, or `Checkpoint.description`.
        task: whose examples.
        truncate: cut prompts that are longer than the model's positions.
        vocabulary: how many tokens the model has rows for. A padding token beyond them, as one that
            was added to the tokenizer alone, is replaced: padding is masked, so any row serves.
        max_length: tokens a row keeps; None keeps what the task says.
    """
    special = model["special"]
    pad_id = special["pad_id"]
    positions = model["max_positions"] or NO_LIMIT
    own = (NO_LIMIT if task is None else task.max_length) if max_length is None else max_length
    return Encoder(
        tokenizer=tokenizer,
        bos_id=special["bos_id"] if special["adds_bos"] else None,
        pad_id=pad_id if vocabulary is None or pad_id < vocabulary else 0,
        mask_id=special["mask_id"] if is_masked(model) else None,
        max_length=min(own, positions),
        truncate=truncate or own <= positions,
    )


def markup_of(tokenizer: Tokenizer, model: Mapping[str, Any]) -> Markup:
    """What a model, as a manifest describes it, has written around its texts."""
    special = model["special"]
    bos, eos = (
        "" if special[key] is None else tokenizer.id_to_token(special[key]) or ""
        for key in ("bos_id", "eos_id")
    )
    return Markup(bos, eos, model.get("chat_template"))


def is_masked(model: Mapping[str, Any]) -> bool:
    """Whether a model, as a manifest describes it, predicts masked tokens."""
    return bool(model["architecture"] == "masked-lm")
