"""Ends: kills, two writers at once, full disks, signals.

tune      killed at any time, resumed until done: the journal is that of a run nobody killed
compile …  killed, or without room: what stood there stands, and nothing is left beside it
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.faults import isolated
from benchmarks.faults.isolated import Row
from benchmarks.faults.subject import Subject
from zofx.artifact.manifest import read_manifest
from zofx.errors import ZofxError

MARK = ".part-"


def kills_of_tune(subject: Subject, count: int, random: Random) -> Row:
    """Killed by the clock; every run is resumed to its end."""
    row = Row("kills of tune")
    whole, log = subject.root / "whole", str(subject.root / "log")
    began = time.monotonic()
    if not whole.exists():
        isolated.run(partial(subject.tune, subject.artifact, whole), log)
    took = max(0.3, time.monotonic() - began)
    expected = (whole / "journal.bin").read_bytes()
    run, number = subject.root / "killed", 0
    while row.tried < count:
        shutil.rmtree(run, ignore_errors=True)
        kills = 0
        for _ in range(3):
            child = isolated.start(partial(subject.tune, subject.artifact, run), log)
            time.sleep(random.random() * min(took, 2.0))
            kills += isolated.kill(child)
        number += 1
        ended = isolated.run(partial(subject.tune, subject.artifact, run), log)
        same = ended == "harmless" and (run / "journal.bin").read_bytes() == expected
        lines = len((run / "metrics.jsonl").read_text().splitlines()) if same else 0
        outcome = "harmless" if same and lines == 12 else f"{ended}, equal {same}, {lines} lines"
        for _ in range(kills):
            row.count(outcome, f"run {number}, killed {kills} times")
    return row


def kills_of_writers(subject: Subject, count: int, random: Random) -> Row:
    """Killed by the clock: `compile --force`, export and sensitivity."""
    row = Row("kills of compile, export, sensitivity")
    log = str(subject.root / "log")
    place = subject.root / "writers"
    place.mkdir()
    shutil.copytree(subject.artifact, place / "art")
    verbs: list[tuple[str, Callable[[], None]]] = [
        ("art", partial(subject.compile, place / "art", force=True)),
        ("out", partial(subject.export, place / "out")),
        ("scores", partial(subject.sensitivity, place / "scores")),
    ]
    spans = {name: _seconds(action, place / name, log) for name, action in verbs}
    for number in range(count):
        name, action = verbs[number % len(verbs)]
        if name != "art":
            _remove(place / name)
        child = isolated.start(action, log)
        time.sleep(random.random() * spans[name] * 1.1)
        isolated.kill(child)
        row.count(_state(place, name), f"{name}, case {number}")
    isolated.run(partial(subject.sensitivity, place / "last"), log)
    left = [path.name for path in place.iterdir() if MARK in path.name]
    row.count(f"left behind: {left}" if left else "harmless", "leftovers")
    return row


def _seconds(action: Callable[[], None], target: Path, log: str) -> float:
    if target.name != "art":
        _remove(target)
    began = time.monotonic()
    assert isolated.run(action, log) == "harmless", Path(log).read_text(encoding="utf-8")
    return time.monotonic() - began


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _state(place: Path, name: str) -> str:
    """Whether what has the name is whole, or nothing has it."""
    path = place / name
    try:
        if name == "art":
            read_manifest(path)
        elif name == "out" and path.exists() and not (path / "model.safetensors").is_file():
            return "an export without its weights"
    except ZofxError as error:
        return str(error)
    return "harmless"


def pairs(subject: Subject, count: int) -> Row:
    """Two compilations, or two runs, to one name at once: one wins, the other gets an error."""
    row = Row("pairs of writers to one name")
    for number in range(count):
        target = subject.root / f"pair{number}"
        action = (
            partial(subject.compile, target)
            if number % 2
            else partial(subject.tune, subject.artifact, target, "ort", 2)
        )
        logs = [str(subject.root / f"log{i}") for i in range(2)]
        children = [isolated.start(action, log) for log in logs]
        ends = sorted(map(isolated.wait, children, logs))
        whole = (target / ("manifest.json" if number % 2 else "run.json")).is_file()
        # A run that is there may also be resumed by the second: both then end well.
        good = ends == ["harmless", "refused"] or (number % 2 == 0 and ends == ["harmless"] * 2)
        row.count("refused" if good and whole else f"{ends}, whole {whole}", f"pair {number}")
    return row


def full_disks(subject: Subject, count: int, random: Random) -> Row:
    """Files that may not grow beyond a random size."""
    row = Row("full disks")
    log, place = str(subject.root / "log"), subject.root / "disk"
    place.mkdir()
    verbs = {
        "art": partial(subject.compile, place / "art"),
        "out": partial(subject.export, place / "out"),
        "scores": partial(subject.sensitivity, place / "scores"),
        "run": partial(subject.tune, subject.artifact, place / "run"),
    }
    for number in range(count):
        name = list(verbs)[number % len(verbs)]
        _remove(place / name)
        limit = random.choice((0, 100, 1000, 5000, 20_000))
        ended = isolated.run(verbs[name], log, limit)
        left = [path.name for path in place.iterdir() if MARK in path.name]
        if name == "run" and "File too large" in ended:
            ended = "refused"  # an OSError, which the command line tells as a full disk
        row.count(f"left behind: {left}" if left else ended, f"{name}, {limit} bytes")
    return row


def as_in_a_terminal() -> None:
    """A shell starts what is in its background with Ctrl-C ignored, and so its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def signals(subject: Subject, count: int, random: Random) -> Row:
    """The command line itself, asked to end while it trains or starts."""
    row = Row("signals to zofx tune")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for index in range(count):
        number, run = numbers[index % 3], subject.root / f"signal{index}"
        command = [
            sys.executable, "-m", "zofx", "tune", str(subject.artifact), "-t", str(subject.task),
            "--steps", "100000", "--schedule", "constant", "--eval-size", "0", "--threads", "1",
            "--no-preflight", "-o", str(run),
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=-1, stderr=subprocess.STDOUT, text=True, preexec_fn=as_in_a_terminal
        )
        end = time.monotonic() + 90
        while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(random.random())
        process.send_signal(number)
        output = process.communicate(timeout=90)[0]
        good = process.returncode == 128 + number and "to go on: zofx tune" in output
        ending = f"code {process.returncode}: {output[-200:]}"
        row.count("harmless" if good and "Traceback" not in output else ending, number.name)
    return row
