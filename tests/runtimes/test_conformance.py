"""Every runtime on every kind of artifact: what a session has to do to be one.

    RUNTIMES × CASES (formats, distributions, causal and masked) × LOADS (shapes, padding, probes)

The same numbers are asked of all: bits where bits are promised (z, θ), and where engines may round
differently (scores) the bound that `tests.runtimes.reference` derives from the program. The same
sessions are asked for the invariants in `tests/test_invariants.py`.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.artifacts import CASES, Case, Family
from tests.loads import KEYS, LOADS, ONE_SIDED, TWO_POINT, Load, bits
from tests.runtimes import reference
from zofx.artifact import layout
from zofx.artifact.manifest import read_trainables
from zofx.errors import UnsupportedError, UsageError
from zofx.runtimes import RUNTIMES
from zofx.session import IGNORED, Batch, Session
from zofx.zo.random.apply import apply_rays
from zofx.zo.random.noise import sample
from zofx.zo.types import FloatArray, Key, Ray

RAYS = (Ray(KEYS[0], 0.125), Ray(KEYS[2], -0.3), Ray(KEYS[0], 1e-3), Ray(Key(5, 9), -7.0))


@cache
def expected(folder: Path, asked: Load) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores in float64 and the bound, once for all runtimes."""
    return reference.evaluate(folder, asked.batch, asked.keys, asked.matrix)


def same(actual: dict[str, FloatArray], wanted: dict[str, FloatArray]) -> None:
    """Two sets of trainables agree in every bit."""
    assert actual.keys() == wanted.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(bits(value), bits(wanted[name]), err_msg=name)


@pytest.mark.parametrize("asked", LOADS, ids=str)
def test_scores_are_within_the_rounding_error_of_the_program(
    session: Session, family: Family, case: Case, asked: Load
) -> None:
    """f32[P, N, C], each as near the float64 meaning as float32 kernels can promise to be."""
    wanted, bound = expected(family.artifact(case), asked)
    actual = asked.on(session)
    assert actual.dtype == np.float32
    assert actual.shape == wanted.shape
    error = np.abs(actual - wanted)
    assert (error <= bound).all(), f"off by {error.max()}, allowed there {bound[error > bound][0]}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bound_would_show_a_mistake(family: Family, case: Case) -> None:
    """Less than half of what a probe, a word, its place or its padding changes in the scores."""
    folder, asked = family.artifact(case), TWO_POINT
    (plus, minus), bound = expected(folder, asked)
    assert (np.abs(plus - minus).max(-1) > 2 * bound.max()).all()
    kept = asked.batch.named()
    changed = {
        "input_ids": np.where(kept["attention_mask"] == 1, kept["input_ids"] ^ 1, 1),
        "attention_mask": np.ones_like(kept["attention_mask"]),
        "positions": kept["positions"] - 1,
        "targets": kept["targets"][:, ::-1],
    }
    for name, other in changed.items():
        wrong = Batch(**{**kept, name: other})
        moved, _ = reference.evaluate(folder, wrong, asked.keys, asked.matrix)
        assert np.abs(moved - expected(folder, asked)[0]).max() > 2 * bound.max(), name


def test_an_alternative_that_is_scored_nowhere_gets_zero(session: Session) -> None:
    """IGNORED at all positions of a row: no log-probability, and no division by zero."""
    unscored = (TWO_POINT.batch.targets < 0).all(1)
    actual = TWO_POINT.on(session)
    assert unscored.any()
    assert (actual[:, unscored] == 0).all()
    assert (actual[:, ~unscored] < 0).all()


def test_probes_in_one_call_are_the_probes_one_by_one(
    session: Session, family: Family, case: Case
) -> None:
    """P probes share a forward; each scores as it does alone, up to the rounding of both."""
    _, bound = expected(family.artifact(case), ONE_SIDED)
    together = ONE_SIDED.on(session)
    for row, actual, allowed in zip(ONE_SIDED.matrix, together, bound, strict=True):
        alone = session.evaluate(ONE_SIDED.batch, ONE_SIDED.keys, row[None])[0]
        assert (np.abs(alone - actual) <= 2 * allowed).all()


def test_rows_do_not_see_each_other(session: Session, family: Family, case: Case) -> None:
    """The rows of a batch in another order, or one by one, score the same up to rounding."""
    _, bound = expected(family.artifact(case), TWO_POINT)
    actual = TWO_POINT.on(session)
    order = np.array([2, 0, 1])
    for rows in (order, order[:1], order[1:2], order[2:]):
        part = Batch(**{name: value[rows] for name, value in TWO_POINT.batch.named().items()})
        again = session.evaluate(part, TWO_POINT.keys, TWO_POINT.matrix)
        assert (np.abs(again - actual[:, rows]) <= 2 * bound[:, rows]).all()


@pytest.mark.parametrize("asked", LOADS, ids=str)
def test_a_relative_batch_keeps_differences(
    session: Session, family: Family, case: Case, asked: Load
) -> None:
    """Scores of alternatives of a row that are scored at the same positions differ as they do.

    Within the bound of absolute ones: over fewer tokens a logsumexp is smaller, and so are scores.
    """
    wanted, bound = expected(family.artifact(case), asked)
    actual = session.evaluate(replace(asked.batch, relative=True), asked.keys, asked.matrix)
    scored = asked.batch.targets != IGNORED
    alike = (scored == scored[:, :, :1]).all(1)
    off = np.where(alike, actual - wanted, 0)
    apart = np.abs(off - off[:, :, :1])
    assert (np.where(alike, apart, 0) <= bound + bound[:, :, :1]).all()


