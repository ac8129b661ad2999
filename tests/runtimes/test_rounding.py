"""Products of integers on both runtimes: ops bit for bit, programs within the rounding of f32.

    codes of an engine ──fixed──▶ float64 meaning ± its bound  ∋  scores of that engine
                       ──each one of the two nearest to x/step, almost all the nearest

Rounding is not continuous: where x/step lies between two integers, errors of f32 decide, so scores
of two engines may differ by what such a step is worth. Given its codes, an engine keeps to the
same bound as everywhere else.
"""

import base64
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from tests import tiny
from tests.artifacts import made_up_scores
from tests.loads import KEYS, Load, batch, bits
from tests.runtimes import reference
from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest, read_trainables
from zofx.artifact.merge import merged_tensors
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.errors import UnsupportedError
from zofx.ir.graph_json import load_graph
from zofx.ir.ops import zofx_ops
from zofx.ir.ops.rounding import FINER, SMALLEST
from zofx.ir.program import is_call
from zofx.ir.symbols import TorchDispatchMode
from zofx.models.checkpoint import open_checkpoint
from zofx.models.hf_export import export_hf
from zofx.runs.prepare import prepare
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import start, train
from zofx.runtimes import RUNTIMES, ort_integers
from zofx.runtimes.onnx_export.contrib_ops import ms
from zofx.runtimes.onnx_export.export import translate
from zofx.runtimes.torch_graph import placed
from zofx.zo.types import FloatArray, key_words

UNIT = 2.0**-24
EPS = 0.1
MATRIX = np.array([[EPS, 0], [-EPS, 0], [0, EPS]], np.float32)
ASKED = Load("three probes", batch(3, 9, 2, 3), MATRIX)
UPSTREAM = 2.0**-18
"""By how much of the largest entry an activation may be off: 64 roundings, most far smaller."""
PLUS = zofx_ops.plus_base.default


# --- op by op -------------------------------------------------------------------------------------


class Call(nn.Module):
    """One op, as a model."""

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op = op

    def forward(self, *inputs: Tensor) -> Any:
        return self.op(*inputs)


def on_ort(op: Any, *inputs: Tensor) -> Tensor:
    """An op's lowering on ONNX Runtime."""
    model = translate(torch.export.export(Call(op), inputs))
    model.opset_imports.update({"": 23, ms.domain: ms.version})
    engine = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    # what an op does not read is no input of its graph
    feeds = {
        value.name: inputs[int(value.name.rpartition("_")[2])].numpy()
        for value in engine.get_inputs()
    }
    return torch.from_numpy(engine.run(None, feeds)[0])


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def same(actual: Tensor, wanted: Tensor) -> None:
    """Shape, type and bits; NaN equals NaN."""
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True)
    if wanted.dtype is torch.float32:
        finite = wanted.isfinite()
        assert torch.equal(actual[finite].view(torch.int32), wanted[finite].view(torch.int32))


def test_steps_have_the_same_bits() -> None:
    """Rows of many sizes, a row of zeros, one of −0, one of a single entry, tiny and huge ones."""
    x = normal(9, 4, 40) * normal(9, 4, 1, seed=1).mul(20).exp2()
    x[0, 0], x[1, 1], x[2, 2, 1:], x[3], x[4] = 0, -0.0, 0, 1e-35, 1e35
    wanted = zofx_ops.row_scales(x)
    same(on_ort(zofx_ops.row_scales.default, x), wanted)
    least = x.new_tensor(SMALLEST)
    assert (wanted[0, 0], wanted[1, 1]) == (least / 127, least / 127)
    exact = x.abs().amax(-1, keepdim=True).clamp(min=least).double() / 127
    assert ((wanted - exact).abs() <= 2 * UNIT * exact).all()
    assert (wanted * FINER >= torch.finfo(torch.float32).tiny).all()


@pytest.mark.parametrize("place", [0, 17, 39])
def test_a_row_that_is_not_a_number_stays_none(place: int) -> None:
    """Wherever the NaN is: its step is NaN on both, and those of other rows are not."""
    x = normal(3, 40)
    x[1, place] = torch.nan
    for steps in (zofx_ops.row_scales(x), on_ort(zofx_ops.row_scales.default, x)):
        assert steps.isnan().flatten().tolist() == [False, True, False]


