"""Damaged files: artifacts whose hashes were made again, and journals.

artifact ─one file changed, digests and the manifest's hash recomputed─▶ one step of training
journal  ─bytes changed, cut, moved or added─▶ read: refused, or a beginning of what was written
"""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.faults import isolated
from benchmarks.faults.isolated import Row
from benchmarks.faults.subject import Subject
from zofx.errors import ZofxError
from zofx.runs.run_folder import RunFolder
from zofx.zo.journal.format import Journal

FILES = (
    "graph.json", "graph.onnx", "manifest.json", "tokenizer.json", "weights.safetensors",
    "trainables.safetensors",
)  # fmt: skip
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**30, 1.5, float("nan"), "", "x" * 300, "\ud800", "../etc/passwd",
    [], {}, [[[[1]]]], {"node": 0}, {"node": -1}, "aten._print.default", "aten.add_.Tensor",
)  # fmt: skip


def artifacts(subject: Subject, runtime: str, count: int, random: Random) -> Row:
    """Mutated artifacts on a runtime."""
    row = Row(f"mutated artifacts, {runtime}")
    folder, out = subject.root / "damaged", subject.root / "damaged-run"
    log = str(subject.root / "log")
    for number in range(count):
        for path in (folder, out):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(subject.artifact, folder)
        name = FILES[number % len(FILES)]
        what = _mutate(folder, name, random)
        action = partial(subject.tune, folder, out, runtime, 1)
        row.count(isolated.run(action, log), f"{name}, {what}")
    return row


def _mutate(folder: Path, name: str, random: Random) -> str:
    path = folder / name
    if name.endswith(".json") and random.random() < 0.7:
        value = json.loads(path.read_bytes())
        what = _mutated_json(value, random)
        path.write_text(json.dumps(value))
    else:
        data, what = mutated_bytes(path.read_bytes(), random)
        path.write_bytes(data)
    _rehash(folder, name)
    return what


def _rehash(folder: Path, name: str) -> None:
    """Make the digests right again, as an attacker would."""
    path = folder / "manifest.json"
    try:
        fields = json.loads(path.read_bytes())
        if name != path.name:
            fields["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        hashed = {
            k: v for k, v in fields.items() if k not in ("format", "version", "hash", "report")
        }
        text = json.dumps(hashed, sort_keys=True).encode()
        fields["hash"] = hashlib.sha256(text).hexdigest()
        path.write_text(json.dumps(fields))
    except (ValueError, LookupError, TypeError, AttributeError):
        return


def _mutated_json(value: Any, random: Random) -> str:
    """Replace, drop or double something at a random place, in the value itself."""
    place, trail = value, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return "nothing"
        key = random.choice(keys)
        trail.append(key)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and random.random() < 0.85:
            place = inner
            continue
        kind = random.choice(("replace", "replace", "drop", "double"))
        if kind == "drop":
            del place[key]
        elif kind == "double" and isinstance(place, list):
            place.insert(key, inner)
        else:
            place[key] = random.choice(STRANGE)
        return f"{kind} at {trail[-4:]}"


def mutated_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    """Flip, cut, drop, double, zero or add bytes at a random place."""
    begin = random.randrange(len(data))
    end = min(len(data), begin + random.choice((1, 4, 64, 4096)))
    kind = random.choice(("flip", "flip", "cut", "drop", "double", "zero", "add"))
    part = data[begin:end]
    made = {
        "flip": bytes(byte ^ (1 << random.randrange(8)) for byte in part),
        "cut": b"",
        "drop": b"",
        "double": part * 2,
        "zero": bytes(len(part)),
        "add": random.randbytes(len(part)) + part,
    }[kind]
    rest = b"" if kind == "cut" else data[end:]
    return data[:begin] + made + rest, f"{kind} {begin}:{end}"


def journals(subject: Subject, count: int, random: Random) -> Row:
    """Mutated journals."""
    row = Row("mutated journals")
    run, log = subject.root / "whole", str(subject.root / "log")
    assert isolated.run(partial(subject.tune, subject.artifact, run), log) == "harmless", log
    whole = Journal.read(run / "journal.bin")
    copy = subject.root / "journal"
    shutil.copytree(run, copy)
    data = (run / "journal.bin").read_bytes()
    for _ in range(count):
        damaged, what = mutated_bytes(data, random)
        (copy / "journal.bin").write_bytes(damaged)
        row.count(_read(copy, whole), what)
    return row


def _read(run: Path, whole: Journal) -> str:
    try:
        journal = RunFolder.open(run).journal()
    except ZofxError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    same = journal.rows.tobytes() == whole.rows[: len(journal)].tobytes()
    extra = np.any(journal.header != whole.header)
    return "harmless" if same and not extra else "reads other steps than were made"
