"""Results as text: a table per case, and whether its claims are kept."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from benchmarks.step.bars import paired
from zofx.cli.console import columns, size

Row: TypeAlias = Mapping[str, Any]

HEAD: Final = (
    "contestant", "median", "min", "quartiles", "ratio", "paired", "peak", "loss", "where",
)  # fmt: skip


def rendered(results: Row) -> str:
    """All cases."""
    machine = results["machine"]
    first = f"{machine['processor']}, {machine['cores']} cores; commit {machine['commit']}"
    return "\n\n".join([first, *(_case(case) for case in results["cases"])])


def _case(case: Row) -> str:
    shape, rows = case["shape"], case["contestants"]
    text = (
        f"{case['case']}: {shape['rows']} rows of {shape['tokens']} tokens for {shape['batch']} "
        f"examples; {case['rounds']} steps each. ratio = median / median of "
        f"{rows[0]['contestant'] if rows else 'none'}; paired = the median of ratios within rounds"
    )
    lines = [text, columns([HEAD, *(_line(row, rows[0]) for row in rows)], "  ")]
    lines += [f"  left out: {row['contestant']}: {row['why']}" for row in case["left_out"]]
    lines += [f"  FAILED: {row['error']}" for row in case["failed"]]
    if case["bars"]:
        lines.append(columns([_bar(bar) for bar in case["bars"]], "  "))
    return "\n".join(lines)


def _line(row: Row, first: Row) -> tuple[str, ...]:
    low, high = row["quartiles"]
    return (
        row["contestant"] + (" (stand-in)" if row["stand_in"] else ""),
        f"{row['median']:.4g} s",
        f"{row['min']:.4g}",
        f"{low:.4g}–{high:.4g}",
        f"{row['median'] / first['median']:.2f}",
        f"{paired(row, first):.2f}",
        size(row["peak_bytes"]),
        f"{row['first_loss']:.4f}",
        ", ".join(f"{name} {share:.1%}" for name, share in row["shares"].items()),
    )


def _bar(bar: Row) -> tuple[str, ...]:
    verdict = "pass" if bar["kept"] else "FAIL"
    note = "(stand-in)" if bar["stand_in"] else ""
    return verdict, bar["contestant"], bar["bar"], f"{bar['value']:.3g}", note
