"""Store frozen linear weights in 4 or 8 bits; trainables, biases and norms stay whole.

    linear(x, W, b)    →   linear_nf4 | linear_int | linear_int8 | linear_codebook(x, codes, …, b)
    embedding(W, ids)  →   _to_copy(embedding(W₁₆, ids), f32)

A table that is only looked up keeps the 16 bits it has in the checkpoint, if it has: exact, as f32
holds every number of both. Of matrices the meaning is approximate, |W − Ŵ| elementwise at most
    int4, int8   scale/2 of the block           (scale = range / (2^bits − 1), range includes 0)
    int8-row     scale/2 of the row             (scale = max |w| / 127)
    nf4          absmax of the block · 0.152    (half the widest gap between NF4 levels)
    codebook     half the gap between the row's neighbouring centroids, or the distance to the
                 outermost one
Integers and nf4 represent 0 exactly, so the places a trainable was cut from add nothing; a codebook
does not, and its error there is taken out of the trainable's initial value. W + slice is then exact
(up to rounding) at every trained coordinate, whatever the format.
int8-row is for `quantize-activations`; alone it is no faster than full precision.
Skips, each with a remark: weights also used outside a linear (tied embeddings), rows that blocks do
not divide, the factors beside a low-rank trainable.
Source: bitsandbytes NF4, Dettmers et al. 2023, arXiv 2305.14314; codebook, Kim et al. 2023
(SqueezeLLM), arXiv 2306.07629.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zofx.errors import PipelineError, UsageError
from zofx.ir import quant
from zofx.ir.facts import CANONICAL, QUANTIZED
from zofx.ir.patterns import linear_weights, linears_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, SharedLoader, TensorSpec, is_call, placeholders
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role

aten = torch.ops.aten
zofx = torch.ops.zofx

BLOCKS = {"nf4": 64, "int4": 32, "int8": 32, "int8-row": 1, "codebook": 2}
SMALLEST = {"nf4": 32}  # bitsandbytes' kernels; MatMulNBits takes 16
LARGEST = 4096
SHORT = (torch.float16, torch.bfloat16)
BY_ROW = {"int8-row": zofx.linear_int8.default, "codebook": zofx.linear_codebook.default}
FACTORS = ("left", "right")  # forms of what a merge multiplies a low-rank trainable by


@dataclass(frozen=True)
class QuantizeFrozen(Pass):
    """See the module.

    Attributes:
        format: how the codes are read.
        block: weights that share a scale; 0 takes the format's own default (nf4 64, int4 and int8
            32). Codebook and int8-row have none: they belong to a row.
    """

    name: ClassVar[str] = "quantize-frozen"
    requires = (CANONICAL,)
    establishes = (QUANTIZED,)
    exact = False
    format: Literal["nf4", "int4", "int8", "int8-row", "codebook"] = "nf4"
    block: int = 0

    def __post_init__(self) -> None:
        if self.block and self.format in BY_ROW:
            raise PipelineError(
                f"{self}: {self.format} has no blocks, its numbers belong to rows; drop block"
            )
        least = SMALLEST.get(self.format, 16)
        if self.block and (not least <= self.block <= LARGEST or self.block.bit_count() > 1):
            raise PipelineError(f"{self}: block must be a power of two, {least} to {LARGEST}")

    @property
    def needs_scores(self) -> bool:
        """A codebook's k-means is weighted by them."""
        return self.format == "codebook"

    def run(self, program: Program, remark: Remarker) -> Program:
        """Replace every linear whose weight qualifies."""
        edit = Editor(program)
        block = self.block or BLOCKS[self.format]
        for name in linear_weights(program, remark):
            spec = program.tensors[name]
            if spec.form in FACTORS:
                remark(name, "skipped", f"a factor of rank {min(spec.shape)}: it stays whole")
                continue
            if spec.shape[1] % block:
                remark(name, "skipped", f"in={spec.shape[1]} is not a multiple of block={block}")
                continue
            self._rewrite(edit, program, spec, block)
            remark(
                name,
                "applied",
                f"{self.format}, {_bits(self.format, spec, block):.2f} bits per weight",
            )
        for name, dtype in _short_tables(program):
            _shorten(edit, name, dtype)
            remark(name, "applied", f"{str(dtype).removeprefix('torch.')}, as in the checkpoint")
        return edit.done()

    def _rewrite(self, edit: Editor, program: Program, spec: TensorSpec, block: int) -> None:
        made = SharedLoader(lambda: self._quantize(program, spec, block))
        parts = [
            edit.add_tensor(
                TensorSpec(
                    f"{spec.name}.{part}",
                    Role.FROZEN,
                    shape,
                    dtype,
                    spec.name,
                    self.format,
                    origin_shape=spec.shape,
                ),
                made.part(place),
            )
            for place, (part, shape, dtype) in enumerate(_layout(self.format, spec, block))
        ]
        if self.format == "codebook" and edit.has_tensor(f"{spec.name}.slice"):
            edit.replace_data(program.tensors[f"{spec.name}.slice"], made.part(len(parts)))
        for linear in linears_of(edit.graph, spec.name):
            bias = linear.args[2] if len(linear.args) > 2 else None
            x = linear.args[0]
            if self.format == "nf4":
                new = edit.call(
                    linear, zofx.linear_nf4.default, x, *parts, bias, spec.shape[0], block
                )
            elif self.format in BY_ROW:
                new = edit.call(linear, BY_ROW[self.format], x, *parts, bias)
            else:
                new = edit.call(
                    linear, zofx.linear_int.default, x, *parts, bias, int(self.format[3:])
                )
            edit.replace(linear, new)

    def _quantize(self, program: Program, spec: TensorSpec, block: int) -> tuple[Tensor, ...]:
        weight = program.load(spec.name).float()
        if self.format == "nf4":
            return tuple(quant.quantize_nf4(weight, block))
        if self.format == "int8-row":
            return tuple(quant.quantize_rows(weight))
        if self.format != "codebook":
            return tuple(quant.quantize_int(weight, int(self.format[3:]), block))
        q = quant.quantize_codebook(weight, _importance(program, spec))
        slice_name = f"{spec.name}.slice"
        if slice_name not in program.tensors:
            return tuple(q)
        index = program.load(f"{spec.name}.index").long()
        error = quant.dequantize_codebook(q).flatten()[index]
        return (*q, program.load(slice_name) - error)


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
    if spec.name not in program.scores:
        raise UsageError(
            "format=codebook weights its k-means by sensitivity, and there are no scores for "
            f"'{spec.name}'; give --calibration TEXT or --sensitivity FILE, or take another format"
        )
    return program.scores[spec.name]().view(spec.shape)


def _layout(
    form: str, spec: TensorSpec, block: int
) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of each part."""
    out, width = spec.shape
    if form == "nf4":
        return [
            ("codes", (out * width // 2,), torch.uint8),
            ("absmax", (out * width // block,), torch.float32),
        ]
    if form == "codebook":
        return [
            ("codes", (out, width // 2), torch.uint8),
            ("centroids", (out, quant.LEVELS), torch.float32),
        ]
    if form == "int8-row":
        return [("codes", (width, out), torch.int8), ("scales", (out,), torch.float32)]
    bits, blocks = int(form[3:]), width // block
    return [
        ("codes", (out, blocks, block * bits // 8), torch.uint8),
        ("scales", (out, blocks), torch.float32),
        ("zeros", (out, (blocks * bits + 7) // 8), torch.uint8),
    ]


def _bits(form: str, spec: TensorSpec, block: int) -> float:
    """Bits stored per weight."""
    stored = sum(
        torch.Size(shape).numel() * dtype.itemsize for _, shape, dtype in _layout(form, spec, block)
    )
    return 8 * stored / spec.size
