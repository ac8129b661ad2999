"""Greedy text: token for token what transformers writes, on every runtime and under every probe."""

import json
from collections.abc import Iterator
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PreTrainedConfig

from tests import tiny
from tests.artifacts import made_up_scores
from tests.scripted import scripted
from zofx.cli.export import export
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.errors import DivergenceError, UnsupportedError, UsageError
from zofx.models.checkpoint import open_checkpoint
from zofx.runs.compiled_model import open_model
from zofx.runs.task_data import Workload, open_workload
from zofx.runtimes import RUNTIMES
from zofx.session import Session
from zofx.tasks.generation import generate
from zofx.tasks.selection import TaskChoice
from zofx.zo.types import Key, Ray

SIZES = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": tiny.POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=64, initializer_range=0.3),
    "opt": OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32, init_std=0.3),
}
"""Weights so large that the next token hangs on the whole text, as it does in a trained model."""

PROMPTS = [[7], [9, 30, 11, 44, 5], list(range(20, 37)), list(range(190, 160, -1))]
NEW = 12


class Written:
    """An artifact of full precision, and the checkpoint that `zofx export` makes of it.

    Args:
        folder: for all of it.
        config: of the model.
    """

    def __init__(self, folder: Path, config: PreTrainedConfig) -> None:
        torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
        tiny.tokenizer().save_pretrained(folder / "model")
        checkpoint = open_checkpoint(str(folder / "model"))
        self.artifact = folder / "artifact"
        compile_model(
            checkpoint, METHODS["senszoq"], self.artifact,
            scores=made_up_scores(checkpoint), options=Options("none", fraction=0.05),
        )  # fmt: skip
        export(self.artifact, folder / "exported")
        self.exported = AutoModelForCausalLM.from_pretrained(folder / "exported").eval()
        self.sessions = {name: RUNTIMES[name].load(self.artifact, threads=1) for name in RUNTIMES}

    def reference(self, prompt: list[int], new: int) -> list[int]:
        """What transformers adds to one row."""
        ids = torch.tensor([prompt])
        output = self.exported.generate(ids, do_sample=False, max_new_tokens=new)
        added: list[int] = output[0, len(prompt) :].tolist()
        return added


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Written]]:
    """All of them: pytest would make one that is a parameter itself again for every engine."""
    written = {name: Written(tmp_path_factory.mktemp(name), CONFIGS[name]) for name in CONFIGS}
    yield written
    for session in (s for one in written.values() for s in one.sessions.values()):
        session.close()


@pytest.fixture(params=CONFIGS)
def written(made: dict[str, Written], request: pytest.FixtureRequest) -> Written:
    return made[request.param]


@pytest.fixture
def opened(written: Written, engine: str) -> Session:
    return written.sessions[engine]


def write(session: Session, prompts: list[list[int]], **changed: object) -> list[list[list[int]]]:
    """`generate` with the numbers of the tiny models."""
    usual = {
        "max_new_tokens": NEW, "stop_ids": {2}, "pad_id": 1,
        "max_positions": tiny.POSITIONS, "vocabulary": tiny.VOCABULARY,
    }  # fmt: skip
    return generate(session, prompts, **{**usual, **changed})  # type: ignore[arg-type]


def test_texts_are_those_of_transformers(written: Written, opened: Session) -> None:
    """Four rows of different lengths in one batch, each equal to its row written alone."""
    (texts,) = write(opened, PROMPTS)
    assert texts == [written.reference(prompt, NEW) for prompt in PROMPTS]
    assert len({tuple(text) for text in texts}) == len(PROMPTS)
    assert max(len(set(text)) for text in texts) > NEW // 2


def test_a_stop_token_ends_its_row_and_no_other(written: Written, opened: Session) -> None:
    """The third token of a row, declared a stop, is its last; rows without it go on."""
    whole = [written.reference(prompt, NEW) for prompt in PROMPTS]
    stop = whole[1][2]
    cut = [text[: text.index(stop) + 1] if stop in text else text for text in whole]
    assert len(cut[1]) <= 3
    assert max(map(len, cut)) == NEW
    assert write(opened, PROMPTS, stop_ids={2, stop}) == [cut]


def test_positions_end_a_row(written: Written, opened: Session) -> None:
    """A prompt of 45 tokens has room for three in 48 positions; one of 48 has room for none."""
    prompt = [5 + i % 90 for i in range(tiny.POSITIONS - 3)]
    assert write(opened, [prompt]) == [[written.reference(prompt, 3)]]
    with pytest.raises(UsageError, match="prompt 1 has 48 tokens, and the model has 48 positions"):
        write(opened, [prompt, [5] * tiny.POSITIONS])


def test_a_probe_writes_what_its_weights_write(opened: Session) -> None:
    """Two probes at once write what θ ± ε·z writes when it is moved there, and they differ."""
    key = Key(seed=3, step=5)
    matrix = np.array([[0.05], [-0.05]], dtype=np.float32)
    texts = write(opened, PROMPTS, keys=[key], matrix=matrix)
    start, alone = opened.read(), []
    for (coefficient,) in matrix:
        opened.move([Ray(key, float(coefficient))])
        alone += write(opened, PROMPTS)
        opened.write(start)
    assert texts == alone
    assert texts[0] != texts[1]


