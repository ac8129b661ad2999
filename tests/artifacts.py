"""A family of compiled artifacts: each frozen format, both distributions, causal and masked.

    CASES × RUNTIMES ──family──▶ one artifact per case, one open session per pair

Compiled at the first request, shared by all tests, never changed. Three kinds of weights are in it:
with and without a bias, tied to an embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests import tiny
from zofx.artifact.manifest import read_trainables
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.compiler.sensitivity.scores import Provenance, Scores
from zofx.ir.program import Loader
from zofx.models.checkpoint import Checkpoint, build_on_meta, open_checkpoint
from zofx.runtimes import RUNTIMES
from zofx.session import Session

FRACTION = 0.05


@dataclass(frozen=True)
class Case:
    """An artifact of the family.

    Attributes:
        model: function of `tests.tiny` that saves the checkpoint.
        quant: frozen format.
        noise: distribution of z.
        layers: of the model; two where what a layer leaves at padding could reach a score.
        from_layer: the first that trains; below it the program is cut.
    """

    model: str
    quant: str
    noise: str
    layers: int = 1
    from_layer: int | None = None

    def __str__(self) -> str:
        cut = "" if self.from_layer is None else f"-from{self.from_layer}"
        return f"{self.model.removeprefix('tiny_')}-{self.quant}-{self.noise}{cut}"

    @property
    def settings(self) -> list[str]:
        """Changes to the pipeline: all matrices train; rows of 32 take blocks of 32."""
        block = ["quantize-frozen.block=32"] if self.quant == "nf4" else []
        every = "select-sensitive.cover=1"
        return [f"insert-perturbation.noise={self.noise}", every, *block]

    @property
    def options(self) -> Options:
        """Of the compilation."""
        return Options(
            self.quant,
            "none",
            fraction=FRACTION,
            settings=tuple(self.settings),
            from_layer=self.from_layer,
        )


CASES = (
    Case("tiny_llama", "int4", "gaussian"),
    Case("tiny_llama", "none", "gaussian", layers=2),
    Case("tiny_llama", "nf4", "gaussian"),
    Case("tiny_llama", "int8", "gaussian"),
    Case("tiny_llama", "int8-row", "gaussian"),
    Case("tiny_llama", "codebook", "gaussian"),
    Case("tiny_llama", "int4", "gaussian", layers=2, from_layer=1),
    Case("tiny_roberta", "none", "rademacher", layers=2, from_layer=1),
    Case("tiny_gpt2", "int8", "rademacher"),
    Case("tiny_roberta", "int4", "rademacher"),
    Case("tiny_falcon", "int4", "gaussian", layers=2),
)


def made_up_scores(checkpoint: Checkpoint) -> Scores:
    """Sensitivities of every matrix that depend on nothing but its place."""
    model = build_on_meta(checkpoint.config, checkpoint.architecture)

    def recipe(seed: int, shape: torch.Size) -> Loader:
        return lambda: torch.rand(shape, generator=torch.Generator().manual_seed(seed))

    matrices = {n: p.shape for n, p in model.named_parameters() if p.dim() == 2}
    recipes = {n: recipe(seed, shape) for seed, (n, shape) in enumerate(matrices.items())}
    return Scores(recipes, Provenance(checkpoint.source, checkpoint.hash, "made up", 0, 0, ""))


class Family:
    """Makes what is asked for, once.

    Args:
        root: a folder for all of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sessions: dict[tuple[Case, str], Session] = {}

    def checkpoint(self, case: Case) -> Path:
        """The folder of the model that a case is compiled from."""
        folder = self.root / f"{case.model}-{case.layers}"
        if not folder.exists():
            getattr(tiny, case.model)(folder, layers=case.layers)
        return folder

    def artifact(self, case: Case) -> Path:
        """The folder of a case."""
        folder = self.root / str(case)
        if not folder.exists():
            checkpoint = open_checkpoint(str(self.checkpoint(case)))
            scores = made_up_scores(checkpoint)
            compile_model(
                checkpoint, METHODS["senszoq"], folder, scores=scores, options=case.options
            )
        return folder

    def session(self, case: Case, engine: str) -> Session:
        """An open session; θ is as the last user left it."""
        if (case, engine) not in self._sessions:
            self._sessions[case, engine] = RUNTIMES[engine].load(self.artifact(case), threads=1)
        return self._sessions[case, engine]

    def close(self) -> None:
        """End all sessions."""
        for opened in self._sessions.values():
            opened.close()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """All artifacts and sessions."""
    made = Family(tmp_path_factory.mktemp("family"))
    yield made
    made.close()


@pytest.fixture(scope="session", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Every artifact in turn."""
    chosen: Case = request.param
    return chosen


@pytest.fixture(scope="session", params=list(RUNTIMES))
def engine(request: pytest.FixtureRequest) -> str:
    """Every runtime in turn."""
    name: str = request.param
    return name


@pytest.fixture
def session(family: Family, case: Case, engine: str) -> Session:
    """Every artifact on every runtime, at its initial θ; what cannot run says why."""
    folder = family.artifact(case)
    support = RUNTIMES[engine].support(folder)
    if not support:
        pytest.skip("; ".join(support.reasons))
    opened = family.session(case, engine)
    opened.write(read_trainables(folder))
    return opened
