"""Squared gradients: what a plain loop over batches gives, and the file that keeps them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)
from transformers.pytorch_utils import Conv1D

from zofx.compiler.sensitivity.measure import Scores, load_scores, sensitivity
from zofx.errors import ArtifactError, UsageError
from zofx.models.checkpoint import Checkpoint, open_checkpoint

SPECIAL = ["<s>", "<pad>", "</s>", "<mask>"]
WORDS = [f"w{i}" for i in range(44)]
VOCAB = {word: i for i, word in enumerate(SPECIAL + WORDS)}
BOS, PAD, EOS, MASK = range(4)
LENGTH = 8
TEXTS = ["w1 w2 w3 w4 w5", "w6", "w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17", "w18 w19", "w20 w21"]

SIZES: dict[str, Any] = {
    "vocab_size": len(VOCAB),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": BOS,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, intermediate_size=32, num_key_value_heads=1),
    "llama-tied": LlamaConfig(**SIZES, intermediate_size=32, tie_word_embeddings=True),
    "opt": OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16),
    "gpt2": GPT2Config(
        vocab_size=len(VOCAB), n_embd=16, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=BOS, eos_token_id=EOS,
    ),
    "roberta": RobertaConfig(**SIZES, intermediate_size=32),
}  # fmt: skip

Make = Callable[[str], Checkpoint]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Checkpoints of tiny random models, with a tokenizer of one word a token."""
    root = tmp_path_factory.mktemp("models")

    def checkpoint(kind: str) -> Checkpoint:
        folder = root / kind
        if not folder.exists():
            auto = AutoModelForMaskedLM if kind == "roberta" else AutoModelForCausalLM
            with torch.random.fork_rng():
                torch.default_generator.manual_seed(0)
                auto.from_config(CONFIGS[kind]).save_pretrained(folder)
            tokenizer(kind).save_pretrained(folder)
        return open_checkpoint(str(folder))

    return checkpoint


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(VOCAB, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = "<s> $A </s>" if kind == "roberta" else "<s> $A"
    words.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def expected_sequences(masked_lm: bool) -> list[list[int]]:
    """What TEXTS become: cut at LENGTH tokens with the special ones, and "w6" predicts nothing."""
    ends = [EOS] if masked_lm else []
    room = LENGTH - 1 - len(ends)
    ids = [[VOCAB[word] for word in text.split()] for text in TEXTS]
    pieces = [line[i : i + room] for line in ids for i in range(0, len(line), room)]
    return [[BOS, *piece, *ends] for piece in pieces if len(piece) > 1]


def masks(sequences: list[list[int]]) -> list[list[int]]:
    """Positions a masked LM predicts: 15 % of the words, those with the least Philox words."""
    chosen = []
    for number, sequence in enumerate(sequences):
        words = [t for t, token in enumerate(sequence) if token >= len(SPECIAL)]
        drawn = np.random.Philox(key=number).random_raw(len(words)).tolist()
        ranked = [t for _, t in sorted(zip(drawn, words, strict=True))]
        chosen.append(ranked[: max(1, round(0.15 * len(words)))])
    return chosen


def gradients(loss: Tensor, weights: dict[str, Any]) -> dict[str, Tensor]:
    """All of them at once, and nowhere else."""
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def straightforward(checkpoint: Checkpoint, cuts: list[int]) -> dict[str, Tensor]:
    """Σ_batches grad² for every Linear and Conv1D that is not tied to an embedding."""
    masked_lm = checkpoint.architecture == "masked-lm"
    auto = AutoModelForMaskedLM if masked_lm else AutoModelForCausalLM
    model = auto.from_pretrained(checkpoint.source).eval()
    embeddings = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    weights = {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and not any(module.weight is e for e in embeddings)
    }
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    sequences = expected_sequences(masked_lm)
    hidden = masks(sequences) if masked_lm else [[] for _ in sequences]
    for start, stop in zip([0, *cuts], [*cuts, len(sequences)], strict=True):
        group = sequences[start:stop]
        width = max(map(len, group))
        ids = torch.tensor([[*s, *[PAD] * (width - len(s))] for s in group])
        attended = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in group])
        targets = ids.masked_fill(attended == 0, -100)
        if masked_lm:
            where = torch.zeros_like(ids, dtype=torch.bool)
            for row, positions in enumerate(hidden[start:stop]):
                where[row, positions] = True
            targets = ids.masked_fill(~where, -100)
            ids = ids.masked_fill(where, MASK)
        logits = model(input_ids=ids, attention_mask=attended).logits
        if not masked_lm:
            logits, targets = logits[:, :-1], targets[:, 1:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        for name, gradient in gradients(loss, weights).items():
            squares[name] += gradient**2
    return squares


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_equal_a_plain_loop_over_batches(kind: str, make: Make) -> None:
    """Same weights, text and batches, gradients kept whole: the same bits, for the same names."""
    checkpoint = make(kind)
    count = len(expected_sequences(kind == "roberta"))
    scores = sensitivity(checkpoint, TEXTS, tokens=1000, batches=2, length=LENGTH)
    wanted = straightforward(checkpoint, [count // 2])
    assert set(scores) == set(wanted)
    for name, squares in wanted.items():
        torch.testing.assert_close(scores[name](), squares, rtol=0, atol=0, msg=name)
        assert squares.count_nonzero() > 0
    assert scores.about.tokens == sum(map(len, expected_sequences(kind == "roberta")))


def test_stops_at_the_number_of_tokens(make: Make) -> None:
    """The budget ends the reading: of an endless text no more is taken than needed."""

    def endless() -> Any:
        while True:
            yield "w1 w2 w3"

    seen: list[tuple[int, int]] = []
    scores = sensitivity(
        make("llama"), endless(), tokens=21, batches=3, progress=lambda *at: seen.append(at)
    )
    assert scores.about.tokens == 24  # six sequences of <s> and three words
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_transposed_name_has_transposed_scores(make: Make) -> None:
    """A program reads GPT-2's [in, out] weights as NAME.T; only stored names are listed."""
    scores = sensitivity(make("gpt2"), TEXTS, batches=1, length=LENGTH)
    name = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(scores[f"{name}.T"](), scores[name]().t())
    assert scores[f"{name}.T"]().is_contiguous()
    assert f"{name}.T" in scores
    assert f"{name}.T" not in list(scores)
    assert "absent.T" not in scores
    assert len(scores) == 8


def test_a_file_gives_back_what_was_saved(make: Make, tmp_path: Path) -> None:
    """Bytes, names and origin survive; nothing else is left in the folder."""
    scores = sensitivity(make("llama"), TEXTS, batches=2, length=LENGTH, text_name="words")
    scores.save(tmp_path / "scores.safetensors")
    again = load_scores(tmp_path / "scores.safetensors")
    assert again.about == scores.about
    assert again.about.text == "words"
    assert set(again) == set(scores)
    assert all(torch.equal(again[name](), scores[name]()) for name in scores)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.safetensors"]
    again.check_model(make("llama"))


def test_scores_of_another_model_are_refused(make: Make) -> None:
    """The hash in the file tells whose weights were measured."""
    scores = sensitivity(make("llama"), TEXTS, batches=1, length=LENGTH)
    with pytest.raises(UsageError, match=r"were made for .*llama .*opt has other weights"):
        scores.check_model(make("opt"))


def test_damaged_and_foreign_files_are_told_apart(make: Make, tmp_path: Path) -> None:
    """Cut short: damaged. Other tensors: no scores. No file: no file."""
    whole, path = tmp_path / "whole", tmp_path / "scores"
    sensitivity(make("llama"), TEXTS, batches=1, length=LENGTH).save(whole)
    path.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="is damaged"):
        load_scores(path)
    save_file(load_file(whole), path)
    with pytest.raises(UsageError, match="holds no sensitivity scores"):
        load_scores(path)
    save_file(load_file(whole), path, metadata={"format": "zofx-sensitivity-1", "tokens": "1"})
    with pytest.raises(ArtifactError, match="metadata are incomplete"):
        load_scores(path)
    with pytest.raises(UsageError, match="there is no file"):
        load_scores(tmp_path / "absent")


def test_a_failed_save_leaves_nothing(make: Make, tmp_path: Path) -> None:
    """A recipe that fails half way leaves neither a file nor a part of one."""
    about = sensitivity(make("llama"), TEXTS, batches=1, length=LENGTH).about

    def fails() -> Tensor:
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        Scores({"w": fails}, about).save(tmp_path / "scores")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "gives 0 sequences, which cannot fill 4 batches"),
        (["w1", "w2", ""], "gives 0 sequences"),
        (TEXTS[:1], "gives 1 sequences, which cannot fill 4 batches; give more text"),
    ],
)
def test_too_little_text_is_refused(texts: list[str], message: str, make: Make) -> None:
    """Every batch needs a sequence, and a sequence something to predict."""
    with pytest.raises(UsageError, match=message):
        sensitivity(make("llama"), texts, batches=4, length=LENGTH)


def test_a_loss_that_is_not_finite_is_refused(make: Make, tmp_path: Path) -> None:
    """Weights that overflow would give scores that are no numbers; the batch is named instead."""
    folder = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(make("llama").source)
    with torch.no_grad():
        model.lm_head.weight[0] = 3e38
    model.save_pretrained(folder)
    tokenizer("llama").save_pretrained(folder)
    with pytest.raises(UsageError, match=r"on batch 1 of 'text' is (nan|inf)"):
        sensitivity(open_checkpoint(str(folder)), TEXTS, batches=2, length=LENGTH)


def test_a_masked_lm_without_a_mask_token_is_refused(make: Make) -> None:
    """There is nothing to hide its words behind."""
    whole = make("roberta")
    assert whole.tokenization is not None
    words = replace(whole.tokenization, special=replace(whole.special, mask_id=None))
    with pytest.raises(UsageError, match="its tokenizer names no mask token"):
        sensitivity(replace(whole, tokenization=words), TEXTS, batches=1, length=LENGTH)
