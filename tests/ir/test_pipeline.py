"""Pipelines: text and back, options, order, and a pass that breaks what it promised."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import batch, captured, run, with_scores
from tests.passes.toys import Gpt2Linear, TwoLinears
from zofx.errors import InvariantError, PipelineError, UsageError
from zofx.ir.facts import CANONICAL, HAS_TRAINABLES, Fact
from zofx.ir.pipeline import Pass, Pipeline, Remark, Remarker
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.passes import PASSES
from zofx.registry import Table

WHOLE = (
    "canonicalize, narrow-positions, select-sensitive{fraction=0.2}, split-sparse, "
    "quantize-frozen{format=codebook}, insert-perturbation, stack-probes"
)


@pytest.fixture(scope="module")
def toy() -> Program:
    return with_scores(captured(TwoLinears()), "fc.weight", "head.weight")


@dataclass(frozen=True)
class Nothing(Pass):
    """Options of every kind; does nothing."""

    name: ClassVar[str] = "nothing"
    count: int = 3
    share: float = 0.5
    as_is: bool = True
    label: str = "x"

    def run(self, program: Program, remark: Remarker) -> Program:
        """The same program."""
        remark("all", "skipped", "nothing to do")
        return program


ONE = Table[type[Pass]]("pass", "passes", {"nothing": lambda: Nothing})


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (WHOLE, WHOLE),
        ("canonicalize", "canonicalize"),
        ("  canonicalize ,narrow-positions  ", "canonicalize, narrow-positions"),
        ("select-sensitive{}", "select-sensitive"),
        ("select-sensitive{fraction=0.001}", "select-sensitive"),
        (
            "select-sensitive{ scope=matrix  fraction=5e-3 }",
            "select-sensitive{fraction=0.005 scope=matrix}",
        ),
        ("quantize-frozen{block=64 format=int4}", "quantize-frozen{format=int4 block=64}"),
    ],
)
def test_text_reads_back(text: str, normal: str) -> None:
    """Spaces and default values go, the meaning stays."""
    pipeline = Pipeline.parse(text, PASSES)
    assert str(pipeline) == normal
    assert Pipeline.parse(normal, PASSES) == pipeline


@pytest.mark.parametrize(
    "options",
    [{}, {"count": -7}, {"share": 1e-9, "label": "a.b"}, {"as_is": False}, {"share": 3.0}],
)
def test_options_of_every_type_read_back(options: dict[str, Any]) -> None:
    """int, float, bool and str; underscores are written as hyphens."""
    item = Nothing(**options)
    assert Pipeline.parse(str(item), ONE).passes == (item,)
    assert "_" not in str(item)


SPECIAL = st.text(' \t\n",{}=\\ab', max_size=8)
"""What pipeline text is itself made of."""


@given(st.text() | SPECIAL, st.text() | SPECIAL)
def test_an_option_may_have_any_text(one: str, other: str) -> None:
    """It reads back from the text of the pipeline, and the passes around it do too."""
    pipeline = Pipeline((Nothing(label=one), Nothing(label=other, count=4)))
    assert Pipeline.parse(str(pipeline), ONE) == pipeline
    assert str(Pipeline.parse(str(pipeline), ONE)) == str(pipeline)
    assert Pipeline((Nothing(),)).with_option(f"nothing.label={one}").passes == (
        Nothing(label=one),
    )


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("in_proj|out", "nothing{label=in_proj|out}"),
        ("in proj", 'nothing{label="in proj"}'),
        (r"layers\.\d{1,2}\.", r'nothing{label="layers\.\d{1,2}\."}'),
        ('a "b"', 'nothing{label="a ""b"""}'),
        ("", 'nothing{label=""}'),
    ],
)
def test_quotes_stand_where_they_are_needed(label: str, text: str) -> None:
    """A regular expression stays as it was written."""
    assert str(Nothing(label=label)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is an empty place in the pipeline ''"),
        ("canonicalize,", "there is an empty place in the pipeline 'canonicalize,'"),
        (
            "canonicalize narrow-positions",
            "'canonicalize narrow-positions' is not a pass; write name or name{option=value}",
        ),
        (
            "canonicalise",
            "there is no pass 'canonicalise'; did you mean canonicalize? (`zofx list passes`)",
        ),
        ("canonicalize{x=1}", "canonicalize has no option 'x'; it has []"),
        (
            "select-sensitive{fraction}",
            "select-sensitive: 'fraction' is not an option; write option=value, with the value in "
            "double quotes where it has spaces",
        ),
        (
            'select-sensitive{fraction=0.1"}',
            "select-sensitive: 'fraction=0.1\"' is not an option; write option=value, with the "
            "value in double quotes where it has spaces",
        ),
        (
            "select-parameters{match=in proj}, split-dense",
            "select-parameters: 'proj' is not an option; write option=value, with the value in "
            "double quotes where it has spaces",
        ),
    ],
)
def test_text_that_is_wrong(text: str, message: str) -> None:
    """One message, before anything is loaded or run."""
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(text, PASSES)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("count=1.5", "nothing{count=1.5}: must be of type int"),
        ("as-is=yes", "nothing{as-is=yes}: must be of type bool"),
        (
            "as_is=true",
            "nothing has no option 'as_is'; it has ['as-is', 'count', 'label', 'share']",
        ),
    ],
)
def test_options_of_the_wrong_type(option: str, message: str) -> None:
    """The option as it was written, and what it has to be."""
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(f"nothing{{{option}}}", ONE)
    assert str(caught.value) == message


