"""Model → Program, traced from shapes: no weight is read, or even allocated.

    input_ids[N, T], attention_mask[N, T], positions[N, S], targets[N, S, C]  →  logprob[N, C]

The model's logits are narrowed to the scored positions and scored there; everything else
(cross-entropy over candidates, accuracy, F1, a reward) is arithmetic on these numbers, so one graph
serves every objective. Works for any transformers architecture that torch.export takes; there is
no code here for a particular one.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from zofx.ir.facts import HAS_TRAINABLES
from zofx.ir.ops import scoring
from zofx.ir.program import Choice, Loader, Program, TensorSpec
from zofx.ir.schema import INPUTS, Form, Role
from zofx.ir.symbols import FakeTensorMode, new_mode
from zofx.ir.verify import verify
from zofx.models.lengths import LIMIT, numbers_its_own, trace_lengths
from zofx.models.safetensors_folder import StoredTensor
from zofx.models.soft_prompts import Adapter, Attachment, attach
from zofx.models.trace import SizeError, Traced, constant, make_fake, trace

# Sizes of the example batch: distinct, so that no two axes are taken for the same one.
ROWS, TOKENS, SCORED, ALTERNATIVES = 3, 11, 2, 5


class Scorer(nn.Module):
    """A language model that scores alternatives at chosen positions.

    Args:
        model: returns logits.
        causal: whether it predicts the next token.
        adapter: what stands before the text, if anything does.
        counts: whether the model numbers positions by its tokens itself, from wherever it begins.
    """

    def __init__(
        self,
        model: nn.Module,
        causal: bool,
        adapter: Attachment | None = None,
        counts: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        accepted = inspect.signature(model.forward).parameters
        # Positions count tokens, not padding, as `generate` does; a masked LM finds its own.
        self.gives_positions = causal and "position_ids" in accepted and not counts
        self.options = {"use_cache": False} if "use_cache" in accepted else {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, targets: Tensor
    ) -> Tensor:
        """Log-probabilities f32[N, C]."""
        given: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        cached = 0
        if self.adapter is not None:
            given = self.adapter(input_ids, attention_mask)
            cached = self.adapter.cached
            if self.adapter.embedded:
                positions = positions + self.adapter.embedded
        if self.gives_positions:
            seen = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            given["position_ids"] = seen[:, cached:] if cached else seen
        logits = self.model(**self.options | given).logits
        scores: Tensor = scoring.score_targets(scoring.select_positions(logits, positions), targets)
        return scores


def capture(
    model: nn.Module,
    loaders: Mapping[str, Loader],
    *,
    causal: bool,
    adapter: Adapter | None = None,
) -> Program:
    """Trace a model into a program.

    Args:
        model: in eval mode; parameters may be on the meta device already, buffers hold their
            values. It is left with shapes only.
        loaders: a recipe for every parameter, by its name in the model.
        causal: whether it predicts the next token (else: the masked one).
        adapter: what is to stand before the text and train; None leaves the model as it is.

    Raises:
        CaptureError: torch.export cannot trace the model.
        UnsupportedError: the model has no place for the adapter.
    """
    buffers = {name: constant(buffer.detach().clone()) for name, buffer in model.named_buffers()}
    mode = new_mode()
    make_fake(model, mode)
    data = buffers | dict(loaders)
    attachment = None if adapter is None else attach(adapter, model, data, causal=causal)
    initial = attachment.initial if attachment else {}
    counts = causal and attachment is None and numbers_its_own(model, mode)
    scorer = Scorer(model, causal, attachment, counts)
    traced = _traced(
        scorer, mode, list(trace_lengths(model, attachment.embedded if attachment else 0))
    )
    names = {str(node.target) for node in traced.tensors}
    program = Program(
        traced.graph,
        _table(traced, loaders, initial),
        traced.recipes(data | dict(initial)),
        choices={name: Choice(fixed=True) for name in buffers if name in names},
        facts=frozenset({HAS_TRAINABLES.name}) if initial else frozenset(),
    )
    verify(program, "capture")
    return program


def _traced(scorer: Scorer, mode: FakeTensorMode, lengths: list[int]) -> Traced:
    """Trace under the first bound of T that the model takes."""
    for length in lengths[:-1]:
        with suppress(SizeError):
            return trace(scorer, *_examples(mode, length))
    return trace(scorer, *_examples(mode, lengths[-1]))


def _examples(
    mode: FakeTensorMode, longest: int
) -> tuple[dict[str, Tensor], tuple[dict[int, Any], ...]]:
    """An example of every input, and which of its axes are free."""
    tokens = min(TOKENS, longest)
    shapes = ((ROWS, tokens), (ROWS, tokens), (ROWS, SCORED), (ROWS, SCORED, ALTERNATIVES))
    with mode:
        ids = [torch.zeros(shape, dtype=torch.long) for shape in shapes]
    n, s, c = (Dim(name, min=1, max=LIMIT) for name in "NSC")
    t = Dim("T", min=1, max=longest)
    axes = ({0: n, 1: t}, {0: n, 1: t}, {0: n, 1: s}, {0: n, 1: s, 2: c})
    return dict(zip(INPUTS, ids, strict=True)), axes


def _table(
    traced: Traced, loaders: Mapping[str, Loader], initial: Mapping[str, Loader]
) -> dict[str, TensorSpec]:
    """What each tensor is: the checkpoint's, computed by the model, or of the adapter."""
    rows = {}
    for node in traced.tensors:
        name, value = str(node.target), node.meta["val"]
        role = Role.TRAINABLE if name in initial else Role.FROZEN
        form = Form.STORED if name in loaders else Form.COMPUTED
        if name in initial:
            form = Form.ADAPTER
        recipe = loaders.get(name)
        stored = recipe.dtype if isinstance(recipe, StoredTensor) else None
        rows[name] = TensorSpec(
            name, role, tuple(value.shape), value.dtype, form=form, stored=stored
        )
    return rows
