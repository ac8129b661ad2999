"""A language model and the loss MeZO trains it on, by transformers alone, in float64.

    causal    a row = [bos] tok(prompt + candidate), one for every candidate
              score = mean log p of the tokens the candidate adds to tok(prompt)
    masked    a row = tok(prompt), one for every question;  score = log p(candidate) at the mask
    f         mean over questions of −log softmax(scores)[answer]

Source: Malladi et al. 2023 (arXiv 2305.17333), §2 and appendix D.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests import tiny
from tests.methods.reference import Tensors

MASK = "[MASK]"


class Question(NamedTuple):
    """A prompt, the texts that may follow it (or fill its mask), and which one is right."""

    prompt: str
    candidates: tuple[str, ...]
    answer: int


def tiny_opt(folder: Path, layers: int = 1) -> Path:
    """MeZO's own family of models, small, with a smooth activation; returns the folder."""
    config = OPTConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tiny.POSITIONS,
        activation_function="gelu",
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
    OPTForCausalLM(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@dataclass(frozen=True, eq=False)
class Row:
    """Tokens, which of them are scored, and what they are scored on."""

    tokens: Tensor
    positions: Tensor
    targets: Tensor


class Model:
    """A checkpoint in float64; `weights` are its parameters by name, tied ones once.

    Args:
        folder: of the checkpoint.
        causal: what it predicts: the next token or a masked one.
    """

    def __init__(self, folder: Path, causal: bool) -> None:
        kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
        # transformers' own ("eager") attention takes its softmax in float32
        self.net: PreTrainedModel = kind.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="sdpa"
        ).eval()
        self.causal = causal
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.weights: Tensors = {n: p.detach() for n, p in self.net.named_parameters()}

    def loss(self, questions: Sequence[Question]) -> "BatchLoss":
        """F on these questions, as a function of the weights."""
        return BatchLoss(self, questions)

    def rows(self, question: Question) -> list[Row]:
        """As many as the question takes."""
        if not self.causal:
            return [self._masked(question)]
        return [self._causal(question.prompt, text) for text in question.candidates]

    def logits(self, weights: Tensors, tokens: Tensor, mask: Tensor) -> Tensor:
        """f64[N, T, vocabulary]."""
        given = {"input_ids": tokens, "attention_mask": mask}
        with sdpa_kernel(SDPBackend.MATH):  # the backend that has forward derivatives
            output = torch.func.functional_call(self.net, weights, (), given)
        logits: Tensor = output.logits
        return logits

    def ids(self, text: str) -> list[int]:
        """Without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _causal(self, prompt: str, candidate: str) -> Row:
        tokens = torch.tensor([self.tokenizer.bos_token_id, *self.ids(prompt + candidate)])
        option = len(tokens) - 1 - len(self.ids(prompt))
        return Row(
            tokens, torch.arange(len(tokens) - option - 1, len(tokens) - 1), tokens[-option:]
        )

    def _masked(self, question: Question) -> Row:
        tokens = torch.tensor(self.ids(question.prompt.replace(MASK, self.tokenizer.mask_token)))
        words = torch.tensor([self.ids(text)[0] for text in question.candidates])
        place = (tokens == self.tokenizer.mask_token_id).nonzero().flatten()
        return Row(tokens, place.expand(len(words)), words)


class BatchLoss:
    """f of one batch: see `tests.methods.reference.Loss`."""

    def __init__(self, model: Model, questions: Sequence[Question]) -> None:
        self.model = model
        self.questions = questions
        self.rows = [row for question in questions for row in model.rows(question)]
        tokens = [row.tokens for row in self.rows]
        pad = model.tokenizer.pad_token_id
        self.tokens = pad_sequence(tokens, batch_first=True, padding_value=pad)
        self.mask = pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True)

    def __call__(self, weights: Tensors) -> Tensor:
        """f(weights), f64[]."""
        with torch.no_grad():
            return self._mean(weights)

    def slope(self, weights: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """By forward-mode differentiation, along a direction that may leave some weights out."""
        tangents = {n: along.get(n, torch.zeros_like(values)) for n, values in weights.items()}
        with warnings.catch_warnings():  # torch compiles rules of its own in a way it deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            value, derivative = torch.func.jvp(self._mean, (dict(weights),), (tangents,))[:2]
        return value, derivative

    def gradient(self, weights: Tensors, names: Sequence[str]) -> Tensors:
        """∂f/∂weights[name], for these names."""
        chosen = {name: weights[name].clone().requires_grad_() for name in names}
        slopes = torch.autograd.grad(self._mean({**weights, **chosen}), list(chosen.values()))
        return dict(zip(names, slopes, strict=True))

    def _mean(self, weights: Tensors) -> Tensor:
        logprob = self.model.logits(weights, self.tokens, self.mask).log_softmax(-1)
        scored = [
            logprob[n, row.positions, row.targets] for n, row in enumerate(self.rows)
        ]  # one value per scored token
        if self.model.causal:
            scores = torch.stack([tokens.mean() for tokens in scored])
            each = torch.split(scores, [len(one.candidates) for one in self.questions])
        else:
            each = tuple(scored)
        losses = [
            -candidates.log_softmax(0)[question.answer]
            for candidates, question in zip(each, self.questions, strict=True)
        ]
        return torch.stack(losses).mean()
