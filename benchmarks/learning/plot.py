"""Accuracy on test against training seconds, a line per contestant, memory in the legend."""

from pathlib import Path
from typing import Any

from benchmarks.learning.contestants import CONTESTANTS


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture, if matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "zofx"  # the same points, the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for name, row in CONTESTANTS.items():
        own = [p for p in results["points"] if p["contestant"] == name]
        if not own:
            continue
        peak = max(p["peak_bytes"] for p in own) / 1e6
        for seed in sorted({p["seed"] for p in own}):
            points = [p for p in own if p["seed"] == seed]
            label = f"{row.label} ({peak:.0f} MB)" if seed == own[0]["seed"] else None
            axes.plot(
                [p["seconds"] for p in points], [p["accuracy"] for p in points],
                marker="o", label=label, color=f"C{list(CONTESTANTS).index(name)}",
            )  # fmt: skip
    axes.set(xlabel="seconds of training", ylabel="accuracy on test", title=results["task"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
