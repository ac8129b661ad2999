"""What is shown while something runs: nothing at first, then a bar or now and then a line."""

import io
import re
import signal
import sys
from typing import cast

import pytest

from zofx.cli import console
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.run_config import RunConfig
from zofx.tasks.metrics import Accuracy


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(console, "time", made)
    monkeypatch.setattr(console, "stamp", lambda: "NOW")
    return made


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_come_after_two_seconds_and_then_every_ten(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quick work says nothing; slow work says where it is, not at every step."""
    with console.Progress("tune") as bar:
        for step in range(1, 16):
            clock.now += 1.0
            bar(step, 20, f"loss {step}")
    output = capsys.readouterr()
    assert output.err == (
        "NOW  tune 2/20  0:00:18 left  loss 2\nNOW  tune 12/20  0:00:08 left  loss 12\n"
    )
    assert output.out == ""


def test_a_terminal_gets_a_bar_that_goes_away(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar shows the thing, its renaming and the note, and leaves no line behind."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.Progress("compile") as bar:
        bar(1, 10)
        assert terminal.getvalue() == ""
        clock.now += 5.0
        bar(2, 10, "first")
        bar(3, 10, "second", what="compile: weights")
    assert "compile" in terminal.getvalue()


def test_a_run_is_followed(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    """Steps move the bar; an evaluation is a line that stays."""
    bar = console.Progress("tune")
    follow = console.RunProgress(bar)
    follow.on_start(cast(RunConfig, None), 200)
    follow.on_evaluation(50, Evaluation(Accuracy(7, 10), 0.25, "cross-entropy", 10, 1.0))
    clock.now += 3.0
    follow.on_step(StepMetrics(50, 0.5, 1e-3, 0.5, 1000, 2000.0, None))
    follow.on_end()
    assert capsys.readouterr().err.splitlines() == [
        "NOW  step  50  dev accuracy 0.700 [0.397, 0.892] (7/10), cross-entropy 0.2500",
        "NOW  tune 51/200  loss 0.5000, 2,000 tokens/s",
    ]


def test_the_time_left_is_that_of_this_process(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that goes on at step 900 has made none of them in no time; renaming begins anew."""
    with console.Progress("tune") as bar:
        bar(901, 1000)
        clock.now += 5.0
        bar(902, 1000)
        clock.now += 10.0
        bar(1, 4, what="eval")
        clock.now += 10.0
        bar(2, 4)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "NOW  tune 902/1000  0:08:10 left",
        "NOW  eval 1/4",
        "NOW  eval 2/4  0:00:20 left",
    ]


def test_a_line_in_a_log_has_the_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal it has none."""
    console.say("loading")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  loading\n", capsys.readouterr().err)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console.say("loading")
    assert terminal.getvalue() == "loading\n"


def test_the_first_ctrl_c_asks_and_the_second_insists(capsys: pytest.CaptureFixture[str]) -> None:
    """Between them the work may finish its step; afterwards the usual handler is back."""
    usual = signal.getsignal(signal.SIGINT)
    with console.interruptible() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual
    assert "finishing this step" in capsys.readouterr().err


def test_columns_and_sizes_are_aligned_and_short() -> None:
    """Trailing spaces are cut; bytes are in decimal units."""
    assert console.columns([("a", "1"), ("long", "")], "  ") == "  a     1\n  long"
    assert [console.size(n) for n in (0, 999, 1000, 2_500_000, 4_000_000_000)] == [
        "0 B", "999 B", "1.0 kB", "2.5 MB", "4.0 GB",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_that_ends_a_process_asks_first(number: signal.Signals) -> None:
    """The second insists; handlers are as they were afterwards; the exit code tells which."""
    before = signal.getsignal(number)
    with console.interruptible() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.exit_code == 128 + number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with console.interruptible() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)
