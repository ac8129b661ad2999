"""select-parameters: whole tensors are chosen by name, and nothing else happens."""

import pytest

from tests.golden import apply, decided
from tests.passes.toys import Normed, OneLinear, Tied, canonical
from zofx.errors import PipelineError
from zofx.ir.facts import TENSORS_SELECTED
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.schema import Role
from zofx.passes import PASSES


def test_chooses_every_parameter() -> None:
    """Embeddings, norms and biases too; the program is the one before."""
    before = canonical(Normed)
    after, remarks = apply("select-parameters", before)
    assert decided(after, "whole").keys() == {
        "embed.weight", "norm.weight", "norm.bias", "fc.weight", "fc.bias", "gain", "head.weight",
    }  # fmt: skip
    assert list(map(str, remarks)) == ["applied  parameters   7 of 7 tensors, 88 weights"]
    assert show(after) == show(before).replace(
        "facts: canonical", "facts: all-train, canonical, chosen"
    )


@pytest.mark.parametrize(
    ("match", "chosen"),
    [
        (r"^fc\.", {"fc.weight", "fc.bias"}),
        ("bias|gain", {"norm.bias", "fc.bias", "gain"}),
        (r"(norm|fc)\.weight$", {"norm.weight", "fc.weight"}),
        (r"n.{1,2}m", {"norm.weight", "norm.bias"}),
    ],
)
def test_searches_the_names(match: str, chosen: set[str]) -> None:
    """A regular expression matches anywhere in a name; braces and bars survive pipeline text."""
    text = str(Pipeline.parse(f"select-parameters{{match={match}}}", PASSES))
    after, _ = apply(text, canonical(Normed))
    assert decided(after, "whole").keys() == chosen


def test_a_shared_parameter_is_chosen_once() -> None:
    """A head that is the embedding goes by one name."""
    after, (remark,) = apply("select-parameters", canonical(Tied))
    assert decided(after, "whole").keys() == {"embed.weight", "fc.weight"}
    assert remark.why == "2 of 2 tensors, 44 weights"


def test_what_the_model_computes_is_no_parameter() -> None:
    """Neither a table nor a trainable that trains already."""
    before = canonical(Normed)
    rows = dict(before.tensors)
    for name, changes in (("gain", {"form": "computed"}), ("fc.bias", {"role": Role.TRAINABLE})):
        rows[name] = rows[name].__class__(**{**rows[name].__dict__, **changes})
    after, (remark,) = apply("select-parameters{match=gain|fc}", before.with_(tensors=rows))
    assert decided(after, "whole").keys() == {"fc.weight"}
    assert remark.why.startswith("1 of 5 tensors")


def test_what_is_chosen_is_there() -> None:
    """The fact names what is not."""
    program = canonical(Normed)
    assert TENSORS_SELECTED.check(program.choosing("whole", {"gain": True})) is None
    assert TENSORS_SELECTED.check(program.choosing("whole", {"gain": True, "lost": True})) == (
        "lost is chosen, and not there"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "canonicalize, select-parameters{match=q_proj}",
            "select-parameters.match=q_proj finds none of the model's 3 parameters, which are "
            "called embed.weight, fc.weight, fc.bias, …",
        ),
        (
            "select-parameters{match=(q}",
            "select-parameters.match=(q: not a regular expression (missing ), unterminated "
            "subpattern at position 0)",
        ),
        (
            "select-parameters",
            "pass 0 (select-parameters) needs a program that is 'canonical', and nothing before it "
            "makes it so; add a pass that makes it so",
        ),
        ("select-parameters{name=x}", "select-parameters has no option 'name'; it has ['match']"),
    ],
)
def test_errors(text: str, message: str) -> None:
    """A name that is not there, and text that is no pattern."""
    with pytest.raises(PipelineError) as caught:
        apply(text, canonical(OneLinear).with_(facts=frozenset()))
    assert str(caught.value) == message
