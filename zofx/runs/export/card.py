"""The model card: what an exported folder is, how it was made and how well it did.

    Subject ──▶ README.md    YAML that model hubs read · what · results · settings · identity

Results are the run's own evaluations on dev, with their intervals. The step was chosen by them, and
the card says so; held-out figures are added by whoever measures them.
"""

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any, Final

from ruamel.yaml import YAML

from zofx.runs.evaluation import Evaluation
from zofx.runs.export.subject import Subject
from zofx.runs.run_config import packages

TAGS: Final = ("zofx", "zeroth-order-optimization")
INTEGERS: Final = (
    "The artifact multiplies activations that are rounded to 8 bits, and this export multiplies "
    "floats: log-probabilities differ by that rounding, and an answer whose candidates are close "
    "may differ."
)
CHOSEN: Final = (
    "The step was chosen by these evaluations, on examples that were not trained on: expect a "
    "little less elsewhere."
)
NO_RUN: Final = "The model as compiled: nothing was trained."
PIPELINES: Final = {"causal-lm": "text-generation", "masked-lm": "fill-mask"}


def card(subject: Subject, what: str, notes: Iterable[str] = (), **front: Any) -> str:
    """The text of README.md.

    Args:
        subject: what is exported.
        what: the export in a sentence.
        notes: paragraphs on how it answers, and what it needs.
        front: more fields of the front matter.
    """
    model = subject.manifest.model
    fields = {"pipeline_tag": PIPELINES[model["architecture"]], "tags": list(TAGS), **front}
    paragraphs = [
        f"---\n{_yaml(fields)}---",
        f"# {_title(subject)}",
        what,
        *notes,
        *([INTEGERS] if subject.rounds_activations else []),
        *_results(subject),
        "## Made of\n\n" + _table(("", ""), _identity(subject)),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _title(subject: Subject) -> str:
    model = subject.manifest.model["source"].rstrip("/").rpartition("/")[2]
    if subject.run is None:
        return _plain(model)
    return _plain(f"{model} tuned on {_task(subject.run.config.task.name)}")


def _task(name: str) -> str:
    return name.rpartition("/")[2]


def _results(subject: Subject) -> list[str]:
    if subject.run is None or subject.step is None:
        return [NO_RUN]
    config = subject.run.config
    settings = {**config.options, "task": _task(config.task.name)}  # no paths of this machine
    rows = [(n, v) for n, v in settings.items() if v is not None and v is not False]
    evaluations = subject.run.evaluations()
    parts = []
    if evaluations:
        taken = {s: e for s, e in evaluations.items() if s in (0, subject.step)}
        lines = [row for step, result in sorted(taken.items()) for row in _measured(step, result)]
        parts.append(
            f"## Results\n\nOn {config.drawn.get('dev', 0)} examples drawn as dev of the task "
            f"{_plain(_task(config.task.name))}; 95 % intervals (Wilson).\n\n"
            + _table(("step", "metric", "value", "interval", "examples"), lines)
            + (f"\n\n{CHOSEN}" if subject.step == subject.run.best() else "")
        )
    return [*parts, "## Settings\n\n" + _table(("option", "value"), rows)]


def _measured(step: int, result: Evaluation) -> Iterable[tuple[Any, ...]]:
    """A line per metric of an evaluation."""
    fields = result.to_dict()
    for name, interval in (
        ("accuracy", "interval95"),
        ("f1", "f1_interval95"),
        ("exact_match", "exact_match_interval95"),
    ):
        if name in fields:
            low, high = fields[interval]
            yield step, name, f"{fields[name]:.4f}", f"{low:.4f} to {high:.4f}", result.examples
    if "macro_f1" in fields:
        yield step, "macro F1", f"{fields['macro_f1']:.4f}", "", result.examples
        share = fields["majority"]["share"]
        yield step, "always the largest class", f"{share:.4f}", "", result.examples
    yield step, result.objective, f"{result.loss:.4f}", "", result.examples


def _identity(subject: Subject) -> list[tuple[Any, ...]]:
    """What rebuilds these weights bit by bit: the artifact and the journal."""
    manifest, run = subject.manifest, subject.run
    model = manifest.model
    rows: list[tuple[Any, ...]] = [
        ("model", model["source"]),
        *([("commit", model["commit"])] if model.get("commit") else []),
        ("weights of the model", f"SHA-256 {model['hash']}"),
        ("frozen matrices", ", ".join(subject.stored_as) or "as the model has them"),
        ("method", manifest.method),
        ("pipeline", manifest.pipeline),
        ("artifact", f"SHA-256 {manifest.hash}"),
    ]
    if run is not None:
        rows += [
            ("steps", f"{subject.step} of {run.journal().next_step}"),
            ("journal up to there", f"SHA-256 {subject.journal_hash}"),
            *((f"version of {name}", text) for name, text in run.config.versions.items()),
        ]
    return [*rows, ("exported by", f"zofx {packages()['zofx']}")]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in row) + " |" for row in lines)


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _yaml(fields: Mapping[str, Any]) -> str:
    out, yaml = StringIO(), YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(dict(fields), out)
    return out.getvalue()
