"""How each method's paper is run on what an artifact holds: Start → Subject.

A function here says how the artifact's trainables are read as the method's θ, and where its
directions come from; the textbooks (`tests.methods.reference`, `tests.methods.shaped`) compute
every step.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tests.methods.directions import masked, on_index, subspace
from tests.methods.hybrid import Hybrid
from tests.methods.reference import Blockwise, Draw, Method, Mezo, Tensors
from tests.methods.shaped import Clipped, Fzoo, Lozo, SparseMezo, lora, scaled, thresholds
from tests.methods.start import SEED, Start, Subject, Values
from zofx.zo.random.noise import Stream, sample, sample_words
from zofx.zo.types import Key


def sparse(start: Start, kind: Callable[..., Method] = Mezo, **own: Any) -> Subject:
    """SensZOQ: a method at the chosen coordinates of the weights, everything else frozen.

    Args:
        start: what it starts from.
        kind: the method, which for SensZOQ is MeZO.
        own: its own numbers, such as a momentum's β.
    """
    trainables = start.named("slice")
    index = {weight: start.frozen(name).long() for weight, name in start.named("index").items()}
    initial = start.initial()
    rest = start.weights({**initial, **{name: 0 * initial[name] for name in trainables.values()}})

    def theta(values: Values) -> Tensors:
        full = {name: weight.clone() for name, weight in rest.items()}
        for weight, name in trainables.items():
            full[weight].view(-1)[index[weight]] += torch.from_numpy(values[name]).double()
        return full

    shapes = {name: weight.shape for name, weight in rest.items()}
    z = on_index(lambda t, query, name: start.draw(t, query, trainables[name]), index, shapes)
    method = kind(theta(initial), z, trained=tuple(trainables), **{**start.common(), **own})
    return Subject(method, theta)


def dense(
    start: Start, kind: Callable[..., Method] = Mezo, z: Draw | None = None, **own: Any
) -> Subject:
    """A method on whole weights: the trainables are the weights themselves.

    Args:
        start: what it starts from.
        kind: the method.
        z: its directions, where they are more than a draw.
        own: its own numbers.
    """
    trained = tuple(start.session.trainables)
    moving = (*trained, *start.manifest.exact)
    rest = start.weights(start.initial())

    def theta(values: Values) -> Tensors:
        whole = {name: torch.from_numpy(values[name]).double() for name in moving}
        return {name: whole.get(name, weight).clone() for name, weight in rest.items()}

    numbers = {**start.common(), **own}
    method = kind(theta(start.initial()), z or start.draw, trained=trained, **numbers)
    return Subject(method, theta)


def hybrid(start: Start, kind: Callable[..., Hybrid] = Hybrid) -> Subject:
    """MeZO on some weights, and gradient descent on those the artifact says."""
    return dense(start, kind, exact=start.manifest.exact, exact_lr=start.settings.exact_lr)


def fzoo(start: Start) -> Subject:
    """FZOO; its η is ε times the compiled one, which divides slopes by their spread, not losses."""
    return dense(start, Fzoo, lr=start.settings.lr * start.common()["eps"])


def random_part(start: Start, keep: float, interval: int) -> Subject:
    """MeZO on a random part of the weights, the same one for some steps."""

    def mask(t: int, name: str) -> Tensor:
        key, shape = Key(SEED, t - t % interval), start.session.trainables[name]
        words = sample_words(key, name, Stream.MASK, 0, math.prod(shape))
        return torch.from_numpy(words < round(keep * 2**16)).view(shape)

    return dense(start, z=masked(start.draw, mask))


def small_part(start: Start, share: float) -> Subject:
    """Sparse-MeZO on matrices; vectors move whole."""
    theta = dense(start).method.theta
    matrices = {name: weight for name, weight in theta.items() if weight.dim() > 1}
    return dense(start, SparseMezo, thresholds=thresholds(matrices, share))


def blocks(start: Start, by: str) -> Subject:
    """A layer at a time, then what is in none, module by module.

    By step the blocks of one textbook step draw under the keys of as many steps of the driver.
    """
    groups = grouped(row.name for row in start.manifest.tensors if row.role == "trainable")

    def at_step(t: int, query: int, name: str) -> Tensor:
        return start.draw(t * len(groups) + query, 0, name)

    one_by_one = by == "step"
    z = at_step if one_by_one else start.draw
    return dense(start, Blockwise, z, blocks=groups, sequential=one_by_one)


def grouped(names: Iterable[str]) -> list[list[str]]:
    """Names with the same layer, or else the same module; in the order they come."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = re.search(r"layers?\.\d+", name)
        groups.setdefault(layer[0] if layer else name.rpartition(".")[0], []).append(name)
    return list(groups.values())


