"""Store frozen linear weights in 4 or 8 bits; trainables, biases and norms stay whole.

    linear(x, W, b)    →   op(x, codes, …, b)         op of the format, a row of `zofx.ir.formats`
    embedding(W, ids)  →   _to_copy(embedding(W₁₆, ids), f32)

A table that is only looked up keeps the 16 bits it has in the checkpoint, if it has: exact, as f32
holds every number of both. Of matrices the meaning is approximate; the page of each format states
the bound on |W − Ŵ|. Most represent 0 exactly, so the places a trainable was cut from add nothing;
a codebook does not, and its error there is taken out of the trainable's initial value. W + slice is
then exact (up to rounding) at every trained coordinate, whatever the format.
int8-row is for `quantize-activations`; alone it is no faster than full precision.
Skips, each with a remark: weights also used outside a linear (tied embeddings), rows that blocks do
not divide, the factors beside a low-rank trainable.
Source: of each format, on its page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from zofx.errors import PipelineError, UsageError
from zofx.ir.facts import (
    ALL_TRAIN,
    BLOCK_SCALED,
    CANONICAL,
    QUANTIZED,
    REFRESHED,
    ROW_SCALED,
    Conflict,
    Fact,
)
from zofx.ir.formats import FORMATS
from zofx.ir.formats.format import Format
from zofx.ir.patterns import linear_weights, linears_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, SharedLoader, TensorSpec, is_call, placeholders
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Form, Role, Stage

aten = torch.ops.aten

SHORT = (torch.float16, torch.bfloat16)
FACTORS = (Form.LEFT, Form.RIGHT)  # forms of what a merge multiplies a low-rank trainable by


@dataclass(frozen=True)
class QuantizeFrozen(Pass):
    """See the module.

    Attributes:
        format: how the codes are read: a row of `zofx.ir.formats`.
        block: weights that share a scale; 0 takes the format's own default (nf4 64, int4 and int8
            32). Codebook and int8-row have none: they belong to a row.
    """

    name: ClassVar[str] = "quantize-frozen"
    stage = Stage.STORE
    serves: ClassVar[dict[str, str]] = {"quant": "format"}
    requires = (CANONICAL,)
    conflicts = (
        Conflict(
            REFRESHED,
            "at every refresh what was learnt is folded into the matrix, which has to be in full "
            "precision for that; leave --quant out",
        ),
        Conflict(
            ALL_TRAIN,
            "it finds nothing to quantize where every parameter trains; leave --quant and "
            "--activations out",
        ),
    )
    exact = False
    format: Annotated[str, FORMATS] = "nf4"
    block: int = 0

    def __post_init__(self) -> None:
        why = self.block and self.stored.block_error(self.block)
        if why:
            raise PipelineError(f"{self}: {why}")

    @property
    def stored(self) -> Format:
        """The format itself."""
        return FORMATS[self.format]

    @property
    def establishes(self) -> tuple[Fact, ...]:
        """By the format: whether its scales may train, and its products be of integers."""
        scales = (BLOCK_SCALED,) if self.stored.dequantize_op else ()
        return (QUANTIZED, *scales, *((ROW_SCALED,) if self.stored.integers else ()))

    @property
    def needs_scores(self) -> bool:
        """A codebook's k-means is weighted by them."""
        return self.stored.needs_scores

    def run(self, program: Program, remark: Remarker) -> Program:
        """Replace every linear whose weight qualifies."""
        edit = Editor(program)
        block = self.block or self.stored.block
        for name in linear_weights(program, remark):
            spec = program.tensors[name]
            out, width = spec.shape
            if spec.form in FACTORS:
                remark(name, "skipped", f"a factor of rank {min(spec.shape)}: it stays whole")
            elif width % block:
                remark(name, "skipped", f"in={width} is not a multiple of block={block}")
            else:
                self._rewrite(edit, program, spec, block)
                bits = self.stored.bits_per_weight((out, width), block)
                remark(name, "applied", f"{self.format}, {bits:.2f} bits per weight")
        for name, dtype in _short_tables(program):
            _shorten(edit, name, dtype)
            remark(name, "applied", f"{str(dtype).removeprefix('torch.')}, as in the checkpoint")
        return edit.done()

    def _rewrite(self, edit: Editor, program: Program, spec: TensorSpec, block: int) -> None:
        made = SharedLoader(lambda: self._quantize(program, spec, block))
        out, width = spec.shape
        parts = [
            edit.add_tensor(
                TensorSpec(
                    f"{spec.name}.{part.name}",
                    Role.FROZEN,
                    part.shape,
                    part.dtype,
                    spec.name,
                    self.format,
                    origin_shape=spec.shape,
                ),
                made.part(place),
            )
            for place, part in enumerate(self.stored.parts((out, width), block))
        ]
        trained = program.derived(spec.name, Form.SLICE)
        if trained and not self.stored.keeps_zero:
            edit.replace_data(trained, made.part(len(parts)))
        numbers = self.stored.numbers((out, width), block)
        for linear in linears_of(edit.graph, spec.name):
            x, _, bias = (*linear.args, None)[:3]
            edit.replace(linear, edit.call(linear, self.stored.op, x, *parts, bias, *numbers))

    def _quantize(self, program: Program, spec: TensorSpec, block: int) -> tuple[Tensor, ...]:
        """The parts; and the trainable less the error at its places, where 0 is not kept."""
        weight = program.load(spec.name).float()
        importance = _importance(program, spec) if self.needs_scores else None
        parts = self.stored.quantize(weight, block, importance)
        trained = program.derived(spec.name, Form.SLICE)
        index = program.derived(spec.name, Form.INDEX)
        if self.stored.keeps_zero or not (trained and index):
            return parts
        places = program.load(index.name).long()
        out, width = spec.shape
        error = self.stored.dequantize(parts, (out, width)).flatten()[places]
        return (*parts, program.load(trained.name) - error)


def _short_tables(program: Program) -> Iterator[tuple[str, torch.dtype]]:
    """Frozen tensors that are only looked up, and their 16 bits in the checkpoint."""
    for node in placeholders(program.graph):
        spec = program.tensors.get(str(node.target))
        if (
            spec is not None
            and spec.role is Role.FROZEN
            and spec.dtype is torch.float32
            and spec.stored in SHORT
            and all(is_call(u, aten.embedding.default) and u.args[0] is node for u in node.users)
        ):
            yield spec.name, spec.stored


def _shorten(edit: Editor, name: str, dtype: torch.dtype) -> None:
    for looked_up in list(edit.change_type(name, dtype).users):
        wide = edit.call(looked_up.next, aten._to_copy.default, looked_up, dtype=torch.float32)
        edit.replace(looked_up, wide)


def _importance(program: Program, spec: TensorSpec) -> Tensor:
    scores = program.choice(spec.name).scores
    if scores is None:
        raise UsageError(
            "format=codebook weights its k-means by sensitivity, and there are no scores for "
            f"'{spec.name}'; give --calibration TEXT or --sensitivity FILE, or take another format"
        )
    return scores().view(spec.shape)
