"""A method under a user's options: the pipeline that runs, and what is refused before it does."""

import pytest

from zofx.compiler.methods import METHODS, Method
from zofx.compiler.options import Options, pipeline_for, without_scores
from zofx.errors import PipelineError
from zofx.ir.pipeline import Pipeline
from zofx.passes import PASSES
from zofx.zo.settings import Settings

BARE = Method("bare", "", "", "canonicalize, narrow-positions", Settings())
LATE = Method("late", "", "", "split-sparse, canonicalize", Settings())
HEAD = "canonicalize, narrow-positions, "
PROBED = "insert-perturbation, stack-probes, narrow-vocabulary"
ROWS = "quantize-frozen{format=int8-row}"
ROUNDED = f"{PROBED}, split-base-probe, quantize-activations"
WHOLE = "{}insert-perturbation{{noise=gaussian}}, stack-probes, narrow-vocabulary"
STORED = f"{WHOLE.format(f'{ROWS}, ')}, split-base-probe, quantize-activations"


def method(name: str) -> Method:
    own = {row.name: row for row in (BARE, LATE)}
    return own.get(name) or METHODS[name]


def assembled(name: str, options: Options) -> str:
    return str(pipeline_for(method(name), options))


@pytest.mark.parametrize("name", tuple(METHODS))
def test_the_methods_own_pipeline_is_the_default(name: str) -> None:
    """As the table has it, and in an order that can work."""
    assert pipeline_for(METHODS[name], Options()) == Pipeline.parse(METHODS[name].pipeline, PASSES)


@pytest.mark.parametrize("train", [r"q_proj|k_proj ", r"layers\.\d{1,2}\.(mlp|x, y)", '"', ""])
def test_any_expression_over_names_reads_back(train: str) -> None:
    """From the pipeline's text, which is what the artifact stores."""
    for options in (Options(train=train), Options(settings=[f"select-parameters.match={train}"])):
        pipeline = pipeline_for(METHODS["mezo"], options)
        assert Pipeline.parse(str(pipeline), PASSES) == pipeline
        assert any(getattr(item, "match", None) == train for item in pipeline.passes)


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        (Options(quant="int8"), STORED, WHOLE.format("quantize-frozen{format=int8}, ")),
        (Options(quant="none"), STORED, WHOLE.format("")),
        (Options(activations="none"), STORED, WHOLE.format("quantize-frozen{format=int4}, ")),
        (
            Options("int8-row", activations="none"),
            STORED,
            WHOLE.format("quantize-frozen{format=int8-row}, "),
        ),
        (Options(fraction=0.25), "fraction=0.001", "fraction=0.25"),
        (Options(settings=["select-sensitive.scope=matrix"]), "scope=global", "scope=matrix"),
        (
            Options("int4", settings=["quantize-frozen.format=int8"]),
            STORED,
            WHOLE.format("quantize-frozen{format=int8}, "),
        ),
    ],
)
def test_options_change_the_pipeline(options: Options, before: str, after: str) -> None:
    """The rest of it stays; --set comes last, and wins."""
    senszoq = METHODS["senszoq"]
    assert before in senszoq.pipeline
    changed = Pipeline.parse(senszoq.pipeline.replace(before, after), PASSES)
    assert pipeline_for(senszoq, options) == changed


@pytest.mark.parametrize(
    ("name", "options", "pipeline"),
    [
        ("mezo", Options(train="lora"), f"{HEAD}insert-lora, {PROBED}"),
        ("senszoq", Options(train="lora"), f"{HEAD}insert-lora, {ROWS}, {ROUNDED}"),
        ("lozo", Options(train="lora"), f"{HEAD}insert-lora, {PROBED}"),
        ("lora-fa", Options(train="lora"), f"{HEAD}insert-lora{{freeze=A}}, {PROBED}"),
        (
            "qzo",
            Options(train="lora"),
            f"{HEAD}insert-lora, quantize-frozen{{format=int4}}, {PROBED}",
        ),
        (
            "hizoo",
            Options(train="lora"),
            f"{HEAD}insert-lora, insert-perturbation, scale-directions, stack-probes, "
            "narrow-vocabulary",
        ),
        ("bare", Options(train="lora"), f"{HEAD}insert-lora"),
        ("mezo", Options(train="prefix"), f"{HEAD}{PROBED}"),
        ("senszoq", Options(train="prompt"), f"{HEAD}{ROWS}, {ROUNDED}"),
        ("subzero", Options(train="prompt"), f"{HEAD}{PROBED}"),
        (
            "mezo",
            Options(train=r"q_proj|\.norm"),
            rf"{HEAD}select-parameters{{match=q_proj|\.norm}}, split-dense, {PROBED}",
        ),
        (
            "lozo",
            Options(train="mlp"),
            f"{HEAD}select-parameters{{match=mlp}}, insert-low-rank, split-dense, {PROBED}",
        ),
    ],
)
def test_what_trains(name: str, options: Options, pipeline: str) -> None:
    """--train replaces how a method chooses and splits; its directions and probes stay."""
    assert assembled(name, options) == pipeline


