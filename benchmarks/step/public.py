"""Public trainers at work on their own: their step methods, their loss, torch's own draws.

    CHECKOUT ─benchmarks.fidelity.public─▶ trainer on a model ─▶ step(inputs) → losses

What is called, and in which order, is what their training loops call in a step.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from benchmarks.fidelity.public import Inputs, PublicRun, namespace, tuned_model
from benchmarks.step.standin import RANK, REFRESH

Step: TypeAlias = Callable[[Inputs], list[Tensor]]
Take: TypeAlias = Callable[[PublicRun, int, Inputs], None]


def _mezo(run: PublicRun, t: int, inputs: Inputs) -> None:
    run.me.zo_step(run.model, inputs)
    run.me.zo_update(run.model)


def _lozo(run: PublicRun, t: int, inputs: Inputs) -> None:
    run.me.lowrank_zo_step(run.model, inputs)
    run.me.lowrank_zo_update()


def _zobench(run: PublicRun, t: int, inputs: Inputs) -> None:
    run.me.zo_step(run.model, inputs)


SWEEPS: Final = ("zo_perturb_parameters", "zo_forward", "zo_step")
LOW_RANK: Final = (
    "lowrank_zo_perturb_parameters", "zo_forward", "lowrank_zo_step", "lowrank_zo_update",
    "random_gaussian_matrix",
)  # fmt: skip

TRAINERS: Final[Mapping[str, tuple[str, str, tuple[str, ...], Take]]] = {
    "mezo": ("large_models/trainer.py", "OurTrainer", (*SWEEPS, "zo_update"), _mezo),
    "lozo": ("large_models/LOZOtrainer.py", "LowRankTrainer", LOW_RANK, _lozo),
    "zobench": (
        "zo-bench/trainer.py", "OurTrainer", (*SWEEPS, "get_grad_sparsity_by_name"), _zobench,
    ),
}  # fmt: skip
"""Kind → file and class of the trainer, what a step calls of it, and how."""

ARGUMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "mezo": {},
    "lozo": {"rank_r": RANK, "step_interval": REFRESH},
    "zobench": {"trainer": "zo_sgd", "q": 1, "perturbation_mode": "two_side"},
}
"""Of its own, beside η and ε."""


def public_step(
    kind: str, checkout: Path, weights: Path, pad_id: int, lr: float, eps: float
) -> Step:
    """A trainer's step.

    Args:
        kind: which trainer.
        checkout: of its repository.
        weights: folder of the model.
        pad_id: fills its rows; their loss leaves it out.
        lr: η.
        eps: ε.

    Raises:
        UsageError: the checkout is not what it should be.
    """
    file, name, methods, take = TRAINERS[kind]
    utils = namespace(checkout / Path(file).parent / "utils.py")
    model = tuned_model(weights, torch.float32, utils)
    model.config.pad_token_id = pad_id
    run = PublicRun(namespace(checkout / file), name, methods, model, take)
    run.code["torch"] = torch  # whose draws are part of the step
    run.carry(lr, {"zo_eps": eps, **ARGUMENTS[kind]}, **_more(kind, run, lr))
    return lambda inputs: list(run.step(0, inputs))


def _more(kind: str, run: PublicRun, lr: float) -> dict[str, Any]:
    """What else a trainer's methods read."""
    if kind != "zobench":
        return {}
    return {
        "optimizer": torch.optim.SGD(run.model.parameters(), lr=lr),
        "gradient_sparsity": None,
        "sparse_grad_rng": torch.Generator(),
        "sparse_grad_random_seed": 0,
    }
