r"""JSON from a file that anyone may have written: one kind of error, ValueError, for every fault.

Python's reader recurses as deeply as a text nests, and takes "\ud800", half of a character, which
no file can be written with.
"""

import json
from typing import Any, Final

HALF: Final = "\\ud"
"""How an escaped half of a character begins, whole pairs too."""


def parse_json(text: str | bytes, *, paths: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: of the file.
        paths: whether a path that is not UTF-8 may be among its strings, as Python spells it.

    Raises:
        ValueError: it is none, nests too deeply, or holds half a character or an endless number.
    """
    decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = json.loads(decoded)
        if HALF in decoded.lower():
            json.dumps(value, ensure_ascii=False).encode(
                errors="surrogateescape" if paths else "strict"
            )
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    return value
