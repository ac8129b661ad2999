"""Generation on the command line: what is written, how it is judged, and what users get wrong."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import tiny
from tests.compiled import run_zofx
from zofx.cli import main
from zofx.runs.prepare import prepare
from zofx.runs.tune import start

REWARD = """
from pathlib import Path

Path("was-run").touch()

def brief(text, example):
    return -len(text)
"""


@pytest.fixture
def here(artifact: Path, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the artifact `art`, the tasks `say.jsonl` and `mood.jsonl`, and `mine.py`."""
    (tmp_path / "art").symlink_to(artifact)
    (tmp_path / "mood.jsonl").symlink_to(assets / "mood.jsonl")
    lines = [
        {"prompt": subject, "completion": f" {words}"}
        for subject in tiny.SUBJECTS
        for words in tiny.PRAISE
    ]
    (tmp_path / "say.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "empty.txt").write_text("\n \n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOFX_DEBUG", raising=False)
    return tmp_path


def output_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What `zofx …` prints in this process: stdout, or stderr where it has to fail."""
    capsys.readouterr()
    sys.argv = ["zofx", *words]
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    assert int(ended.value.code or 0) == code, output.err
    return output.err if code else output.out


def test_both_runtimes_write_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON, from the command line and from a file, by torch and by ort."""
    (here / "prompts.txt").write_text("the film was\n\n  the plot\nthe end\n")
    words = ("generate", "art", "--max-new-tokens", "30")
    text = output_of(capsys, *words, "the film was", "the plot", "the end", "--runtime", "torch")
    payload = json.loads(
        output_of(capsys, *words, "--file", "prompts.txt", "--runtime", "ort", "--json")
    )
    assert [one["prompt"] for one in payload["texts"]] == ["the film was", "the plot", "the end"]
    assert text == "\n\n".join(one["prompt"] + one["text"] for one in payload["texts"]) + "\n"
    assert any(one["text"] for one in payload["texts"])
    assert (payload["runtime"], payload["run"], payload["max_new_tokens"]) == ("ort", None, 30)


def test_eval_judges_texts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """F1 and exact match with their intervals, and the likelihood, in both forms."""
    words = ("eval", "art", "--task", "say.jsonl", "--limit", "3")
    payload = json.loads(output_of(capsys, *words, "--json"))
    low, high = payload["f1_interval95"]
    assert low <= payload["f1"] <= high
    assert payload["exact_match"] == payload["exact"] / 3
    assert payload["objective"] == "likelihood"
    assert "accuracy" not in payload
    text = output_of(capsys, *words)
    assert f"F1 {payload['f1']:.3f} [{low:.3f}, {high:.3f}], exact match " in text
    assert f"likelihood {payload['loss']:.4f}" in text


def test_the_file_of_a_reward_runs_for_who_names_it(
    here: Path, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`eval --run` does not run code that a run folder names; `--objective` does."""
    asked = {"task": "say.jsonl", "objective": "reward:mine.py:brief", "steps": 1}
    prepared = start(prepare(artifact, asked), here / "run")
    identity = f"reward:{here / 'mine.py'}:brief"
    assert prepared.config.objective == identity
    (here / "was-run").unlink()
    words = ("eval", "art", "--run", "run", "--step", "0", "--limit", "2", "--json")
    assert json.loads(output_of(capsys, *words))["objective"] == "likelihood"
    assert not (here / "was-run").exists()
    payload = json.loads(output_of(capsys, *words, "--objective", "reward:mine.py:brief"))
    assert (payload["objective"], payload["step"]) == (identity, 0)
    assert payload["loss"] >= 0
    assert (here / "was-run").exists()


WRONG: list[tuple[Sequence[str], str]] = [
    (["generate", "art"], "give prompts, or a file of them"),
    (["generate", "art", "a", "--file", "empty.txt"], "one of the two"),
    (["generate", "art", "--file", "nowhere.txt"], "there is no such file"),
    (["generate", "art", "--file", "empty.txt"], "empty.txt holds no prompts"),
    (["generate", "nowhere", "a"], "is not a compiled artifact"),
    (["generate", "art", "a", " and" * 48], "prompt 2: 49 tokens do not fit the 48 positions"),
    (["generate", "art", "a", ""], "prompt 2: the prompt is empty"),
    (["generate", "art", "a", "--max-new-tokens", "0"], "--max-new-tokens"),
    (["generate", "art", "a", "--threads", "100000"], "should be less than or equal to 1024"),
    (["generate", "art", "a", "--run", "nowhere"], "is not a run folder"),
    (["generate", "art", "a", "--runtime", "orc"], "did you mean torch or ort"),
    (["eval", "art", "--task", "mood.jsonl", "--objective", "f1"], "use error-rate"),
    (["eval", "art", "--task", "say.jsonl", "--objective", "reward:mine.py"], "write it as reward"),
    (["eval", "art", "--task", "say.jsonl", "--objective", "reward:mine.py:f"], "no function 'f'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda v: str(v)[:60])
def test_bad_input_is_one_clear_error(
    here: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], message: str
) -> None:
    """Exit code 2 and what to do, before an engine is loaded."""
    output_text = output_of(capsys, *words, code=2)
    assert message in " ".join(output_text.split()), output_text
    assert "Traceback" not in output_text
    assert "loading" not in output_text or "--runtime" in words


def test_help_lists_examples_and_the_verb_works_as_a_process(here: Path) -> None:
    """`generate --help` says what it costs; the verb's output alone is on stdout."""
    helped = run_zofx("generate", "--help", cwd=here).stdout
    assert "every new token reads its whole row again" in " ".join(helped.split())
    made = run_zofx("generate", "art", "the film", "--max-new-tokens", "2", cwd=here)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("the film")
    assert "Warning" not in made.stderr


def test_tune_help_says_that_a_reward_is_code(here: Path) -> None:
    """Who reads the help of --objective knows that the file runs."""
    helped = " ".join(run_zofx("tune", "--help", cwd=here).stdout.split())
    assert "reward:FILE.py:FUNCTION runs your file FILE.py" in helped
