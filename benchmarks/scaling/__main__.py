"""How the cost of a step grows: python -m benchmarks.scaling.

sweeps ─turns─▶ seconds by point ─least squares─▶ line, parabola, exponent ─▶ bars
journal ─turns─▶ bytes and seconds of a record, early and late             ─▶ bars
exit code 0   every bar is kept
exit code 1   some is not, or a point could not be measured
exit code 2   the command cannot work
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.machine import describe, save
from benchmarks.scaling import fits, journal, plot
from benchmarks.scaling.sweeps import METHOD, Bench, Point, Sweep, sweeps_of
from benchmarks.step.match import Protocol
from benchmarks.step.plot import require_matplotlib
from zofx.cli.console import say
from zofx.errors import UsageError, ZofxError

Results: TypeAlias = dict[str, Any]

PARTS: Final = ("rows", "length", "layers", "trainables", "weights", "journal")
FRACTIONS: Final = (0.1, 0.2, 0.4, 0.6, 0.8)
NOT_PROTOCOL: Final = ("out", "plot")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, fit, judge, record, tell."""
    given = _parser().parse_args(words)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        if given.plot:
            require_matplotlib()
        with tempfile.TemporaryDirectory(prefix="zofx-scaling-") as name:
            results = run(given, Path(name))
    except ZofxError as error:
        say(f"error: {error}")
        return error.exit_code
    if given.out:
        save(given.out, results)
    if given.plot:
        plot.plot(results, given.plot)
    print(rendered(results))
    return 0 if results["kept"] else 1


def run(given: argparse.Namespace, folder: Path) -> Results:
    """Everything that was asked for.

    Raises:
        ZofxError: a sweep has too few points, or one of them cannot be measured.
    """
    bench = Bench(folder, given.hidden, given.vocabulary, given.quant, given.runtime, given.threads)
    chosen = [sweep for sweep in sweeps_of(given) if sweep.name in given.sweeps]
    protocol = Protocol(given.rounds, given.warm_up)
    sweeps = [_sweep(bench, sweep, protocol) for sweep in chosen]
    recorded = _journal(bench, given) if "journal" in given.sweeps else None
    options = {n: v for n, v in vars(given).items() if n not in NOT_PROTOCOL}
    parts = [*sweeps, recorded] if recorded else sweeps
    return {
        "benchmark": "scaling", "machine": describe(), "protocol": {"method": METHOD, **options},
        "sweeps": sweeps, "journal": recorded,
        "kept": all(bar["kept"] for part in parts for bar in part["bars"]),
    }  # fmt: skip


def _sweep(bench: Bench, sweep: Sweep, protocol: Protocol) -> Results:
    if len(sweep.points) < fits.POINTS:
        raise UsageError(
            f"sweep '{sweep.name}' has {len(sweep.points)} points; a straight line differs from a "
            f"curve by {fits.POINTS} or more"
        )
    say(f"{sweep.name}")
    points = bench.measure(sweep, protocol)
    fit = fits.Fit.of([p[sweep.by] for p in points], [p["median"] for p in points])
    return {
        "name": sweep.name, "by": sweep.by, "points": points, "fit": fit.to_dict(),
        "bars": fits.bars(fit, straight=sweep.straight),
    }  # fmt: skip


def _journal(bench: Bench, given: argparse.Namespace) -> Results:
    say(f"journal: a run of {given.steps} steps, then in turns with new ones")
    layers = min(given.layers)
    least = Point(layers, layers, None, 1, min(given.lengths))
    folder = bench.root / "journal"
    measured = journal.measure(bench.job(least, folder), folder, given.steps, given.rounds)
    return {**measured, "bars": journal.bars(measured)}


def rendered(results: Results) -> str:
    """Tables and bars."""
    lines = [line for sweep in results["sweeps"] for line in _sweep_lines(sweep)]
    if journal_results := results["journal"]:
        sizes = ", ".join(map(str, journal_results["record_bytes"]))
        lines.append(f"journal: {sizes} bytes a step")
        lines += [
            f"  {name:<5} "
            + ", ".join(f"{part} {1e3 * row[part]:.3f} ms" for part in journal.PARTS)
            for name in ("early", "late")
            for row in journal_results[name]
        ]
        lines += _bar_lines(journal_results["bars"])
    return "\n".join(lines)


def _sweep_lines(sweep: Results) -> list[str]:
    fit, by, last = sweep["fit"], sweep["by"], sweep["points"][-1]
    points = [f"  {p[by]:>9,} {by:<8} {p['median']:.4f} s" for p in sweep["points"]]
    lines = [
        f"{sweep['name']}: {fit['intercept']:.3g} s + {fit['slope']:.3g} s · {by}",
        *points,
        f"  line: R² {fit['r2']:.4f}, off by {fit['residual']:.1%} at most; "
        f"parabola: R² {fit['parabola_r2']:.4f}, quadratic part {fit['curvature']:+.1%}; "
        f"exponent {fit['exponent']:.2f}",
    ]
    if sweep["name"] == "length":
        share = f"{last['attention']:.1%}"
        lines.append(f"  attention's products are {share} of a layer's arithmetic at the longest")
    return lines + _bar_lines(sweep["bars"])


def _bar_lines(bars: Sequence[Results]) -> list[str]:
    return [
        f"  {'kept  ' if bar['kept'] else 'MISSED'} {bar['bar']}: {bar['value']:.4g}"
        for bar in bars
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="How the cost of a training step grows with tokens, layers, weights, steps.",
    )
    add = parser.add_argument
    many: dict[str, Any] = {"nargs": "+", "metavar": "N"}
    add("--sweeps", nargs="+", choices=PARTS, default=PARTS, metavar="SWEEP", help=", ".join(PARTS))
    add("--rows", type=int, default=(2, 4, 8, 12, 16), help="of a batch (2 4 8 12 16)", **many)
    add(
        "--lengths",
        type=int,
        default=(32, 64, 128, 192, 256),
        help="tokens of a row (32 64 128 192 256)",
        **many,
    )
    add("--layers", type=int, default=(2, 4, 6, 8, 12), help="of the model (2 4 6 8 12)", **many)
    add(
        "--fractions",
        type=float,
        default=FRACTIONS,
        help=f"that trains ({' '.join(map(str, FRACTIONS))})",
        **many,
    )
    add("--steps", type=int, default=5000, metavar="N", help="of the long run (5000)")
    add("--hidden", type=int, default=512, metavar="N", help="width; a multiple of 128 (512)")
    add("--vocabulary", type=int, default=1024, metavar="N", help="tokens (1024)")
    add("--quant", default="int4", metavar="FORMAT", help="of the frozen weights (int4)")
    add("--runtime", default="ort", metavar="NAME", help="ort or torch (ort)")
    add("--rounds", type=int, default=7, metavar="N", help="steps that count (7)")
    add("--warm-up", type=int, default=1, metavar="N", help="steps before them (1)")
    add("--threads", type=int, default=2, metavar="N", help="of every step (2)")
    add("-o", "--out", type=Path, metavar="RESULT.json", help="write the results here")
    add("--plot", type=Path, metavar="FILE.svg", help="draw them, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
