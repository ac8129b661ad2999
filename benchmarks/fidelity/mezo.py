"""MeZO: princeton-nlp/MeZO, large_models/trainer.py.

    zo_step      three sweeps over the weights, each seeding and drawing z weight by weight
    zo_update    a fourth

Source: Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv 2305.17333.
"""

from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks.fidelity.case import Case, Peer, textbook
from benchmarks.fidelity.public import Inputs, PublicRun, namespace, tuned_model
from benchmarks.fidelity.subject import Trajectory
from tests.methods.reference import Mezo

FOLDER: Final = "large_models"
METHODS: Final = ("zo_perturb_parameters", "zo_forward", "zo_step", "zo_update")


def public(checkout: Path, along: Trajectory, dtype: torch.dtype) -> PublicRun:
    """The run, at the checkpoint's weights, along the directions of a trajectory."""

    def take(run: PublicRun, t: int, inputs: Inputs) -> None:
        run.draws.give([along.z(t, 0, name) for name in along.names])
        run.me.zo_step(run.model, inputs)
        run.draws.require_used()
        run.me.zo_update(run.model)
        run.draws.require_used()

    folder = checkout / FOLDER
    model = tuned_model(along.checkpoint, dtype, namespace(folder / "utils.py"))
    run = PublicRun(namespace(folder / "trainer.py"), "OurTrainer", METHODS, model, take)
    run.carry(along.settings.lr, {"zo_eps": along.settings.eps})
    return run


PEER: Final = Peer(
    "mezo",
    "https://github.com/princeton-nlp/MeZO",
    "552cb1b710767f9a6e1dc8f9645d7640376f9941",
    (Case("MeZO", "mezo", public, partial(textbook, Mezo), {"lr": 2.0**-10}),),
)
