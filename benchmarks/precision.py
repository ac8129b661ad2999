"""Precision and ε are one decision: how wrong a projected gradient is, per precision and per ε.

    c*     exact slope along z, by forward mode, of the same frozen format with f32 activations
    c(ε)   (L(θ + ε·z) − L(θ − ε·z)) / 2ε of what would be trained, on the engine it trains on
    σ(ε)   = rms(c − c*) / rms(c*)      over directions; gain = Σ c·c* / Σ c*²

An independent error of relative size σ makes the variance of an update 1 + σ² times as large. ε is
best where what is cut off (too large) and rounding (too small) meet; a precision is of use where
its smallest σ is below 0.3.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from machine import describe, save
from numpy.typing import NDArray

from zofx.cli.console import columns, say
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.compiler.sensitivity.scores import load_scores
from zofx.errors import UsageError, ZofxError
from zofx.models.checkpoint import open_checkpoint
from zofx.runs.compiled_model import open_model, open_session
from zofx.runs.run_config import Engine
from zofx.runs.task_data import open_workload
from zofx.session import Session
from zofx.tasks.objectives import Objective
from zofx.tasks.rows import Encoded
from zofx.tasks.selection import TaskChoice
from zofx.zo.types import Key

ForwardGradient: TypeAlias = NDArray[np.float64]

FILES: Final = ("sensitivity", "work", "out")
"""Arguments that say where, not what."""
EPSILONS: Final = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
USEFUL: Final = 0.3
F32, INT8 = "f32", "int8"
PRECISIONS: Final = {
    "none": (F32,), "nf4": (F32,), "int4": (F32,), "codebook": (F32,), "int8": (F32,),
    "int8-row": (F32, INT8),
}  # fmt: skip
"""Frozen format → how activations enter its products."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure every precision that is asked for."""
    given = _parser().parse_args(words)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        results = measured(given)
    except ZofxError as error:
        say(f"error: {error}")
        return error.exit_code
    save(given.out, results)
    print(table(results))
    return 0


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """σ and gain of every precision at every ε.

    Raises:
        UsageError: a format that is not there.
        ZofxError: whatever compiling and loading raise.
    """
    unknown = [quant for quant in given.quant if quant not in PRECISIONS]
    if unknown:
        raise UsageError(f"--quant {unknown[0]}: there are {', '.join(PRECISIONS)}")
    keys = [Key(given.seed, step) for step in range(given.directions)]
    rows = []
    for quant in given.quant:
        exact = _exact(given, quant, keys)
        for activations in PRECISIONS[quant]:
            say(f"{quant}, activations {activations}")
            artifact = _compiled(given, quant, activations)
            with_probes = _Slope(given, artifact)
            for eps in EPSILONS:
                measured_gradients = np.array([with_probes.at(key, eps) for key in keys])
                rows.append(
                    {
                        "quant": quant,
                        "activations": activations,
                        "eps": eps,
                        **_error(measured_gradients, exact),
                    }
                )
            with_probes.close()
    protocol = {name: value for name, value in vars(given).items() if name not in FILES}
    return {"benchmark": "precision", "machine": describe(), "protocol": protocol, "rows": rows}


class _Slope:
    """c of one artifact on one batch."""

    def __init__(self, given: argparse.Namespace, artifact: Path) -> None:
        model = open_model(artifact)
        choice = TaskChoice(given.task, train=given.batch_size, dev=0, test=1)
        workload = open_workload(model, choice)
        self.objective: Objective = workload.objective(None)
        self.encoded: Encoded = workload.encoder.encode(workload.examples("train"))
        self.session: Session = open_session(model, Engine(given.runtime, "cpu", given.threads))

    def at(self, key: Key, eps: float) -> float:
        """By two probes."""
        matrix = np.array([[eps], [-eps]], np.float32)
        plus, minus = self.objective.measure(self.session, self.encoded, [key], matrix)
        return float(plus - minus) / (2 * eps)

    def exact(self, key: Key) -> float:
        """Of a program in forward mode."""
        one = np.ones((1, 1), np.float32)
        return float(self.objective.slopes(self.session, self.encoded, [key], one)[1])

    def close(self) -> None:
        """Release the engine."""
        self.session.close()


def _exact(given: argparse.Namespace, quant: str, keys: Sequence[Key]) -> ForwardGradient:
    derivative = _Slope(given, _compiled(given, quant, "exact"))
    slopes = np.array([derivative.exact(key) for key in keys])
    derivative.close()
    return slopes


def _error(actual: ForwardGradient, exact: ForwardGradient) -> dict[str, float]:
    power = float((exact**2).mean())
    return {
        "sigma": float(np.sqrt(((actual - exact) ** 2).mean() / power)),
        "gain": float((actual * exact).mean() / power),
    }


def _compiled(given: argparse.Namespace, quant: str, activations: str) -> Path:
    """Compile, unless a former invocation did."""
    folder: Path = given.work / f"{quant}-{activations}"
    if folder.exists():
        return folder
    checkpoint, method = open_checkpoint(given.model), METHODS["senszoq"]
    if activations == "exact":
        forward = method.pipeline.replace("stack-probes", "forward-mode")
        method = replace(method, pipeline=forward)
    rounded = INT8 if activations == INT8 else "none"
    options = Options(quant, rounded, fraction=given.fraction)
    folder.parent.mkdir(parents=True, exist_ok=True)
    compile_model(
        checkpoint, method, folder, scores=load_scores(given.sensitivity), options=options
    )
    return folder


def table(results: Mapping[str, Any]) -> str:
    """One line per precision: σ at every ε, and the best."""
    kinds: dict[tuple[str, str], dict[float, float]] = {}
    for row in results["rows"]:
        kinds.setdefault((row["quant"], row["activations"]), {})[row["eps"]] = row["sigma"]
    lines = [("frozen", "activations", *(f"ε={eps:g}" for eps in EPSILONS), "best")]
    for (quant, activations), sigma in kinds.items():
        best = min(sigma, key=lambda eps: sigma[eps])
        judged = f"ε={best:g}" + ("" if sigma[best] < USEFUL else ", of no use")
        lines.append((quant, activations, *(f"{s:.3f}" for s in sigma.values()), judged))
    return columns(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Error of projected gradients per precision, ε.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="as for `zofx compile`")
    add("--sensitivity", type=Path, required=True, metavar="FILE", help="by `zofx sensitivity`")
    add("--fraction", type=float, metavar="F", help="share of the weights that trains")
    add("--quant", nargs="+", default=list(PRECISIONS), metavar="FORMAT", help="frozen formats")
    add("--task", default="trec", metavar="NAME|FILE.jsonl", help="trec")
    add("--batch-size", type=int, default=16, metavar="B", help="16")
    add("--directions", type=int, default=32, metavar="N", help="32")
    add("--seed", type=int, default=0, metavar="N", help="of the directions; 0")
    add("--runtime", default="ort", metavar="NAME", help="ort")
    add("--threads", type=int, metavar="N", help="of the runtime")
    add("--work", type=Path, default=Path("artifacts/precision"), metavar="DIR")
    add("-o", "--out", type=Path, required=True, metavar="RESULT.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
