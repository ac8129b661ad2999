"""JSON that anyone may have written: a value, or one kind of error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zofx.files.strict_json import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_written_reads_back(value: object) -> None:
    """Escaped or not, as text or as bytes."""
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text) == parse_json(text.encode()) == value


@given(st.binary())
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    """No other error, and no recursion."""
    try:
        parse_json(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '"\\ud800"', '["\\uDFFF"]', "9" * 5000, "", "\ufeff"]
)
def test_what_pythons_reader_takes_or_chokes_on(text: str) -> None:
    """Refused as any other text that is no JSON."""
    with pytest.raises(ValueError):  # noqa: PT011  each has its own message
        parse_json(text)


def test_a_path_that_is_not_utf_8_may_be_reported() -> None:
    """Where paths are expected, and nowhere else."""
    text = json.dumps(b"\xff/model".decode(errors="surrogateescape"))
    assert parse_json(text, paths=True).encode(errors="surrogateescape") == b"\xff/model"
    with pytest.raises(ValueError, match="surrogates"):
        parse_json(text)
