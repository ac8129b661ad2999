"""ZO-Bench: ZO-Bench/ZO-LLM, zo-bench/trainer.py.

    zo_step            sweeps as MeZO's, then per weight: its .grad, an optimizer's step, no .grad
    zo_conserv_step    l(θ), two probes, then the update by +1, −2 and what leads to the best

Which optimizer that is, its training loop says: SGD(lr, momentum) for `--trainer zo_sgd`, Adam(lr)
for `zo_adam`; for the others `--optimizer sgd` or `adam`, and else what transformers had made,
AdamW: the default, and that of all its published sweeps of sign and conservative ("as swept").
Source: Zhang et al. 2024, Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning, arXiv 2402.11592.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from benchmarks.fidelity.case import Case, Fault, Peer, momenta, moments, textbook
from benchmarks.fidelity.public import Inputs, PublicRun, namespace, tuned_model
from benchmarks.fidelity.subject import Tensors, Trajectory
from tests.methods import reference
from tests.methods.reference import Conservative, Loss, Momentum, ScalarSign

FOLDER: Final = "zo-bench"
BETA: Final = 0.9
CONSERVATIVE: Final = "zo_conserv"

Optimizing: TypeAlias = Callable[[Iterator[Parameter], float], Optimizer]


def public(
    trainer: str, optimizing: Optimizing, checkout: Path, along: Trajectory, dtype: torch.dtype
) -> PublicRun:
    """The run, at the checkpoint's weights, along the directions of a trajectory.

    Args:
        trainer: as in `--trainer`.
        optimizing: makes the optimizer.
        checkout: of the repository.
        along: a trajectory.
        dtype: of the weights.
    """
    stepping = "zo_conserv_step" if trainer == CONSERVATIVE else "zo_step"

    def take(run: PublicRun, t: int, inputs: Inputs) -> None:
        run.draws.give([along.z(t, 0, name) for name in along.names])
        getattr(run.me, stepping)(run.model, inputs)
        run.draws.require_used()

    folder, settings = checkout / FOLDER, along.settings
    model = tuned_model(along.checkpoint, dtype, namespace(folder / "utils.py"))
    methods = ("zo_perturb_parameters", "zo_forward", "get_grad_sparsity_by_name", stepping)
    run = PublicRun(namespace(folder / "trainer.py"), "OurTrainer", methods, model, take)
    run.carry(
        settings.lr,
        {"zo_eps": settings.eps, "trainer": trainer, "q": 1, "perturbation_mode": "two_side"},
        optimizer=optimizing(model.parameters(), settings.lr),
        gradient_sparsity=None,
        sparse_grad_rng=torch.Generator(),
        sparse_grad_random_seed=0,
    )
    return run


def by_sgd(parameters: Iterator[Parameter], lr: float) -> Optimizer:
    """`--optimizer sgd`."""
    return SGD(parameters, lr=lr)


def by_momentum(parameters: Iterator[Parameter], lr: float) -> Optimizer:
    """`--trainer zo_sgd --momentum 0.9`."""
    return SGD(parameters, lr=lr, momentum=BETA)


def by_adam(parameters: Iterator[Parameter], lr: float) -> Optimizer:
    """`--trainer zo_adam`."""
    return Adam(parameters, lr=lr)


def by_default(parameters: Iterator[Parameter], lr: float) -> Optimizer:
    """As transformers makes it without a word, and without weight decay."""
    return AdamW(parameters, lr=lr, weight_decay=0.0)


@dataclass
class SignByAdam(reference.Adam):
    """Sign as swept: Adam on sign(c)·z."""

    def estimate(self, t: int, loss: Loss) -> tuple[Tensors, Tensors]:
        """The sign, with its z."""
        ((c, along),) = self.rays(t, loss)
        g = {name: c.sign() * z for name, z in along.items()}
        return g, {name: part.abs() for name, part in g.items()}


@dataclass
class ConservativeByAdam(reference.Adam):
    """Conservative as swept: each try, and each return from one, is a step of Adam.

    So θ is never tried at θ ± ηcz, and a return from a try does not lead to where it began.

    Attributes:
        g: the gradient of the next step of Adam.
    """

    g: Tensors = field(default_factory=dict)

    def estimate(self, t: int, loss: Loss) -> tuple[Tensors, Tensors]:
        """Its arguments."""
        return self.g, {name: part.abs() for name, part in self.g.items()}

    def update(self, t: int, loss: Loss) -> None:
        """Try, then return, stay or go."""
        here = self.value(loss)
        ((c, along),) = self.rays(t, loss)

        def go(by: float) -> None:
            self.g = {name: by * c * z for name, z in along.items()}
            reference.Adam.update(self, t, loss)

        go(1)
        down = self.value(loss)
        go(-2)
        up = self.value(loss)
        if down > here:
            if here < up:
                go(1)
        elif down < up:
            go(2)


SIGN_BY_ADAM: Final = Fault(
    "without --optimizer the step is AdamW's on sign(c)·z, which divides z by its own size",
    lambda settings, t: True,
)
CONSERVATIVE_BY_ADAM: Final = Fault(
    "without --optimizer every try and every return is a step of AdamW, so the points tried are "
    "not θ ± ηcz, and a return does not lead back to θ",
    lambda settings, t: True,
    frozenset({3, 4}),
)


def _case(
    label: str, method: str, trainer: str, optimizing: Optimizing,
    kind: Callable[..., reference.Method], **more: Any,
) -> Case:  # fmt: skip
    return Case(
        f"ZO-Bench {label}", method, partial(public, trainer, optimizing),
        partial(textbook, kind), **more,
    )  # fmt: skip


PUBLIC_ORDER: Final = (4, 0, 1, 3, 2)
"""Here, +ε, −ε, down, up; where zofx evaluates +ε, −ε, up, down, here."""
TEXTBOOK_ORDER: Final = (0, 1, 3, 2, 4)
"""+ε, −ε, down, up, here."""

CASES: Final = (
    _case(
        "momentum", "zo-sgd-momentum", "zo_sgd", by_momentum, Momentum,
        numbers={"lr": 2.0**-13}, roundings=momenta,
    ),
    _case(
        "Adam", "zo-adam", "zo_adam", by_adam, reference.Adam,
        numbers={"lr": 2.0**-11}, roundings=moments,
    ),
    _case(
        "conservative, by SGD", "zo-sgd-conservative", CONSERVATIVE, by_sgd, Conservative,
        numbers={"lr": 2.0**-8}, order=PUBLIC_ORDER, textbook_order=TEXTBOOK_ORDER,
    ),
    _case(
        "conservative, as swept", "zo-sgd-conservative", CONSERVATIVE, by_default,
        ConservativeByAdam, numbers={"lr": 2.0**-8}, order=PUBLIC_ORDER,
        textbook_order=PUBLIC_ORDER, fault=CONSERVATIVE_BY_ADAM,
    ),
    _case(
        "sign, by SGD", "zo-sgd-sign", "zo_sign_opt", by_sgd, ScalarSign,
        numbers={"lr": 2.0**-10},
    ),
    _case(
        "sign, as swept", "zo-sgd-sign", "zo_sign_opt", by_default, SignByAdam,
        numbers={"lr": 2.0**-10}, fault=SIGN_BY_ADAM,
    ),
)  # fmt: skip

PEER: Final = Peer(
    "zobench",
    "https://github.com/ZO-Bench/ZO-LLM",
    "bf210fa2f7c5394b26d19166dcfe52b5b27a7e6a",
    CASES,
)
