"""The forecast of a step: its bytes are the compiler's, its peak is that of a plain recount."""

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from tests import loads, tiny
from tests.artifacts import CASES, FRACTION, Case, Family, made_up_scores
from tests.golden import assert_golden
from zofx.artifact import layout
from zofx.cli import main
from zofx.compiler.compile import compile_model
from zofx.compiler.forecast import machine_speed
from zofx.compiler.forecast.forecast import Forecast, forecast
from zofx.compiler.forecast.liveness import peak
from zofx.compiler.forecast.machine_speed import Rates
from zofx.compiler.forecast.op_costs import Axes, Shapes, ort_scratch, products, torch_scratch
from zofx.compiler.frontend import captured
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for, without_scores
from zofx.errors import UsageError
from zofx.ir.program import Program, output_node
from zofx.ir.schema import FROZEN_ROLES, VOCABULARY
from zofx.ir.symbols import TorchDispatchMode
from zofx.ir.traits import Trait, has
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import RUNTIMES
from zofx.runtimes.host import batching
from zofx.zo.types import Key

RATES = Rates(flops=1e9, integers=4e9, normals=1e6, bandwidth=1e9)
AXES = Axes(rows=3, tokens=7, scored=2, alternatives=5, probes=2, directions=1, vocabulary=11)
SCALED = ["quantize-frozen.format=int8"]
OTHERS = {
    "mezo": Options(),
    "lozo": Options(),
    "lora-fa": Options("int4"),
    "qzo": Options(settings=tuple(SCALED)),
    "hizoo": Options(),
}


@cache
def program(folder: Path, method: str, options: Options, ranked: bool = False) -> Program:
    """A checkpoint under a method; without ranks, spread evenly."""
    checkpoint = open_checkpoint(str(folder))
    pipeline = pipeline_for(METHODS[method], options)
    start = captured(checkpoint, options)
    if ranked:
        return pipeline.run(start.choosing("scores", made_up_scores(checkpoint)))
    return without_scores(pipeline).run(start)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of one layer."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("plan") / "llama")


def plain(folder: Path, method: str = "senszoq", **settings: object) -> Forecast:
    """A forecast of a method, its settings changed."""
    options = OTHERS.get(method, Options("int4", fraction=FRACTION))
    known = replace(options, settings=tuple(options.settings))
    chosen = METHODS[method].settings.with_given(batch_size=3, **settings)
    return forecast(program(folder, method, known), chosen, tokens=7, rates=RATES)


def amounts(predicted: Forecast) -> Mapping[str, float]:
    """Every part by its name."""
    return {part.name: part.amount for part in (*predicted.stays, *predicted.comes)}


