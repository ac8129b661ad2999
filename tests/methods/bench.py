"""What a comparison needs: tiny models, batches both sides can read, and runs of zofx watched.

    Bench    a checkpoint  ─▶ artifacts, one per pipeline           ─▶ Model in float64
             questions     ─▶ Encoded, for a session                ─▶ BatchLoss, for a textbook
    Run      Driver on a session that notes its forwards            ─▶ Steps: θ, losses, bounds

Everything is made at the first request, and once.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tests import tiny
from tests.artifacts import made_up_scores
from tests.methods.backward import rounding_of_gradient
from tests.methods.bounds import Descent, Evaluation, rounding_of_losses
from tests.methods.model import MASK, BatchLoss, Model, Question, tiny_opt
from tests.methods.rows import Row
from tests.methods.start import SEED, Start, Subject
from zofx.artifact.manifest import read_manifest
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import pipeline_for
from zofx.models.checkpoint import open_checkpoint
from zofx.session import Batch, ExactSession, Session, Weigh
from zofx.tasks.encode import Encoder
from zofx.tasks.objectives import OBJECTIVES
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example
from zofx.zo.driver import Driver
from zofx.zo.settings import Settings
from zofx.zo.types import ExactGradientFn, FloatArray, Key, LossFn

STEPS = 20


class Make(Protocol):
    """Makes a tiny checkpoint in a folder, which it returns."""

    def __call__(self, folder: Path, layers: int = 1) -> Path: ...


MODELS: dict[str, Make] = {"causal": tiny_opt, "masked": tiny.tiny_roberta}


def questions(causal: bool) -> list[list[Question]]:
    """Batches of three: candidates of one token and of several, rows of several lengths."""
    asked = []
    for place, subject in enumerate(tiny.SUBJECTS):
        words = (tiny.BLAME, tiny.PRAISE)[place % 2][place // 2]
        if causal:
            texts = tiny.CANDIDATES if place % 3 else (" was a bore", " good", " made me smile")
            asked.append(Question(f"{subject} {words} so it", texts, place % 2))
        else:
            prompt = f"{subject} {words} so it was {MASK} ."
            asked.append(Question(prompt, ("bad", "good"), place % 2))
    return [asked[:3], asked[3:], asked[1:4]]


@dataclass(frozen=True, eq=False)
class Given:
    """A batch as zofx reads it and as the textbook does."""

    encoded: Encoded
    loss: BatchLoss


class Bench:
    """A tiny model; its artifacts and batches, each made once.

    Args:
        kind: "causal" or "masked".
        root: where to put them.
        layers: of the model.
    """

    def __init__(self, kind: str, root: Path, layers: int = 1) -> None:
        self.causal = kind == "causal"
        self.root = root
        self.checkpoint = MODELS[kind](root / "model", layers)
        self.model = Model(self.checkpoint, self.causal)

    @cached_property
    def batches(self) -> list[Given]:
        """The batches of a run, which goes round them."""
        opened = open_checkpoint(str(self.checkpoint))
        assert opened.tokenization is not None
        ids = {token: tiny.SPECIAL.index(token) for token in tiny.SPECIAL}
        encoder = Encoder(
            tokenizer=opened.tokenization.tokenizer,
            bos_id=ids["<s>"] if self.causal else None,
            pad_id=ids["<pad>"],
            mask_id=None if self.causal else ids["<mask>"],
            max_length=tiny.POSITIONS,
        )
        return [
            Given(encoder.encode([Example(*asked) for asked in batch]), self.model.loss(batch))
            for batch in questions(self.causal)
        ]

    def artifact(self, row: Row) -> Path:
        """The model compiled as a row asks; rows of one pipeline share it."""
        method = METHODS[row.method]
        program = str(pipeline_for(method, row.options))
        folder = self.root / hashlib.sha256(program.encode()).hexdigest()[:16]
        if not folder.exists():
            opened = open_checkpoint(str(self.checkpoint))
            compile_model(
                opened, method, folder,
                scores=made_up_scores(opened), options=row.options,
            )  # fmt: skip
        return folder


class Watched:
    """A session that notes the forwards it is asked for, and the last gradient."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.made: list[Evaluation] = []
        self.slopes: dict[str, FloatArray] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        self.made.append(Evaluation(self._session.read(), batch, keys, coefficients))
        return self._session.evaluate(batch, keys, coefficients)

    def gradient(self, batch: Batch, weigh: Weigh) -> dict[str, FloatArray]:
        self.slopes = cast(ExactSession, self._session).gradient(batch, weigh)
        return self.slopes


