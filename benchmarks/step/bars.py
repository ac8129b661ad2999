"""What is claimed of a step, as data, and whether a case keeps it.

    speed     median over rounds of  t(other) / t(zofx)      at least
    cost      median over rounds of  t(zofx) / t(other)      at most
    z         seconds of drawing z / seconds of the step     at most
    memory    peak resident set / (weights + activations)    at most

A ratio pairs the two times of one round, so that what slows the machine slows both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal, TypeAlias

from benchmarks.step.job import PEERS

Row: TypeAlias = Mapping[str, Any]
Measure: TypeAlias = Literal["speed", "cost", "z", "memory"]


@dataclass(frozen=True)
class Bar:
    """One claim.

    Attributes:
        what: is measured.
        zofx: method and runtime of the contestant it is about; of any frozen format.
        other: the peer it is compared with, where there is one.
        limit: not to be crossed.
        rows: the kind of batch it is about (`kind_of`); "" for all.
        batch: the least number of examples it is about.
    """

    what: Measure
    zofx: tuple[str, str]
    limit: float
    other: str = ""
    rows: str = ""
    batch: int = 1

    def __str__(self) -> str:
        sign = "≥" if self.what == "speed" else "≤"
        against = f" / {self.other}" if self.other else ""
        return f"{' '.join(self.zofx)}: {self.what}{against} {sign} {self.limit:g}"


SENSZOQ: Final = ("senszoq", "ort")

BARS: Final = (
    Bar("speed", SENSZOQ, 20, "MeZO", rows="6 × 1", batch=16),
    Bar("speed", SENSZOQ, 10, "MeZO", rows="2 × 1"),
    Bar("speed", SENSZOQ, 5, "MeZO", rows="1 × n"),
    Bar("speed", ("mezo", "torch"), 3, "MeZO", rows="6 × 1", batch=16),
    Bar("speed", ("lozo", "ort"), 6, "LOZO", rows="6 × 1", batch=16),
    Bar("cost", SENSZOQ, 1.05, "inference"),
    Bar("z", SENSZOQ, 0.02),
    Bar("memory", SENSZOQ, 1.3),
)


def kind_of(shape: Row) -> str:
    """Scored candidates per example, and tokens of each: "6 × 1", "2 × 1", "1 × n", …."""
    return f"{shape['candidates']} × {'1' if shape['scored_tokens'] == 1 else 'n'}"


def judged(case: Row, bars: Sequence[Bar] = BARS) -> list[dict[str, Any]]:
    """Every claim about a case whose contestants were measured.

    Args:
        case: as in the results.
        bars: the claims.

    Returns:
        Of each: the claim, who, the value, whether it is kept, and whether that is of a
        stand-in alone.
    """
    shape = case["shape"]
    about = [
        bar
        for bar in bars
        if bar.rows in ("", kind_of(shape)) and shape["batch"] >= bar.batch
    ]  # fmt: skip
    return [
        {
            "bar": str(bar), "contestant": row["contestant"], "value": value,
            "kept": value >= bar.limit if bar.what == "speed" else value <= bar.limit,
            "stand_in": stand_in,
        }
        for bar in about
        for row, value, stand_in in _values(bar, case["contestants"])
    ]  # fmt: skip


def _values(bar: Bar, rows: Sequence[Row]) -> Iterator[tuple[Row, float, bool]]:
    """Whom the claim is about, the value, and whether a stand-in took the other's part."""
    for row in rows:
        if row["kind"] != "zofx" or (row["method"], row["runtime"]) != bar.zofx:
            continue
        if bar.what == "z":
            yield row, row["shares"].get("z", 0.0), False
        elif bar.what == "memory":
            least = row["weights_bytes"] + row["activations_bytes"]
            yield row, row["peak_bytes"] / least, False
        elif (other := _other(bar, row, rows)) is not None:
            pair = (other, row) if bar.what == "speed" else (row, other)
            yield row, paired(*pair), other["stand_in"]


def _other(bar: Bar, row: Row, rows: Sequence[Row]) -> Row | None:
    """The row compared with: of the same frozen format, where it has one."""
    for other in rows:
        same = not other["quant"] or other["quant"] == row["quant"]
        if bar.other == PEERS.get(other["kind"]) and same:
            return other
    return None


def paired(above: Row, below: Row) -> float:
    """Median over rounds of the ratio of two times."""
    pairs = zip(above["seconds"], below["seconds"], strict=True)
    return float(median(a / b for a, b in pairs))
