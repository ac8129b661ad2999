"""The Python API: what the command line does, on a tiny model, on both runtimes."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM

import zofx
from tests.compiled import run_zofx
from zofx.errors import PipelineError, UsageError
from zofx.runs import jsonl
from zofx.runs.evaluate import Prediction
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.run_config import OPTIONS, RunConfig

SHORT: dict[str, Any] = {
    "steps": 6, "batch_size": 4, "lr": 0.03, "eps": 0.01, "eval_every": 3, "threads": 1,
}  # fmt: skip
COMPLETIONS = [
    {"prompt": f"a dull film {n} .", "completion": " it was terrible\n"} for n in range(8)
]


@pytest.fixture
def art(artifact: Path) -> zofx.Artifact:
    return zofx.load(artifact)


@pytest.fixture(scope="module")
def tuned(artifact: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> zofx.Run:
    """A run of six steps on ONNX Runtime."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    return zofx.load(artifact).tune(mood, out=out, preflight=False, runtime="ort", **SHORT)


class Notes(zofx.Callback):
    """Writes down its calls; stops after a step, or at an evaluation."""

    def __init__(self, step: int | None = None, evaluation: int | None = None) -> None:
        self.stop_step, self.stop_evaluation = step, evaluation
        self.steps: list[int] = []
        self.evaluated: list[int] = []
        self.messages: list[str] = []
        self.wanted, self.ends = 0, 0

    def on_start(self, config: RunConfig, steps: int) -> None:
        self.wanted = steps

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_step(self, metrics: StepMetrics) -> bool:
        self.steps.append(metrics.step)
        return metrics.step == self.stop_step

    def on_evaluation(self, step: int, evaluation: Evaluation) -> bool:
        self.evaluated.append(step)
        return step == self.stop_evaluation

    def on_end(self) -> None:
        self.ends += 1


def same(one: zofx.Run, other: zofx.Run) -> None:
    """Journals byte by byte, θ bit by bit."""
    assert one.folder.journal_path.read_bytes() == other.folder.journal_path.read_bytes()
    for name, values in one.theta("last").items():
        np.testing.assert_array_equal(values, other.theta("last")[name])


def test_the_names_of_the_package_are_there() -> None:
    """Each of `__all__` loads; others raise Python's own AttributeError."""
    assert set(zofx.__all__) == {"__version__", *zofx.PLACES}
    assert all(getattr(zofx, name) for name in zofx.__all__)
    assert set(zofx.__all__) <= set(dir(zofx))
    with pytest.raises(AttributeError, match="has no attribute 'tuen'"):
        zofx.tuen  # noqa: B018