def test_a_setting_changes_one_pass() -> None:
    """`--set PASS.OPTION=VALUE`, read like pipeline text."""
    changed = Pipeline.parse(WHOLE, PASSES).with_option("quantize-frozen.format=int8")
    assert str(changed) == WHOLE.replace("codebook", "int8")


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("canonicalize, quantize-frozen{format=nf4}, insert-perturbation", False),
        ("canonicalize, quantize-frozen{format=codebook}", True),
        ("canonicalize, select-sensitive{scope=matrix}, split-sparse", True),
    ],
)
def test_a_pipeline_says_if_it_needs_scores(text: str, needs: bool) -> None:
    """What ranks weights does, and the one format that weighs them."""
    assert Pipeline.parse(text, PASSES).needs_scores is needs


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("format=int8", "--set format=int8: write it as PASS.OPTION=VALUE"),
        (
            "split-dense.at=x",
            "--set split-dense.at=x: the pipeline has no pass 'split-dense'; it has canonicalize, "
            "split-sparse",
        ),
        ("split-sparse.at=x", "split-sparse has no option 'at'; it has []"),
    ],
)
def test_settings_that_are_wrong(setting: str, message: str) -> None:
    """What the pipeline has, so that the next try is right."""
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse("canonicalize, split-sparse", PASSES).with_option(setting)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "narrow-positions, canonicalize",
            "pass 0 (narrow-positions) needs a program that is 'canonical', and nothing before it "
            "makes it so; move canonicalize before it",
        ),
        (
            "canonicalize, split-sparse, select-sensitive",
            "pass 1 (split-sparse) needs a program that is 'selected', and nothing before it makes "
            "it so; move select-sensitive before it",
        ),
        (
            "canonicalize, select-sensitive, split-sparse, split-sparse",
            "pass 3 (split-sparse) needs a program that is 'selected', and nothing before it makes "
            "it so; move select-sensitive before it",
        ),
        (
            "canonicalize, stack-probes",
            "pass 1 (stack-probes) needs a program that is 'perturbed', and nothing before it "
            "makes it so; add a pass that makes it so",
        ),
    ],
)
def test_order_is_checked_before_anything_runs(toy: Program, text: str, message: str) -> None:
    """The pass, the fact, the way out; a destroyed fact does not count."""
    ran: list[Pass] = []
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(text, PASSES).run(toy, lambda item, *_: ran.append(item))
    assert str(caught.value) == message
    assert not ran


