"""Train adapters beside linears, the matrices themselves frozen: LoRA, and LoRA-FA.

    linear(x, W)   →   linear(x, W) + α/r · linear(linear(x, A), B)        A: [r, in], B: [out, r]

A is uniform in ±√(3 / in) · √(2 / 6) = ±1/√in (Kaiming with a = √5), B zero, so the program starts
out as the one before. freeze=A trains B alone (LoRA-FA). Both are linear in x, so W may be
quantized.
Exact at B = 0.
Source: Hu et al. 2022, LoRA, arXiv 2106.09685; Zhang et al. 2023, LoRA-FA, arXiv 2308.03303; Gao et
al. 2024, P-RGE, arXiv 2409.15520 (queries of LoRA-FA side by side in one forward).
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zofx.errors import PipelineError
from zofx.ir.facts import CANONICAL, HAS_TRAINABLES
from zofx.ir.pass_options import require_regex
from zofx.ir.patterns import linears_of, trainable_weights
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, TensorSpec
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Form, Role, Stage
from zofx.zo.random.direction_spec import Basis
from zofx.zo.random.noise import Stream, sample_words
from zofx.zo.types import Key

aten = torch.ops.aten


@dataclass(frozen=True)
class InsertLora(Pass):
    """See the module.

    Attributes:
        rank: r.
        alpha: α.
        match: a regular expression searched for in the names of the matrices.
        freeze: what stays as it is drawn: nothing, or A.
        seed: of A.
    """

    name: ClassVar[str] = "insert-lora"
    stage = Stage.SPLIT
    requires = (CANONICAL,)
    establishes = (HAS_TRAINABLES,)
    rank: int = 8
    alpha: float = 16.0
    match: str = "q_proj|v_proj|query|value|c_attn"
    freeze: Literal["nothing", "A"] = "nothing"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PipelineError(f"insert-lora.rank={self.rank}: must be at least 1")
        require_regex("insert-lora.match", self.match)

    def run(self, program: Program, remark: Remarker) -> Program:
        """A branch for every linear whose matrix matches."""
        matrices = trainable_weights(program, remark)
        chosen = [name for name in matrices if re.search(self.match, name)]
        if not chosen:
            some = ", ".join(matrices[:3])
            raise PipelineError(
                f"insert-lora.match={self.match} finds none of the {len(matrices)} matrices, which "
                f"are called {some}, …"
            )
        edit = Editor(program)
        for name in chosen:
            self._branch(edit, program.tensors[name])
        remark("matrices", "applied", f"{len(chosen)} of {len(matrices)}, rank {self.rank}")
        return edit.done()

    def _branch(self, edit: Editor, spec: TensorSpec) -> None:
        out, width = spec.shape
        role = Role.FROZEN if self.freeze == "A" else Role.TRAINABLE
        down = edit.add_tensor(
            TensorSpec(
                f"{spec.name}.lora_A",
                role,
                (self.rank, width),
                torch.float32,
                spec.name,
                Form.RIGHT,
            ),
            lambda: self._drawn(f"{spec.name}.lora_A", self.rank, width),
        )
        up = edit.add_tensor(
            TensorSpec(
                f"{spec.name}.lora_B", Role.TRAINABLE, (out, self.rank), torch.float32, spec.name,
                Form.LOW_RANK, basis=Basis(str(down.target), gain=self.alpha / self.rank),
            ),
            lambda: torch.zeros(out, self.rank),
        )  # fmt: skip
        for linear in linears_of(edit.graph, spec.name):
            after = linear.next
            thin = edit.call(after, aten.linear.default, linear.args[0], down)
            branch = edit.call(after, aten.linear.default, thin, up)
            scaled = edit.call(after, aten.mul.Tensor, branch, self.alpha / self.rank)
            edit.replace(linear, edit.call(after, aten.add.Tensor, linear, scaled))

    def _drawn(self, name: str, rank: int, width: int) -> Tensor:
        """Uniform in ±1/√width, from 16 bits each; no bits of a direction's, for that reads Z."""
        bits = sample_words(Key(self.seed, 0), name, Stream.V, 0, rank * width)
        unit = (torch.from_numpy(bits.astype("float32")) + 0.5) / 2**15 - 1
        weights: Tensor = (unit / width**0.5).reshape(rank, width)
        return weights
