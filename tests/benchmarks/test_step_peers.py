"""Stand-ins and checkouts of peers do the mathematics that zofx does; no timings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.fidelity.subject import Ground, Step, Trajectory
from benchmarks.step import lora
from benchmarks.step.contestants import doubled
from benchmarks.step.public import public_step
from benchmarks.step.rows import Inputs, collate, rows_of
from benchmarks.step.standin import RANK, Draw, Lozo, Mezo, ZoSgd, candidate_loss, seeded
from tests.benchmarks.checkouts import dense, low_rank
from tests.benchmarks.steps import encoder
from tests.runtimes import reference
from zofx.errors import UsageError
from zofx.session import Batch, unperturbed
from zofx.tasks.objectives import OBJECTIVES
from zofx.tasks.types import Example

UNIT = 2.0**-24
EXAMPLES = (
    Example("the plot was a joy so it", (" was a bore", " good", " made me smile"), 2),
    Example("the end fell apart soon so it was", (" bad", " good"), 0),
)


def loaded(along: Trajectory, dtype: torch.dtype) -> PreTrainedModel:
    """The tiny OPT."""
    return AutoModelForCausalLM.from_pretrained(along.checkpoint, dtype=dtype).eval()


def inputs_of(step: Step) -> Inputs:
    """What a stand-in reads of a step's batch."""
    examples = step.asked.encoded.examples
    rows = [row for e in examples for row in rows_of(e, encoder(), gold_only=False)]
    return collate(rows, encoder().pad_id)


def given(along: Trajectory, t: int) -> Any:
    """zofx's z of a step, weight by weight, in every sweep anew."""

    def sequence(seed: int) -> Draw:
        values = iter([along.z(t, 0, name) for name in along.names])
        return lambda shape: next(values).reshape(shape)

    return sequence


def test_the_stand_in_takes_the_step_that_zofx_takes(along: Trajectory) -> None:
    """Its losses are zofx's within their derived rounding, along one z; so are its weights."""
    for step in along.steps:
        model = loaded(along, torch.float64)
        for name, weight in model.named_parameters():
            weight.data = along.weights(step.before)[name].clone()
        peer = Mezo(model, along.settings.lr, along.settings.eps, given(along, step.t))
        losses = torch.stack(peer.step(inputs_of(step)))
        assert ((losses - step.losses).abs() <= step.allowed).all()
        # c is off by what the losses are, and θ' = θ − ηcz by five roundings besides
        c = (step.losses[0] - step.losses[1]) / (2 * along.settings.eps)
        c_off = step.allowed.sum() / (2 * along.settings.eps)
        after = along.weights(step.after)
        for name, weight in model.named_parameters():
            z = along.z(step.t, 0, name).abs()
            size = weight.detach().abs() + along.settings.lr * c.abs() * z
            bound = 6 * UNIT * size + along.settings.lr * c_off * z
            assert ((weight - after[name]).abs() <= bound).all(), name


