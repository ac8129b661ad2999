"""Tiny checkpoints, a tiny tokenizer and a tiny task in real formats, all made in code."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

VOCABULARY = 200
POSITIONS = 48
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SUBJECTS = ("the film", "the plot", "the acting", "the music", "the end", "the story")
PRAISE = ("was a joy", "made me smile", "shone all along", "was full of life")
BLAME = ("was a bore", "made me yawn", "fell apart soon", "was full of holes")
CANDIDATES = (" bad", " good")

CALIBRATION = "\n\n".join(
    f"{subject} {one} and {other} so it was {word} ."
    for subject in SUBJECTS
    for verdicts, word in ((PRAISE, "good"), (BLAME, "bad"))
    for one in verdicts
    for other in verdicts
)
"""96 paragraphs of the tokenizer's words."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the texts above."""
    words = sorted(set(CALIBRATION.split()))
    vocab = {word: index for index, word in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=POSITIONS,
    )


def tiny_llama(folder: Path, layers: int = 1) -> Path:
    """A causal model whose rows quantize in blocks of 32; returns the folder."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
    return _saved(LlamaForCausalLM(config), folder)


def tiny_roberta(folder: Path, layers: int = 1) -> Path:
    """A masked model; returns the folder."""
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
    return _saved(RobertaForMaskedLM(config), folder)


def tiny_gpt2(folder: Path, layers: int = 1) -> Path:
    """A causal model that stores its weights transposed and ties its head; returns the folder."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=layers,
        n_head=2,
        n_positions=POSITIONS,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
    return _saved(GPT2LMHeadModel(config), folder)


def tiny_falcon(folder: Path, layers: int = 1) -> Path:
    """A causal model whose queries share one head of keys and values; returns the folder."""
    config = FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        multi_query=True,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
    return _saved(FalconForCausalLM(config), folder)


def _saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def task_file(path: Path, *, ask: str = " so it was") -> Path:
    """A sentiment task of 48 lines in the documented format; returns the path."""
    lines = [
        {"prompt": f"{subject} {words}{ask}", "candidates": CANDIDATES, "answer": answer}
        for subject in SUBJECTS
        for answer, verdicts in enumerate((BLAME, PRAISE))
        for words in verdicts
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def calibration_file(path: Path) -> Path:
    """The texts above as a file of paragraphs; returns the path."""
    path.write_text(CALIBRATION, encoding="utf-8")
    return path