def test_what_stands_before_the_text() -> None:
    """Two words name adapters, any other is a pattern."""
    asked = (None, "prefix", "prompt", "lora", "q_proj")
    assert [Options(train=t).adapter for t in asked] == [None, "prefix", "prompt", None, None]


@pytest.mark.parametrize(
    ("name", "options", "pipeline"),
    [
        (
            "mezo",
            Options("int4", train="q_proj"),
            f"{HEAD}select-parameters{{match=q_proj}}, split-dense, "
            f"quantize-frozen{{format=int4}}, {PROBED}",
        ),
        (
            "mezo",
            Options("nf4", train="lora"),
            f"{HEAD}insert-lora, quantize-frozen, {PROBED}",
        ),
        (
            "forward-grad",
            Options("int8", train="prefix"),
            f"{HEAD}quantize-frozen{{format=int8}}, insert-perturbation, forward-mode",
        ),
        (
            "lora-fa",
            Options("int4"),
            f"{HEAD}insert-lora{{freeze=A}}, quantize-frozen{{format=int4}}, {PROBED}",
        ),
        (
            "lozo",
            Options("int8", settings=["insert-low-rank.basis=fixed"]),
            f"{HEAD}select-parameters, insert-low-rank{{basis=fixed}}, split-dense, "
            f"quantize-frozen{{format=int8}}, {PROBED}",
        ),
        ("mezo", Options("none"), f"{HEAD}select-parameters, split-dense, {PROBED}"),
        ("bare", Options("int8"), f"{HEAD}quantize-frozen{{format=int8}}"),
        (
            "mezo",
            Options("int8-row", train="lora"),
            f"{HEAD}insert-lora, quantize-frozen{{format=int8-row}}, {PROBED}",
        ),
    ],
)
def test_what_is_quantized(name: str, options: Options, pipeline: str) -> None:
    """--quant stores what is frozen once it is known, before trainables are read under probes."""
    assert assembled(name, options) == pipeline


@pytest.mark.parametrize("quant", [None, "int8-row"])
@pytest.mark.parametrize(
    ("name", "train", "pipeline"),
    [
        ("mezo", "lora", f"{HEAD}insert-lora, {ROWS}, {ROUNDED}"),
        ("senszoq", "prompt", f"{HEAD}{ROWS}, {ROUNDED}"),
        (
            "mezo",
            "q_proj",
            f"{HEAD}select-parameters{{match=q_proj}}, split-dense, {ROWS}, {ROUNDED}",
        ),
    ],
)
def test_what_is_rounded(name: str, train: str, pipeline: str, quant: str | None) -> None:
    """--activations int8 brings its own format of matrices, and comes after the probes."""
    assert assembled(name, Options(quant, "int8", train)) == pipeline


def test_a_methods_own_activations() -> None:
    """Asked for by name, they are the same as not asked for."""
    assert assembled("senszoq", Options(activations="int8")) == assembled("senszoq", Options())
    assert assembled("mezo", Options(activations="none")) == assembled("mezo", Options())


