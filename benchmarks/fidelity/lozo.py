"""LOZO and LOZO-M: optsuite/LOZO, LOZOtrainer.py of large_models and of medium_models/src.

    lowrank_zo_step               three sweeps; where t mod ν = 0 each draws V, then U, per matrix
    lowrank_zo_update             a fourth, which seeds again and draws U alone
    lowrank_zo_update_momentum    the same

So after a seeding the update reads, where t mod ν = 0, from the place where V stands: its U is not
the U that was perturbed along, and no later draw of the step is what it was ("as it is"). Given the
right draws ("right U"), the code is the paper's without its 1/r.
Source: Chen et al. 2025, Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank
Structures, arXiv 2410.07698.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.fidelity.case import Case, Peer, few_roundings, momenta
from benchmarks.fidelity.lozo_faults import (
    FORGOTTEN,
    MISDRAWN,
    MISDRAWN_MOMENTUM,
    Forgetful,
    misdrawn,
    of_average,
    of_rays,
    paper,
    sweep,
)
from benchmarks.fidelity.public import Draws, Inputs, PublicRun, namespace, tuned_model
from benchmarks.fidelity.subject import Trajectory
from tests.methods.shaped import Lozo, LozoMomentum

NUMBERS: Final = {"lr": 2.0**-11, "refresh": 5}
"""ν = 5: four bases in a run of 20 steps."""
BETA: Final = 0.9
METHODS: Final = (
    "lowrank_zo_perturb_parameters", "zo_forward", "lowrank_zo_step", "random_gaussian_matrix",
)  # fmt: skip


@dataclass(frozen=True)
class Trainer:
    """One of the two.

    Attributes:
        file: of the class, in the checkout.
        name: of the class.
        rank: what it calls r.
        update: the method that moves.
    """

    file: str
    name: str
    rank: str
    update: str = "lowrank_zo_update"


LARGE: Final = Trainer("large_models/LOZOtrainer.py", "LowRankTrainer", "rank_r")
MEDIUM: Final = Trainer("medium_models/src/LOZOtrainer.py", "LowRankTrainer", "rank")
MOMENTUM: Final = Trainer(MEDIUM.file, MEDIUM.name, MEDIUM.rank, "lowrank_zo_update_momentum")


def public(
    trainer: Trainer, right: bool, checkout: Path, along: Trajectory, dtype: torch.dtype
) -> PublicRun:
    """The run, at the checkpoint's weights, along the directions of a trajectory.

    Args:
        trainer: which.
        right: whether the update gets the U that was perturbed along; else what stands there.
        checkout: of the repository.
        along: a trajectory.
        dtype: of the weights.
    """

    def take(run: PublicRun, t: int, inputs: Inputs) -> None:
        run.draws.give(sweep(along, t))
        run.me.lowrank_zo_step(run.model, inputs)
        run.draws.require_used()
        if right:
            run.draws.give([along.z(t, 0, name) for name in along.names])
        getattr(run.me, trainer.update)()
        if right:
            run.draws.require_used()

    utils = namespace(checkout / "large_models" / "utils.py")
    model = tuned_model(along.checkpoint, dtype, utils)
    code = namespace(checkout / trainer.file)
    run = PublicRun(code, trainer.name, (*METHODS, trainer.update), model, take)
    numbers = {"zo_eps": along.settings.eps, "step_interval": along.settings.refresh}
    run.carry(along.settings.lr, {**numbers, trainer.rank: along.rank, "beta1": BETA})
    return run


class Recorded(Draws):
    """The draws of torch's own generator, seeding by seeding."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps: list[list[Tensor]] = []

    def manual_seed(self, seed: int) -> None:
        """A sweep begins."""
        torch.manual_seed(seed)  # noqa: TID251  as the trainer does
        self.sweeps.append([])

    def randn(self, *size: int, **kind: Any) -> Tensor:
        """A draw, and its record."""
        self.sweeps[-1].append(torch.randn(*size, **kind))
        return self.sweeps[-1][-1]


def own_draws(checkout: Path, along: Trajectory) -> dict[str, Any]:
    """On torch's generator: at which steps the update draws what was perturbed along.

    And at the others, whether its first U begins with the numbers of the first V: whether a seeded
    generator is a sequence, read from its beginning.
    """
    run = public(LARGE, False, checkout, along, torch.float32)
    run.code["torch"] = draws = Recorded()
    same, begins = [], []

    def take(run: PublicRun, t: int, inputs: Inputs) -> None:
        draws.sweeps.clear()
        run.me.lowrank_zo_step(run.model, inputs)
        run.me.lowrank_zo_update()
        perturbed, moved = draws.sweeps[0], draws.sweeps[3]
        if len(perturbed) == len(moved) and all(map(torch.equal, perturbed, moved)):
            same.append(t)
        else:
            v, u = perturbed[0].flatten(), moved[0].flatten()
            begins.append(torch.equal(u[: len(v)], v[: len(u)]))

    run.take = take
    with torch.random.fork_rng(devices=[]):
        for step in along.steps:
            run.step(step.t, step.asked.inputs)
    others = [step.t for step in along.steps if step.t not in same]
    return {
        "update_draws_what_was_perturbed_along": same,
        "update_draws_other_numbers": others,
        "others_begin_with_v": all(begins),
    }


def _case(label: str, trainer: Trainer, kind: type[Lozo], *, right: bool) -> Case:
    momentum = kind is LozoMomentum
    return Case(
        f"{label}, {'right U' if right else 'as it is'}",
        "lozo-momentum" if momentum else "lozo",
        partial(public, trainer, right),
        partial(paper if right else misdrawn, kind),
        NUMBERS,
        roundings=momenta if momentum else few_roundings,
        coordinates=of_average if momentum else of_rays,
        fault=None if right else MISDRAWN_MOMENTUM if momentum else MISDRAWN,
    )


CASES: Final = (
    _case("LOZO, large models", LARGE, Lozo, right=True),
    _case("LOZO, large models", LARGE, Lozo, right=False),
    _case("LOZO, medium models", MEDIUM, Lozo, right=True),
    _case("LOZO, medium models", MEDIUM, Lozo, right=False),
    _case("LOZO-M", MOMENTUM, LozoMomentum, right=True),
    _case("LOZO-M", MOMENTUM, LozoMomentum, right=False),
    Case(
        "LOZO-M with ν = 1, right U", "lozo-momentum", partial(public, MOMENTUM, True),
        partial(paper, Forgetful), {**NUMBERS, "refresh": 1},
        roundings=momenta, coordinates=of_average, fault=FORGOTTEN,
    ),
)  # fmt: skip

PEER: Final = Peer(
    "lozo",
    "https://github.com/optsuite/LOZO",
    "5d1ade5bf41846471d33ba526f877829b9a19856",
    CASES,
    own_draws,
)
