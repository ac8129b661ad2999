"""Tables of tokens: every id has a text and a type, and what llama.cpp lacks is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from tests.models.test_gguf_export import CONFIGS, SPECIAL, tokenizer
from zofx.errors import UnsupportedError
from zofx.models.gguf_export import export_gguf
from zofx.models.gguf_tokens import CONTROL, NORMAL, UNUSED, token_tables
from zofx.models.tokenizer import split_named


def test_every_row_of_the_embedding_has_a_token() -> None:
    """259 tokens of 300 rows: the rest are named and unused; special ones are control tokens."""
    tables = token_tables(tokenizer(), 300)
    assert len(tables["list"]) == len(tables["types"]) == len(set(tables["list"])) == 300
    assert tables["list"][:2] == ["<s>", "</s>"]
    assert tables["types"] == [CONTROL] * 2 + [NORMAL] * 257 + [UNUSED] * 41
    assert tables["merges"] == ["t h"]


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_a_way_of_splitting_is_found_by_what_it_does(name: str) -> None:
    """The name that is found splits as the one that was meant."""
    found = token_tables(tokenizer(split_named(name)), 300)["pre"]
    text = "It's 2024, don't  panic!\n\nOK"
    assert split_named(found).pre_tokenize_str(text) == split_named(name).pre_tokenize_str(text)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pre_tokenizer": json.loads(tokenizer(pre_tokenizers.Whitespace()))["pre_tokenizer"]},
         "no name for how it splits text"),
        ({"normalizer": {"type": "Lowercase"}}, "written here: byte-level BPE"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_llama_cpp_lacks_is_refused(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    """Before a weight is written."""
    config = CONFIGS["llama"]
    fields = json.dumps({**json.loads(tokenizer()), **change}).encode()
    with pytest.raises(UnsupportedError, match=why):
        export_gguf(config.to_dict(), fields, iter(()), tmp_path / "out", SPECIAL)
    assert list(tmp_path.iterdir()) == []