def test_a_format_set_by_hand_may_be_the_one_that_is_needed() -> None:
    """--set comes last, so it may say again what --activations says."""
    again = Options(activations="int8", settings=["quantize-frozen.format=int8-row"])
    assert assembled("senszoq", again) == assembled("senszoq", Options(activations="int8"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("senszoq", Options("int3"), "quantize-frozen{format=int3}: must be one of nf4, int4,"),
        ("senszoq", Options(fraction=0.0), "fraction must be in (0, 1]"),
        (
            "sparse-mezo",
            Options(fraction=2.0),
            "mask-large-weights.fraction=2.0: must be in (0, 1]",
        ),
        ("mezo", Options(fraction=0.1), "method mezo selects no fraction of the weights; leave "),
        ("senszoq", Options(train="lora", fraction=0.1), "method senszoq selects no fraction of"),
        ("senszoq", Options(settings=["fuse.x=1"]), "no pass 'fuse'; it has canonicalize, narrow-"),
        ("senszoq", Options(settings=["split-sparse.x=1"]), "split-sparse has no option 'x'"),
        ("senszoq", Options(settings=["scope=matrix"]), "write it as PASS.OPTION=VALUE"),
        (
            "senszoq",
            Options(train="q_proj"),
            "--train q_proj: method senszoq does not choose parameters by name; it takes lora, "
            "prefix and prompt, or --set for its own passes",
        ),
        ("mezo", Options(train="(q"), "select-parameters.match=(q: not a regular expression"),
        (
            "mezo",
            Options("int4"),
            "pass 4 (quantize-frozen) does not go with select-parameters: it finds nothing to "
            "quantize where every parameter trains; leave --quant and --activations out, or train "
            "less: --train lora, --train REGEX, or a method with a sparse trainable",
        ),
        (
            "lozo",
            Options("int4"),
            "pass 5 (quantize-frozen) does not go with insert-low-rank: at every refresh what was "
            "learnt is folded into the matrix, which has to be in full precision for "
            "that; leave --quant out, or keep one basis: --set insert-low-rank.basis=fixed",
        ),
        ("subzero", Options("int4", train="mlp"), "does not go with insert-low-rank: at every ref"),
        (
            "qzo",
            Options("nf4"),
            "pass 3 (expose-scales) needs a program that is 'block-scaled', and nothing before it "
            "makes it so; block-wise integers have scales and nothing else beside their codes: "
            "name --quant int4 or int8",
        ),
        ("qzo", Options("none"), "pass 2 (expose-scales) needs a program that is 'quantized'"),
        ("senszoq", Options(activations="int4"), "--activations int4: there are none and int8"),
        (
            "senszoq",
            Options("int4", "int8"),
            "--activations int8 multiplies integers, for which a matrix has one scale per row: "
            "--quant int8-row, which is also what it takes without --quant; not int4",
        ),
        ("senszoq", Options("none", "int8"), "what it takes without --quant; not none"),
        (
            "senszoq",
            Options(activations="int8", settings=["quantize-frozen.format=int4"]),
            "pass 9 (quantize-activations) needs a program that is 'row-scaled', and nothing "
            "before it makes it so; products are of integers where a matrix has one scale per "
            "row: --set quantize-frozen.format=int8-row, or --activations none",
        ),
        (
            "mezo",
            Options(activations="int8"),
            "nothing to quantize where every parameter trains; leave --quant and --activations out",
        ),
        (
            "qzo",
            Options(activations="int8"),
            "(expose-scales) needs a program that is 'block-scaled', and nothing before it makes",
        ),
        (
            "forward-grad",
            Options(activations="int8", train="lora"),
            "(split-base-probe) needs a program that is 'stacked', and nothing before it makes it",
        ),
        (
            "lozo",
            Options(exact_layers="1"),
            "insert-low-rank trains along directions of its own, which exact gradients have no use",
        ),
        ("mezo", Options(exact_layers="many"), "a number of blocks, from 1, or all"),
        ("bare", Options(train="q_proj"), "method bare does not choose parameters by name"),
        (
            "late",
            Options(),
            "pass 0 (split-sparse) needs a program that is 'selected', and nothing before it",
        ),
    ],
)
def test_options_that_cannot_be(name: str, options: Options, message: str) -> None:
    """Told before anything is read, with the reason and what to do."""
    with pytest.raises(PipelineError) as caught:
        assembled(name, options)
    assert message in str(caught.value)


def test_evenly_spaced_coordinates_stand_in_for_ranks() -> None:
    """The same fraction trains; a method that ranks nothing stays as it is."""
    ranked = pipeline_for(METHODS["senszoq"], Options(fraction=0.25))
    assert str(without_scores(ranked)) == str(ranked).replace(
        "select-sensitive{fraction=0.25 cover=0.95}", "select-evenly{fraction=0.25}"
    )
    plain = pipeline_for(METHODS["mezo"], Options())
    assert without_scores(plain) == plain
