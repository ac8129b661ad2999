"""A batch's own rows of the tables: which, in what order, and that no others are read."""

import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

from tests import tiny
from tests.artifacts import Case, Family, made_up_scores
from tests.loads import TWO_POINT
from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest
from zofx.artifact.safetensors_writer import spans
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import RUNTIMES, ort, torch_eager
from zofx.runtimes.host.vocabulary import BatchVocabulary, Vocabulary
from zofx.session import IGNORED, Batch
from zofx.zo.types import FloatArray

TIED = Case("tiny_gpt2", "int8", "rademacher")
UNTIED = Case("tiny_llama", "int4", "gaussian")
HEAD = "transformer.wte.weight"
TABLE = "model.embed_tokens.weight"

BATCH = Batch(
    input_ids=np.array([[9, 4, 4, 12], [4, 11, 0, 0]]),
    attention_mask=np.array([[1, 1, 1, 1], [1, 1, 0, 0]]),
    positions=np.array([[3], [1]]),
    targets=np.array([[[3, 12]], [[10, IGNORED]]]),
)


def vocabulary(folder: Path) -> Vocabulary:
    """Of an artifact."""
    roles = {row.name: row.role for row in read_manifest(folder).tensors}
    return Vocabulary(folder / layout.WEIGHTS, roles)


def uncut(known: Vocabulary, batch: Batch) -> bool:
    """Whether all tokens keep their numbers, and tables their rows."""
    words = known.words(batch)
    return words.number(batch) is batch and not words.tables


def test_tokens_are_numbered_in_their_order(family: Family) -> None:
    """A relative batch of a tied table: ids and targets, rows in the order of tokens."""
    folder = family.artifact(TIED)
    batch = replace(BATCH, relative=True)
    words = vocabulary(folder).words(batch)
    numbered, tables = words.number(batch), words.tables
    tokens = [0, 3, 4, 9, 10, 11, 12]
    assert numbered.input_ids.tolist() == [[3, 2, 2, 6], [2, 5, 0, 0]]
    assert numbered.targets.tolist() == [[[1, 6]], [[4, IGNORED]]]
    assert (numbered.positions is BATCH.positions, numbered.relative) == (True, True)
    assert tables.keys() == {HEAD}
    np.testing.assert_array_equal(tables[HEAD], load_file(folder / layout.WEIGHTS)[HEAD][tokens])


def test_targets_stay_where_the_head_does(family: Family) -> None:
    """A table that is only looked up is cut for every batch, to the tokens that are read."""
    folder = family.artifact(UNTIED)
    words = vocabulary(folder).words(BATCH)
    numbered, tables = words.number(BATCH), words.tables
    assert numbered.input_ids.tolist() == [[2, 1, 1, 4], [1, 3, 0, 0]]
    assert numbered.targets is BATCH.targets
    rows = load_file(folder / layout.WEIGHTS)[TABLE][[0, 4, 9, 11, 12]]
    np.testing.assert_array_equal(tables[TABLE], rows)


def test_a_batch_that_needs_the_whole_vocabulary(family: Family) -> None:
    """Absolute scores of a head: nothing is cut. Nor where a token is none: the engine says so."""
    known = vocabulary(family.artifact(TIED))
    assert uncut(known, BATCH)
    for wrong in (-1, tiny.VOCABULARY):
        strange = replace(BATCH, input_ids=BATCH.input_ids * 0 + wrong, relative=True)
        assert uncut(known, strange)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rows_are_those_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    """Bit for bit in every element type, neighbours or not, of a matrix and of a vector."""
    random = torch.Generator().manual_seed(0)
    stored = {"w": torch.randn(20, 3, generator=random).to(dtype), "b": torch.arange(20.0)}
    save_file(stored, tmp_path / "w.safetensors")
    tokens = np.array([0, 1, 2, 7, 18, 19])
    batch = replace(BATCH, input_ids=tokens[None], targets=tokens[:1, None, None], relative=True)
    tables = Vocabulary(tmp_path / "w.safetensors", {"w": "head", "b": "head"}).words(batch).tables
    for name, value in stored.items():
        rows_read = torch.from_numpy(tables[name].view(np.uint8))
        assert torch.equal(rows_read, value[tokens].view(torch.uint8)), name


@pytest.mark.parametrize("engine", list(RUNTIMES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_tables_of_16_bits(family: Family, tmp_path: Path, dtype: torch.dtype, engine: str) -> None:
    """Kept as the checkpoint has them, and read row by row: the same bits as with whole ones."""
    folder = Path(shutil.copytree(family.checkpoint(UNTIED), tmp_path / "halved"))
    (file,) = folder.glob("*.safetensors")
    save_file({n: v.to(dtype) for n, v in load_torch(file).items()}, file, {"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    method, scores_of = METHODS["senszoq"], made_up_scores(checkpoint)
    made = tmp_path / "artifact"
    compile_model(checkpoint, method, made, scores=scores_of, options=UNTIED.options)
    assert spans(made / layout.WEIGHTS)[TABLE].dtype in ("F16", "BF16")
    session = RUNTIMES[engine].load(made, threads=1)
    narrowed = TWO_POINT.on(session)
    with mock.patch.object(Vocabulary, "words", return_value=BatchVocabulary(None, {}, False)):
        np.testing.assert_array_equal(TWO_POINT.on(session), narrowed)
    session.close()


@pytest.mark.parametrize("engine", list(RUNTIMES))
@pytest.mark.parametrize("kind", [TIED, UNTIED], ids=str)
def test_no_other_row_is_read(family: Family, tmp_path: Path, kind: Case, engine: str) -> None:
    """With every other row of the tables destroyed on disk, scores stay bit for bit."""
    asked = replace(TWO_POINT.batch, relative=True)
    folder = Path(shutil.copytree(family.artifact(kind), tmp_path / "copy"))
    expected = scores(folder, engine, asked)
    manifest = read_manifest(folder)
    stored = load_file(folder / layout.WEIGHTS)
    read = np.unique(
        asked.input_ids if kind is UNTIED else [*asked.input_ids.flat, *asked.targets.flat]
    )
    for row in manifest.tensors:
        if row.role in ("table", "head"):
            kept = stored[row.name][read]
            stored[row.name][:] = np.nan
            stored[row.name][read] = kept
    places = spans(folder / layout.WEIGHTS)
    with (folder / layout.WEIGHTS).open("r+b") as file:
        for name, value in stored.items():
            file.seek(places[name].offset)
            file.write(value.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        for module in (ort, torch_eager):  # hashes are known to differ
            patch.setattr(module, "read_manifest", lambda *_, **__: manifest)
        np.testing.assert_array_equal(scores(folder, engine, asked), expected)


def scores(folder: Path, engine: str, batch: Batch) -> FloatArray:
    """Of a session opened for it."""
    session = RUNTIMES[engine].load(folder, threads=1)
    logprob = session.evaluate(batch, TWO_POINT.keys, TWO_POINT.matrix)
    session.close()
    return logprob
