"""A fleet on this machine: the scores of one session, its θ bit for bit, whatever dies."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from benchmarks.fleet.kills import Case, complete, killed
from tests.runs.test_tune import SETTINGS
from zofx.artifact.manifest import read_manifest
from zofx.errors import UnsupportedError
from zofx.runs.prepare import prepare
from zofx.runs.tune import start
from zofx.runtimes import RUNTIMES
from zofx.runtimes.fleet.cells import Split
from zofx.runtimes.fleet.crew import Crew, State
from zofx.runtimes.fleet.runtime import FleetRuntime
from zofx.runtimes.fleet.session import FleetSession
from zofx.runtimes.fleet.spec import parse_fleet
from zofx.runtimes.fleet.worker import Order
from zofx.session import Batch, Session
from zofx.zo.theta import digest
from zofx.zo.types import Key, Ray

HASH_EVERY = 1  # θ of every worker is compared in every forward
ROUNDING = 2e-6
"""Nats: the widest difference that rows of this model had between cells of one row and of four."""

Open = Callable[..., FleetSession]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray for all tests of this file: it starts here, and nothing of it is left."""
    cache = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ.update(XDG_CACHE_HOME=str(cache), RAY_USAGE_STATS_ENABLED="0")
    ray.init(
        address="local", num_cpus=64, include_dashboard=False, log_to_driver=False,
        logging_level="error", object_store_memory=1 << 27,
    )  # fmt: skip
    yield
    ray.shutdown()
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def fleet(cluster: None, artifact: Path) -> Iterator[Open]:
    """Opens fleets on that cluster; each is made once."""
    opened: dict[tuple[str, Split], FleetSession] = {}
    initial = RUNTIMES["ort"].load(artifact, threads=1).read()

    def open_(text: str, split: Split = "auto") -> FleetSession:
        key = (text, split)
        if key not in opened:
            spec = parse_fleet(text, "ort", "cpu")
            runtime = FleetRuntime(spec, split, HASH_EVERY, hung=3.0)
            opened[key] = runtime.load(artifact, threads=1, rows=4)
        opened[key].write(initial)
        return opened[key]

    yield open_
    for session in opened.values():
        session.close()


def batch() -> Batch:
    """Five rows of other lengths, two alternatives each."""
    generator = np.random.default_rng(1)
    lengths = np.array([6, 3, 8, 5, 3])
    ids = generator.integers(5, 40, (5, 8))
    mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
    targets = generator.integers(5, 40, (5, 1, 2))
    return Batch(ids, mask, lengths[:, None] - 1, targets)


KEYS = [Key(7, 0), Key(7, 0, 1)]
MATRIX = np.array([[0, 0], [0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]], np.float32)


def walked(session: Session, steps: int = 4) -> list[Any]:
    """Scores before every step of a fixed path."""
    scores = []
    for step in range(steps):
        scores.append(session.evaluate(batch(), KEYS, MATRIX))
        session.move([Ray(Key(7, step), 0.02), Ray(Key(7, step, 1), -0.01)])
    scores.append(session.evaluate(batch(), KEYS, MATRIX))
    return scores


@pytest.fixture(scope="module")
def alone(artifact: Path) -> tuple[list[Any], str]:
    """The scores of one session, and the hash of where it went."""
    session = RUNTIMES["ort"].load(artifact, threads=1, rows=4)
    scores = walked(session)
    return scores, digest(session.read())


