"""The sweeps as a picture: points with their quartiles, the line through them, and the journal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.step.plot import require_matplotlib

Row: TypeAlias = Mapping[str, Any]

X: Final = {
    "tokens": "tokens of a batch",
    "layers": "layers",
    "trainables": "trainables",
    "weights": "trained weights",
}
COLUMNS: Final = 2


def plot(results: Row, path: Path) -> None:
    """Write a picture; its format is that of the file's name.

    Raises:
        UsageError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "zofx"  # the same results give the same file
    from matplotlib import pyplot

    panels = len(results["sweeps"]) + bool(results["journal"])
    lines = -(-panels // COLUMNS)
    figure, grid = pyplot.subplots(
        lines, COLUMNS, figsize=(9, 3.2 * lines), squeeze=False, layout="constrained"
    )
    axes = list(grid.flat)
    for sweep in results["sweeps"]:
        _sweep(axes.pop(0), sweep)
    if results["journal"]:
        _journal(axes.pop(0), results["journal"])
    for axis in axes:
        axis.set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _sweep(axis: Any, sweep: Row) -> None:
    points, fit, by = sweep["points"], sweep["fit"], sweep["by"]
    x, seconds = [p[by] for p in points], [p["median"] for p in points]
    reach = [
        [p["median"] - p["quartiles"][0] for p in points],
        [p["quartiles"][1] - p["median"] for p in points],
    ]
    ends = [0, max(x)]
    axis.plot(ends, [fit["intercept"] + fit["slope"] * end for end in ends], color="tab:gray")
    axis.errorbar(x, seconds, yerr=reach, fmt="o", color="tab:blue", capsize=3)
    axis.set_title(f"{sweep['name']}: R² {fit['r2']:.4f}", loc="left")
    axis.set_xlabel(X[by])
    axis.set_ylabel("seconds per step")
    axis.set_ylim(bottom=0)


def _journal(axis: Any, journal: Row) -> None:
    """Tenths of the long run, each at its first step."""
    windows = journal["windows"]
    x = [window["from"] for window in windows]
    for part, colour in (("rest", "tab:gray"), ("append", "tab:blue")):
        axis.plot(x, [1e3 * window[part] for window in windows], "o-", color=colour, label=part)
    axis.set_title("beside the forward, as a run goes on", loc="left")
    axis.set_xlabel("step")
    axis.set_ylabel("milliseconds per step")
    axis.set_ylim(bottom=0)
    axis.legend()
