"""A pass of another package: its stage gives it a place, its options the facts it is checked by."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from tests.golden import captured
from tests.passes.toys import OneLinear
from zofx.compiler import options
from zofx.compiler.methods import Method
from zofx.compiler.options import Options, pipeline_for
from zofx.errors import InvariantError, PipelineError
from zofx.ir.facts import CANONICAL, HAS_TRAINABLES, REFRESHED, Conflict, Fact
from zofx.ir.pipeline import Pass, Pipeline, Remarker
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role, Stage
from zofx.passes import PASSES
from zofx.registry import Table
from zofx.zo.settings import Settings


def _biased(program: Program) -> str | None:
    trains = any(spec.name.endswith("bias") for spec in program.trainables)
    return None if trains else "no bias trains"


BIASED = Fact("biased", _biased, "take train-biases{only=true}")


@dataclass(frozen=True)
class TrainBiases(Pass):
    """Biases train; whether anything else may is an option.

    Attributes:
        only: whether they are all that trains.
        share: of them.
        folded: whether matrices take them up at every refresh.
    """

    name: ClassVar[str] = "train-biases"
    stage = Stage.SPLIT
    serves: ClassVar[dict[str, str]] = {"fraction": "share"}
    requires = (CANONICAL,)
    only: bool = True
    share: float = 1.0
    folded: bool = False

    @property
    def establishes(self) -> tuple[Fact, ...]:
        """By its options."""
        folded = REFRESHED.undone_by("--set train-biases.folded=false")
        return (
            HAS_TRAINABLES,
            *((BIASED,) if self.only else ()),
            *((folded,) if self.folded else ()),
        )

    def run(self, program: Program, remark: Remarker) -> Program:
        """Change their role."""
        edit = Editor(program)
        for spec in program.tensors.values():
            if spec.name.endswith("bias"):
                edit.replace_data(
                    replace(spec, role=Role.TRAINABLE, dtype=torch.float32),
                    program.data[spec.name],
                )
        return edit.done()


@dataclass(frozen=True)
class ClipBiases(Pass):
    """Does nothing but ask for biases, and for no folding."""

    name: ClassVar[str] = "clip-biases"
    stage = Stage.PERTURB
    requires = (BIASED,)
    conflicts = (Conflict(REFRESHED, "a bias that is folded away has no clip; leave it out"),)

    def run(self, program: Program, remark: Remarker) -> Program:
        """The same program."""
        return program


METHOD = Method(
    "biases",
    "",
    "",
    "canonicalize, narrow-positions, train-biases, insert-perturbation, stack-probes",
    Settings(),
)
CLIPPED = replace(METHOD, pipeline=f"{METHOD.pipeline}, clip-biases")


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> Table[type[Pass]]:
    """The passes there are, and these two."""
    rows = {name: (lambda name=name: PASSES[name]) for name in PASSES}
    own = {"train-biases": lambda: TrainBiases, "clip-biases": lambda: ClipBiases}
    made: Table[type[Pass]] = Table("pass", "passes", {**rows, **own})
    monkeypatch.setattr(options, "PASSES", made)
    return made


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (Options(), METHOD.pipeline),
        (
            Options("int4"),
            METHOD.pipeline.replace("-biases", "-biases, quantize-frozen{format=int4}"),
        ),
        (Options(fraction=0.5), METHOD.pipeline.replace("-biases", "-biases{share=0.5}")),
        (Options(train="lora"), METHOD.pipeline.replace("train-biases", "insert-lora")),
        (Options(train="prefix"), METHOD.pipeline.replace("train-biases, ", "")),
        (
            Options(from_layer=2),
            METHOD.pipeline.replace("train-", "freeze-layers{below=2}, train-")
            + ", cut-frozen-prefix",
        ),
    ],
)
def test_options_find_their_places_around_it(asked: Options, text: str) -> None:
    """Formats behind it, for it splits; in its place what trains instead, for it decides that."""
    assert str(pipeline_for(METHOD, asked)) == text


@pytest.mark.parametrize(
    ("item", "behind"),
    [(TrainBiases(), "insert-low-rank"), (ClipBiases(), "insert-perturbation")],
)
def test_a_stage_is_a_place(item: Pass, behind: str) -> None:
    """Behind the passes of its stage, before those of later ones."""
    text = (
        "canonicalize, select-parameters, insert-low-rank, quantize-frozen, insert-perturbation, "
        "stack-probes"
    )
    placed = str(Pipeline.parse(text, PASSES).with_pass(item))
    assert placed == text.replace(behind, f"{behind}, {item.name}")


@pytest.mark.parametrize(
    ("method", "settings", "quant", "message"),
    [
        (
            METHOD,
            "folded=true",
            "int4",
            "pass 3 (quantize-frozen) does not go with train-biases: at every refresh what was "
            "learnt is folded into the matrix, which has to be in full precision for that; leave "
            "--quant out, or --set train-biases.folded=false",
        ),
        (
            CLIPPED,
            "folded=true",
            None,
            "pass 5 (clip-biases) does not go with train-biases: a bias that is folded away has "
            "no clip; leave it out, or --set train-biases.folded=false",
        ),
        (
            CLIPPED,
            "only=false",
            None,
            "pass 5 (clip-biases) needs a program that is 'biased', and nothing before it makes "
            "it so; take train-biases{only=true}",
        ),
    ],
)
def test_facts_follow_from_its_options(
    method: Method, settings: str, quant: str | None, message: str
) -> None:
    """What does not go together is refused before anything runs, with what to do about either."""
    pipeline_for(method, Options())
    with pytest.raises(PipelineError) as caught:
        pipeline_for(method, Options(quant, settings=[f"train-biases.{settings}"]))
    assert str(caught.value) == message


def test_facts_are_checked_as_it_runs(table: Table[type[Pass]]) -> None:
    """What its options promise has to hold."""
    text = "canonicalize, train-biases"
    after = Pipeline.parse(text, table).run(captured(OneLinear()))
    assert after.facts == {"canonical", "sliced", "biased"}
    with pytest.raises(InvariantError, match="'refreshed' any more: no matrix is refreshed"):
        Pipeline.parse(text + "{folded=true}", table).run(captured(OneLinear()))
