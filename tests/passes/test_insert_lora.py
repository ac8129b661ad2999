# ruff: noqa: E501  (lines of printed programs)
"""insert-lora: adapters beside linears, and the matrices themselves frozen."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import apply, assert_golden, assert_same_meaning, batch, run
from tests.passes.toys import Gpt2Linear, OneLinear, Shared, Tied, Toy, TwoLinears, canonical
from zofx.errors import PipelineError
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.schema import Role
from zofx.passes import PASSES
from zofx.zo.random.direction_spec import Basis
from zofx.zo.random.noise import Stream, sample_words
from zofx.zo.types import Key


class Wide(OneLinear):
    """Rows that quantize in blocks of 32."""

    def __init__(self) -> None:
        super().__init__(width=64)


def whole_numbers(program: Program) -> Program:
    """A and B small integers, so that f32 sums of their products are exact."""
    data = dict(program.data)
    for seed, spec in enumerate(program.tensors.values()):
        if ".lora_" in spec.name:
            random = torch.Generator().manual_seed(seed)
            data[spec.name] = torch.randint(-2, 3, spec.shape, generator=random).float().clone
    return program.with_(data=data)


def test_a_branch_beside_a_linear() -> None:
    """x·Aᵀ·Bᵀ times α/r is added to the layer; other matrices have none."""
    before = canonical(TwoLinears)
    after, remarks = apply("insert-lora{rank=2 alpha=3.0 match=^fc}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, sliced
  input      input_ids         i64[N, T]
  input      attention_mask    i64[N, T]
  input      positions         i64[N, S]
  input      targets           i64[N, S, C]
  frozen     embed.weight      f32[7, 4]
  frozen     fc.weight         f32[4, 4]
  frozen     head.weight       f32[7, 4]
  trainable  fc.weight.lora_A  f32[2, 4]     right of fc.weight
  trainable  fc.weight.lora_B  f32[4, 2]     low-rank of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight)   : f32[N, T, 4]
  %2 = aten.linear(%0, fc.weight.lora_A)   : f32[N, T, 2]
  %3 = aten.linear(%2, fc.weight.lora_B)   : f32[N, T, 4]
  %4 = aten.mul.Tensor(%3, 1.5)   : f32[N, T, 4]
  %5 = aten.add.Tensor(%1, %4)   : f32[N, T, 4]
  %6 = aten.relu(%5)   : f32[N, T, 4]
  %7 = aten.linear(%6, head.weight)   : f32[N, T, 7]
  %8 = zofx.select_positions(%7, positions)   : f32[N, S, 7]
  %9 = zofx.score_targets(%8, targets)   : f32[N, C]
  return %9
remarks
  applied  matrices   1 of 2, rank 2
""",
    )
    assert after.bases == {"fc.weight.lora_B": Basis("fc.weight.lora_A", gain=1.5)}
    assert_same_meaning(before, after, batch())


def test_a_frozen_a() -> None:
    """LoRA-FA: B alone trains; a bias stays with the layer."""
    before = canonical(OneLinear)
    after, remarks = apply("insert-lora{rank=2 match=fc freeze=A}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, sliced
  input      input_ids         i64[N, T]
  input      attention_mask    i64[N, T]
  input      positions         i64[N, S]
  input      targets           i64[N, S, C]
  frozen     embed.weight      f32[7, 4]
  frozen     fc.weight         f32[7, 4]
  frozen     fc.bias           f32[7]
  frozen     fc.weight.lora_A  f32[2, 4]     right of fc.weight
  trainable  fc.weight.lora_B  f32[7, 2]     low-rank of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight, fc.bias)   : f32[N, T, 7]
  %2 = aten.linear(%0, fc.weight.lora_A)   : f32[N, T, 2]
  %3 = aten.linear(%2, fc.weight.lora_B)   : f32[N, T, 7]
  %4 = aten.mul.Tensor(%3, 8.0)   : f32[N, T, 7]
  %5 = aten.add.Tensor(%1, %4)   : f32[N, T, 7]
  %6 = zofx.select_positions(%5, positions)   : f32[N, S, 7]
  %7 = zofx.score_targets(%6, targets)   : f32[N, C]
  return %7
remarks
  applied  matrices   1 of 1, rank 2