@pytest.mark.parametrize(
    ("text", "split"),
    [("1", "auto"), ("2", "rows"), ("4", "both"), ("4", "probes"), ("ort=1,torch=1", "auto")],
)
def test_a_fleet_is_one_session(
    fleet: Open, alone: tuple[list[Any], str], text: str, split: Split
) -> None:
    """Scores up to rounding; θ of all workers and of the head bit for bit, after every step."""
    session = fleet(text, split)
    scores = walked(session)
    for mine, other in zip(scores, alone[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=0 if text == "1" else ROUNDING * 10)
    assert digest(session.read()) == alone[1]
    assert session.messages() == []
    assert len(session.rows_per_second()) >= 1


def pids(session: FleetSession) -> list[int]:
    """Of all workers' processes."""
    return [ray.get(member.actor.pid.remote()) for member in complete(session)]


def test_killed_workers_are_replaced_and_replay(
    fleet: Open, artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """Two of four killed at random moments of a run; who came back is compared with the journal.

    `python -m benchmarks.fleet.kills` makes twenty such runs.
    """
    session, chance = fleet("4", "both"), random.Random(0)
    initial = RUNTIMES["ort"].load(artifact, threads=1).read()
    asked = {"task": mood, "runtime": "ort", "threads": 1, **SETTINGS, "eval_every": 100}
    for number in range(2):
        session.write(initial)
        prepared = start(prepare(artifact, asked), tmp_path / str(number))
        assert killed(session, prepared, Case(batch(), KEYS, MATRIX), chance) == ""


def test_a_hung_worker_is_waited_for_by_nobody(fleet: Open, alone: tuple[list[Any], str]) -> None:
    """Its cell is evaluated by another; after a while its process is replaced."""
    session = fleet("2", "rows")
    session.evaluate(batch(), KEYS, MATRIX)
    (pid, _) = pids(session)
    os.kill(pid, signal.SIGSTOP)
    scores = walked(session)
    np.testing.assert_allclose(scores[-1], alone[0][-1], rtol=0, atol=ROUNDING * 10)
    deadline, news = time.monotonic() + 60, session.messages()
    while not any("no answer for" in text for text in news) and time.monotonic() < deadline:
        session.evaluate(batch(), KEYS, MATRIX)
        news += session.messages()
        time.sleep(0.2)
    assert any("no answer for" in text for text in news)
    assert digest(session.read()) == alone[1]


def order(folder: Path) -> Order:
    """What a worker of this machine opens."""
    return Order(
        str(folder), read_manifest(folder).hash, version("zofx"), "ort", "cpu", threads=1, rows=4
    )


def test_who_has_another_artifact_or_version_is_refused(cluster: None, artifact: Path) -> None:
    """And told; where nobody is left, the run ends with every reason."""
    orders = [
        ("a", replace(order(artifact), artifact="0" * 64)),
        ("b", replace(order(artifact), version="0.0.1")),
    ]
    crew = Crew(orders, artifact, hung=60)
    with pytest.raises(UnsupportedError, match="no worker of the fleet is left") as caught:
        crew.at_work()
    reasons = "\n".join(sorted(caught.value.reasons))
    assert "a is refused" in reasons
    assert "is another artifact there" in reasons
    assert "b is refused: it has zofx" in reasons
    assert {member.state for member in crew.members} == {State.REFUSED}


def test_an_artifact_that_a_worker_does_not_see_is_sent(cluster: None, artifact: Path) -> None:
    """Once, to be kept by its hash; the scores are the same."""
    manifest = read_manifest(artifact)
    crew = Crew([("far", replace(order(artifact), folder="/nowhere/art"))], artifact, hung=60)
    session = FleetSession(artifact, manifest, crew, hash_every=1)
    scores = session.evaluate(batch(), KEYS, MATRIX)
    near = RUNTIMES["ort"].load(artifact, threads=1, rows=4).evaluate(batch(), KEYS, MATRIX)
    np.testing.assert_array_equal(scores, near)
    (kept,) = (Path(os.environ["XDG_CACHE_HOME"]) / "zofx" / "artifacts").iterdir()
    assert kept.name == manifest.hash
    session.close()


def test_a_worker_whose_theta_is_another_is_stopped(
    fleet: Open, alone: tuple[list[Any], str]
) -> None:
    """The others go on; the message says what is wrong."""
    session = fleet("2", "probes")
    member = complete(session)[0]  # all: the log below is changed for every one
    ray.get(member.actor.apply.remote(member.position, [[Ray(Key(1, 1), 0.5)]]))
    member.position += 1
    session._crew.log.moves.insert(0, [])
    for other in session._crew.members[1:]:
        other.position += 1
        ray.get(other.actor.apply.remote(other.position - 1, [[]]))
    scores = session.evaluate(batch(), KEYS, MATRIX)
    np.testing.assert_allclose(scores, alone[0][0], rtol=0, atol=ROUNDING * 10)
    assert any("its θ is not the head's" in text for text in session.messages())
    assert member.state is State.REFUSED
