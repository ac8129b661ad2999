"""The subject of the comparison: zofx's compiled methods, watched step by step.

    Ground        a tiny OPT ─▶ artifacts, one per pipeline;  questions ─▶ batches
    Trajectory    Driver     ─▶ Steps: θ before and after, losses, what their rounding may be
                  tensors of a session ─▶ weights of the model, f64:  W = base + gain · A · V
                  zofx.zo.random.noise        ─▶ directions, by step and weight

The bounds of the losses are those of `tests.methods.bounds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.fidelity.public import Inputs
from benchmarks.fidelity.questions import Question, public_inputs, questions
from tests import tiny
from tests.methods.bounds import Evaluation, rounding_of_losses
from tests.methods.model import tiny_opt
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import RUNTIMES
from zofx.session import Batch, Session
from zofx.tasks.encode import Encoder
from zofx.tasks.objectives import OBJECTIVES
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example
from zofx.zo.driver import Driver
from zofx.zo.random.direction_spec import Basis
from zofx.zo.random.noise import Stream, sample
from zofx.zo.settings import Settings
from zofx.zo.types import FloatArray, Key, LossFn

Values: TypeAlias = Mapping[str, FloatArray]
Tensors: TypeAlias = dict[str, Tensor]

SEED: Final = 11
EPS: Final = 2.0**-6
"""The standard deviation of the weights: the gap of two probes is far above their rounding."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A batch, as zofx reads it and as the public trainers do."""

    encoded: Encoded
    inputs: Inputs


@dataclass(frozen=True, eq=False)
class Step:
    """What zofx did.

    Attributes:
        t: the step.
        asked: on which batch.
        before: all that moves, when the step's losses were measured.
        after: all that moves, at its end.
        losses: f64[P].
        allowed: f64[P], how far their float32 may be from what they mean.
    """

    t: int
    asked: Asked
    before: dict[str, FloatArray]
    after: dict[str, FloatArray]
    losses: Tensor
    allowed: Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run of a compiled method.

    Attributes:
        checkpoint: where it started.
        settings: of the run.
        names: the weights, in the order of the model.
        shapes: of the trainables.
        bases: weight → (its low-rank trainable, that trainable's basis).
        steps: all of them.
    """

    checkpoint: Path
    settings: Settings
    names: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    bases: Mapping[str, tuple[str, Basis]]
    steps: Sequence[Step]

    def weights(self, values: Values) -> Tensors:
        """What the session's tensors mean, by weight."""
        factors = {name for s, basis in self.bases.values() for name in (s, basis.right)}
        whole = {name: double(part) for name, part in values.items() if name not in factors}
        for name, (part, basis) in self.bases.items():
            whole[name] += basis.gain * double(values[part]) @ double(values[basis.right])
        return {name: whole[name] for name in self.names}

    @property
    def rank(self) -> int:
        """The rank of the low-rank trainables."""
        part, _ = next(iter(self.bases.values()))
        return self.shapes[part][1]

    def z(self, t: int, query: int, name: str) -> Tensor:
        """Of a weight that trains whole, its direction; of a matrix with a basis, U f64[m, r]."""
        part = self.bases[name][0] if name in self.bases else name
        return double(sample("gaussian", Key(SEED, t, query), part, self.shapes[part]))

    def v(self, window: int, name: str) -> Tensor:
        """V f64[n, r], kept for a window of steps."""
        part, basis = self.bases[name]
        rows = self.steps[0].before[basis.right].shape
        key = Key(SEED, window * self.settings.refresh)
        return double(sample("gaussian", key, part, rows, Stream.V)).T.contiguous()


class Ground:
    """A tiny model, its batches, and runs of compiled methods, each made once.

    Args:
        root: where to put checkpoint and artifacts.
        steps: of every run.
    """

    def __init__(self, root: Path, steps: int) -> None:
        self.root = root
        self.steps = steps
        self.checkpoint = tiny_opt(root / "model")
        self._opened = open_checkpoint(str(self.checkpoint))
        model = AutoModelForCausalLM.from_pretrained(self.checkpoint)
        self._names = [name for name, _ in model.named_parameters()]
        self._batches = [self._asked(part) for part in questions()]
        self._artifacts: dict[str, Path] = {}
        self._runs: dict[tuple[str, Settings], Trajectory] = {}

    def trajectory(self, method: str, numbers: Mapping[str, Any]) -> Trajectory:
        """A run of a method, on torch, with some of its numbers changed."""
        given = {"eps": EPS, "schedule": "constant", **numbers}
        settings = METHODS[method].settings.with_given(**given)
        if (method, settings) not in self._runs:
            self._runs[method, settings] = self._trajectory(method, settings)
        return self._runs[method, settings]

    def _trajectory(self, method: str, settings: Settings) -> Trajectory:
        folder = self._artifact(method)
        session = RUNTIMES["torch"].load(folder, threads=1)
        steps = self._run(folder, session, settings)
        session.close()
        bases = {basis.base or "": (part, basis) for part, basis in session.noise.bases.items()}
        return Trajectory(self.checkpoint, settings, self._names, session.trainables, bases, steps)

    def _artifact(self, method: str) -> Path:
        """Methods of one pipeline differ in how they are driven alone: they share an artifact."""
        pipeline = METHODS[method].pipeline
        if pipeline not in self._artifacts:
            self._artifacts[pipeline] = self.root / method
            compile_model(self._opened, METHODS[method], self.root / method)
        return self._artifacts[pipeline]

    def _run(self, folder: Path, session: Session, settings: Settings) -> list[Step]:
        watched = Watched(session)
        driver = Driver(settings.recipe(), watched, SEED)
        done = []
        for t in range(self.steps):
            asked, watched.made = self._batches[t % len(self._batches)], []
            log = driver.step(t, _loss(watched, asked.encoded))
            allowed = [rounding_of_losses(folder, made, asked.encoded) for made in watched.made]
            done.append(
                Step(
                    t, asked, watched.made[0].theta, session.read(),
                    torch.from_numpy(log.losses).double(), torch.cat(allowed),
                )
            )  # fmt: skip
        return done

    def _asked(self, asked: Sequence[Question]) -> Asked:
        assert self._opened.tokenization is not None
        encoder = Encoder(
            tokenizer=self._opened.tokenization.tokenizer,
            bos_id=tiny.SPECIAL.index("<s>"),
            pad_id=tiny.SPECIAL.index("<pad>"),
            mask_id=None,
            max_length=tiny.POSITIONS,
        )
        encoded = encoder.encode([Example(*question) for question in asked])
        return Asked(encoded, public_inputs(self.checkpoint, asked))


class Watched:
    """A session that notes the forwards it is asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.made: list[Evaluation] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """As the session, and note it."""
        self.made.append(Evaluation(self._session.read(), batch, keys, coefficients))
        return self._session.evaluate(batch, keys, coefficients)


def _loss(session: Any, encoded: Encoded) -> LossFn:
    objective = OBJECTIVES["cross-entropy"]
    return lambda keys, matrix: objective.measure(session, encoded, keys, matrix)


def double(values: FloatArray) -> Tensor:
    """f32 → f64, exactly."""
    return torch.from_numpy(values).double()
