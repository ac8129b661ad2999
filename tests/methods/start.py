"""What a textbook run starts from, and how it reads what zofx holds.

Start      artifact, checkpoint in float64, settings, session
Subject    a method at the artifact's initial θ, and Session.read() → its θ
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.methods.model import Model
from tests.methods.reference import Method, Tensors
from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, read_manifest, read_trainables
from zofx.artifact.merge import merged_tensors
from zofx.session import Session
from zofx.zo.random.noise import Kind, Stream, sample
from zofx.zo.settings import Settings
from zofx.zo.types import FloatArray, Key

Values: TypeAlias = Mapping[str, FloatArray]

SEED = 11


@dataclass(frozen=True, eq=False)
class Start:
    """What a textbook run starts from.

    Attributes:
        folder: the artifact.
        model: the checkpoint it was compiled from, in float64.
        settings: of the run.
        noise: the distribution the method's paper draws from.
        session: to read state beside θ, such as a basis; its θ moves with the run.
    """

    folder: Path
    model: Model
    settings: Settings
    noise: Kind
    session: Session

    @property
    def manifest(self) -> Manifest:
        """Which tensors there are, and where they come from."""
        return read_manifest(self.folder)

    def named(self, form: str) -> dict[str, str]:
        """Weight → the artifact's tensor of this form ("slice", "index", …)."""
        return {str(row.origin): row.name for row in self.manifest.tensors if row.form == form}

    def frozen(self, name: str) -> Tensor:
        """A tensor of the artifact that does not move."""
        tensor: Tensor = load_file(self.folder / layout.WEIGHTS)[name]
        return tensor

    def initial(self) -> dict[str, FloatArray]:
        """What moves, before the first step."""
        return read_trainables(self.folder)

    def draw(self, step: int, query: int, name: str, stream: Stream = Stream.Z) -> Tensor:
        """The values of a direction of the trainable `name`, f64, as the trainable is shaped."""
        shape = self.session.trainables[name]
        values = sample(self.noise, Key(SEED, step, query), name, shape, stream)
        return torch.from_numpy(values).double()

    def weights(self, values: Values) -> Tensors:
        """The model's weights by name, f64, as the artifact holds them at these trainables."""
        merged = {n: w.double() for n, w in merged_tensors(self.folder, values)}
        return {name: merged[name].contiguous() for name in self.model.weights}

    def common(self) -> dict[str, Any]:
        """The numbers every method takes, as the compiled one has them.

        ε is what the probe matrix holds, a float32; what dividing by the other does is among the
        roundings of a move.
        """
        eps = float(torch.tensor(self.settings.eps, dtype=torch.float32))
        return {"lr": self.settings.lr, "eps": eps, "queries": self.settings.queries}


@dataclass(frozen=True, eq=False)
class Subject:
    """A textbook run, and how it reads a session.

    Attributes:
        method: at the artifact's initial values.
        theta: what `Session.read` gives → the method's θ, exactly.
        parts: where θ is a sum of what a session holds, Σ |parts|.
    """

    method: Method
    theta: Callable[[Values], Tensors]
    parts: Callable[[Values], Tensors] | None = None

    def size(self, before: Values, after: Values) -> Tensors:
        """What the roundings of a step's parts are relative to, beside its terms.

        A part x that moves by d is rounded by γ·(|x| + |d|), and |d| ≤ |x| + |x + d|.
        """
        if self.parts is None:
            return self.theta(before)
        there = self.parts(after)
        return {name: size + there[name] for name, size in self.parts(before).items()}
