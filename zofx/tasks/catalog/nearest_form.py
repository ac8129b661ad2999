"""What to say of a record whose form is unknown: what is taken, and which form is nearest.

fields of the record ──names alike──▶ for each form, what it lacks ──▶ the nearest, --columns for it
"""

import difflib
from collections.abc import Mapping
from typing import Final

from zofx.tasks.catalog.forms import FORMS, LABEL_LIKE, Form
from zofx.tasks.types import Record

ALIKE: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("question", "query", "input", "text", "review", "context", "title", "source"),
    "label": LABEL_LIKE,
    "completion": ("answer", "output", "response", "target", "summary", "reply", "translation"),
    "messages": ("conversation", "dialog", "dialogue", "chat"),
}
"""Name in a form → what files call it."""


def advice(record: Record) -> str:
    """What is taken, and what is nearest to this record."""
    advice = [(form, _columns(form, record)) for form in FORMS]
    # Most of its fields there or guessed; of equals the one with the fewest to name.
    nearest, columns = max(
        advice, key=lambda pair: (sum("FIELD" not in c for c in pair[1]), -len(pair[1]))
    )
    named = " ".join(column for column in columns if column)
    taken = "\n".join(f"    {form}" for form in FORMS)
    return (
        f"no form is known of a record with the fields {', '.join(record)}. The nearest is "
        f"{nearest.name}:\n    {nearest}\nName its fields with --columns '{named}', or write the "
        "prompt from fields with --template '{" + next(iter(record), "FIELD") + "}'. Taken are\n"
        f"{taken}"
    )


def _columns(form: Form, record: Record) -> list[str]:
    """For each need a `name=field`: empty if it is there, `name=FIELD` if none looks like it."""
    columns, free = [], [name for name in record if not any(name in g for g in form.needs)]
    for group in form.needs:
        if any(name in record for name in group):
            columns.append("")
            continue
        alike = [name for name in free if name.lower() in ALIKE.get(group[0], ())]
        alike += difflib.get_close_matches(group[0], free, n=1)
        columns.append(f"{group[0]}={alike[0] if alike else 'FIELD'}")
        free = [name for name in free if alike[:1] != [name]]
    return columns
