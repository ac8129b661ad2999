"""One contestant in a process of its own: trains, and prints a point at every mark.

python -m benchmarks.learning.child NAME --artifact DIR --weights DIR --task trec --marks 10 30
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning.clock import Clock
from benchmarks.learning.contestants import BATCH, CONTESTANTS, FirstOrder, Zofx
from zofx.runs.evaluate import evaluate
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.prepare import Prepared, prepare
from zofx.runs.tune import start, train
from zofx.tasks.objectives import ScoreObjective


class Watch:
    """Tells the clock of every step of a zofx run."""

    def __init__(self, clock: Clock, rows: int) -> None:
        self._clock, self._rows = clock, rows

    def step(self, metrics: StepMetrics) -> None:
        """A step was made."""
        self._clock.tick(metrics.step + 1, (metrics.step + 1) * self._rows)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """There is no dev set to evaluate on."""

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Run the contestant that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--task", default="trec")
    parser.add_argument("--data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--marks", type=float, nargs="+", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("OPTION", "VALUE"))
    given = parser.parse_args()
    row = CONTESTANTS[given.name]
    options: dict[str, Any] = {
        "task": given.task, "data": given.data, "seed": given.seed, "threads": given.threads,
        "batch_size": BATCH, "dev": 0, "eval_size": 0,
    }  # fmt: skip
    if isinstance(row, Zofx):
        options |= {"runtime": "ort", **row.tuned}
    options |= {name: float(value) for name, value in given.set if name in ("lr", "eps")}
    prepared = prepare(given.artifact, options)
    if isinstance(row, Zofx):
        _zofx(prepared, row, given.marks, given.limit)
    else:
        lr = dict(given.set).get("lr", row.lr)
        _first_order(prepared, row, given.weights, float(lr), given.marks, given.limit)


def _judge(prepared: Prepared, session: Any, limit: int | None) -> Any:
    """Accuracy on test of what a session answers now."""
    workload = prepared.workload
    objective = workload.objective(prepared.config.objective)
    examples = workload.examples("test")[:limit]

    def judge(step: int) -> Evaluation:
        return evaluate(
            session, workload.encoder, workload.task, examples, objective,
            batch_size=BATCH, step=step,
        )  # fmt: skip

    return judge


def _zofx(prepared: Prepared, row: Zofx, marks: Sequence[float], limit: int | None) -> None:
    session = prepared.session()
    with tempfile.TemporaryDirectory() as folder:
        run = start(prepared, Path(folder) / "run")
        clock = Clock(marks, _judge(prepared, session, limit))
        watch = Watch(clock, row.forwards * BATCH)
        train(run, session, [watch], stop=lambda: clock.done, **_cache(prepared, Path(folder)))
        clock.finish()


def _cache(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Where the frozen prefix is kept, if the program has one."""
    if not prepared.model.manifest.cut:
        return {}
    from zofx.runtimes.host.activation_cache import ActivationCache

    return {"activations": ActivationCache(folder / "activations", 16 << 30)}


def _first_order(
    prepared: Prepared,
    row: FirstOrder,
    weights: Path,
    lr: float,
    marks: Sequence[float],
    limit: int | None,
) -> None:
    import torch

    from benchmarks.learning import peer

    torch.set_num_threads(prepared.config.engine.threads or 2)
    torch.manual_seed(prepared.config.task.seed)  # noqa: TID251  of PEFT's own start values
    make = {"lora": peer.lora, "last-block": peer.last_block}[row.kind]
    model = make(weights, lr, row.steps, row.bfloat16)
    objective = prepared.workload.objective(prepared.config.objective)
    assert isinstance(objective, ScoreObjective)
    clock = Clock(marks, _judge(prepared, model, limit))
    for step in itertools.count():
        if clock.done or step == row.steps:
            break
        model.step(prepared.batch(step * BATCH), objective)
        clock.tick(step + 1, (step + 1) * BATCH * row.forwards)
    clock.finish()


if __name__ == "__main__":
    main()