""",
    )
    assert_same_meaning(before, after, batch())


@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Shared, Gpt2Linear])
@pytest.mark.parametrize("freeze", ["nothing", "A"])
def test_begins_as_the_program_before(toy: type[Toy], freeze: str) -> None:
    """B is zero: the same bits, whatever A is."""
    before = canonical(toy)
    after, _ = apply(f"insert-lora{{match=. freeze={freeze}}}", before)
    trained = {spec.name.rpartition("_")[2] for spec in after.trainables}
    assert trained == ({"B"} if freeze == "A" else {"A", "B"})
    assert all(after.load(name).abs().max() > 0 for name in after.tensors if name.endswith("_A"))
    assert_same_meaning(before, after, batch())


@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Shared, Gpt2Linear])
def test_stands_for_a_sum(toy: type[Toy]) -> None:
    """W + α/r · B · A wherever W is multiplied by, in exact numbers: used twice, stored turned."""
    before = canonical(toy)
    inserted, _ = apply("insert-lora{match=. rank=2 alpha=3.0}", before)
    after, data = whole_numbers(inserted), dict(before.data)
    for name in after.bases:
        matrix = str(after.tensors[name].origin)
        a, b = after.load(f"{matrix}.lora_A"), after.load(name)
        data[matrix] = (before.load(matrix) + 1.5 * b @ a).clone
    assert_same_meaning(before.with_(data=data), after, batch())
    assert not torch.equal(run(after, batch()), run(before, batch()))


def test_a_is_uniform_as_kaiming_has_it() -> None:
    """16 bits an entry of the name's stream V: midpoints in ±1/√in, so E[a²] = 1/(3·in)."""
    after, _ = apply("insert-lora{match=fc rank=96 seed=5}", canonical(Wide))
    a = after.load("fc.weight.lora_A").numpy()
    name = "fc.weight.lora_A"
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    counter, key = np.array([0, word, 2, 0], np.uint64), np.array([5, 0], np.uint64)
    bits = np.random.Philox(counter=counter, key=key).random_raw(96 * 16).view("<u2")
    np.testing.assert_array_equal(
        a.reshape(-1), (2 * bits.astype(np.float32) + 1 - 65536) / 2**16 / 8
    )
    assert np.abs(a).max() < 1 / 8
    # a² of a uniform on ±h has mean h²/3 and variance 4h⁴/45; five standard errors.
    assert abs(np.mean(a**2) * 3 * 64 - 1) < 5 * np.sqrt(4 / 5 / a.size)
    direction = sample_words(Key(5, 0), name, Stream.Z, 0, a.size)
    assert abs(np.corrcoef(a.reshape(-1), direction)[0, 1]) < 5 / np.sqrt(a.size)


def test_a_tied_matrix_has_no_adapter() -> None:
    """The branch would not be the embedding's too; the reason is given."""
    before = canonical(Tied)
    after, remarks = apply("insert-lora{match=. rank=1}", before)
    assert list(map(str, remarks)) == [
        "skipped  embed.weight   also used by aten.embedding.default: it stays whole",
        "applied  matrices   1 of 1, rank 1",
    ]
    assert after.bases.keys() == {"fc.weight.lora_B"}


@pytest.mark.parametrize("freeze", ["nothing", "A"])
def test_the_matrix_may_be_quantized(freeze: str) -> None:
    """And nothing else: A is what a merge multiplies B by, frozen or not."""
    text = f"insert-lora{{match=fc freeze={freeze}}}, quantize-frozen{{format=int8}}"
    after, remarks = apply(text, canonical(Wide))
    quantized = [str(spec.origin) for spec in after.tensors.values() if spec.form == "int8"]
    assert set(quantized) == {"fc.weight"}
    assert after.tensors["fc.weight.lora_A"].role is (
        Role.FROZEN if freeze == "A" else Role.TRAINABLE
    )
    whole = [str(remark) for remark in remarks if remark.verdict == "skipped"]
    skipped = ["skipped  fc.weight.lora_A   a factor of rank 8: it stays whole"]
    assert whole == (skipped if freeze == "A" else [])


def test_is_lazy_and_pure() -> None:
    """No data is made for it, and what was given prints as before."""

    def never() -> Tensor:
        raise AssertionError("a pass makes no data")

    before = canonical(TwoLinears)
    text = show(before)
    data: dict[str, Callable[[], Tensor]] = dict.fromkeys(before.data, never)
    apply("insert-lora{match=.}", before.with_(data=data))
    assert show(before) == text


def test_text_reads_back() -> None:
    """Every option, in the pipeline's own words."""
    text = "insert-lora{rank=4 alpha=8.0 match=q_proj|up_proj freeze=A seed=2}"
    assert str(Pipeline.parse(text, PASSES)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insert-lora{rank=0}", "insert-lora.rank=0: must be at least 1"),
        (
            "insert-lora{match=*}",
            "insert-lora.match=*: not a regular expression (nothing to repeat at position 0)",
        ),
        ("insert-lora{freeze=B}", "insert-lora{freeze=B}: must be one of nothing, A"),
        (
            "insert-lora",
            "insert-lora.match=q_proj|v_proj|query|value|c_attn finds none of the 1 matrices, which "
            "are called fc.weight, …",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """Options, and names that are not there."""
    with pytest.raises(PipelineError) as caught:
        apply(text, canonical(OneLinear))
    assert str(caught.value) == message
