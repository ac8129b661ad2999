"""Tokenizers of checkpoints: what goes with them, and what their libraries say."""

import json
from pathlib import Path

import pytest

from tests import tiny
from zofx.errors import UsageError
from zofx.models.tokenizer import from_folder, reason


def test_every_end_that_generation_names_is_kept(tmp_path: Path) -> None:
    """Besides the tokenizer's own; a damaged file is an error, and none means none."""
    folder = tiny.tiny_llama(tmp_path / "llama")
    path = folder / "generation_config.json"
    for named, ends in ((7, (7,)), ([2, 7], (7,)), (2, ()), (None, ())):
        path.write_text(json.dumps({"eos_token_id": named}))
        made = from_folder(folder)
        assert made is not None
        assert made.special.end_ids == ends
    path.write_text("{")
    with pytest.raises(UsageError, match=r"generation_config.json cannot be read"):
        from_folder(folder)


def test_advice_of_a_library_is_not_passed_on() -> None:
    """There is no trust_remote_code in zofx."""
    message = reason(ValueError("Please pass the argument `trust_remote_code=True`"))
    assert "trust_remote_code" not in message
    assert reason(ValueError("no vocabulary")) == "no vocabulary"
