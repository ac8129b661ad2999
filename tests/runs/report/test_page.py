"""The page: one file that parses, needs no network, says what the runs say, and a browser loads."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import zofx
from tests.compiled import run_zofx
from zofx.errors import UsageError
from zofx.runs.report.history import Change, History, history
from zofx.runs.report.page import page, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags in balance, what they refer to, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [str(given[name]) for name in ("src", "href") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_a_page_says_what_the_runs_say(runs: tuple[History, History]) -> None:
    """Results with intervals, settings that differ, each pass; tags balance; nothing is fetched."""
    text = page(runs)
    made = Page(text)
    assert made.open == []
    assert set(made.links) == {"#summary", "#plots", "#classes", "#settings", "#program"}
    assert {link[1:] for link in made.links} <= set(made.ids)
    for run in runs:
        assert run.best is not None
        assert f"step {run.best}: {run.evaluations[run.best]}" in made.text
    assert re.search(r'<tr class="differs"><th scope="row">lr</th><td>0.03</td><td>3.0</td>', text)
    assert text.count('class="differs"') == 1
    for title in ("Loss", "On dev", "Projected gradient", "Memory", "By class"):
        assert title in made.text
    assert "select-sensitive" in made.text
    assert "+ %" in made.text  # what a pass added to the program


def test_what_comes_from_a_run_is_escaped(artifact: Path, hostile: Path, tmp_path: Path) -> None:
    """Labels and prompts with markup stay text, in tables and in plots."""
    run = zofx.load(artifact).tune(
        hostile, out=tmp_path / "<i>run", steps=2, batch_size=4, eval_every=2, preflight=False
    )
    read = history(run.path)
    changed = replace(read, changes=[Change("<script>alert(1)</script>", "a", "b", "c")])
    made = Page(page([changed]))
    assert made.open == []
    assert "<script>alert(1)</script>" in made.text
    assert "</script><b>bad" in made.text
    assert "alert" not in "".join(made.ids)


def test_a_taken_name_is_left_alone(runs: tuple[History, History], tmp_path: Path) -> None:
    """As for every verb that writes."""
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_report(runs, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "mine"


def test_the_verb_asks_examples_again(runs: tuple[History, History], tmp_path: Path) -> None:
    """`--examples` judges dev at the start and at the best step."""
    paths = [run.run.path for run in runs]
    made = run_zofx("report", *paths, "--examples", "9", "-o", "r.html", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "r.html: 2 runs\n"
    shown = Page((tmp_path / "r.html").read_text()).text
    assert len(re.findall(r"(?:one|other), answers that changed: \d", shown)) == 2


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
def test_a_browser_draws_it_without_a_network(
    runs: tuple[History, History], tmp_path: Path
) -> None:
    """Chromium runs the scripts: every plot has become a drawing with points in it."""
    write_report(runs, tmp_path / "report.html")
    drawn = subprocess.run(
        [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--virtual-time-budget=8000", "--dump-dom", (tmp_path / "report.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.count('class="main-svg"') >= 2 * 6  # four plots, two confusion matrices
    assert drawn.stdout.count('class="js-line"') > 4
    assert 'class="errorbar"' in drawn.stdout