@dataclass(frozen=True, eq=False)
class Step:
    """What zofx did in a step.

    Attributes:
        t: the step.
        given: on which batch.
        before: what moves, as it was.
        after: what moves, as it is then.
        losses: f64[P], as measured, in the textbook's order.
        allowed: δ f64[P], what their rounding may be.
        descent: its exact gradients.
    """

    t: int
    given: Given
    before: dict[str, FloatArray]
    after: dict[str, FloatArray]
    losses: Tensor
    allowed: Tensor
    descent: Descent


@dataclass(frozen=True, eq=False)
class Run:
    """A row on a bench and a runtime."""

    row: Row
    bench: Bench
    session: Session

    @cached_property
    def settings(self) -> Settings:
        """The numbers of the run, as the artifact has them: where trainables take turns it
        counts."""
        return self.row.run.fitted(self.session.noise)

    def subject(self) -> Subject:
        """The textbook, at the start."""
        folder = self.bench.artifact(self.row)
        start = Start(folder, self.bench.model, self.settings, self.row.noise, self.session)
        return self.row.reference(start)

    def steps(self, count: int = STEPS) -> Iterator[Step]:
        """The textbook's steps, one after another; each may be several of the driver's."""
        watched, hold = Watched(self.session), self.settings.hold
        driver = Driver(self.settings.recipe(), watched, SEED)
        for t in range(count):
            given = self.bench.batches[t % len(self.bench.batches)]
            loss = self._loss(watched, given.encoded)
            before, watched.made, losses = self.session.read(), [], []
            for part in range(hold):
                log = driver.step(
                    t * hold + part, loss, exact_gradient=self._gradient(watched, given.encoded)
                )
                losses.append(torch.from_numpy(log.losses).double())
            order = list(self.row.order) or slice(None)
            allowed = self._allowed(watched.made, given)
            yield Step(
                t, given, before, self.session.read(), torch.cat(losses)[order], allowed[order],
                self._descent(t, watched, before, given),
            )  # fmt: skip

    def _loss(self, session: Any, encoded: Encoded) -> LossFn:
        """The loss of a batch, or its slopes, as the estimator asks."""
        objective = OBJECTIVES["cross-entropy"]
        losses = objective.slopes if self._sloped else objective.measure
        return lambda keys, matrix: losses(session, encoded, keys, matrix)

    def _gradient(self, session: Any, encoded: Encoded) -> ExactGradientFn | None:
        """The exact gradients of a batch, for the tensors that train by them."""
        if not self._exact:
            return None
        weigh = partial(OBJECTIVES["cross-entropy"].weigh, encoded=encoded)
        return lambda: cast(ExactSession, session).gradient(encoded.batch, weigh)

    def _descent(
        self, t: int, watched: Watched, before: dict[str, FloatArray], given: Given
    ) -> Descent:
        """What was measured, and its bound along signs of this step's own."""
        if not self._exact:
            return Descent()
        random = torch.Generator().manual_seed(t)
        slopes = {name: torch.from_numpy(watched.slopes[name]).double() for name in self._exact}
        signs = {
            name: torch.randint(2, slope.shape, generator=random).double() * 2 - 1
            for name, slope in slopes.items()
        }
        folder = self.bench.artifact(self.row)
        allowed = rounding_of_gradient(folder, before, given.encoded, signs)
        return Descent(slopes, signs, allowed)

    @cached_property
    def _exact(self) -> tuple[str, ...]:
        """Which tensors those are."""
        return read_manifest(self.bench.artifact(self.row)).exact

    @property
    def _sloped(self) -> bool:
        return self.settings.estimator == "forward-gradient"

    def _allowed(self, made: Sequence[Evaluation], given: Given) -> Tensor:
        """δ of every loss, forward by forward."""
        folder, kind = self.bench.artifact(self.row), self._sloped
        parts = [rounding_of_losses(folder, one, given.encoded, slopes=kind) for one in made]
        return self.row.slack * torch.cat(parts)