def test_rows_are_those_of_the_public_collator(along: Trajectory) -> None:
    """The same tokens, counts and answers; padded to a multiple of eight."""
    for step in along.steps:
        ours, theirs = inputs_of(step), step.asked.inputs
        assert ours["input_ids"].shape[1] % 8 == 0
        width = theirs["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(ours[name][:, -width:], theirs[name])
        assert not ours["attention_mask"][:, :-width].any()
        for name in ("labels", "option_len", "num_options"):
            assert torch.equal(ours[name], theirs[name])


def test_the_language_models_loss_is_that_of_zofx(ground: Ground, along: Trajectory) -> None:
    """One row per example, the right candidate; per token, within the derived rounding."""
    from zofx.runtimes import RUNTIMES

    encoded = encoder().encode(EXAMPLES, gold_only=True)
    folder = ground.root / "mezo"
    session = RUNTIMES["torch"].load(folder, threads=1)
    scores = session.evaluate(encoded.batch, [], unperturbed())
    loss = OBJECTIVES["likelihood"].loss(scores, encoded).mean[0]
    meant, rounding = reference.trace(folder, encoded.batch, [], unperturbed(), session.read())
    tokens = torch.from_numpy(encoded.counts[:, 0]).double()
    mean = -(meant[0, :, 0] @ tokens) / tokens.sum()
    rows = [row for e in EXAMPLES for row in rows_of(e, encoder(), gold_only=True)]
    with torch.no_grad():
        wanted = candidate_loss(loaded(along, torch.float64), collate(rows, 1))
    assert abs(loss - float(wanted)) <= float(rounding.bound(mean))


def test_a_checkout_takes_the_steps_of_its_stand_in(along: Trajectory, tmp_path: Path) -> None:
    """Same draws, same model: two steps of a checkout like MeZO's and of the stand-in agree."""
    settings = along.settings
    step = public_step("mezo", dense(tmp_path), along.checkpoint, 1, settings.lr, settings.eps)
    peer = Mezo(loaded(along, torch.float32), settings.lr, settings.eps, lambda t: seeded(7))
    for taken in along.steps[:2]:
        inputs = inputs_of(taken)
        ours, theirs = torch.stack(peer.step(inputs)), torch.stack(step(inputs))
        # the forwards are one code; a score adds up at most 16 terms, and ± is a difference of both
        assert torch.allclose(ours.double(), theirs, rtol=64 * UNIT, atol=0)


def test_a_checkout_of_lozo_is_stepped(along: Trajectory, tmp_path: Path) -> None:
    """Both losses are given, and the next step starts elsewhere."""
    step = public_step("lozo", low_rank(tmp_path, anew=True), along.checkpoint, 1, 0.1, 2.0**-6)
    inputs = inputs_of(along.steps[0])
    first, second = (torch.stack(step(inputs)) for _ in range(2))
    assert first.shape == second.shape == (2,)
    assert not torch.equal(first, second)


def test_a_checkout_of_another_repository_is_refused(along: Trajectory, tmp_path: Path) -> None:
    """With the file that is not there."""
    with pytest.raises(UsageError, match=r"large_models/utils\.py is not there"):
        public_step("mezo", tmp_path, along.checkpoint, 1, along.settings.lr, 2.0**-6)


def moved(model: PreTrainedModel, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far each matrix has gone."""
    return {
        name: weight.detach() - before[name]
        for name, weight in model.named_parameters()
        if weight.ndim == 2
    }


def test_lozo_moves_in_one_low_rank_subspace(along: Trajectory) -> None:
    """A step of a matrix has rank r, and the next one is in the span of the same V."""
    model = loaded(along, torch.float64)
    peer = Lozo(model, 1.0, along.settings.eps, lambda s: lambda shape: seeded(s)(shape).double())
    changes = []
    for _ in range(2):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        peer.step(inputs_of(along.steps[0]))
        changes.append(moved(model, before))
    for name, first in changes[0].items():
        both = torch.cat([first, changes[1][name]])
        assert torch.linalg.matrix_rank(both, rtol=1e-9) == RANK, name
        assert torch.linalg.matrix_rank(first, rtol=1e-9) == RANK, name


def test_zo_sgd_is_mezo_by_an_optimizer(along: Trajectory) -> None:
    """On the same draws both lead to the same weights, to rounding in float64."""
    ends, settings = [], along.settings
    for kind in (Mezo, ZoSgd):
        model = loaded(along, torch.float64)
        peer = kind(model, settings.lr, settings.eps, given(along, 0))
        peer.step(inputs_of(along.steps[0]))
        ends.append(dict(model.named_parameters()))
    for name, weight in ends[0].items():
        size = weight.abs() + along.z(0, 0, name).abs()
        assert ((weight - ends[1][name]).abs() <= 2**-50 * size).all()
        assert ends[1][name].grad is None


def test_lora_starts_at_the_model_and_trains_adapters_alone(
    along: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss is the model's own; on one batch it falls; the base stays."""
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    model, inputs = loaded(along, torch.float32), inputs_of(along.steps[0])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    own = candidate_loss(model, inputs).detach()
    adapted, made_by = lora.adapted(model)
    assert made_by == ""
    peer = lora.FirstOrder(adapted)
    losses = [float(peer.step(inputs)[0]) for _ in range(8)]
    assert losses[0] == float(own)
    assert losses[-1] < losses[0]
    frozen = {n.replace(".base", ""): p for n, p in adapted.named_parameters() if "up" not in n}
    assert all(torch.equal(frozen[name], weight) for name, weight in before.items())


def test_inference_reads_every_row_twice() -> None:
    """All rows, then all rows again: as two probes are stacked."""
    encoded = encoder().encode(EXAMPLES)
    twice = doubled(encoded.batch)
    for name, values in encoded.batch.named().items():
        assert np.array_equal(twice[name], np.concatenate([values, values]))
    assert isinstance(encoded.batch, Batch)