def test_a_model_is_compiled(assets: Path, tmp_path: Path) -> None:
    """Method and options as on the command line; the artifact opens, and says what it is."""
    made = zofx.compile(
        assets / "llama", "mezo", out=tmp_path / "art", train="mlp", quant="int8",
        settings=["quantize-frozen.block=16"],
    )  # fmt: skip
    assert (made.path, made.manifest.method) == (tmp_path / "art", "mezo")
    assert "quantize-frozen{format=int8 block=16}" in made.manifest.pipeline
    assert repr(made) == f"Artifact('{tmp_path / 'art'}', method='mezo')"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "mezzo"}, UsageError, "did you mean mezo"),
        ({"quantt": "int4"}, UsageError, "no option of compile 'quantt'; did you mean quant"),
        ({"fraction": 2.0, "sensitivity": "x"}, PipelineError, r"fraction must be in \(0, 1\]"),
        ({"calibration": "a", "sensitivity": "b"}, UsageError, "give one of the two"),
    ],
)
def test_a_wrong_compilation_writes_nothing(
    assets: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """One error that says what to do."""
    with pytest.raises(error, match=message):
        zofx.compile(assets / "llama", out=tmp_path / "new", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", ["ort", "torch"])
def test_a_run_is_what_the_command_line_makes(
    art: zofx.Artifact, mood: Path, tmp_path: Path, runtime: str
) -> None:
    """The same journal and θ bit by bit, the same evaluation, the same text."""
    words = [w for n, v in SHORT.items() for w in (f"--{n.replace('_', '-')}", str(v))]
    where = ("--runtime", runtime)
    made = run_zofx("tune", art.path, "--task", mood, *words, *where, "-o", "cli", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    run = art.tune(mood, out=tmp_path / "run", runtime=runtime, **SHORT)
    other = zofx.load_run(tmp_path / "cli", art)
    same(run, other)
    assert run.config == other.config
    printed = run_zofx("eval", art.path, "--run", "run", "--json", cwd=tmp_path)
    result = run.evaluate().to_dict()
    assert {**json.loads(printed.stdout), "seconds": 0} == {
        **json.loads(printed.stdout), **result, "seconds": 0
    }  # fmt: skip
    ask = ("generate", art.path, "--run", "run", "--max-new-tokens", "3", "--json", "a dull film .")
    texts = json.loads(run_zofx(*ask, cwd=tmp_path).stdout)["texts"]
    assert run.generate("a dull film .", max_new_tokens=3) == [texts[0]["text"]]


def test_a_run_tells_how_it_went(tuned: zofx.Run) -> None:
    """Records that pandas takes, evaluations by step, the best of them, and θ of any step."""
    frame = pandas.DataFrame(tuned.metrics)
    assert list(frame["step"]) == list(range(6))
    assert {"loss", "learning_rate", "seconds", "tokens"} <= set(frame)
    assert (tuned.steps, list(tuned.evaluations)) == (6, [0, 3, 6])
    assert tuned.best_step in tuned.evaluations
    assert tuned.theta(0).keys() == tuned.theta("last").keys()
    assert repr(tuned) == f"Run('{tuned.path}', steps=6, best_step={tuned.best_step})"


@pytest.mark.parametrize("stop", [{"step": 3}, {"evaluation": 3}], ids=str)
def test_a_callback_stops_a_run_which_goes_on_bit_equal(
    tuned: zofx.Run, mood: Path, tmp_path: Path, stop: dict[str, int]
) -> None:
    """It is called at every step, with the total; a stopped run ends as one that was not."""
    notes = Notes(**stop)
    short = tuned.artifact.tune(
        mood, out=tmp_path / "run", callbacks=[notes, Notes()], runtime="ort", **SHORT
    )
    assert short.steps == len(notes.steps) < 6
    assert (notes.wanted, notes.ends, notes.steps) == (6, 1, list(range(short.steps)))
    assert any(text.startswith("pre-flight") for text in notes.messages)
    whole = zofx.load_run(short.path).resume()
    assert whole.steps == 6
    same(whole, tuned)
    with pytest.raises(UsageError, match=r"--lr 1.0 \(the run has 0.03\)"):
        whole.resume(lr=1)


def test_rows_are_a_task(art: zofx.Artifact, mood: Path, tuned: zofx.Run, tmp_path: Path) -> None:
    """A list of dicts and a Dataset make the journal of the file; the run keeps the rows."""
    rows = jsonl.read(mood)
    losses = [record.losses.tolist() for record in tuned.journal]
    for name, task in (("list", rows), ("set", Dataset.from_list(rows))):
        run = art.tune(task, out=tmp_path / name, preflight=False, runtime="ort", **SHORT)
        assert [record.losses.tolist() for record in run.journal] == losses
        assert run.config.examples == tuned.config.examples
    again = zofx.load_run(tmp_path / "set")
    assert again.evaluate(step="last").loss == tuned.evaluate(step="last").loss
    assert again.evaluate(rows, step="last").loss == tuned.evaluate(step="last").loss
    assert again.resume().steps == 6
    seen = run_zofx("eval", art.path, "--run", "set", "--json", cwd=tmp_path)
    assert json.loads(seen.stdout)["task"] == "rows"


def test_rows_may_come_in_splits(art: zofx.Artifact, mood: Path) -> None:
    """A dict, or a DatasetDict with its own name for dev; fields that are None are left out."""
    rows = jsonl.read(mood)
    parts = {"train": rows[:30], "test": rows[30:]}
    answers: list[Prediction] = []
    result = art.evaluate(parts, predictions=answers)
    assert result.examples == len(answers) == 18
    sets = DatasetDict(
        {"train": Dataset.from_list(rows[:30]), "validation": Dataset.from_list(rows[30:])}
    )
    # The draw orders dev and test differently: sums of 18 float64 in another order.
    assert art.evaluate(sets, split="dev").loss == pytest.approx(result.loss, rel=18 * 2**-53)
    mixed = [{**row, "candidates": None, "answer": None} for row in COMPLETIONS]
    assert art.evaluate(mixed, split="train", batch_size=2).accuracy is None


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([], "there are no rows to train on"),
        ([{"prompt": "a"}], "train row 0: no form is known of a record with the fields prompt"),
        (
            {"train": COMPLETIONS, "dev": [{"promt": "a"}]},
            "dev row 0: no form is known of a record with the fields promt",
        ),
        ({"dev": COMPLETIONS}, "a task of rows by split has 'train'"),
        (["sst2"], "train row 0: expected a dict, not str"),
        (3, "a task is a name, a file, or rows"),
        ("trek", "did you mean trec"),
    ],
)
def test_a_wrong_task_is_reported(
    art: zofx.Artifact, tmp_path: Path, task: Any, message: str
) -> None:
    """The row, the field and what to do; nothing is written."""
    with pytest.raises(UsageError) as caught:
        art.tune(task, out=tmp_path / "run", **SHORT)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stepz": 3}, "no option 'stepz'; did you mean steps"),
        ({"steps": "3"}, "--steps '3': give a whole number, not str"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"on_collapse": "panic"}, "--on-collapse panic"),
    ],
)
def test_a_wrong_option_is_reported(
    art: zofx.Artifact, mood: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """As on the command line."""
    with pytest.raises(UsageError) as caught:
        art.tune(mood, out=tmp_path / "run", preflight=False, **{**SHORT, **options})
    assert message in str(caught.value)


def test_help_lists_the_options_of_a_run() -> None:
    """Signatures have them, with types; they are made from the fields."""
    for function in (zofx.Artifact.tune, zofx.Run.resume):
        parameters = inspect.signature(function).parameters
        assert OPTIONS.keys() <= parameters.keys()
        assert parameters["steps"].annotation == int | None


def test_a_run_is_exported(tuned: zofx.Run, tmp_path: Path) -> None:
    """A checkpoint that transformers loads; a taken folder and another format are errors."""
    out = tuned.export("hf", tmp_path / "tuned")
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_size == 32
    with pytest.raises(UsageError, match="exists already"):
        tuned.export("hf", out)
    with pytest.raises(UsageError, match="there is no export format 'ggml'"):
        tuned.export("ggml", tmp_path / "other")


def test_a_run_whose_artifact_is_gone_asks_for_it(tuned: zofx.Run, tmp_path: Path) -> None:
    """And one of another artifact is refused."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in ("run.json", "journal.bin"):
        (moved / file).write_bytes((tuned.path / file).read_bytes())
    text = (moved / "run.json").read_text().replace(str(tuned.artifact.path), "/gone/art")
    (moved / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"was at /gone/art and is not there now; name it"):
        zofx.load_run(moved)
    assert zofx.load_run(moved, tuned.artifact).steps == 6


def test_asking_takes_a_task(art: zofx.Artifact) -> None:
    """The model as compiled has none of its own."""
    with pytest.raises(UsageError, match="name a task"):
        art.evaluate()