def data_bytes(file: Path) -> int:
    """Of a safetensors file, less its header."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return max(
        (row["data_offsets"][1] for n, row in header.items() if n != "__metadata__"), default=0
    )


def table_bytes(made: Program) -> int:
    """Of what has a row per token, whole."""
    return sum(spec.nbytes for spec in made.tensors.values() if spec.role in VOCABULARY)


@pytest.mark.parametrize(
    ("model", "alternatives", "rows"),
    [
        ("tiny_llama", 1, 3 * 7), ("tiny_llama", 4, 3 * 7),
        ("tiny_gpt2", 1, tiny.VOCABULARY), ("tiny_gpt2", 4, 3 * 7 + 3 * 4),
    ],
)  # fmt: skip
def test_tables_have_the_rows_that_are_read(
    tmp_path: Path, model: str, alternatives: int, rows: int
) -> None:
    """A row per token at most; a tied one's are those of alternatives as well, or all."""
    folder = getattr(tiny, model)(tmp_path / model)
    made = program(folder, "senszoq", Options("int8", fraction=FRACTION))
    chosen = METHODS["senszoq"].settings.with_given(batch_size=3)
    predicted = forecast(made, chosen, tokens=7, alternatives=alternatives, rates=RATES)
    (table,) = (spec for spec in made.tensors.values() if spec.role in VOCABULARY)
    assert predicted.axes.vocabulary == rows
    assert amounts(predicted)["tables"] == rows * 4 * table.shape[1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bytes_of_every_format_are_those_compiled(family: Family, case: Case) -> None:
    """Frozen weights and trainables take what the writer made of them."""
    made = program(family.checkpoint(case), "senszoq", case.options, ranked=True)
    predicted = amounts(forecast(made, METHODS["senszoq"].settings, tokens=7, rates=RATES))
    folder = family.artifact(case)
    assert predicted["frozen weights"] + table_bytes(made) == data_bytes(folder / layout.WEIGHTS)
    assert predicted["trainables"] == data_bytes(folder / layout.TRAINABLES)


@pytest.mark.parametrize("method", ["lozo", "lora-fa", "qzo"])
def test_bytes_of_every_kind_of_slice_are_those_compiled(
    llama: Path, tmp_path: Path, method: str
) -> None:
    """Low-rank factors, adapters, scales, and the state beside them."""
    predicted = amounts(plain(llama, method))
    checkpoint = open_checkpoint(str(llama))
    compile_model(checkpoint, METHODS[method], tmp_path / "art", options=OTHERS[method])
    tables = table_bytes(program(llama, method, OTHERS[method]))
    assert predicted["frozen weights"] + tables == data_bytes(tmp_path / "art" / layout.WEIGHTS)
    assert predicted["trainables"] == data_bytes(tmp_path / "art" / layout.TRAINABLES)


def recount(made: Program, shapes: Shapes, views: Trait) -> int:
    """By definition: at every op, all memory that something made so far and read later is in."""
    nodes = list(made.graph.nodes)

    def owner(node: fx.Node) -> fx.Node:
        while has(node, views):
            node = node.all_input_nodes[0]
        return node

    most = 0
    for place, node in enumerate(nodes):
        if node.op != "call_function" or owner(node) is not node:
            continue
        before = {owner(n) for n in nodes[:place] if n.op == "call_function"}
        after = {owner(a) for n in nodes[place:] for a in n.all_input_nodes}
        alive = {n for n in before & after if n.op == "call_function"} | {node}
        most = max(most, sum(map(shapes.bytes, alive)) + ort_scratch(node, shapes))
    return most


@pytest.mark.parametrize("views", [Trait.FLAT, Trait.VIEW], ids=["flat", "view"])
@pytest.mark.parametrize("method", ["senszoq", "mezo"])
def test_the_peak_is_that_of_a_recount(llama: Path, method: str, views: Trait) -> None:
    """One walk finds what going through all values at every op finds."""
    made = program(llama, method, OTHERS.get(method, Options("int4", fraction=FRACTION)))
    shapes = Shapes(made, AXES)
    predicted = peak(made, shapes.bytes, lambda node: ort_scratch(node, shapes), views)
    assert predicted == recount(made, shapes, views) > 0


def test_shapes_are_those_of_the_axes(llama: Path) -> None:
    """Inputs, probes and the result as numbers."""
    made = program(llama, "senszoq", Options("int4", fraction=FRACTION))
    shapes = Shapes(made, AXES)
    (result,) = output_node(made.graph).all_input_nodes
    sizes = {str(n.target): shapes.of(n) for n in made.graph.nodes if n.op == "placeholder"}
    assert shapes.of(result) == (2, 3, 5)
    assert sizes["targets"] == (3, 2, 5)
    assert sizes["coefficients"] == (2, 1)
    assert shapes.bytes(result) == 4 * 2 * 3 * 5


def test_cost_grows_with_rows_and_layers(tmp_path: Path) -> None:
    """Twice the rows are twice the products; every layer adds the same bytes and products."""
    made = [tiny.tiny_llama(tmp_path / str(n), layers=n) for n in (1, 2, 3)]
    one, two, three = (plain(folder) for folder in made)
    for value in (
        lambda predicted: predicted.flops,
        lambda predicted: amounts(predicted)["frozen weights"],
        lambda predicted: amounts(predicted)["trainables"],
    ):
        assert value(three) - value(two) == value(two) - value(one) > 0
    shallow = program(made[0], "senszoq", Options("int4", fraction=FRACTION))
    few, many = (Shapes(shallow, replace(AXES, rows=rows)) for rows in (3, 6))
    for node in shallow.graph.nodes:
        assert products(node, many) == 2 * products(node, few)


def test_what_is_below_a_cut_is_no_part_of_a_step(family: Family) -> None:
    """A layer less is multiplied by; its weights are in memory all the same."""
    case = next(case for case in CASES if case.from_layer == 1)
    folder = family.checkpoint(case)
    cut = program(folder, "senszoq", case.options, ranked=True)
    (marked,) = cut.graph.find_nodes(op="call_function", target=torch.ops.zofx.cut.default)
    shapes = Shapes(cut, AXES)
    nodes = list(cut.graph.nodes)
    below = sum(products(node, shapes) for node in nodes[: nodes.index(marked)])
    whole = sum(products(node, shapes) for node in nodes)
    batch = METHODS["senszoq"].settings.with_given(batch_size=AXES.rows)
    predicted = forecast(
        cut, batch, tokens=AXES.tokens, scored=AXES.scored, alternatives=AXES.alternatives,
        rates=RATES,
    )  # fmt: skip
    assert predicted.axes == replace(AXES, vocabulary=AXES.rows * AXES.tokens)
    assert predicted.flops == 2 * (whole - below)
    assert below > 0
    assert amounts(predicted)["frozen weights"] + table_bytes(cut) == sum(
        s.nbytes for s in cut.tensors.values() if s.role in FROZEN_ROLES
    )


@pytest.mark.parametrize(
    ("tensors", "copies"),
    [("", 0), ("sign_coordinates()", 0), ("momentum(0.9)", 1), ("low_rank_momentum(0.9)", 1),
     ("adam()", 2), ("decay(0.1) > adam()", 2)],
)  # fmt: skip
def test_state_is_what_the_rule_keeps(llama: Path, tensors: str, copies: int) -> None:
    """So many times the trainables; without a rule there is no update to hold either."""
    predicted = amounts(plain(llama, tensors=tensors))
    assert predicted["state of rules"] == copies * predicted["trainables"]
    assert ("update" in predicted) == bool(tensors)


def test_directions_are_held_as_drawn_and_as_stacked(llama: Path) -> None:
    """One is fed as it is, four are stacked into a copy; hizoo keeps one Hessian."""
    one, four = amounts(plain(llama)), amounts(plain(llama, queries=4))
    assert one["directions"] == one["trainables"]
    assert four["directions"] == 8 * one["trainables"]
    curved = amounts(plain(llama, "hizoo"))
    assert curved["state of rules"] == curved["directions"] == curved["trainables"] / 2


def test_expanded_weights_are_held_in_f32(family: Family) -> None:
    """Codes without a kernel become f32; a head that is an embedding is read where it is."""
    codebook = next(case for case in CASES if case.quant == "codebook")
    tied = next(case for case in CASES if case.model == "tiny_gpt2")
    sizes = {}
    for case in (tied, codebook):
        made = program(family.checkpoint(case), "senszoq", case.options, ranked=True)
        copies = amounts(forecast(made, METHODS["senszoq"].settings, tokens=7, rates=RATES))
        sizes[case] = copies["copies of weights"]
    codes = [s for s in made.tensors.values() if s.name.endswith(".codes")]
    assert sizes[tied] == 0
    assert sizes[codebook] == sum(4 * 2 * s.size - s.nbytes for s in codes) > 0


def test_torch_takes_memory_within_ops(llama: Path) -> None:
    """A quantized linear is multiplied by what it unpacks."""
    made = program(llama, "senszoq", Options("int4", fraction=FRACTION))
    shapes = Shapes(made, AXES)
    linear = next(n for n in made.graph.nodes if "linear_int" in str(n.target))
    assert torch_scratch(linear, shapes) == 9 * 32 * 32
    assert ort_scratch(linear, shapes) == 0
    runtimes = [
        forecast(made, METHODS["senszoq"].settings, tokens=7, runtime=name, rates=RATES)
        for name in ("ort", "torch")
    ]
    assert amounts(runtimes[1])["directions"] == 0 < amounts(runtimes[0])["directions"]


def test_the_step_is_work_over_rates(llama: Path) -> None:
    """Products at the rate of products, directions at theirs; a trial adds three probes."""
    predicted = plain(llama)
    seconds = {part.name: part.amount for part in predicted.step}
    assert seconds["products"] == pytest.approx(predicted.flops / RATES.flops)
    assert seconds["directions"] == amounts(predicted)["trainables"] / 4 / RATES.normals
    tried = plain(llama, trial=True)
    assert tried.flops == pytest.approx(2.5 * predicted.flops, rel=1e-6)


class Counter(TorchDispatchMode):
    """Adds up the multiply-adds of rounded products that are done while it is on."""

    done = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.zofx.linear_rounded.default:
            self.done += made.numel() * args[0].shape[-1]
        return made


def test_products_of_integers_have_a_rate_of_their_own(llama: Path, tmp_path: Path) -> None:
    """As many as a forward does; PyTorch does them in floats."""
    options, chosen = Options("int8-row", "int8", fraction=FRACTION), METHODS["senszoq"]
    checkpoint = open_checkpoint(str(llama))
    scores = made_up_scores(checkpoint)
    compile_model(checkpoint, chosen, tmp_path / "art", scores=scores, options=options)
    with closing(RUNTIMES["torch"].load(tmp_path / "art")) as session, Counter() as counter:
        session.evaluate(loads.batch(3, 7, 1, 1), [Key(0, 0)], np.float32([[1], [-1]]))
    made, settings = program(llama, "senszoq", options, ranked=True), chosen.settings
    settings = settings.with_given(batch_size=3)
    for engine, integer in (("ort", 2 * counter.done), ("torch", 0)):
        predicted = forecast(made, settings, tokens=7, runtime=engine, rates=RATES)
        seconds = {part.name: part.amount for part in predicted.step}
        assert seconds["integers"] == pytest.approx(integer / RATES.integers)
        assert seconds["products"] == pytest.approx((predicted.flops - integer) / RATES.flops)
    assert 0 < 2 * counter.done < predicted.flops


def test_rows_that_share_no_forward_are_not_in_memory_together(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """64 rows of 64 tokens go 10 or 11 at a time; products are those of all rows."""
    made = program(llama, "senszoq", Options("int8-row", "int8", fraction=FRACTION))
    settings = METHODS["senszoq"].settings.with_given(batch_size=64)
    split = forecast(made, settings, tokens=64, threads=1, rates=RATES)
    both = forecast(made, settings, tokens=64, threads=2, rates=RATES)
    monkeypatch.setattr(batching, "CACHE_PENALTY", 0.0)
    whole = forecast(made, settings, tokens=64, threads=1, rates=RATES)
    assert (split.rows, whole.rows, whole.axes.rows) == (64, 64, 64)
    assert split.axes.rows in (10, 11)
    assert split.flops == whole.flops
    share = amounts(split)["forward"] / amounts(whole)["forward"]
    assert share == pytest.approx(split.axes.rows / 64, rel=0.1)
    # Two forwards at a time, one on each thread.
    assert (both.axes.rows, both.flops) == (12, whole.flops)
    share = amounts(both)["forward"] / amounts(whole)["forward"]
    assert share == pytest.approx(12 / 64, rel=0.1)
    monkeypatch.undo()
    monkeypatch.chdir(llama.parent)
    words = (
        "llama", "--fraction", "0.05", "--tokens", "64", "--batch-size", "64", "--threads", "1"
    )  # fmt: skip
    assert f"64 rows of 64 tokens under 2 probes, {split.axes.rows} rows at a time" in output_of(
        monkeypatch, capsys, *words
    )


def output_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    """What `zofx plan` prints on a machine of known rates; an error, if it ends with one."""
    monkeypatch.setattr(
        machine_speed,
        "measured",
        lambda threads, flops, runtime: replace(RATES, flops=flops or 1e9),
    )
    monkeypatch.setattr(sys, "argv", ["zofx", "plan", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return printed.err if ended.value.code else printed.out


def test_the_verb_prints_every_part(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of memory and one of time, each with shares, and what was assumed."""
    monkeypatch.chdir(llama.parent)
    words = ("llama", "--quant", "int4", "--fraction", "0.05", "--tokens", "7", "--batch-size", "3")
    assert_golden(
        output_of(monkeypatch, capsys, *words, "--rate", "2"),
        """\
llama: llama, 1 layers of 32, 2 heads
senszoq on ort: 3 rows of 7 tokens under 2 probes
memory  94.8 MB
  process            94.4 MB   99.6%  interpreter and engine, measured
  tokenizer          30.6 kB   0.0%   36 tokens
  frozen weights     275.9 kB  0.3%   as in weights.safetensors
  tables             2.7 kB    0.0%   21 rows
  copies of weights  0 B       0.0%   expanded to f32
  trainables         3.1 kB    0.0%   as in trainables.safetensors
  directions         3.1 kB    0.0%   z, Q = 1
  state of rules     0 B       0.0%
  then the larger of
  forward  74.5 kB  0.1%  values between weights and result, 1.7 times the peak of the graph's order
a step  0.00165 s, 0.0 GFLOP
  products    0.000254 s  15.4%  of matrices of floats
  integers    0 s         0.0%   of matrices of integers
  directions  0.00078 s   47.2%  drawn once
  values      0.00034 s   20.6%  read and written by other ops
  weights     0.000279 s  16.9%  read once a forward
without --sensitivity, trained weights are spread evenly; real choices crowd into fewer columns
""",
    )
    payload = json.loads(output_of(monkeypatch, capsys, *words, "--json"))
    parts = (*payload["stays"], max(payload["comes"], key=lambda part: part["amount"]))
    assert payload["memory"] == sum(part["amount"] for part in parts)
    assert payload["seconds"] == pytest.approx(sum(part["amount"] for part in payload["step"]))
    assert (payload["layers"], payload["width"], payload["heads"]) == (1, 32, 2)
    assert "spread evenly" in payload["assumed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("llama", "--runtime", "tpu"), "no forecast for runtime 'tpu'; there are: ort, torch"),
        (("llama", "--rate", "0"), "--rate 0: a machine that multiplies"),
        (("llama", "--method", "sensoq"), "did you mean senszoq"),
        (("llama", "--fraction", "1e-9"), "rounds to none, and nothing would train"),
        (("llama", "--estimator", "x"), "No such option"),
        (("nowhere/at/all",), "no such file or folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_cannot_be_planned(
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    """One clear error."""
    monkeypatch.chdir(llama.parent)
    assert message in output_of(monkeypatch, capsys, *words)


def test_a_program_needs_a_runtime_with_measured_constants(llama: Path) -> None:
    """The function refuses what the verb does."""
    made = program(llama, "mezo", Options())
    with pytest.raises(UsageError, match="no forecast for runtime"):
        forecast(made, METHODS["mezo"].settings, tokens=7, runtime="tpu", rates=RATES)