def test_a_pair_is_computed_once_and_forwards_are_shared() -> None:
    """Probes that agree share a forward; rows that part, or are equal, are not computed twice."""

    def rule(total: float, text: tuple[int, ...]) -> int:
        return 5 if text == (2, 4) and total < 0 else len(text) + text[0]

    session, kept = scripted(rule)
    matrix = np.array([[1], [-1]], dtype=np.float32)
    texts = generate(
        session, [[1, 3], [2, 4], [1, 3]], keys=[Key(0, 0)], matrix=matrix,
        max_new_tokens=2, pad_id=0, max_positions=None, vocabulary=8,
    )  # fmt: skip
    assert texts == [[[3, 4], [4, 5], [3, 4]], [[3, 4], [5, 5], [3, 4]]]
    assert kept.asked == [
        ([1, -1], [(1, 3), (2, 4)]),
        ([1, -1], [(1, 3, 3)]),
        ([1], [(2, 4, 4)]),
        ([-1], [(2, 4, 5)]),
    ]


def test_a_row_that_ended_is_read_no_more() -> None:
    """Later forwards hold the rows that still grow, and are no longer than these."""
    session, kept = scripted(lambda total, text: 6 if len(text) == 3 else 4)
    written = generate(
        session, [[1], [1, 2, 3]], max_new_tokens=4, stop_ids=[6],
        pad_id=0, max_positions=None, vocabulary=8,
    )  # fmt: skip
    assert written == [[[4, 4, 6], [6]]]
    assert [texts for _, texts in kept.asked] == [[(1,), (1, 2, 3)], [(1, 4)], [(1, 4, 4)]]


def test_the_first_of_equals_is_taken() -> None:
    """As argmax has it, in numpy as in torch."""
    session, _ = scripted(lambda total, text: 99)  # no token of the vocabulary: all are equal
    texts = generate(session, [[3]], max_new_tokens=2, pad_id=0, max_positions=9, vocabulary=8)
    assert texts == [[[0, 0]]]


def test_what_is_not_a_number_is_told_with_the_step() -> None:
    """Destroyed weights have no likeliest token."""
    session, _ = scripted(lambda total, text: nan)
    with pytest.raises(DivergenceError, match="are not numbers") as caught:
        write(session, [[3]], keys=[Key(0, 7)], matrix=np.ones((1, 1), np.float32))
    assert caught.value.step == 7


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [([[3], []], 1, "prompt 1 is empty"), ([[3]], 0, "0 new tokens")],
)
def test_nothing_to_write_is_an_error(prompts: list[list[int]], new: int, message: str) -> None:
    """No token to continue, or none to add."""
    session, kept = scripted(lambda total, text: 1)
    with pytest.raises(UsageError, match=message):
        write(session, prompts, max_new_tokens=new)
    assert kept.asked == []


def test_the_vocabulary_and_the_ends_are_the_models(made: dict[str, Written]) -> None:
    """From the configuration, not from the tokenizer, which knows fewer tokens."""
    model = open_model(made["opt"].artifact)
    assert model.vocabulary == tiny.VOCABULARY > model.tokenizer.get_vocab_size()
    assert model.end_ids == {2}
    config = {"text_config": {"vocab_size": 300}, "eos_token_id": [8, 9]}
    nested = replace(model, manifest=replace(model.manifest, config=config))
    assert nested.vocabulary == 300
    assert nested.end_ids == {2, 8, 9}
    unknown = replace(model, manifest=replace(model.manifest, config={}))
    with pytest.raises(UnsupportedError, match="has no vocab_size"):
        unknown.decoder(model.encoder(None, False))


def test_a_masked_model_cannot_generate(made: dict[str, Written]) -> None:
    """It fills gaps; asking it for a text raises an error that says to compile another one."""
    model = open_model(made["opt"].artifact)
    described = {**model.manifest.model, "architecture": "masked-lm"}
    masked = replace(model, manifest=replace(model.manifest, model=described))
    with pytest.raises(UsageError, match="masked language model: it fills gaps"):
        masked.decoder(model.encoder(None, False))


def workload(folder: Path, made: dict[str, Written], completions: list[str]) -> Workload:
    lines = ({"prompt": "the film was", "completion": text} for text in completions)
    (folder / "say.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return open_workload(open_model(made["llama"].artifact), TaskChoice(str(folder / "say.jsonl")))


@pytest.mark.parametrize(
    ("completions", "stop"),
    [([" a joy\n"] * 9, "\n"), ([" a joy\n", " a bore"] * 5, None), ([" a\njoy\n"] * 9, None)],
    ids=["each a line", "not all end", "two lines"],
)
def test_texts_end_as_the_gold_ones_do(
    made: dict[str, Written], tmp_path: Path, completions: list[str], stop: str | None
) -> None:
    """A newline ends an answer where it ends every gold one, and is in none of them before."""
    decoder = workload(tmp_path, made, completions).decoder
    assert (decoder.stop, decoder.max_new_tokens) == (stop, 50)


def test_texts_may_be_as_long_as_the_gold_ones(made: dict[str, Written], tmp_path: Path) -> None:
    """Beyond fifty tokens, where the longest completion of the task has more."""
    assert workload(tmp_path, made, [" joy" * 60, *[" joy"] * 9]).decoder.max_new_tokens == 60
