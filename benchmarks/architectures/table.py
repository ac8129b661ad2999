"""The results as text: counts by class, and a table."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MOST = 200
"""Characters of a reason."""

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


def page(lines: list[dict[str, Any]], everything: Iterable[str], about: str) -> str:
    """The results as a page of the documentation.

    Args:
        lines: of the results.
        everything: all architectures, "causal/llama"; those without a line were not run.
        about: how the results were made.
    """
    rows = {line["architecture"]: line for line in lines}
    parts = [TITLE, about, summary(lines)]
    for what in ("causal", "masked"):
        names = sorted(name for name in everything if name.startswith(f"{what}/"))
        run = [name for name in names if name in rows]
        right = [name for name in run if _reason(rows[name]) == "right"]
        parts += [
            f"## {what.capitalize()}",
            f"{len(right)} of {len(run)} that were run are right on both runtimes: "
            + ", ".join(_short(name) for name in right)
            + ".",
        ]
        others = [(_short(name), _reason(rows[name])) for name in run if name not in right]
        table = ["| architecture | what came of it |", "|---|---|", *map(_row, others)]
        parts.append("\n".join(table))
        if left := [_short(name) for name in names if name not in rows]:
            parts.append(f"Not run: {', '.join(left)}.")
    return "\n\n".join(parts) + "\n"


TITLE = """# Architectures

Every causal and masked architecture of transformers, as a tiny random model: compiled with `mezo`
and without quantization, its log-probabilities on rows of other lengths than were traced, padded
on the left and on the right, beside transformers' own of each row alone. *Right*: within 1e-3
nats on PyTorch and on ONNX Runtime. *No tiny model*: transformers makes none of the shrunk
configuration, which says nothing of zofx. Only this column was run: quantized weights, LoRA and
training steps of these models are not covered here."""


def _short(name: str) -> str:
    return name.partition("/")[2]


def _reason(line: Mapping[str, Any]) -> str:
    """The first line of the first outcome that is not right, without folders of this machine."""
    if line["made"]:
        return f"no tiny model: {_first(line['made'])}"
    wrong = [text for text in line["outcomes"].values() if text != "right"]
    return _first(wrong[0]) if wrong else "right"


def _first(text: str) -> str:
    plain = re.sub(r"/\S*/", "…/", " ".join(text.split())).replace("|", "\\|")
    return plain if len(plain) <= MOST else plain[: MOST - 1] + "…"


def _row(pair: tuple[str, str]) -> str:
    return f"| {pair[0]} | {pair[1]} |"
