"""One architecture: a tiny model, compiled, its scores beside transformers' own.

    rows alone, unpadded ─transformers─▶ log-probabilities at two positions of each     the truth
    rows padded, left and right ─zofx─▶ the same                                        compared

transformers runs as it is: its own attention and its own positions. Where its scores of padded
rows are not those of the rows alone, they depend on the padding; then its scores of the padded rows
count too. Log-probabilities of the whole vocabulary are compared, at lengths that were not traced.
"""

import inspect
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from architectures.configs import PAD, VOCABULARY, tiny
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.errors import ZofxError
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import RUNTIMES
from zofx.session import Batch, unperturbed

AUTO: Final = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
LENGTHS: Final = ((5, 17, 12), (1, 31, 2))
TOLERANCE: Final = 1e-3
"""Nats: forty times what sums of 64 products in f32 give over two layers."""
COLUMNS: Final = {
    "mezo": ("mezo", Options(quant="none")),
    "lora": ("mezo", Options(quant="none", train="lora")),
    "lozo": ("lozo", Options(quant="none")),
}


@dataclass
class Verdict:
    """What came of an architecture.

    Attributes:
        architecture: model type, as `causal/llama`.
        made: why there is no tiny model; "" if there is one.
        outcomes: column → right, torch only, ort only, wrong numbers, refused, crash, and for some
            the first line of the reason.
        errors: column/engine → the largest difference in nats.
        padding: whether transformers' own scores depend on the padding.
        seconds: of all of it.
    """

    architecture: str
    made: str = ""
    outcomes: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    padding: bool = False
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A line of the results."""
        return asdict(self)


@dataclass(frozen=True)
class Rows:
    """Rows padded to one length, and where each is read.

    Attributes:
        ids: i64[N, T].
        mask: i64[N, T].
        places: i64[N, 2], within the padded rows.
        wanted: f32[N, 2, V], log-probabilities of each row alone.
        padded: f32[N, 2, V], what transformers gives the padded rows; None if it fails.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor
    wanted: torch.Tensor
    padded: torch.Tensor | None


def judge(name: str, columns: list[str], work: Path) -> Verdict:
    """Make, compile and compare one architecture; never raises what it does."""
    what, _, kind = name.partition("/")
    verdict = Verdict(name)
    try:
        model = tiny_model(kind, what)
        cases = list(_cases(model))
    except Exception as error:  # transformers' own: no tiny model of it can be made here
        verdict.made = _first_line(error)
        return verdict
    verdict.padding = any(_apart(c.padded, c.wanted) > TOLERANCE for c in cases)
    folder = work / name.replace("/", "-")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        model.save_pretrained(folder / "model")
        _tokenizer().save_pretrained(folder / "model")
        for column in columns:
            verdict.outcomes[column] = _outcome(column, folder, cases, verdict)
    except Exception as error:
        verdict.made = _first_line(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


def tiny_model(kind: str, what: str) -> PreTrainedModel:
    """A model with large enough weights that attention is no average."""
    auto = AUTO[what]
    config = tiny(kind, what == "causal", auto.from_config)
    torch.manual_seed(0)  # noqa: TID251  initial weights of a test model
    model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape)
            if parameter.dim() > 1:
                parameter.copy_(drawn / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(drawn / 10)
    model.tie_weights()
    return model.eval()


def _cases(model: PreTrainedModel) -> Iterator[Rows]:
    random = torch.Generator().manual_seed(0)
    for lengths in LENGTHS:
        rows = [torch.randint(4, VOCABULARY, (n,), generator=random) for n in lengths]
        alone = [_logprobs(model, row[None], None)[0] for row in rows]
        for left in (True, False):
            yield _padded(model, rows, alone, left)


def _padded(
    model: PreTrainedModel, rows: list[torch.Tensor], alone: list[torch.Tensor], left: bool
) -> Rows:
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    places, wanted = [], []
    for number, row in enumerate(rows):
        start = longest - len(row) if left else 0
        ids[number, start : start + len(row)] = row
        mask[number, start : start + len(row)] = 1
        own = [len(row) // 2, len(row) - 1]
        places.append([start + place for place in own])
        wanted.append(alone[number][own])
    at = torch.tensor(places)
    try:
        padded = _logprobs(model, ids, mask)[torch.arange(len(rows))[:, None], at]
    except Exception:  # its own code may not take a mask
        padded = None
    return Rows(ids, mask, at, torch.stack(wanted), padded)


def _logprobs(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """What transformers gives, f32[N, T, V]."""
    accepted = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if mask is not None:
        more["attention_mask"] = mask
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, **more).logits
    return logits.log_softmax(-1)


def _outcome(column: str, folder: Path, cases: list[Rows], verdict: Verdict) -> str:
    method, options = COLUMNS[column]
    try:
        checkpoint = open_checkpoint(str(folder / "model"))
        compile_model(checkpoint, METHODS[method], folder / column, options=options)
    except ZofxError as error:
        return f"refused: {_first_line(error)}"
    except Exception as error:
        _show(error)
        return f"crash: {_first_line(error)}"
    fine = {}
    for engine in ("torch", "ort"):
        try:
            error = _compare(folder / column, engine, cases)
        except Exception as crash:
            _show(crash)
            fine[engine] = f"crash: {engine}: {_first_line(crash)}"
        else:
            verdict.errors[f"{column}/{engine}"] = error
            fine[engine] = "right" if error <= TOLERANCE else "wrong numbers"
    if len(set(fine.values())) == 1:
        return fine["torch"]
    if "right" in fine.values():
        good = "torch" if fine["torch"] == "right" else "ort"
        other = fine["ort" if good == "torch" else "torch"]
        return f"{good} only: {other}"
    return next(iter(sorted(fine.values())))


def _compare(artifact: Path, engine: str, cases: list[Rows]) -> float:
    """The largest difference over all cases, in nats; nan counts as infinite."""
    session = RUNTIMES[engine].load(artifact, threads=1)
    try:
        return max(_difference(session, case) for case in cases)
    finally:
        session.close()


def _difference(session: Any, case: Rows) -> float:
    rows = len(case.ids)
    targets = np.broadcast_to(np.arange(VOCABULARY), (rows, 1, VOCABULARY)).copy()
    worst = 0.0
    for place in range(case.places.shape[1]):
        at = case.places[:, place : place + 1].numpy()
        batch = Batch(case.ids.numpy(), case.mask.numpy(), at, targets)
        result = torch.from_numpy(np.array(session.evaluate(batch, [], unperturbed())[0]))
        wanted = [case.wanted] if case.padded is None else [case.wanted, case.padded]
        each = [_apart(result, w[:, place, :VOCABULARY]) for w in wanted]
        worst = max(worst, min(each))
    return worst


def _apart(a: torch.Tensor | None, b: torch.Tensor) -> float:
    if a is None:
        return 0.0
    apart: NDArray[np.float32] = (a - b).abs().numpy()
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max())


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<s>", "<pad>", "</s>", "<mask>"] + [f"w{n}" for n in range(4, VOCABULARY)]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        mask_token="<mask>",
    )


def _first_line(error: BaseException) -> str:
    """What it says, on one line; a reason goes with the refusal."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"


def _show(error: BaseException) -> None:
    traceback.print_exception(error, file=sys.stderr)