def test_facts_a_program_already_has_count(toy: Program) -> None:
    """A pipeline may continue where another ended."""
    first = Pipeline.parse("canonicalize", PASSES).run(toy)
    second = Pipeline.parse("narrow-positions", PASSES).run(first)
    assert second.facts == {"canonical", "narrowed"}
    assert second.history == ("canonicalize", "narrow-positions")


def test_every_pass_leaves_the_program_before_it_alone(toy: Program) -> None:
    """Text and results of each stage are the same after all later stages ran."""
    stages: list[Program] = []
    texts: list[str] = []

    def note(item: Pass, before: Program, now: Program, remarks: Any, seconds: float) -> None:
        assert seconds >= 0
        assert now.history[-1] == str(item)
        stages.append(before)
        texts.append(show(before))

    result = run(toy, batch())
    Pipeline.parse(WHOLE, PASSES).run(toy, note)
    assert [show(stage) for stage in stages] == texts
    assert stages[0] is toy
    assert torch.equal(run(toy, batch()), result)


def test_running_twice_gives_the_same_program(toy: Program) -> None:
    """No pass depends on anything but its input."""
    pipeline = Pipeline.parse(WHOLE, PASSES)
    assert show(pipeline.run(toy)) == show(pipeline.run(toy))


def test_remarks_reach_the_callback() -> None:
    """What was skipped and why, per pass."""
    heard: list[tuple[str, tuple[Remark, ...]]] = []
    Pipeline.parse("nothing, nothing{count=1}", ONE).run(
        captured(Gpt2Linear()), lambda item, _, __, remarks, ___: heard.append((str(item), remarks))
    )
    remark = Remark("all", "skipped", "nothing to do")
    assert heard == [("nothing", (remark,)), ("nothing{count=1}", (remark,))]
    assert str(remark) == "skipped  all   nothing to do"


@dataclass(frozen=True)
class Claims(Pass):
    """Says that there are trainables, and makes none."""

    name: ClassVar[str] = "claims"
    establishes: ClassVar[tuple[Fact, ...]] = (HAS_TRAINABLES,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """The same program."""
        return program


@dataclass(frozen=True)
class Clutters(Pass):
    """Puts a dropout back after canonicalize took them away."""

    name: ClassVar[str] = "clutters"

    def run(self, program: Program, remark: Remarker) -> Program:
        """One op more."""
        edit = Editor(program)
        (relu,) = edit.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
        dropout = torch.ops.aten.dropout.default
        edit.replace(relu, edit.call(relu.next, dropout, relu, 0.0, False))
        return edit.done()


@dataclass(frozen=True)
class Loses(Pass):
    """Gives back a program whose table lacks a tensor's data."""

    name: ClassVar[str] = "loses"

    def run(self, program: Program, remark: Remarker) -> Program:
        """A damaged program."""
        return program.with_(data={})


def test_a_promise_that_is_not_kept_is_caught(toy: Program) -> None:
    """An established fact is checked on the result."""
    with pytest.raises(InvariantError) as caught:
        Pipeline((Claims(),)).run(toy)
    assert str(caught.value) == (
        "after claims: the program is not 'sliced' any more: nothing would train: no tensor is "
        "trainable\nThis is a bug in claims, not in your input."
    )


def test_a_pass_that_breaks_an_earlier_fact_is_caught(toy: Program) -> None:
    """Every established fact is checked after every pass; the one that broke it is named."""
    pipeline = Pipeline((*Pipeline.parse("canonicalize", PASSES).passes, Clutters()))
    with pytest.raises(InvariantError, match=r"after clutters: .* not 'canonical' any more"):
        pipeline.run(toy)
    assert CANONICAL.name not in Pipeline((Clutters(),)).run(toy).facts


def test_a_malformed_program_is_caught(toy: Program) -> None:
    """The verifier runs after each pass, facts or not."""
    with pytest.raises(InvariantError, match=r"after loses: tensors without data: embed\.weight"):
        Pipeline((Loses(),)).run(toy)
