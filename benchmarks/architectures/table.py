"""The results as text: counts by class, and a table."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

CLASSES = ("right", "torch only", "ort only", "wrong numbers", "refused", "crash")


def of_class(outcome: str) -> str:
    """The class of an outcome, without its reason."""
    return outcome.partition(":")[0]


def counts(lines: Iterable[Mapping[str, Any]], what: str, column: str) -> dict[str, int]:
    """How many architectures of a kind end in each class; "no tiny model" is one more."""
    counted: Counter[str] = Counter()
    for line in lines:
        if line["architecture"].startswith(f"{what}/"):
            outcome = line["outcomes"].get(column)
            counted[of_class(outcome) if outcome else "no tiny model"] += 1
    return {name: counted[name] for name in (*CLASSES, "no tiny model")}


def summary(lines: list[dict[str, Any]]) -> str:
    """A table of the counts, in Markdown."""
    columns = sorted({c for line in lines for c in line["outcomes"]}, key="mezo lora".find)
    rows = ["| | " + " | ".join((*CLASSES, "no tiny model")) + " |", "|---" * 8 + "|"]
    for what in ("causal", "masked"):
        for column in columns:
            numbers = counts(lines, what, column).values()
            rows.append(f"| {what}, {column} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(rows)
