"""Let every direction be scaled per weight, by tensors that the driver's rule keeps.

    z   →   z ⊙ s        s: f32 of the trainable's shape, state of a session, 1 at first

Exact at first: a product with 1.
Source: Zhao et al. 2025, Second-Order Fine-Tuning without Pain for LLMs: a Hessian Informed
Zeroth-Order Optimizer, arXiv 2402.15173 (s = 1 / √H, H a running diagonal Hessian).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zofx.ir.directions import directions_of
from zofx.ir.facts import PERTURBED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, TensorSpec
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Form, Role, Stage
from zofx.zo.random.direction_spec import scale_name

aten = torch.ops.aten


@dataclass(frozen=True)
class ScaleDirections(Pass):
    """See the module."""

    name: ClassVar[str] = "scale-directions"
    stage = Stage.PERTURB
    requires = (PERTURBED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """One product per trainable."""
        edit = Editor(program)
        for name, direction in list(directions_of(edit.graph)):
            shape = program.tensors[name].shape
            spec = TensorSpec(
                scale_name(name), Role.STATE, shape, torch.float32, name, form=Form.COMPUTED
            )
            scale = edit.add_tensor(spec, _ones(shape))
            edit.replace(direction, edit.call(direction.next, aten.mul.Tensor, direction, scale))
        remark(
            "trainables", "applied", f"{len(program.trainables)} trainables, as much memory again"
        )
        return edit.done()


def _ones(shape: tuple[int, ...]) -> Callable[[], Tensor]:
    return lambda: torch.ones(shape)