def low_rank(start: Start, kind: Callable[..., Method] = Lozo, **own: Any) -> Subject:
    """LOZO: a weight is base + A·V, A the trainable; what is too thin for factors trains whole."""
    thin, shapes = start.named("low-rank"), {n: w.shape for n, w in start.model.weights.items()}

    def v(window: int, name: str) -> Tensor:
        return _normals(start, window, thin[name], shapes[name][1], Stream.V)

    def u(t: int, query: int, name: str) -> Tensor:
        return start.draw(t, query, thin.get(name, name))

    method = kind(
        start.weights(start.initial()), u, v=v, window=start.settings.refresh,
        whole=set(shapes) - set(thin), **start.common(), **own,
    )  # fmt: skip
    return _read_as_sum(start, method)


def random_subspace(start: Start) -> Subject:
    """SubZero: a weight is base + s·U·A·V, and the direction of A is drawn in r × r."""
    thin, shapes = start.named("low-rank"), {n: w.shape for n, w in start.model.weights.items()}

    def factor(side: int, stream: Stream) -> Callable[[int, str], Tensor]:
        return lambda window, name: _orthonormal(
            _normals(start, window, thin[name], shapes[name][side], stream)
        )

    z = subspace(
        lambda t, query, name: start.draw(t, query, thin[name]),
        factor(0, Stream.U), factor(1, Stream.V), start.draw,
        {name: shapes[name] for name in thin}, start.settings.refresh,
    )  # fmt: skip
    return _read_as_sum(start, Mezo(start.weights(start.initial()), z, **start.common()))


def _normals(start: Start, window: int, name: str, rows: int, stream: Stream) -> Tensor:
    """f64[rows, r] of a trainable, drawn when its window begins, column by column."""
    rank = start.session.trainables[name][1]
    key = Key(SEED, window * start.settings.refresh)
    return torch.from_numpy(sample("gaussian", key, name, (rank, rows), stream)).double().T


def _orthonormal(columns: Tensor) -> Tensor:
    """The Q of QR, with a positive diagonal in R: what Gram and Schmidt come to."""
    q, r = torch.linalg.qr(columns)
    upright: Tensor = q * r.diagonal().sign()
    return upright


def _read_as_sum(start: Start, method: Method) -> Subject:
    """θ = base + gain · left · A · right, from the parts a session holds."""
    thin, left, right = (start.named(form) for form in ("low-rank", "left", "right"))
    bases = start.manifest.noise.bases

    def added(values: dict[str, Tensor]) -> Tensors:
        full = {name: values[name] for name in start.model.weights}
        for weight, name in thin.items():
            product = values[name] @ values[right[weight]]
            product = values[left[weight]] @ product if left else product
            full[weight] = full[weight] + bases[name].gain * product
        return full

    def theta(values: Values) -> Tensors:
        return added({name: torch.from_numpy(v).double() for name, v in values.items()})

    def parts(values: Values) -> Tensors:
        return added({name: torch.from_numpy(v).double().abs() for name, v in values.items()})

    return Subject(method, theta, parts)


def adapters(start: Start, scale: float) -> Subject:
    """LoRA-FA: the B of adapters train, beside weights and A that stay."""
    thin = start.named("low-rank")
    a = {weight: start.frozen(name).double() for weight, name in start.named("right").items()}

    def theta(values: Values) -> Tensors:
        return {weight: torch.from_numpy(values[name]).double() for weight, name in thin.items()}

    method = Mezo(
        theta(start.initial()),
        lambda t, query, weight: start.draw(t, query, thin[weight]),
        build=lora(start.weights(start.initial()), a, scale),
        **start.common(),
    )
    return Subject(method, theta)


def scales(start: Start, limit: float) -> Subject:
    """QZO: the scales of 4-bit matrices train, each code's distance from its zero stays."""
    trainables = {name.removesuffix(".scales"): name for name in start.session.trainables}

    def codes(weight: str) -> Tensor:
        high, zero = (_nibbles(start.frozen(f"{weight}.{part}")) for part in ("codes", "zeros"))
        blocks = start.session.trainables[trainables[weight]][1]
        return (high - zero[:, :blocks, None]).double()

    def theta(values: Values) -> Tensors:
        return {
            weight: torch.from_numpy(values[name]).double() for weight, name in trainables.items()
        }

    method = Clipped(
        theta(start.initial()),
        lambda t, query, weight: start.draw(t, query, trainables[weight]),
        build=scaled(
            start.weights(start.initial()), {weight: codes(weight) for weight in trainables}
        ),
        limit=limit,
        **start.common(),
    )
    return Subject(method, theta)


def _nibbles(packed: Tensor) -> Tensor:
    """Two 4-bit numbers a byte, the low one first; signed, to subtract them."""
    return torch.stack((packed & 0xF, packed >> 4), -1).flatten(-2).int()
