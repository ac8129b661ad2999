"""What LOZO's code does, in its paper's words, and where it does something else.

    paper        perturbed along U·Vᵀ, moved along U·Vᵀ, without the 1/r that the code leaves out
    misdrawn     moved along U'·Vᵀ, with U' read from where V stands in the sequence
    Forgetful    with ν = 1, momentum of matrices that starts anew

See `benchmarks.fidelity.lozo`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from torch import Tensor

from benchmarks.fidelity.case import Fault, textbook
from benchmarks.fidelity.public import Draws
from benchmarks.fidelity.subject import Tensors, Trajectory
from tests.methods.reference import Draw, Loss, Method
from tests.methods.shaped import Lozo, LozoMomentum
from zofx.zo.settings import Settings


def sweep(run: Trajectory, t: int) -> list[Tensor]:
    """What a perturbing sweep draws, in its order."""
    drawn = []
    for name in run.names:
        if name in run.bases and at_refreshes(run.settings, t):
            drawn.append(run.v(t // run.settings.refresh, name))
        drawn.append(run.z(t, 0, name))
    return drawn


def paper(kind: Callable[..., Method], run: Trajectory) -> Lozo:
    """The textbook, without the paper's 1/r, which the code leaves out."""
    method = textbook(kind, run, v=run.v, window=run.settings.refresh)
    assert isinstance(method, Lozo)
    return method


def misdrawn(kind: Callable[..., Method], run: Trajectory) -> Lozo:
    """The textbook with the fault: perturbed along one U, moved along another."""
    method = paper(kind, run)
    rays = method.rays

    def as_it_is(t: int, loss: Loss) -> list[tuple[Tensor, Tensors]]:
        method.z = run.z
        own_rays = rays(t, loss)
        method.z = late(run)
        return [(c, method.direction(t, query)) for query, (c, _) in enumerate(own_rays)]

    method.rays = as_it_is  # type: ignore[method-assign]
    return method


def late(run: Trajectory) -> Draw:
    """U and z as the update draws them, from the beginning of a sweep's numbers."""

    def draw(t: int, query: int, name: str) -> Tensor:
        draws = Draws()
        draws.give(sweep(run, t))
        drawn = {each: draws.randn(*run.z(t, query, each).shape) for each in run.names}
        return drawn[name]

    return draw


class Forgetful(LozoMomentum):
    """With ν = 1 as it is: V is kept for the next basis where t mod ν = ν − 1, unless that is 0."""

    def update(self, t: int, loss: Loss) -> None:
        """A matrix's N is c·U at every step; a vector's average goes on."""
        self.n = {name: values for name, values in self.n.items() if not self.matrix(name)}
        super().update(t, loss)


def of_rays(method: Method, t: int, name: str, c: Tensor) -> Tensor:
    """|η·c·U|, U as it was moved along."""
    assert isinstance(method, Lozo)
    return (method.lr * c * method.z(t, 0, name)).abs()


def of_average(method: Method, t: int, name: str, c: Tensor) -> Tensor:
    """η·Σ |terms of N|."""
    assert isinstance(method, LozoMomentum)
    return method.lr * method.n_size[name]


def at_refreshes(settings: Settings, t: int) -> bool:
    """Where V is drawn anew."""
    return t % settings.refresh == 0


MISDRAWN: Final = Fault(
    "the update seeds again but draws no V, so where V was drawn it moves along other numbers than "
    "it perturbed along",
    at_refreshes,
)
MISDRAWN_MOMENTUM: Final = replace(
    MISDRAWN, why=f"{MISDRAWN.why}; the average remembers them", at=lambda settings, t: True
)
FORGOTTEN: Final = Fault(
    "with ν = 1 the old V is never kept, so the momentum of matrices starts anew at every step",
    lambda settings, t: t > 0,
)
