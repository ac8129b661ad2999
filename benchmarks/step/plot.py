"""Results as a picture: seconds per step, a panel per case, on a logarithmic axis."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from zofx.errors import UsageError

Row: TypeAlias = Mapping[str, Any]


def require_matplotlib() -> None:
    """Check that pictures can be made.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs the package matplotlib; run `pip install matplotlib`")


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

    cases: Sequence[Row] = [case for case in results["cases"] if case["contestants"]]
    lines = [len(case["contestants"]) + 2 for case in cases]
    figure, axes = pyplot.subplots(
        len(cases), 1, figsize=(8, 0.35 * sum(lines)), squeeze=False, height_ratios=lines,
        layout="constrained",
    )  # fmt: skip
    for axis, case in zip(axes[:, 0], cases, strict=True):
        _panel(axis, case)
    axes[-1, 0].set_xlabel("seconds per step (median and quartiles)")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _panel(axis: Any, case: Row) -> None:
    """Contestants from top to bottom; zofx is blue."""
    rows = case["contestants"][::-1]
    medians = [row["median"] for row in rows]
    reach = [
        [row["median"] - row["quartiles"][0] for row in rows],
        [row["quartiles"][1] - row["median"] for row in rows],
    ]
    names = [row["contestant"] + (" (stand-in)" if row["stand_in"] else "") for row in rows]
    colours = ["tab:blue" if row["kind"] == "zofx" else "tab:gray" for row in rows]
    bars = axis.barh(names, medians, xerr=reach, color=colours)
    axis.bar_label(bars, [f"  {value:.3g} s" for value in medians])
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_title(case["case"], loc="left")
