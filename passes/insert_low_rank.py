"""Train a matrix through a thin one beside it: its coordinates in a random basis.

    linear(x, W)        →   linear(x, W) + gain · linear(linear(x, V), A)           A: [m, r] = 0
    embedding(W, ids)   →   embedding(W, ids) + gain · embedding(A, ids) · V        V: [r, n]
    two-sided           →   … + gain · linear(linear(linear(x, V), A), U)           A: [r, r]

basis=refreshed: V (and U) are state: a session draws them for a key, again every so many steps, and
folds what A has learnt into W, which is state too and stays in full precision. basis=fixed: V is
drawn once, here, and W is frozen, so it may be quantized. A starts at zero, so the program starts
out as the one before; W is never perturbed, so all probes share its product.
Exact at A = 0. Cost: r (m + n) products per token and probe, instead of a perturbed copy of W.
gain: 1 (LOZO; where its paper divides the update by r besides, that is a smaller learning rate),
1/r, or √(mn)/r (SubZero: a direction of length √(mn)).
Source: Chen et al. 2025, Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank
Structures, arXiv 2410.07698; Yu et al. 2024, Zeroth-Order Fine-Tuning of LLMs in Random Subspaces,
arXiv 2410.08989 (two-sided, orthonormal).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from zofx.errors import PipelineError
from zofx.ir.facts import ALL_TRAIN, HAS_TRAINABLES, REFRESHED, TENSORS_SELECTED, Fact
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Loader, Program, TensorSpec, is_call
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Form, Role, Stage
from zofx.zo.random.direction_spec import Basis
from zofx.zo.random.low_rank_bases import orthonormal_rows
from zofx.zo.random.noise import Stream, sample
from zofx.zo.types import Key

aten = torch.ops.aten


@dataclass(frozen=True)
class InsertLowRank(Pass):
    """See the module.

    Attributes:
        rank: r; a matrix with a side of r or less is left to other passes.
        basis: drawn by the session and refreshed, or drawn now and kept.
        sides: one factor, or one on either side of A.
        gain: of the product.
        orthonormal: whether rows of V (and columns of U) are made orthonormal.
        seed: of a fixed basis.
    """

    name: ClassVar[str] = "insert-low-rank"
    stage = Stage.SPLIT
    requires = (TENSORS_SELECTED,)
    destroys = (ALL_TRAIN,)
    rank: int = 2
    basis: Literal["refreshed", "fixed"] = "refreshed"
    sides: Literal["one", "two"] = "one"
    gain: Literal["1", "1/r", "norm"] = "1"
    orthonormal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PipelineError(f"insert-low-rank.rank={self.rank}: must be at least 1")

    @property
    def establishes(self) -> tuple[Fact, ...]:
        """With a refreshed basis the matrices move, too."""
        moving = REFRESHED.undone_by(f"keep one basis: --set {self.name}.basis=fixed")
        return (HAS_TRAINABLES, *((moving,) if self.basis == "refreshed" else ()))

    def run(self, program: Program, remark: Remarker) -> Program:
        """A branch for every chosen matrix; vectors stay chosen."""
        edit = Editor(program)
        whole = [name for name in program.tensors if program.choice(name).whole]
        done = set()
        for name in whole:
            spec = program.tensors[name]
            if len(spec.shape) != 2 or min(spec.shape) <= self.rank:
                continue
            why = _other_reader(edit.placeholder(name))
            if why:
                remark(name, "skipped", f"read by {why.target}: it has no low-rank form")
                continue
            self._branch(edit, program, spec)
            done.add(name)
        if not done:
            raise PipelineError(
                f"insert-low-rank.rank={self.rank}: no chosen matrix has both sides above the rank "
                "and is read by linears and lookups alone; lower the rank or choose more parameters"
            )
        remark("matrices", "applied", f"{len(done)} of rank {self.rank}, basis {self.basis}")
        return edit.done().choosing("whole", {name: True for name in whole if name not in done})

    def _branch(self, edit: Editor, program: Program, spec: TensorSpec) -> None:
        """Tensors and ops for one matrix."""
        rows, columns = spec.shape
        name, two = f"{spec.name}.slice", self.sides == "two"
        right = self._factor(spec, Form.RIGHT, (self.rank, columns), Stream.V)
        left = self._factor(spec, Form.LEFT, (rows, self.rank), Stream.U) if two else None
        gain, refreshed = self._gain(rows, columns), self.basis == "refreshed"
        shape = (self.rank if two else rows, self.rank)
        basis = Basis(
            right[0].name,
            spec.name if refreshed else None,
            left[0].name if left else None,
            gain,
            self.orthonormal,
        )
        thin = TensorSpec(
            name, Role.TRAINABLE, shape, torch.float32, spec.name, Form.LOW_RANK, basis=basis
        )
        values = edit.add_tensor(thin, lambda: torch.zeros(shape))
        factors = edit.add_tensor(*right), edit.add_tensor(*left) if left else None
        for reader in list(edit.placeholder(spec.name).users):
            _beside(edit, reader, values, *factors, gain)
        if refreshed:
            state = replace(spec, role=Role.STATE, dtype=torch.float32)
            edit.replace_data(state, program.data[spec.name])

    def _factor(
        self, spec: TensorSpec, side: Form, shape: tuple[int, int], stream: Stream
    ) -> tuple[TensorSpec, Loader]:
        """Zeros that a session will draw, or the draw itself."""
        fixed = self.basis == "fixed"
        name = f"{spec.name}.slice.{side}"
        role = Role.FROZEN if fixed else Role.STATE
        row = TensorSpec(name, role, shape, torch.float32, spec.name, form=side)
        drawn = self._drawn(f"{spec.name}.slice", shape, stream)
        return row, drawn if fixed else lambda: torch.zeros(shape)

    def _drawn(self, name: str, shape: tuple[int, int], stream: Stream) -> Callable[[], Tensor]:
        upright = shape if stream is Stream.V else shape[::-1]

        def draw() -> Tensor:
            rows = sample("gaussian", Key(self.seed, 0), name, upright, stream)
            rows = orthonormal_rows(rows) if self.orthonormal else rows
            return torch.from_numpy(rows if stream is Stream.V else rows.T.copy())

        return draw

    def _gain(self, rows: int, columns: int) -> float:
        gains = {"1": 1.0, "1/r": 1 / self.rank, "norm": math.sqrt(rows * columns) / self.rank}
        return gains[self.gain]


def _other_reader(weight: fx.Node) -> fx.Node | None:
    """What reads a matrix and is neither a linear nor a lookup."""
    for user in weight.users:
        linear = is_call(user, aten.linear.default) and user.args[1] is weight
        if not linear and not (is_call(user, aten.embedding.default) and user.args[0] is weight):
            return user
    return None


def _beside(
    edit: Editor,
    reader: fx.Node,
    values: fx.Node,
    right: fx.Node,
    left: fx.Node | None,
    gain: float,
) -> None:
    """Add gain · left · A · right to what reads the matrix."""
    after = reader.next
    if is_call(reader, aten.linear.default):
        thin = edit.call(after, aten.linear.default, reader.args[0], right)
        branch = edit.call(after, aten.linear.default, thin, values)
        if left is not None:
            branch = edit.call(after, aten.linear.default, branch, left)
    else:
        ids = reader.args[1]
        if left is not None:  # row i of U·A is the row i of U, times A
            rows = edit.call(after, aten.embedding.default, left, ids)
            turned = edit.call(after, aten.t.default, values)
            thin = edit.call(after, aten.linear.default, rows, turned)
        else:
            thin = edit.call(after, aten.embedding.default, values, ids)
        branch = edit.call(after, aten.matmul.default, thin, right)
    if gain != 1:
        branch = edit.call(after, aten.mul.Tensor, branch, gain)
    edit.replace(reader, edit.call(after, aten.add.Tensor, reader, branch))
