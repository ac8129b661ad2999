"""Sensitivity scores of a checkpoint: the squared gradient of a loss, by linear weight.

    text      ─tokenize, cut─▶ sequences ─group─▶ cross-entropy of the next, or a masked, token
    examples  ─encode─▶ candidates' scores ─group─▶ the objective that training minimises
    losses    ─fisher─▶ F(W) = Σ_batches (∂L/∂W)²

A text ranks the weights once for every task; a task's own examples measure how well that ranking
fits it (`mask_coverage`). For a masked LM on a text, 15 % of each sequence is masked.
Source: Guo et al. 2024, arXiv 2406.02913; the same F weighs the k-means of Kim et al. 2023
(SqueezeLLM), arXiv 2306.07629.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from zofx import __version__
from zofx.compiler.sensitivity.fisher import Progress, in_parts, squared_gradients
from zofx.compiler.sensitivity.scores import Provenance, Scores, load_scores
from zofx.errors import UsageError
from zofx.ir import ops
from zofx.models.checkpoint import Checkpoint
from zofx.tasks.encode import Encoder
from zofx.tasks.objectives import ScoreObjective
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example

__all__ = ["Scores", "load_scores", "sensitivity", "task_sensitivity"]

BATCHES = 32
MASKED_SHARE = 0.15
NOT_SCORED = -100  # the label that transformers' losses leave out


def sensitivity(
    checkpoint: Checkpoint,
    texts: Iterable[str],
    *,
    tokens: int = 8192,
    batches: int = BATCHES,
    length: int = 256,
    text_name: str = "text",
    progress: Progress | None = None,
) -> Scores:
    """Score every linear weight of a checkpoint on some text.

    A text is cut into sequences of at most `length` tokens, each encoded as a text of its own
    (special tokens included), until there are `tokens`; sequences go to batches in order, in parts
    of equal number. The arguments determine everything, masked positions included.

    Args:
        checkpoint: with a tokenizer.
        texts: what to measure on; read no further than needed.
        tokens: how many to read, up to the end of the sequence that reaches it.
        batches: how many gradients to square and add.
        length: the longest sequence; the model's own limit also holds.
        text_name: what the result calls the text.
        progress: called after each batch with (batches done, batches).

    Raises:
        UsageError: no tokenizer, no mask token for a masked LM, too little text, or a loss that is
            not finite.
    """
    sequences = list(_sequences(checkpoint, texts, tokens, length))
    if not 0 < batches <= len(sequences):
        raise UsageError(
            f"the text '{text_name}' gives {len(sequences)} sequences, which cannot fill {batches} "
            "batches; give more text, or ask for fewer batches or shorter sequences"
        )
    parts = in_parts(list(enumerate(sequences)), batches)
    losses = [partial(_text_loss, checkpoint, part) for part in parts]
    squares = squared_gradients(checkpoint, losses, text_name, progress)
    read = sum(len(sequence) for sequence in sequences)
    return Scores(squares, _about(checkpoint, text_name, read, batches))


def task_sensitivity(
    checkpoint: Checkpoint,
    encoder: Encoder,
    examples: Sequence[Example],
    objective: ScoreObjective,
    *,
    batches: int | None = None,
    name: str = "task",
    progress: Progress | None = None,
) -> Scores:
    """Score every linear weight of a checkpoint on a task: on what training would minimise.

    Examples go to batches in order, in parts of equal number. Every one is encoded before the model
    is loaded.

    Args:
        checkpoint: what is measured.
        encoder: examples → rows, in its tokenizer.
        examples: of the task.
        objective: a loss with a derivative.
        batches: how many gradients to square and add; None takes 32, or one per example where there
            are fewer.
        name: what the result calls the examples.
        progress: called after each batch with (batches done, batches).

    Raises:
        UsageError: too few examples, one that cannot be encoded, an objective without derivative,
            or a loss that is not finite.
    """
    count = min(BATCHES, len(examples)) if batches is None else batches
    if not 0 < count <= len(examples):
        raise UsageError(
            f"{name} cannot fill {count} batches; give more examples, or ask for fewer batches"
        )
    parts = in_parts(examples, count)
    encoded = [encoder.encode(part, gold_only=objective.gold_only) for part in parts]
    losses = [partial(_task_loss, part, objective) for part in encoded]
    squares = squared_gradients(checkpoint, losses, name, progress)
    read = sum(int(part.batch.attention_mask.sum()) for part in encoded)
    return Scores(squares, _about(checkpoint, name, read, count))


def _about(checkpoint: Checkpoint, text: str, tokens: int, batches: int) -> Provenance:
    return Provenance(checkpoint.source, checkpoint.hash, text, tokens, batches, __version__)


def _task_loss(encoded: Encoded, objective: ScoreObjective, model: PreTrainedModel) -> Tensor:
    """The objective of one batch, as a scalar with its value and its gradient."""
    given = {name: torch.from_numpy(array) for name, array in encoded.batch.named().items()}
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    logprob = _score(logits, given["positions"], given["targets"])
    values = logprob.detach().numpy()
    slopes = torch.from_numpy(objective.weigh(values, encoded).astype(np.float32))
    linear = (slopes * logprob).sum()
    return linear - linear.detach() + float(objective.loss(values[None], encoded).mean[0])


def _score(logits: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
    """What a compiled program returns, f32[N, C].

    The ops have no backward; the code that is their meaning has one.
    """
    picked = ops.meaning(ops.zofx_ops.select_positions.default)(logits, positions)
    scores: Tensor = ops.meaning(ops.zofx_ops.score_targets.default)(picked, targets)
    return scores


def _sequences(
    checkpoint: Checkpoint, texts: Iterable[str], tokens: int, length: int
) -> Iterator[Encoding]:
    """Cut texts into encodings that have something to predict, up to `tokens` in all."""
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.to_str())  # a copy, to be changed
    tokenizer.enable_truncation(min(length, checkpoint.max_positions or length))
    read = 0
    for text in texts:
        whole = tokenizer.encode(text)
        for part in (whole, *whole.overflowing):
            if read >= tokens:
                return
            if len(part) - sum(part.special_tokens_mask) > 1:
                read += len(part)
                yield part


def _text_loss(
    checkpoint: Checkpoint, numbered: Sequence[tuple[int, Encoding]], model: PreTrainedModel
) -> Tensor:
    """The language-modelling loss of one batch; sequences come with their numbers."""
    loss: Tensor = model(**_batch(checkpoint, numbered)).loss
    return loss


def _batch(checkpoint: Checkpoint, numbered: Sequence[tuple[int, Encoding]]) -> dict[str, Tensor]:
    """Inputs and labels, padded at the end."""
    shape = (len(numbered), max(len(sequence) for _, sequence in numbered))
    vocabulary = getattr(checkpoint.config.get_text_config(), "vocab_size", None)
    pad_id = checkpoint.special.pad_id
    # A padding token may be known to the tokenizer alone; padding is masked, so any row serves.
    ids = np.full(shape, pad_id if not vocabulary or pad_id < vocabulary else 0, dtype=np.int64)
    attended = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, NOT_SCORED, dtype=np.int64)
    for row, (number, sequence) in enumerate(numbered):
        here = np.s_[row, : len(sequence)]
        ids[here], attended[here] = sequence.ids, 1
        if checkpoint.architecture == "causal-lm":
            labels[here] = sequence.ids
        else:
            masked = _masked(sequence, number)
            labels[row, masked] = ids[row, masked]
            ids[row, masked] = _mask_id(checkpoint)
    arrays = {"input_ids": ids, "attention_mask": attended, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _masked(sequence: Encoding, number: int) -> NDArray[np.int64]:
    """15 % of the ordinary tokens, at least one: where Philox(number) gives the least words."""
    ordinary = np.flatnonzero(np.array(sequence.special_tokens_mask) == 0)
    words = np.random.Philox(key=number).random_raw(len(ordinary))
    count = max(1, round(MASKED_SHARE * len(ordinary)))
    return ordinary[np.argsort(words, kind="stable")[:count]]


def _mask_id(checkpoint: Checkpoint) -> int:
    if checkpoint.special.mask_id is None:
        raise UsageError(
            f"{checkpoint.source} predicts masked tokens and its tokenizer names no mask token; "
            "add mask_token to tokenizer_config.json"
        )
    return checkpoint.special.mask_id
