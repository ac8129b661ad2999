"""The invariants of zofx, each by its number, on every artifact of the family and every runtime.

     1  a frozen tensor's bytes never change
     2  ε = 0 is bit-equal to the unperturbed program
     3  a probe equals moving the trainables by hand
     4  every pass keeps meaning, exactly or within the bound it states
     5  z is bit-equal on numpy, torch and ONNX Runtime
     6  θ replayed from the journal on any runtime is bit-equal
     7  one artifact, every runtime: losses agree within the derived tolerance
     8  the forward graph holds no autograd op
     9  training on ONNX Runtime imports no torch
    10  killed at any byte, a run resumes and loses at most the step in flight
    11  bad input gives one clear error, and writes nothing
    12  `import zofx` is quick and imports no runtime

Elsewhere: 4 in tests/passes, 9 in test_lean.py, 10 in tests/zo/test_driver.py and tests/e2e, 12 in
test_imports.py; of 11, damage is here and wrong requests are in tests/e2e.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.artifacts import CASES, Case, Family
from tests.loads import EPS, KEYS, ONE_SIDED, PLAIN, TWO_POINT, Load, bits
from tests.runtimes import reference
from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest, read_trainables
from zofx.errors import ArtifactError
from zofx.files.atomic import file_digest
from zofx.runtimes import RUNTIMES
from zofx.runtimes.torch_noise import sample_torch
from zofx.session import Session, scored, unperturbed
from zofx.zo.driver import Driver
from zofx.zo.estimators import OneSided, Spsa
from zofx.zo.journal.format import Journal
from zofx.zo.journal.replay import replay
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.random.noise import normal_table, sample
from zofx.zo.recipe import Recipe
from zofx.zo.rules.schedule import constant
from zofx.zo.types import FloatArray, Ray, key_words

SEED = 3
STEPS = 3
RECIPES = (Recipe(Spsa(EPS), constant(0.05)), Recipe(OneSided(EPS, queries=3), constant(0.05)))


def mean_loss(scores: FloatArray) -> Any:
    """Of the alternatives that are scored, one loss per probe."""
    return -scores.mean((1, 2), dtype=np.float64)


def trained(session: Session, recipe: Recipe, journal: JournalWriter | None = None) -> None:
    """A few steps on one batch."""
    driver = Driver(recipe, session, SEED, journal)
    for step in range(STEPS):
        driver.step(step, scored(session, TWO_POINT.batch, mean_loss))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in folder.iterdir()}


def test_law_1_a_frozen_tensor_never_changes(session: Session, family: Family, case: Case) -> None:
    """Neither on disk nor in the engine: at the θ it began with, a trained session scores alike."""
    folder = family.artifact(case)
    start, before, files = session.read(), ONE_SIDED.on(session), digests(folder)
    for recipe in RECIPES:
        trained(session, recipe)
    assert all((value != start[name]).all() for name, value in session.read().items())
    session.write(start)
    np.testing.assert_array_equal(bits(ONE_SIDED.on(session)), bits(before))
    assert digests(folder) == files


@pytest.mark.parametrize("asked", [PLAIN, TWO_POINT, ONE_SIDED], ids=str)
def test_law_2_no_distance_is_no_change(session: Session, asked: Load) -> None:
    """ε = 0, whatever the keys, has the bits of the unperturbed program."""
    probes = len(asked.matrix)
    plain = session.evaluate(asked.batch, (), np.zeros((probes, 0), np.float32))
    for queries in (1, 3):
        nowhere = np.zeros((probes, queries), np.float32)
        still = session.evaluate(asked.batch, KEYS[:queries], nowhere)
        np.testing.assert_array_equal(bits(still), bits(plain))


@pytest.mark.parametrize("coefficient", [EPS, -EPS, 1e-6, -3.0])
def test_law_3_a_probe_equals_moving_the_slices_by_hand(
    session: Session, coefficient: float
) -> None:
    """Bit for bit: θ + c·z is one product and one sum, in the graph as on the host."""
    rounded = float(np.float32(coefficient))
    for place, key in enumerate(KEYS):
        matrix = np.zeros((1, len(KEYS)), np.float32)
        matrix[0, place] = rounded
        probe = session.evaluate(TWO_POINT.batch, KEYS, matrix)
        start = session.read()
        session.move([Ray(key, rounded)])
        moved = session.evaluate(TWO_POINT.batch, (), unperturbed())
        session.write(start)
        np.testing.assert_array_equal(bits(probe), bits(moved))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law_5_z_is_bit_equal_on_numpy_torch_and_onnxruntime(family: Family, case: Case) -> None:
    """noise.onnx, with the table of the artifact, and the sampler of torch's devices."""
    folder, kind = family.artifact(case), case.noise
    model = onnxruntime.InferenceSession(folder / layout.NOISE, providers=["CPUExecutionProvider"])
    words = key_words(KEYS).view(np.int64)
    table = torch.from_numpy(normal_table().copy()) if kind == "gaussian" else None
    trainables = read_manifest(folder).trainables
    for name, shape in trainables.items():
        wanted = bits(np.stack([sample(kind, key, name, shape) for key in KEYS]))  # type: ignore[arg-type]  # a case holds strings
        (stock,) = model.run([f"{name}.z"], {"keys": words})
        np.testing.assert_array_equal(bits(stock), wanted)
        made = sample_torch(kind, torch.from_numpy(words), name, shape, table, "cpu")  # type: ignore[arg-type]
        np.testing.assert_array_equal(bits(made.numpy()), wanted)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_law_6_a_journal_replays_to_the_same_bits_everywhere(
    session: Session, family: Family, case: Case, recipe: Recipe, tmp_path: Path
) -> None:
    """θ is a function of (artifact, journal): no runtime, and no forward, has a say in it."""
    folder = family.artifact(case)
    header = recipe.header(read_manifest(folder).hash, SEED)
    with JournalWriter.create(tmp_path / "journal", header) as writer:
        trained(session, recipe, writer)
    theta = session.read()
    for name in RUNTIMES:
        other = family.session(case, name)
        other.write(read_trainables(folder))
        assert replay(other, Journal.read(tmp_path / "journal")) == STEPS
        for slice_name, value in other.read().items():
            np.testing.assert_array_equal(bits(value), bits(theta[slice_name]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law_7_losses_agree_between_runtimes(family: Family, case: Case) -> None:
    """Each is within the rounding error of the program, so two are within twice of each other."""
    folder = family.artifact(case)
    _, bound = reference.evaluate(folder, ONE_SIDED.batch, ONE_SIDED.keys, ONE_SIDED.matrix)
    losses = []
    for name in RUNTIMES:
        session = family.session(case, name)
        session.write(read_trainables(folder))
        losses.append(mean_loss(ONE_SIDED.on(session)))
    assert (np.ptp(losses, axis=0) <= 2 * bound.mean((1, 2))).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law_8_the_graphs_only_go_forward(family: Family, case: Case) -> None:
    """No op of autograd or of ONNX training; both ONNX files are valid, shapes included."""
    folder = family.artifact(case)
    nodes = json.loads((folder / layout.GRAPH).read_text())
    ops = {node["target"] for node in nodes if node["op"] == "call"}
    assert not [op for op in ops if "backward" in op or "grad" in op]
    for file in (layout.ONNX, layout.NOISE):
        onnx.checker.check_model(str(folder / file), full_check=True)
        model = onnx.load(str(folder / file), load_external_data=False)
        assert {entry.domain for entry in model.opset_import} <= {"", "com.microsoft"}
        assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}
        assert not [n.op_type for n in model.graph.node if n.op_type.endswith("Grad")]
        assert not model.training_info
        assert not model.functions


FILES = (
    layout.WEIGHTS, layout.TRAINABLES, layout.GRAPH, layout.ONNX, layout.NOISE,
    layout.PROGRAM, layout.TOKENIZER, layout.MANIFEST,
)  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_law_11_damage_is_one_clear_error(
    family: Family, engine: str, file: str, tmp_path: Path
) -> None:
    """One changed byte in any file, and no runtime loads it; the message names the file."""
    folder = tmp_path / "copy"
    shutil.copytree(family.artifact(CASES[0]), folder)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 3] ^= 0x80
    (folder / file).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{file} .*(again|written)"):
        RUNTIMES[engine].load(folder)


def test_law_11_covers_every_file(family: Family) -> None:
    """An artifact holds those files and no other."""
    assert {path.name for path in family.artifact(CASES[0]).iterdir()} == set(FILES)
