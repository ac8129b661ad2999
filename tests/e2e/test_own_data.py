"""Data as people have it, through the command line: a table, and conversations of a chat model."""

import json
from pathlib import Path

import pytest

import zofx
from tests import tiny
from tests.compiled import run_zofx

TEMPLATE = (
    "{% for message in messages %}{{ message.role + ' ' + message.content + ' ' + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
TUNE = ("--batch-size", "4", "--lr", "0.03", "--eps", "0.01", "--no-preflight", "--steps", "4")
FILMS = (
    "--columns",
    "label=stars",
    "--template",
    "{what} {how} so it was",
    "--labels",
    "1=bad 5=good",
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `art`, a compiled model that has a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    tiny.tiny_llama(folder / "llama")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "llama")
    made = run_zofx("compile", "llama", "--method", "mezo", "-o", "art", cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_a_table_trains_and_goes_on(chat: Path, tmp_path: Path) -> None:
    """csv with columns of other names: check, tune, resume and eval read it alike."""
    rows = [
        f"{what},{how},{stars}"
        for what in tiny.SUBJECTS
        for stars, verdicts in ((1, tiny.BLAME), (5, tiny.PRAISE))
        for how in verdicts
    ]
    (tmp_path / "films.csv").write_text("what,how,stars\n" + "\n".join(rows))
    art, task = chat / "art", ("--task", "films.csv", *FILMS)
    shown = run_zofx("check", art, *task, cwd=tmp_path)
    assert "' good'" in shown.stdout, shown.stderr
    tuned = run_zofx("tune", art, *task, *TUNE, "-o", "run", cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    again = run_zofx("tune", art, "--resume", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    judged = json.loads(run_zofx("eval", art, "--run", "run", "--json", cwd=tmp_path).stdout)
    assert (judged["task"], judged["examples"]) == ("films", 9)
    alone = json.loads(run_zofx("eval", art, *task, "--json", cwd=tmp_path).stdout)
    assert alone["examples"] == 9


def test_conversations_train_on_what_the_assistant_says(chat: Path, tmp_path: Path) -> None:
    """Its words and its end are scored behind the model's own marks; text is generated as well."""
    lines = [
        {"messages": [
            {"role": "user", "content": f"the {what} was full of"},
            {"role": "assistant", "content": "life"},
            {"role": "user", "content": "and so it was"},
            {"role": "assistant", "content": "good"},
        ]}
        for what in ("film", "plot", "acting", "music", "end", "story") * 2
    ]  # fmt: skip
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)))
    art = chat / "art"
    shown = json.loads(
        run_zofx("check", art, "--task", "talk.jsonl", "--json", cwd=tmp_path).stdout
    )
    (row,) = shown["rows"][0]["rows"]
    scored = [token["scored"]["0"] for token in row["tokens"] if token["scored"]]
    assert scored == ["life", "</s>", "good", "</s>"]
    tuned = run_zofx("tune", art, "--task", "talk.jsonl", *TUNE, "-o", "run", cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    judged = run_zofx("eval", art, "--run", "run", "--json", cwd=tmp_path)
    assert "f1" in judged.stdout, judged.stderr


def test_rows_of_other_names_train_in_python(chat: Path, tmp_path: Path) -> None:
    """The run keeps the rows and how they are read; `check` tells of them without an engine."""
    rows = [
        {"review": f"{what} {how}", "stars": stars}
        for what in tiny.SUBJECTS
        for stars, verdicts in ((1, tiny.BLAME), (5, tiny.PRAISE))
        for how in verdicts
    ]
    art = zofx.load(chat / "art")
    read = {"columns": "prompt=review label=stars", "labels": "1=bad 5=good"}
    report = art.check(rows, **read)
    assert report.splits["train"].classes == {" bad": 15, " good": 15}
    run = art.tune(rows, out=tmp_path / "run", steps=2, batch_size=4, preflight=False, **read)
    assert run.resume(steps=2).steps == 2
    assert run.evaluate(split="dev").examples == art.evaluate(rows, split="dev", **read).examples
