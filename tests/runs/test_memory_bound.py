"""Steps that no memory holds are refused before any is taken; those that fit never are."""

from pathlib import Path
from typing import Any

import pytest

from tests.runs.test_tune import options
from zofx.errors import UsageError
from zofx.runs import memory_bound
from zofx.runs.memory_bound import least_bytes, machine_memory
from zofx.runs.prepare import prepare
from zofx.tasks.encode import MOST_CHARACTERS

HUGE: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 10**12}, "the ids of a batch alone.*lower --batch-size"),
    ({"queries": 65536}, "the matrix of probes alone.*lower --queries"),
    ({"queries": 65536, "runtime": "torch"}, "the matrix of probes alone.*lower --queries"),
    ({"batch_size": 10**12, "runtime": "torch"}, "values of a forward alone.*--batch-size"),
]


@pytest.mark.parametrize(("asked", "message"), HUGE)
def test_what_no_memory_holds_is_refused(
    artifact: Path,
    mood: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    message: str,
) -> None:
    """At once, with the largest part and the option that makes it smaller."""
    monkeypatch.setattr(memory_bound, "machine_memory", lambda: 16 * 10**9)
    with pytest.raises(UsageError, match=message):
        prepare(artifact, options(mood, **asked))


def test_the_bound_is_the_sum_of_its_parts(
    artifact: Path, mood: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte less than it is too little, and the bound itself is enough; 781 weights train."""
    prepared = prepare(artifact, options(mood, queries=3, batch_size=4))
    assert prepared.report
    config = prepared.config
    parts = least_bytes(prepared.model.manifest, config.settings, prepared.report, config.engine)
    assert parts == {
        "the ids of a batch": 4 * (16 * 8 + 8),
        "the matrix of probes": 4 * 6 * 3,
        "directions": 4 * 3 * 781,
        "values of a forward": 4 * 6 * 8 * 32,
    }
    monkeypatch.setattr(memory_bound, "machine_memory", lambda: sum(parts.values()))
    prepare(artifact, options(mood, queries=3, batch_size=4))
    monkeypatch.setattr(memory_bound, "machine_memory", lambda: sum(parts.values()) - 1)
    with pytest.raises(UsageError, match="a step takes at least"):
        prepare(artifact, options(mood, queries=3, batch_size=4))


def test_a_limit_of_the_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is a number; "max" is none."""
    whole = machine_memory()
    assert whole
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_bound, "CGROUP", limit)
    limit.write_text("1000000\n", encoding="ascii")
    assert machine_memory() == 1_000_000
    limit.write_text("max\n", encoding="ascii")
    unlimited = machine_memory()
    assert unlimited
    assert unlimited >= whole


def test_a_prompt_of_megabytes_is_not_tokenized(artifact: Path, tmp_path: Path) -> None:
    """It is named, and cutting it does not help: it would be tokenized first."""
    text = "so " * (MOST_CHARACTERS // 3 + 1)
    task = tmp_path / "long.csv"
    task.write_text(f"prompt,completion\n{text},good\n" + "it was,good\n" * 2, encoding="utf-8")
    with pytest.raises(UsageError, match=r"a text of 16\.8 million characters"):
        prepare(artifact, {"task": str(task), "truncate": True, "dev": 0})
