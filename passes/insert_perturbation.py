"""Let every trainable be read through a seeded perturbation.

    θ   →   θ + Σ_q c_q·z(key_q)        inputs of the program: keys i64[Q, 2] and c: f32[Q]

z is a function of (key, name of the trainable, element) and nothing else (`zofx.zo.random.noise`);
the program holds no generator. With noise=gaussian the table of quantiles is a frozen tensor of the
program, so that z is data, not a computation that differs between engines.
Exact: c = 0 is bit-equal to the program before; any c at Q = 1 equals moving θ by hand, f32 product
then f32 sum.
Source: Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv 2305.17333,
algorithm 1.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from zofx.ir.facts import HAS_TRAINABLES, PERTURBED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, TensorSpec
from zofx.ir.rewrite import Editor
from zofx.ir.schema import COEFFICIENTS, KEYS, Form, Role, Stage
from zofx.zo.random.noise import TABLE_SIZE, normal_table

direction = torch.ops.zofx.direction.default
perturb = torch.ops.zofx.perturb.default

TABLE = "noise.normal_table"


@dataclass(frozen=True)
class InsertPerturbation(Pass):
    """See the module.

    Attributes:
        noise: the distribution of z; both have E[z zᵀ] = I.
    """

    name: ClassVar[str] = "insert-perturbation"
    stage = Stage.PERTURB
    requires = (HAS_TRAINABLES,)
    establishes = (PERTURBED,)
    noise: Literal["gaussian", "rademacher"] = "gaussian"

    def run(self, program: Program, remark: Remarker) -> Program:
        """One direction and one perturb per trainable."""
        edit = Editor(program)
        directions = edit.new_axis()
        keys = edit.add_input(KEYS, (directions, 2), torch.int64)
        coefficients = edit.add_input(COEFFICIENTS, (directions,), torch.float32)
        table = None
        if self.noise == "gaussian":
            spec = TensorSpec(TABLE, Role.FROZEN, (TABLE_SIZE,), torch.float32, form=Form.COMPUTED)
            table = edit.add_tensor(spec, lambda: torch.from_numpy(normal_table().copy()))
        for spec in program.trainables:
            values = edit.placeholder(spec.name)
            first = min(values.users, key=edit.nodes.index)
            z = edit.call(first, direction, keys, table, spec.name, list(spec.shape), self.noise)
            moved = edit.call(first, perturb, values, z, coefficients)
            edit.replace(values, moved)
        remark("trainables", "applied", f"{self.noise}, {len(program.trainables)} trainables")
        return edit.done()
