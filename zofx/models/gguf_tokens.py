"""A tokenizer as the tables of a GGUF file: the inverse of `tokenizer.from_gguf`.

tokenizer.json ──▶ tokens by id, their types, merges, and the name of how text is split
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from tokenizers import Tokenizer

from zofx.errors import UnsupportedError
from zofx.models.tokenizer import SpecialTokens, pre_tokenizer_names, split_named

NORMAL: Final = 1
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
"""Types of tokens."""


def token_tables(tokenizer_json: bytes, rows: int) -> dict[str, Any]:
    """The tables of a byte-level BPE.

    Raises:
        UnsupportedError: it is another kind of tokenizer, or splits text in an unknown way.
    """
    fields = json.loads(tokenizer_json)
    if fields["model"].get("type") != "BPE" or fields.get("normalizer"):
        kind = fields["model"].get("type")
        raise refused("the tokenizer", f"it is {kind}; written here: byte-level BPE")
    known = [name for name in pre_tokenizer_names() if _splits_alike(fields, name)]
    if not known:
        raise refused("the tokenizer", "llama.cpp has no name for how it splits text into words")
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    texts = {index: token for token, index in tokenizer.get_vocab(True).items()}
    added = {t["id"]: CONTROL if t["special"] else USER_DEFINED for t in fields["added_tokens"]}
    count = max(rows, max(texts) + 1)
    merges = fields["model"]["merges"]
    return {
        "pre": known[0],
        "list": [texts.get(i, f"[PAD{i}]") for i in range(count)],
        "types": [added.get(i, NORMAL if i in texts else UNUSED) for i in range(count)],
        "merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
    }


def _splits_alike(fields: Mapping[str, Any], name: str) -> bool:
    """Whether a tokenizer splits text as `tokenizer.ggml.pre` of this name does."""
    bare = Tokenizer.from_str(json.dumps({**fields, "added_tokens": [], "post_processor": None}))
    bare.pre_tokenizer = split_named(name)
    alike: bool = _plain(json.loads(bare.to_str())["pre_tokenizer"]) == _plain(
        fields["pre_tokenizer"]
    )
    return alike


def _plain(value: Any) -> Any:
    """Without what concerns offsets alone."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items() if key != "trim_offsets"}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def add_tokenizer(
    writer: Any, tokens: Mapping[str, Any], special: SpecialTokens, chat_template: str | None
) -> None:
    """Write the tables, the ids of special tokens and the template."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens["pre"])
    writer.add_token_list(tokens["list"])
    writer.add_token_types(tokens["types"])
    writer.add_token_merges(tokens["merges"])
    ids = {"bos": special.bos_id, "eos": special.eos_id, "pad": special.pad_id}
    for name, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(special.adds_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def refused(what: str, *reasons: str) -> UnsupportedError:
    """The error that says what cannot be written, and why."""
    return UnsupportedError(f"{what} cannot be written as GGUF; use `--to hf`", list(reasons))