def test_the_same_question_has_the_same_answer(session: Session) -> None:
    """Bit for bit, whatever was asked in between."""
    first = TWO_POINT.on(session)
    ONE_SIDED.on(session)
    np.testing.assert_array_equal(bits(TWO_POINT.on(session)), bits(first))


def test_directions_are_those_of_numpy(session: Session, case: Case) -> None:
    """Every trainable under every key, also right after a forward that used the key."""
    kind: Any = case.noise
    TWO_POINT.on(session)
    for key in KEYS:
        wanted = {
            name: sample(kind, key, name, shape) for name, shape in session.trainables.items()
        }
        same({name: session.direction(key, name) for name in session.trainables}, wanted)


@pytest.mark.parametrize("before", [None, TWO_POINT], ids=["fresh", "after its forward"])
def test_moving_has_the_bits_of_the_rule(session: Session, case: Case, before: Load | None) -> None:
    """θ ← θ + coefficient · z, one ray after the other, whether the keys were just used or not."""
    wanted = session.read()
    if before:
        before.on(session)
        rays = [Ray(before.keys[0], 0.125), Ray(before.keys[0], -1e-3)]
    else:
        rays = list(RAYS)
    apply_rays(wanted, list(session.trainables), rays, session.noise)
    session.move(rays)
    same(session.read(), wanted)


def test_theta_is_read_and_written_by_value(session: Session, family: Family, case: Case) -> None:
    """What `read` gives is the caller's; what `write` takes stays the caller's."""
    start = read_trainables(family.artifact(case))
    assert session.trainables == {name: value.shape for name, value in start.items()}
    same(session.read(), start)
    taken = session.read()
    before = TWO_POINT.on(session)
    for value in taken.values():
        value += 1
    same(session.read(), start)
    session.write(taken)
    assert not np.array_equal(TWO_POINT.on(session), before)
    session.move(RAYS)
    same(taken, {name: value + 1 for name, value in start.items()})
    session.write(start)
    np.testing.assert_array_equal(bits(TWO_POINT.on(session)), bits(before))


def test_slices_of_another_artifact_are_refused(session: Session) -> None:
    """A name too few, too many, or another shape; θ stays."""
    theta = session.read()
    first, *rest = theta
    wrong: list[dict[str, FloatArray]] = [
        {name: theta[name] for name in rest},
        {**theta, "other": theta[first]},
        {**theta, first: theta[first][:-1]},
    ]
    for values in wrong:
        with pytest.raises(UsageError, match="not of this artifact's trainables"):
            session.write(values)
    same(session.read(), theta)


def test_a_closed_session_answers_no_more(family: Family, engine: str) -> None:
    """Closing releases the engine, and leaves other sessions on the artifact alone."""
    folder = family.artifact(CASES[0])
    first, second = (RUNTIMES[engine].load(folder, threads=1) for _ in range(2))
    first.close()
    with pytest.raises(RuntimeError, match="this session is closed"):
        TWO_POINT.on(first)
    assert np.isfinite(TWO_POINT.on(second)).all()
    second.close()


def test_sessions_of_one_artifact_have_their_own_theta(family: Family, engine: str) -> None:
    """Moving one does not move another."""
    folder = family.artifact(CASES[0])
    first, second = (RUNTIMES[engine].load(folder, threads=1) for _ in range(2))
    first.move(RAYS)
    same(second.read(), read_trainables(folder))
    first.close()
    second.close()


def test_a_device_that_is_not_there_is_refused(family: Family, engine: str) -> None:
    """With its name, and without a session."""
    with pytest.raises(UnsupportedError, match="there is no device 'abacus'"):
        RUNTIMES[engine].load(family.artifact(CASES[0]), device="abacus")


@pytest.mark.parametrize(
    ("name", "asked", "answer", "reason"),
    [
        (
            "ort",
            "onnxruntime.get_available_providers",
            ["CPUExecutionProvider"],
            r"has no CUDAExecutionProvider .*zofx\[ort-gpu\]",
        ),
        ("torch", "torch.cuda.is_available", False, "this torch sees no CUDA device"),
    ],
)
def test_cuda_without_cuda_is_refused(
    family: Family, name: str, asked: str, answer: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is asked what it has before a session is made."""
    monkeypatch.setattr(asked, lambda: answer)
    with pytest.raises(UnsupportedError, match=reason):
        RUNTIMES[name].load(family.artifact(CASES[0]), device="cuda")


@pytest.mark.parametrize(("name", "file"), [("ort", layout.ONNX), ("torch", layout.GRAPH)])
def test_support_names_the_graph_that_is_missing(name: str, file: str, tmp_path: Path) -> None:
    """An empty folder is nothing a runtime can load, and `load` says the same."""
    assert file in " ".join(RUNTIMES[name].support(tmp_path).reasons)
    with pytest.raises(UnsupportedError, match=file):
        RUNTIMES[name].load(tmp_path)


@pytest.mark.parametrize(
    ("name", "case", "module"),
    [("ort", CASES[0], "onnxruntime"), ("torch", CASES[2], "bitsandbytes")],
    ids=["ort", "torch"],
)
def test_support_names_the_library_that_is_missing(
    family: Family, name: str, case: Case, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says which package, and how to install it."""
    runtime, folder = RUNTIMES[name], family.artifact(case)
    assert runtime.support(folder)
    where = f"{type(runtime).__module__}.find_spec"
    monkeypatch.setattr(where, lambda wanted: None if wanted == module else object())
    (reason,) = runtime.support(folder).reasons
    assert module in reason
    assert "pip install" in reason
