"""The plots of a report, by plotly: hover shows numbers, a legend click hides a run.

Every run has one colour in all of them. More than MOST points of a line are means of equal parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from zofx.runs.evaluation import Evaluation
from zofx.runs.report.history import History
from zofx.tasks.metrics import wilson

MOST: Final = 2000
WINDOW: Final = 20
"""Steps of a moving mean."""

COLOURS: Final = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f",
)  # fmt: skip
"""Okabe and Ito's palette: told apart by colour-blind people."""

INK: Final = "#7a7a7a"
"""Of text and axes: it reads on white and on black."""


Plot: TypeAlias = Any
"""A `plotly.graph_objects.Figure`; the library is imported where one is made."""


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        title: of its section.
        caption: what is to be seen, in a sentence or two.
        html: a div and the script that fills it.
    """

    title: str
    caption: str
    html: str


def figures(runs: Sequence[History]) -> list[Figure]:
    """Those that have something to show."""
    made = [_loss(runs), _metric(runs), _gaps(runs), _memory(runs)]
    return [figure for figure in made if figure is not None]


def confusion(run: History, evaluation: Evaluation) -> Figure | None:
    """The confusion matrix of an evaluation."""
    if evaluation.classes is None:
        return None
    labels = [repr(label) for label in evaluation.classes.labels]
    counts = evaluation.classes.matrix
    figure = _empty()
    figure.add_heatmap(
        z=counts.tolist(), x=labels, y=labels, text=counts.tolist(), texttemplate="%{text}",
        colorscale="Blues", showscale=False,
        hovertemplate="gold %{y}, answered %{x}: %{z}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", title="gold")
    figure.update_xaxes(title="answer")
    height = 160 + 36 * len(labels)
    caption = f"Rows are right answers, columns the answers of step {run.best}."
    return Figure("Confusion", caption, _html(figure, height))


def _loss(runs: Sequence[History]) -> Figure | None:
    figure = _empty()
    for run, colour in zip(runs, _colours(runs), strict=True):
        steps = [record.step for record in run.steps]
        losses = [record.loss for record in run.steps]
        if losses:
            _line(figure, _thinned(steps, losses), run.name, colour, group=run.name, faint=True)
            mean = np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid").tolist()
            if len(mean) > 1:
                centre = [step + WINDOW / 2 for step in steps[: len(mean)]]
                _line(figure, _thinned(centre, mean), run.name, colour, group=run.name, width=2.5)
        rows = sorted(run.evaluations.items())
        figure.add_scatter(
            x=[s for s, _ in rows], y=[e.loss for _, e in rows], mode="markers",
            name=f"{run.name}, dev", legendgroup=run.name,
            marker={"color": colour, "size": 9, "symbol": "diamond"},
        )  # fmt: skip
    _axes(figure, "step", _objective(runs))
    return Figure(
        "Loss",
        f"Thin: of the batch of every step, as its probes saw it. Thick: the mean of {WINDOW} "
        "steps. Diamonds: on dev.",
        _html(figure),
    )


def _metric(runs: Sequence[History]) -> Figure | None:
    figure, names = _empty(), set()
    for run, colour in zip(runs, _colours(runs), strict=True):
        rows = [(s, *m) for s, e in sorted(run.evaluations.items()) if (m := _measured(e))]
        if not rows:
            continue
        steps, kinds, values, lows, highs, shares = zip(*rows, strict=True)
        names.add(kinds[0])
        figure.add_scatter(
            x=steps, y=values, mode="lines+markers", name=run.name,
            marker={"color": colour, "size": 8}, line={"color": colour},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.2,
                "array": [high - value for high, value in zip(highs, values, strict=True)],
                "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
            },
        )  # fmt: skip
        if shares[-1] is not None:
            _line(figure, ([steps[0], steps[-1]], [shares[-1]] * 2), f"{run.name}, largest class",
                  colour, dash="dot")  # fmt: skip
    if not names:
        return None
    _axes(figure, "step", " or ".join(sorted(names)))
    return Figure(
        "On dev",
        "With 95 % intervals (Wilson): where two overlap, the examples do not tell them apart. "
        "Dotted: what always answering the largest class gets.",
        _html(figure),
    )


def _gaps(runs: Sequence[History]) -> Figure | None:
    """Signal and noise of the differences that steps follow."""
    figure = _empty()
    for run, colour in zip(runs, _colours(runs), strict=True):
        rows = [(record.step, record.gap) for record in run.steps if record.gap]
        if not rows:
            continue
        steps, gaps = zip(*rows, strict=True)
        scale = _per_slope(run)
        slopes = [gap * scale for gap in gaps]
        _line(figure, _thinned(steps, slopes), run.name, colour)
        if run.preflight is not None and run.preflight.noise > 0:
            noise = math.sqrt(2) * run.preflight.noise * scale
            _line(figure, ([steps[0], steps[-1]], [noise] * 2), f"{run.name}, round-off", colour,
                  dash="dot")  # fmt: skip
    if not figure.data:
        return None
    _axes(figure, "step", "projected gradient, rms")
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return Figure(
        "Projected gradient",
        "The size of the slopes along a step's directions. Dotted: the slope that round-off alone "
        "would show, as the pre-flight measured it; the ratio of the two is the signal-to-noise.",
        _html(figure),
    )


def _memory(runs: Sequence[History]) -> Figure | None:
    figure = _empty()
    names = [run.name for run in runs]
    parts = {name: [run.sizes.get(name) for run in runs] for name in runs[0].sizes}
    for name, values in {"process, at its largest": [r.peak_mib for r in runs], **parts}.items():
        if any(value is not None for value in values):
            figure.add_bar(
                y=names, x=values, name=name, orientation="h",
                hovertemplate="%{x:,.1f} MiB<extra>%{fullData.name}</extra>",
            )  # fmt: skip
    if not figure.data:
        return None
    figure.update_layout(barmode="group", colorway=list(COLOURS))
    _axes(figure, "MiB", "")
    figure.update_yaxes(autorange="reversed")
    return Figure(
        "Memory",
        "The largest resident set of the process that trained, beside the files of the artifact "
        "that it reads.",
        _html(figure, 130 + 80 * len(runs)),
    )


def _empty() -> Plot:
    from plotly.graph_objects import Figure as Empty

    return Empty()


def _measured(evaluation: Evaluation) -> tuple[str, float, float, float, float | None] | None:
    """Metric, value, interval, and the share of the largest class."""
    if evaluation.accuracy is not None:
        low, high = evaluation.accuracy.interval
        share = evaluation.classes.majority[1] if evaluation.classes else None
        return ("accuracy", evaluation.accuracy.value, low, high, share)
    if evaluation.text is not None:
        low, high = wilson(evaluation.text.overlap, evaluation.text.total)
        return ("F1", evaluation.text.f1, low, high, None)
    return None


def _per_slope(run: History) -> float:
    """What turns a difference of losses into a slope."""
    settings = run.run.config.settings
    return 1 / (settings.eps * (2 if settings.estimator == "two-point" else 1))


def _objective(runs: Sequence[History]) -> str:
    return " or ".join(dict.fromkeys(run.run.config.objective for run in runs))


def _colours(runs: Sequence[History]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(runs))]


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Both, as means of at most MOST equal parts."""
    if len(x) <= MOST:
        return list(x), list(y)
    parts = np.linspace(0, len(x), MOST + 1).astype(int)[:-1]
    counts = np.diff([*parts, len(x)])
    sums = (np.add.reduceat(np.asarray(v, np.float64), parts) for v in (x, y))
    means = [(total / counts).tolist() for total in sums]
    return means[0], means[1]


def _line(
    figure: Plot, points: tuple[Sequence[float], Sequence[float]], name: str, colour: str,
    *, group: str | None = None, faint: bool = False, **style: Any,
) -> None:  # fmt: skip
    figure.add_scatter(
        x=list(points[0]), y=list(points[1]), mode="lines", name=name, legendgroup=group,
        opacity=0.35 if faint else 1.0, showlegend=not (faint and group),
        line={"color": colour, "width": 1.5, **style},
    )  # fmt: skip


def _axes(figure: Plot, x: str, y: str) -> None:
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)


def _html(figure: Plot, height: int = 380) -> str:
    grid = {"gridcolor": "rgba(127,127,127,0.25)", "zerolinecolor": "rgba(127,127,127,0.4)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    figure.update_layout(
        height=height, margin={"l": 64, "r": 16, "t": 16, "b": 48}, font={"color": INK, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    config: dict[str, Any] = {"displaylogo": False, "responsive": True}
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return html
