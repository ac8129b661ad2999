"""The tokenizer of a checkpoint as one `tokenizers.Tokenizer`: it runs without transformers.

    Hugging Face folder   AutoTokenizer's fast backend
    GGUF metadata         byte-level BPE: tokens, merges, and the split `tokenizer.ggml.pre` names

It encodes as the checkpoint's own tokenizer does, special tokens included, or is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer

from zofx.errors import UnsupportedError, UsageError
from zofx.files.strict_json import parse_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
PROBE = "The year is 1984; don't ask."
CANNOT_REBUILD = "this GGUF file's tokenizer cannot be rebuilt; use the model's Hugging Face folder"
WRITTEN_ANEW = ("transformers_version", "_from_model_config")
"""Of generation_config.json: about the file, not about text."""
UNLIMITED = 1 << 30  # transformers writes 1e30 for "no limit"

# token types of GGUF
CONTROL, USER_DEFINED = 3, 4
# llama.cpp adds BOS to these by default, and looks whole words up before merging
LLAMA3 = frozenset({"llama-bpe", "llama3", "llama-v3"})
GPT2 = frozenset({"gpt-2", "default"})


@dataclass(frozen=True)
class SpecialTokens:
    """Ids a driver needs.

    Attributes:
        bos_id: begin of sequence, if there is one.
        eos_id: end of sequence, if there is one.
        pad_id: padding; where the checkpoint names none, EOS or else 0 (padding is masked anyway).
        mask_id: the mask of a masked-LM; None otherwise.
        mask_token: its text.
        adds_bos: whether the checkpoint's tokenizer puts BOS before every text.
        end_ids: tokens that end a text besides EOS, of the checkpoint's generation_config.json.
    """

    bos_id: int | None
    eos_id: int | None
    pad_id: int
    mask_id: int | None = None
    mask_token: str | None = None
    adds_bos: bool = False
    end_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tokenization:
    """A tokenizer and what goes with it.

    Attributes:
        tokenizer: text to ids and back; neither pads nor truncates.
        special: its special ids.
        max_length: the longest input it was made for, in tokens; None if it does not say.
        chat_template: how it writes conversations, as a Jinja program.
        special_texts: names of special tokens, as in tokenizer_config.json → their texts.
        generation: generation_config.json, where there is one.
    """

    tokenizer: Tokenizer
    special: SpecialTokens
    max_length: int | None = None
    chat_template: str | None = None
    special_texts: Mapping[str, str] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


def from_folder(folder: Path) -> Tokenization | None:
    """The tokenizer of a Hugging Face folder; None if the folder has none.

    Raises:
        UsageError: its files are damaged.
        UnsupportedError: it exists in Python only, or does what no tokenizer.json says.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        hf = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes the parsers raise
        raise UsageError(
            f"the tokenizer in {folder} cannot be read ({reason(error)}); "
            "copy the tokenizer files from where the model came from again"
        ) from error
    if not hf.is_fast:
        raise UnsupportedError(
            f"the tokenizer in {folder} cannot be saved as tokenizer.json",
            [f"{type(hf).__name__} exists in Python only; convert it to a fast tokenizer first"],
        )
    tokenizer = Tokenizer.from_str(hf.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = hf(PROBE).input_ids
    if tokenizer.encode(PROBE).ids != ids:
        raise UnsupportedError(
            f"the tokenizer in {folder} cannot be saved as tokenizer.json",
            [f"{type(hf).__name__} changes what its tokenizer.json encodes"],
        )
    generation = _generation(folder / "generation_config.json")
    special = SpecialTokens(
        bos_id=hf.bos_token_id,
        eos_id=hf.eos_token_id,
        pad_id=_first(hf.pad_token_id, hf.eos_token_id),
        mask_id=hf.mask_token_id,
        mask_token=hf.mask_token,
        adds_bos=hf.bos_token_id is not None and ids[0] == hf.bos_token_id,
        end_ids=_more_ends(generation, hf.eos_token_id, folder),
    )
    limit = hf.model_max_length
    longest = limit if limit < UNLIMITED else None
    texts = {name: str(text) for name, text in hf.special_tokens_map.items() if _is_text(text)}
    return Tokenization(
        tokenizer, special, longest, _chat_template(hf.chat_template), texts, generation
    )


def reason(error: Exception) -> str:
    """A library's message, without advice to set options of its own that zofx has not."""
    if "trust_remote_code" in str(error):
        return "it needs Python code that comes with it, and zofx runs no code of a model"
    return str(error)


def _generation(path: Path) -> Mapping[str, Any]:
    """How a generation_config.json says that text is drawn; nothing where there is none.

    Raises:
        UsageError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        fields = parse_json(path.read_bytes())
        return {name: value for name, value in fields.items() if name not in WRITTEN_ANEW}
    except (ValueError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _more_ends(generation: Mapping[str, Any], eos_id: int | None, folder: Path) -> tuple[int, ...]:
    """The ends of a text, besides EOS, that a generation configuration names.

    Raises:
        UsageError: they are no ids.
    """
    named = generation.get("eos_token_id")
    listed = named if isinstance(named, list) else [named]
    try:
        return tuple(int(index) for index in listed if index not in (None, eos_id))
    except (ValueError, TypeError) as error:
        raise _unreadable(folder / "generation_config.json", error) from error


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} cannot be read ({error}); copy it from where the model came from again"
    )


def _is_text(token: Any) -> bool:
    return isinstance(token, (str, AddedToken))


def from_gguf(metadata: Mapping[str, Any]) -> Tokenization:
    """The tokenizer that GGUF metadata describe.

    Raises:
        UnsupportedError: not a byte-level BPE, or a way of splitting text that is not known here.
    """
    field = {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items()}
    if field.get("model") != "gpt2" or "tokens" not in field or "merges" not in field:
        kind = repr(field["model"]) if "model" in field else "absent"
        raise UnsupportedError(
            CANNOT_REBUILD,
            [f"tokenizer.ggml.model is {kind}; read here: 'gpt2' with tokens and merges"],
        )
    name = field.get("pre", "default")
    tokens, bos = field["tokens"], field.get("bos_token_id")
    bpe = BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ", 1)) for merge in field["merges"]],
        ignore_merges=name in LLAMA3,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = split_named(name)
    tokenizer.decoder = decoders.ByteLevel()
    types = list(zip(tokens, field.get("token_type", ()), strict=False))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in types if kind == CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) for t, kind in types if kind == USER_DEFINED]
    )
    adds_bos = bos is not None and field.get("add_bos_token", name in LLAMA3)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    eos = field.get("eos_token_id")
    special = SpecialTokens(bos, eos, _first(field.get("padding_token_id"), eos), adds_bos=adds_bos)
    template = metadata.get("tokenizer.chat_template")
    return Tokenization(tokenizer, special, chat_template=_chat_template(template))


def _chat_template(template: Any) -> str | None:
    """The one for conversations, where a checkpoint has several."""
    chosen = template.get("default") if isinstance(template, Mapping) else template
    return chosen if isinstance(chosen, str) else None


def _first(*ids: int | None) -> int:
    return next((index for index in ids if index is not None), 0)


def pre_tokenizer_names() -> tuple[str, ...]:
    """The names of `tokenizer.ggml.pre` that are known."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return ("gpt-2", "default", "smollm", *GGUF_PRE_TOKENIZER_SPLITS)


def split_named(name: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that `tokenizer.ggml.pre` names."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if name in GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if name not in GGUF_PRE_TOKENIZER_SPLITS:
        known = sorted(pre_tokenizer_names())
        raise UnsupportedError(
            CANNOT_REBUILD,
            [f"tokenizer.ggml.pre is {name!r}; known: {', '.join(known)}"],
        )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
