"""The verb compile: what is in an artifact, and that nothing is left of what fails."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.artifacts import CASES, FRACTION, Family, made_up_scores
from zofx.artifact.manifest import is_only_an_artifact, read_manifest
from zofx.compiler.compile import Beside, Report, compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.compiler.sensitivity.scores import Scores
from zofx.errors import CaptureError, UsageError
from zofx.ir.pipeline import Pass, Remark
from zofx.ir.program import Program
from zofx.models.checkpoint import Checkpoint, open_checkpoint
from zofx.passes import PASSES


def test_what_is_not_quantized_keeps_its_bits(family: Family) -> None:
    """quant=none leaves a program of floats, and one pass less in the history."""
    manifest = read_manifest(family.artifact(CASES[1]))
    assert CASES[1].quant == "none"
    assert "quantize-frozen" not in manifest.pipeline
    assert {row.dtype for row in manifest.tensors if row.role == "frozen"} <= {"F32", "I64"}
    share = sum(row.shape[0] for row in manifest.tensors if row.role == "trainable")
    whole = sum(
        row.shape[0] * row.shape[1]
        for row in manifest.tensors
        if any(index.origin == row.name for index in manifest.tensors)
    )
    assert share == round(FRACTION * whole)


def test_the_report_has_the_remarks_of_every_pass() -> None:
    """Seconds and remarks by the name of the pass; the callback is called all the same."""
    seen: list[str] = []
    report = Report()
    after = report.after(lambda item, *_: seen.append(item.name))
    item = PASSES["canonicalize"]()
    after(item, None, None, (Remark("w", "skipped", "as it is"),), 0.12345)  # type: ignore[arg-type]  # kept by nobody
    assert seen == ["canonicalize"]
    assert report.seconds == {"canonicalize": 0.123}
    assert report.remarks == {"canonicalize": [str(Remark("w", "skipped", "as it is"))]}


class _StoppedError(Exception):
    """What happened in the middle."""


class Compilation:
    """One compilation of the smallest checkpoint, which may be stopped on the way."""

    def __init__(self, family: Family, out: Path) -> None:
        self.checkpoint = open_checkpoint(str(family.checkpoint(CASES[-1])))
        self.out = out
        self.seen: list[str] = []

    def run(self, *, stop: str = "", force: bool = False) -> None:
        """Compile; `stop` names what is being done when it fails."""

        def after(item: Pass, before: Program, now: Program, remarks: Any, seconds: float) -> None:
            self.reached(item.name, stop)

        compile_model(
            self.checkpoint,
            METHODS["senszoq"],
            self.out,
            scores=made_up_scores(self.checkpoint),
            options=Options("none", fraction=FRACTION, force=force),
            after=after,
            progress=lambda what, done, total: self.reached(what, stop),
        )

    def reached(self, what: str, stop: str) -> None:
        self.seen.append(what)
        if what == stop:
            raise _StoppedError


@pytest.mark.parametrize(
    ("out", "stop"), [("new", "capture"), ("old", "split-sparse"), ("new", "graphs")]
)
def test_a_compilation_that_fails_leaves_nothing(
    family: Family, tmp_path: Path, out: str, stop: str
) -> None:
    """Neither an artifact nor a half of one, wherever it was; an older one stays."""
    shutil.copytree(family.artifact(CASES[0]), tmp_path / "old")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    compilation = Compilation(family, tmp_path / out)
    with pytest.raises(_StoppedError):
        compilation.run(stop=stop, force=True)
    assert compilation.seen[-1] == stop
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_taken_name_is_refused_before_anything_is_done(family: Family, tmp_path: Path) -> None:
    """And replaced with --force, by an artifact that is whole."""
    out = Path(shutil.copytree(family.artifact(CASES[0]), tmp_path / "art"))
    compilation = Compilation(family, out)
    with pytest.raises(UsageError, match="exists already"):
        compilation.run()
    assert compilation.seen == []
    compilation.run(force=True)
    manifest = read_manifest(out)
    assert {path.name for path in out.iterdir()} == {*manifest.files, "manifest.json"}
    assert (
        manifest.report["remarks"]["quantize-frozen"] if "quantize" in manifest.pipeline else True
    )
    assert compilation.seen[0] == "capture"


def test_two_compilations_make_the_same_artifact(family: Family, tmp_path: Path) -> None:
    """Its hash is a function of checkpoint, method and options; so are all its bytes."""
    case = CASES[-1]
    checkpoint = open_checkpoint(str(family.checkpoint(case)))
    again = compile_model(
        checkpoint,
        METHODS["senszoq"],
        tmp_path / "again",
        scores=made_up_scores(checkpoint),
        options=case.options,
    )
    first = read_manifest(family.artifact(case))
    assert dict(again.files) == dict(first.files)
    assert again.hash == first.hash


def test_a_model_is_traced_before_its_weights_are_ranked(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing fails in seconds; ranking would have taken minutes."""

    def fails(checkpoint: Checkpoint, options: Options) -> Program:
        raise CaptureError("no trace")

    def rank() -> Scores:
        raise AssertionError("ranked")

    monkeypatch.setattr("zofx.compiler.compile.captured", fails)
    checkpoint = open_checkpoint(str(family.checkpoint(CASES[-1])))
    with pytest.raises(CaptureError, match="no trace"):
        compile_model(checkpoint, METHODS["senszoq"], tmp_path / "art", scores=rank)
    assert list(tmp_path.iterdir()) == []


def test_what_stands_beside_an_artifact_appears_with_it(family: Family, tmp_path: Path) -> None:
    """Stages are written before the folder has its name; if they fail, there is none."""
    checkpoint, out = open_checkpoint(str(family.checkpoint(CASES[-1]))), tmp_path / "art"
    options = Options("none", fraction=FRACTION)

    def beside(folder: Path) -> None:
        assert not out.exists()
        (folder / "stages").mkdir()

    def fails(folder: Path) -> None:
        raise _StoppedError

    def compiled(beside: Beside) -> None:
        compile_model(
            checkpoint, METHODS["senszoq"], out, options=options, beside=beside,
            scores=lambda: made_up_scores(checkpoint),
        )  # fmt: skip

    with pytest.raises(_StoppedError):
        compiled(fails)
    assert list(tmp_path.iterdir()) == []
    compiled(beside)
    assert (out / "stages").is_dir()
    assert is_only_an_artifact(out)
