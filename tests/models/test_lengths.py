"""Lengths and positions: by what a model does, its values those of transformers on rows alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    Gemma2Config,
    GPTNeoConfig,
    GptOssConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from tests.golden import captured, decided, logits
from tests.models.architectures import GATED, ONE, VOCABULARY, eager, recipes, weights
from tests.passes.toys import Toy
from zofx.errors import CaptureError
from zofx.ir.program import Program
from zofx.models.capture import capture
from zofx.models.checkpoint import Architecture, architecture_of, build_on_meta
from zofx.models.lengths import usable_tokens

NEO: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 40, "window_size": 4,
    "attention_types": [[["global", "local"], 1]],
}  # fmt: skip
CASES: dict[str, tuple[PreTrainedConfig, int]] = {
    "positions from the row after the padding's": (
        RobertaConfig(
            **GATED, type_vocab_size=1, is_decoder=True, architectures=["RobertaForCausalLM"]
        ),
        38,
    ),
    "positions by the mask": (OPTConfig(**ONE, ffn_dim=32, word_embed_proj_dim=16), 40),
    "a table of 40 positions, cut to the text": (
        BertConfig(**GATED, architectures=["BertForMaskedLM"]), 40,
    ),
    "attention op by op": (
        Gemma2Config(**GATED, num_key_value_heads=1, head_dim=8, sliding_window=4), 40,
    ),
    "a mixture of experts": (
        MixtralConfig(
            **GATED, num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2
        ), 40,
    ),
    "experts with biases, stored [in, out]": (
        GptOssConfig(
            **GATED, num_key_value_heads=1, head_dim=8, num_local_experts=4,
            num_experts_per_tok=2, sliding_window=4, layer_types=["sliding_attention"],
        ), 40,
    ),
    "attention op by op under a mask of 40 positions": (GPTNeoConfig(**NEO), 40),
}  # fmt: skip
LENGTHS = (1, 4, 13, 24)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[PreTrainedConfig, int, Architecture, Program]:
    """Each traced once."""
    config, usable = CASES[request.param]
    architecture = architecture_of("it", config)
    model = build_on_meta(config, architecture)
    program = capture(model, recipes(weights(model)), causal=architecture == "causal-lm")
    return config, usable, architecture, program


def test_padded_rows_score_as_rows_alone(
    case: tuple[PreTrainedConfig, int, Architecture, Program],
) -> None:
    """The model numbers positions by its own rule; padding on the right moves nothing."""
    config, _, architecture, program = case
    model = eager(config, architecture)
    random = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, VOCABULARY, (n,), generator=random) for n in LENGTHS]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    last = torch.tensor(LENGTHS)[:, None] - 1
    given = {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "positions": last,
        "targets": torch.zeros(len(rows), 1, 1, dtype=torch.long),
    }
    with torch.no_grad():
        alone = [model(input_ids=row[None]).logits[:, -1:] for row in rows]
    torch.testing.assert_close(logits(program, given), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_text_is_as_long_as_the_rows_of_positions_that_can_be_used(
    case: tuple[PreTrainedConfig, int, Architecture, Program],
) -> None:
    """Rows before the first position are none of them; less than the whole is no question."""
    _, usable, _, program = case
    assert usable_tokens(program, 40) == usable
    assert usable_tokens(program, 7) == 7


class Table(Toy):
    """Adds the first T rows of a stored table of 20, and says that there are more."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(20, 4))

    def logits(self, x: Tensor) -> Any:
        return (x + self.table[: x.shape[1]].expand_as(x)) @ self.embed.weight.T


def test_a_model_for_few_tokens() -> None:
    """The error names what its code asks for."""
    with pytest.raises(CaptureError, match=r"cannot trace Table: .* asks for T of at most 20\n"):
        captured(Table())


def test_a_model_whose_configuration_names_its_tokens() -> None:
    """The axis ends there, or one before."""
    toy = Table()
    toy.config = SimpleNamespace(max_position_embeddings=20)  # type: ignore[assignment]
    assert captured(toy).tensors["table"].shape == (20, 4)


def test_a_stored_buffer_never_trains() -> None:
    """It may be in the checkpoint like any weight."""
    toy = Table()
    toy.config = SimpleNamespace(max_position_embeddings=20)  # type: ignore[assignment]
    names = recipes(dict(toy.state_dict()))
    assert decided(capture(toy.eval(), names, causal=True), "fixed") == {"table": True}