def test_codes_have_the_same_bits() -> None:
    """Within half a step of x, and at half a step the even one."""
    x = normal(50, 64)
    steps = zofx_ops.row_scales(x)
    codes = zofx_ops.round_rows(x, steps)
    same(on_ort(zofx_ops.round_rows.default, x, steps), codes)
    back = (codes.double() - 128) * steps
    half = x.abs().amax(-1, keepdim=True).double() / 254
    assert ((back - x).abs() <= half + 4 * UNIT * x.abs()).all()
    assert (codes.amin(), codes.amax()) == (1, 255)


def test_what_is_left_has_the_same_bits() -> None:
    """At most half a step, after a second rounding 1/254 of it; a row of zeros leaves none."""
    x = normal(50, 64)
    x[0] = 0
    steps = zofx_ops.row_scales(x)
    codes = zofx_ops.round_rows(x, steps)
    left = zofx_ops.left_over(x, codes, steps)
    same(on_ort(zofx_ops.left_over.default, x, codes, steps), left)
    exact = x.double() - (codes.double() - 128) * steps
    assert ((left - exact).abs() <= UNIT * (2 * x.abs() + exact.abs())).all()
    assert not left[0].any()
    finer = zofx_ops.round_rows(left, steps * FINER)
    both = (codes.double() - 128) * steps + (finer.double() - 128) * (steps * FINER)
    rounding = 6 * UNIT * x.abs().amax(-1, keepdim=True)
    assert ((both - x).abs() <= x.abs().amax(-1, keepdim=True).double() / 254**2 + rounding).all()


def test_ties_go_to_the_even_code_on_both() -> None:
    """k + ½ steps of a power of two, where x/step is exact, for every k."""
    k = torch.arange(-127, 127)
    x, step = (k + 0.5)[None] / 8, torch.full((1, 1), 1 / 8)
    wanted = (k + (k % 2) + 128)[None].to(torch.uint8)
    same(zofx_ops.round_rows(x, step), wanted)
    same(on_ort(zofx_ops.round_rows.default, x, step), wanted)


@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize("rest", [(5,), (4, 5)], ids=str)
def test_differences_and_sums_have_the_same_bits(others: int, rest: tuple[int, ...]) -> None:
    """f32[(P − 1)·N, k] and f32[(P − 1)·N, T, k], of no rows too; on integers they are inverse."""
    x, base = normal(others * 3, *rest), normal(3, *rest, seed=1)
    x[:1] = -0.0
    every = x.view(others, 3, *rest)
    for op, wanted in ((zofx_ops.minus_base.default, every - base), (PLUS, every + base)):
        same(op(x, base), wanted.view_as(x))
        same(on_ort(op, x, base), wanted.view_as(x))
    x, base = (x * 8).round() + 0.0, (base * 8).round()
    same(PLUS(zofx_ops.minus_base(x, base), base), x)


@pytest.mark.parametrize("op", [zofx_ops.minus_base.default, PLUS], ids=["differences", "sums"])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("probe", [0, 1, 2])
def test_what_is_no_number_in_a_probe_stays_none(op: Any, wrong: float, probe: int) -> None:
    """In its place; of the base, in that of all other probes."""
    whole = normal(3 * 2, 4)
    whole[2 * probe, 1] = wrong
    for run in (op, partial(on_ort, op)):
        finite = run(whole[2:], whole[:2]).isfinite().view(2, 2, 4)
        assert not finite[probe - 1 if probe else slice(None), 0, 1].any()
        finite[:, 0, 1] = True
        assert finite.all()


