"""How much the loss on a text depends on each linear weight: the diagonal empirical Fisher.

    text ─tokenize, cut─▶ sequences ─group─▶ batches ─one backward each─▶ F(W) = Σ_batches (∂L/∂W)²

L is the mean cross-entropy of the next token or, for a masked LM, of masked tokens (15 % of each
sequence). W are the matrices of linear layers; embeddings, and a head tied to one, have no scores.
Memory: the model in f32, F, and one layer's gradient: a gradient is squared and freed on arrival.
Source: Guo et al. 2024, arXiv 2406.02913; the same F weighs the k-means of Kim et al. 2023
(SqueezeLLM), arXiv 2306.07629.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from zofx import __version__
from zofx.checkpoint import Checkpoint, build_on_meta
from zofx.errors import UsageError
from zofx.program import Lazy
from zofx.scores import About, Scores, coverage, load_scores

__all__ = ["Scores", "coverage", "load_scores", "sensitivity"]

MASKED_SHARE = 0.15
NOT_SCORED = -100  # the label that transformers' losses leave out


def sensitivity(
    checkpoint: Checkpoint,
    texts: Iterable[str],
    *,
    tokens: int = 8192,
    batches: int = 32,
    length: int = 256,
    text_name: str = "text",
    progress: Callable[[int, int], None] | None = None,
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
    model = _load(checkpoint)
    squares = _collect_squares(model)
    edges = [len(sequences) * place // batches for place in range(batches + 1)]
    for done, (start, stop) in enumerate(pairwise(edges), 1):
        loss = model(**_batch(checkpoint, sequences[start:stop], start)).loss
        if not loss.isfinite():
            raise UsageError(
                f"the loss of {checkpoint.source} on batch {done} of '{text_name}' is {loss}: "
                "its weights are damaged, or not made for float32"
            )
        loss.backward()
        if progress:
            progress(done, batches)
    read = sum(len(sequence) for sequence in sequences)
    about = About(checkpoint.source, checkpoint.hash, text_name, read, batches, __version__)
    return Scores({name: _held(total) for name, total in squares.items()}, about)


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


def _load(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model with its weights in f32; tied ones stay one parameter."""
    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    recipes = checkpoint.resolve(model)
    names = {id(t): n for n, t in model.state_dict(keep_vars=True).items()}
    made: dict[str, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for key, old in table.items():
                name = names.get(id(old))
                if name is None:
                    continue
                if name not in made:
                    value = recipes[name]().to(old.dtype)
                    made[name] = nn.Parameter(value) if isinstance(old, nn.Parameter) else value
                table[key] = made[name]
    return model


def _collect_squares(model: PreTrainedModel) -> dict[str, Tensor]:
    """Let every backward add the squares of its gradients here, and keep no gradient."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    squares: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        scored = parameter.dim() == 2 and id(parameter) not in embeddings
        parameter.requires_grad_(scored)
        if scored:
            squares[name] = torch.zeros_like(parameter, requires_grad=False)
            parameter.register_post_accumulate_grad_hook(_adder(squares[name]))
    return squares


def _held(total: Tensor) -> Lazy:
    return lambda: total


def _adder(total: Tensor) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        if parameter.grad is not None:
            total.add_(parameter.grad.square_())
            parameter.grad = None

    return add


def _batch(checkpoint: Checkpoint, sequences: Sequence[Encoding], first: int) -> dict[str, Tensor]:
    """Inputs and labels, padded at the end; `first` is the number of the first sequence."""
    shape = (len(sequences), max(len(sequence) for sequence in sequences))
    ids = np.full(shape, checkpoint.special.pad_id, dtype=np.int64)
    attended = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, NOT_SCORED, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        here = np.s_[row, : len(sequence)]
        ids[here], attended[here] = sequence.ids, 1
        if checkpoint.architecture == "causal-lm":
            labels[here] = sequence.ids
        else:
            masked = _masked(sequence, first + row)
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
