"""Train the scales of quantized matrices; their codes stay as they are.

    linear_int(x, codes, s, zeros, b)   →   linear(x, dequantize_int(codes, s, zeros)) + b

Ŵ is linear in s, so a direction in s is one of Ŵ, and the matrix of each probe is made where it is
used. Block-wise integers only: their scales are the only floats beside the codes.
Exact up to rounding: the same products, summed by another kernel, and the bias in a step of its
own, so |Δy| ≤ 2·γ·(|x|·|Ŵ|ᵀ + |b|) with γ = n·u / (1 − n·u), n = in + 3, u = 2⁻²⁴.
Source: Shang et al. 2025, Fine-tuning Quantized Neural Networks with Zeroth-order Optimization,
arXiv 2505.13430 (QZO).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from zofx.errors import PipelineError
from zofx.ir.facts import BLOCK_SCALED, HAS_TRAINABLES, QUANTIZED
from zofx.ir.formats import format_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role, Stage

aten = torch.ops.aten


@dataclass(frozen=True)
class ExposeScales(Pass):
    """See the module."""

    name: ClassVar[str] = "expose-scales"
    stage = Stage.STORE
    requires = (QUANTIZED, BLOCK_SCALED)
    establishes = (HAS_TRAINABLES,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every product with a format whose scales may train."""
        edit = Editor(program)
        exposed = set()
        for linear in edit.nodes:
            stored = format_of(linear)
            if stored is None or stored.dequantize_op is None:
                continue
            names = [argument.name for argument in stored.op._schema.arguments]
            operands: Any = dict(zip(names, linear.args, strict=True))
            x, bias, scales = operands.pop("x"), operands.pop("bias"), operands["scales"]
            if program.tensors[str(scales.target)].origin in program.fixed:
                remark(str(scales.target), "skipped", "it is below the first layer that trains")
                continue
            after = linear.next
            weight = edit.call(after, stored.dequantize_op, *operands.values())
            result = edit.call(after, aten.linear.default, x, weight)
            if bias is not None:
                result = edit.call(after, aten.add.Tensor, result, bias)
            edit.replace(linear, result)
            exposed.add(str(scales.target))
        if not exposed:
            raise PipelineError(
                "expose-scales finds no matrix of block-wise integers; quantize-frozen skipped "
                "them all (`zofx compile --verbose` says why)"
            )
        for name in exposed:
            spec = program.tensors[name]
            edit.replace_data(replace(spec, role=Role.TRAINABLE), program.data[name])
        size = sum(program.tensors[name].size for name in exposed)
        remark("scales", "applied", f"{len(exposed)} tensors, {size} numbers")
        return edit.done()