def rounded_operands(width: int, out: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes of the whole range, the outermost in one row and column, and both scales."""
    random = torch.Generator().manual_seed(width)
    x = torch.randint(1, 256, (3, 5, width), generator=random).to(torch.uint8)
    weight = torch.randint(-127, 128, (width, out), generator=random).to(torch.int8)
    x[0, 0], weight[:, 0] = 255, 127
    return x, normal(3, 5, 1).exp(), weight, normal(out, seed=1).exp()


@pytest.mark.parametrize("width", [32, 1040])
def test_integer_products_have_the_same_bits(width: int) -> None:
    """While 127²·in < 2²⁴ every sum is an f32, so two products are all that is rounded."""
    x, steps, weight, scales = rounded_operands(width)
    exact = (x.long() - 128) @ weight.long()
    assert exact.abs().max() == 127 * 127 * width < 2**24
    wanted = exact.float() * scales * steps
    same(zofx_ops.linear_rounded(x, steps, weight, scales), wanted)
    same(on_ort(zofx_ops.linear_rounded.default, x, steps, weight, scales), wanted)


def test_wide_integer_products_are_within_their_rounding() -> None:
    """Above that torch rounds as it adds, ONNX Runtime once; both times two products."""
    x, steps, weight, scales = rounded_operands(4096)
    levels = x.double() - 128
    wanted = (levels @ weight.double()) * scales * steps
    size = (levels.abs() @ weight.double().abs()) * scales * steps
    actual = on_ort(zofx_ops.linear_rounded.default, x, steps, weight, scales)
    assert ((actual - wanted).abs() <= 4 * UNIT * wanted.abs()).all()
    actual = zofx_ops.linear_rounded(x, steps, weight, scales)
    assert ((actual - wanted).abs() <= (4096 + 3) * UNIT * size).all()


# --- whole programs -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model, its artifact with --activations int8, and a task."""
    root = tmp_path_factory.mktemp("rounded")
    checkpoint = open_checkpoint(str(getattr(tiny, request.param)(root / "model")))
    options = Options(activations="int8", fraction=0.05, settings=["select-sensitive.cover=1"])
    scores = made_up_scores(checkpoint)
    compile_model(checkpoint, METHODS["senszoq"], root / "art", scores=scores, options=options)
    tiny.task_file(root / "task.jsonl")
    return root


def inputs(art: Path) -> dict[str, Tensor]:
    """What a graph is fed for `ASKED`."""
    given: Mapping[str, Any] = {
        **ASKED.batch.named(),
        **read_trainables(art),
        "keys": key_words(ASKED.keys).view(np.int64),
        "coefficients": ASKED.matrix,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in given.items()}


def torch_codes(art: Path) -> tuple[FloatArray, list[Tensor]]:
    """Scores on torch, and the codes of every activation in order."""
    codes: list[Tensor] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            value = func(*args, **(kwargs or {}))
            if func is zofx_ops.round_rows.default:
                codes.append(value)
            return value

    session: Any = RUNTIMES["torch"].load(art, threads=1)
    feeds = session._feeds(ASKED.keys, ASKED.matrix)
    with Noted():
        (scores,) = session._graph(placed({**feeds, **ASKED.batch.named()}, torch.device("cpu")))
    return scores.numpy(), codes


def ort_codes(art: Path) -> tuple[FloatArray, list[Tensor]]:
    """Scores on ONNX Runtime, and the codes, as further results of the same graph."""
    model = onnx.load(art / layout.ONNX, load_external_data=False)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    (art / "codes.onnx").write_bytes(model.SerializeToString())
    session: Any = RUNTIMES["ort"].load(art, threads=1)
    feeds = session._feeds(ASKED.keys, ASKED.matrix)
    engine = onnxruntime.InferenceSession(art / "codes.onnx")
    scores, *codes = engine.run(["logprob", *names], {**ASKED.batch.named(), **feeds})
    return scores, [torch.from_numpy(value) for value in codes]


class Fixed:
    """In place of rounding: an engine's own codes, and how far x/step is from each.

    Attributes:
        distance: |x/step − level| of each entry, in steps.
        allowed: half a step, and what an error of `UPSTREAM` in x can be in steps.
    """

    def __init__(self, codes: list[Tensor]) -> None:
        self.distance: list[Tensor] = []
        self.allowed: list[Tensor] = []
        self._codes = iter(codes)
        self._whole: dict[Tensor, Tensor] = {}

    def minus_base(self, rounding: Any, x: Tensor, base: Tensor) -> Tensor:
        value = reference.minus_base(rounding, x, base)
        self._whole[value] = torch.cat((x, base))
        return value

    def round_rows(self, rounding: Any, x: Tensor, scales: Tensor) -> Tensor:
        codes = next(self._codes)
        assert codes.shape == x.shape
        largest = self._whole.get(x, x).abs().amax(-1, keepdim=True)
        largest = largest.view(-1, len(ASKED.batch.input_ids), *x.shape[1:-1], 1).amax(0)
        largest = largest.repeat(len(x) // len(largest), *[1] * (x.dim() - 1))
        self.distance.append((x / scales - (codes.double() - 128)).abs().detach())
        self.allowed.append((0.5 + 2 * UPSTREAM * largest / scales).detach().expand(x.shape))
        return codes


@pytest.mark.parametrize("scored", [torch_codes, ort_codes])
def test_scores_are_those_of_the_codes_and_codes_the_nearest(
    folder: Path, scored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each engine within the bound of its own codes, all of which f32 could have rounded to."""
    actual, codes = scored(folder / "art")
    fixed = Fixed(codes)
    for op, meaning in (
        (zofx_ops.round_rows.default, fixed.round_rows),
        (zofx_ops.minus_base.default, fixed.minus_base),
    ):
        monkeypatch.setitem(reference.MEANINGS, op, meaning)  # type: ignore[arg-type]
    rounding = reference.Rounding()
    given = {**load_file(folder / "art" / layout.WEIGHTS), **inputs(folder / "art")}
    result = reference.run(load_graph(folder / "art" / layout.GRAPH), given, rounding)
    assert len(fixed.distance) == len(codes) > 3
    bound = rounding.bound(result).numpy()
    wanted = result.detach().numpy()
    assert (np.abs(actual - wanted) <= bound).all()
    assert np.abs(wanted[0] - wanted[1]).max() > 10 * bound.max()
    distance, allowed = (torch.cat([v.flatten() for v in vs])
                         for vs in (fixed.distance, fixed.allowed))  # fmt: skip
    assert (distance <= allowed).all()
    assert (distance > 0.5).double().mean() < 0.01


def second_terms(art: Path) -> list[bool]:
    """Of every rounding in order, whether it rounds what the one before it left."""
    graph = load_graph(art / layout.GRAPH)
    calls = graph.find_nodes(op="call_function", target=zofx_ops.round_rows.default)
    return [is_call(call.args[0], zofx_ops.left_over.default) for call in calls]


def test_both_engines_round_alike(folder: Path) -> None:
    """All codes but a few in a hundred are the same, and none is off by more than one.

    What is left depends on the code: a second term is compared where the first ones are the same.
    """
    (_, ours), (_, theirs) = (scored(folder / "art") for scored in (torch_codes, ort_codes))
    gaps = [(a.int() - b.int()).abs() for a, b in zip(ours, theirs, strict=True)]
    seconds = second_terms(folder / "art")
    assert any(seconds)
    pairs = zip(gaps, [gaps[0], *gaps], seconds, strict=False)
    kept = torch.cat([gap[before == 0] if two else gap.flatten() for gap, before, two in pairs])
    assert kept.max() <= 1
    assert kept.double().mean() < 0.02


def test_the_first_probe_goes_beside_the_others_layer_by_layer(tmp_path: Path) -> None:
    """Or ONNX Runtime would hold all that the others ask of it in every layer."""
    checkpoint = open_checkpoint(str(tiny.tiny_llama(tmp_path / "model", layers=3)))
    options = Options(activations="int8", fraction=0.05, settings=["select-sensitive.cover=1"])
    scores, art = made_up_scores(checkpoint), tmp_path / "art"
    compile_model(checkpoint, METHODS["senszoq"], art, scores=scores, options=options)
    session: Any = RUNTIMES["ort"].load(art, threads=1)
    feeds = session._feeds(ASKED.keys, ASKED.matrix)
    session.close()
    profile = onnxruntime.SessionOptions()
    profile.enable_profiling, profile.profile_file_prefix = True, str(tmp_path / "profile")
    engine = onnxruntime.InferenceSession(art / layout.ONNX, profile)
    engine.run(["logprob"], {**ASKED.batch.named(), **feeds})
    events = json.loads(Path(engine.end_profiling()).read_text(encoding="utf-8"))
    done = sorted(
        (event["ts"], event["args"]["output_type_shape"][0]["float"][0])
        for event in events
        if event.get("args", {}).get("op_name") == "Attention"
    )
    others, rows = len(ASKED.matrix) - 1, len(ASKED.batch.input_ids)
    counts = [count for _, count in done]
    pairs = zip(counts[::2], counts[1::2], strict=True)
    assert [set(pair) for pair in pairs] == [{rows, others * rows}] * 3


@pytest.mark.parametrize("engine", list(RUNTIMES))
def test_no_perturbation_is_no_difference(folder: Path, engine: str) -> None:
    """ε = 0 and a probe like the first are bit-equal to it, whatever other probes are asked for."""
    session = RUNTIMES[engine].load(folder / "art", threads=1)
    plain = session.evaluate(ASKED.batch, (), np.zeros((1, 0), np.float32))[0]
    table = np.array([[0], [0], [EPS]], np.float32)
    actual = session.evaluate(ASKED.batch, KEYS[:1], table)
    np.testing.assert_array_equal(bits(actual[0]), bits(plain))
    np.testing.assert_array_equal(bits(actual[1]), bits(plain))
    assert not np.array_equal(actual[2], plain)
    session.close()


@pytest.mark.parametrize("engine", list(RUNTIMES))
def test_a_run_is_replayed_and_exported(folder: Path, tmp_path: Path, engine: str) -> None:
    """θ of the journal has the bits of the session's, and the merged checkpoint holds it."""
    options = {
        "task": folder / "task.jsonl", "runtime": engine, "threads": 1, "eval_every": 5,
        "steps": 5, "batch_size": 4, "lr": 0.03, "eps": 0.01,
    }  # fmt: skip
    prepared = start(prepare(folder / "art", options), tmp_path / "run")
    session = prepared.session()
    assert train(prepared, session).steps == 5
    theta = session.read()
    run, manifest = RunFolder.open(tmp_path / "run"), read_manifest(folder / "art")
    step, replayed = run.theta(folder / "art", manifest, "last")
    assert step == 5
    assert replayed.keys() == theta.keys()
    begun = read_trainables(folder / "art")
    for name, value in replayed.items():
        np.testing.assert_array_equal(bits(value), bits(theta[name]))
        assert not np.array_equal(value, begun[name])
    assert run.evaluations()[5].examples > 0

    export_hf(manifest.config, None, merged_tensors(folder / "art", theta), tmp_path / "out", None)
    stored, original = (
        load_file(path / "model.safetensors") for path in (tmp_path / "out", folder / "model")
    )
    assert {name: v.shape for name, v in stored.items()} == {
        name: v.shape for name, v in original.items()
    }
    session.close()


# --- processors that cannot -----------------------------------------------------------------------


def test_the_question_to_the_engine_is_the_model_it_says() -> None:
    """Made anew: the smallest product that saturates where two terms are added in 16 bits."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatMulIntegerToFloat", ["x", "w", "s", "s", "z"], ["y"], domain="com.microsoft"
            )
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [
            numpy_helper.from_array(np.full((64, 1), 127, np.int8), "w"),
            numpy_helper.from_array(np.float32(1), "s"),
            numpy_helper.from_array(np.uint8(128), "z"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    made.producer_name = ""
    stored = onnx.load_from_string(ort_integers.MODEL)
    assert stored == made, (stored, base64.b85encode(made.SerializeToString()))


def adding_pairs_up_to(top: int, precise: int) -> type:
    """An engine that adds two products at a time, and no further than this: by its own kernels, and
    by those it takes when it is asked for precise ones."""

    class Engine:
        def __init__(self, _: Any, options: Any, **__: Any) -> None:
            name, value = ort_integers.PRECISE
            try:
                asked = options.get_session_config_entry(name) == value
            except RuntimeError:  # no such entry
                asked = False
            self.top = precise if asked else top

        def run(self, _: None, feeds: dict[str, Any]) -> list[Any]:
            pairs = (feeds["x"][0].astype(np.int64) * 127).reshape(-1, 2).sum(1)
            return [np.array([[pairs.clip(max=self.top).sum() - 64 * 128 * 127]], np.float32)]

    return Engine


@pytest.mark.parametrize(
    ("top", "precise", "answer"),
    [
        (2**31 - 1, 2**31 - 1, ()),
        (2**15 - 1, 2**31 - 1, (ort_integers.PRECISE,)),
        (2**15 - 1, 2**15 - 1, None),
    ],
)
def test_saturation_is_found_out(
    top: int, precise: int, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the one product that 16 bits cannot hold two of; what is fast is taken if it is right."""
    monkeypatch.setattr("onnxruntime.InferenceSession", adding_pairs_up_to(top, precise))
    assert ort_integers.kernels() == answer


def test_the_engine_here_is_asked_for_that_product() -> None:
    """Whatever is answered, it is so."""
    right = {}
    for entries in ((), (ort_integers.PRECISE,)):
        options = onnxruntime.SessionOptions()
        for entry in entries:
            options.add_session_config_entry(*entry)
        engine = onnxruntime.InferenceSession(ort_integers.MODEL, options)
        (product,) = engine.run(None, {"x": np.full((1, 64), 255, np.uint8)})
        right[entries] = product.item() == ort_integers.EXACT
    assert ort_integers.kernels() == next((e for e, exact in right.items() if exact), None)


def test_a_processor_that_saturates_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ONNX Runtime, with what to do; torch multiplies in f32 and does not ask."""
    monkeypatch.setattr(ort_integers, "kernels", lambda: None)
    assert RUNTIMES["ort"].support(folder / "art").reasons == (ort_integers.SATURATED,)
    with pytest.raises(UnsupportedError, match="compile with --activations none"):
        RUNTIMES["ort"].load(folder / "art")
    assert RUNTIMES["torch"].support(folder / "art")
