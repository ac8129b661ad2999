"""Direction specs: what a trainable's direction is, beyond a draw from a distribution.

    z(key) = draw(kind, key, name)
             ⊙ [16 random bits of the mask < keep]       fixed for `interval` steps     `RandomMask`
             ⊙ [it is the turn of the trainable's group]     by step or by query            `Turn`
             ⊙ [|θ| ≤ limit]                             from θ as it is now            limit
             ⊙ scale                                     a tensor of the session        scale

A spec is data in the manifest, and the program holds the same ops: what a forward sees and what a
move follows are one direction. All but a draw is comparison and product, so it is bit-equal too.
Sources: Liu et al. 2024, Sparse-MeZO, arXiv 2402.15751 (|θ| ≤ limit); Zhang et al. 2024, ZO-Bench,
arXiv 2402.11592 (random masks, blocks); Zhao et al. 2025, HiZOO, arXiv 2402.15173 (scale).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Final, Literal, Self

import numpy as np

from zofx.zo.random.noise import Kind, Stream, sample_flat, sample_words
from zofx.zo.types import FloatArray, Key

KEEP_BITS: Final = 16
KEEP_ALL: Final = 1 << KEEP_BITS


def scale_name(trainable: str) -> str:
    """The name of the tensor that scales a trainable's directions."""
    return f"{trainable}.scale"


@dataclass(frozen=True)
class RandomMask:
    """Which entries of z are not zero, at random.

    Attributes:
        keep: of 65,536; an entry stays if its 16 bits are below.
        interval: how many steps a mask holds; 0 for all of the run.
    """

    keep: int
    interval: int = 0

    def key(self, key: Key) -> Key:
        """The key of the mask under which a direction falls; every query of a step has the same."""
        return Key(key.seed, key.step - key.step % self.interval if self.interval else 0)


@dataclass(frozen=True)
class Turn:
    """When a trainable moves.

    Attributes:
        group: of the trainable.
        groups: how many there are.
        by: what counts them, the "step" or the "query".
    """

    group: int
    groups: int
    by: Literal["step", "query"]

    def has(self, key: Key) -> bool:
        """Whether a direction moves this group."""
        return (key.step if self.by == "step" else key.query) % self.groups == self.group


@dataclass(frozen=True)
class DirectionSpec:
    """How one trainable's direction follows from a key; see the module.

    Attributes:
        kind: the distribution.
        mask: of random entries.
        turn: among groups of trainables.
        limit: only entries with |θ| ≤ limit move.
        scale: name of the tensor that multiplies z.
    """

    kind: Kind
    mask: RandomMask | None = None
    turn: Turn | None = None
    limit: float | None = None
    scale: str | None = None

    def draw(
        self, key: Key, name: str, offset: int, length: int, table: FloatArray | None = None
    ) -> FloatArray:
        """What depends on the key alone, for a range of a trainable in C order; fresh memory."""
        if self.turn and not self.turn.has(key):
            return np.zeros(length, np.float32)
        z = sample_flat(self.kind, key, name, offset, length, table=table)
        if self.mask:
            bits = sample_words(self.mask.key(key), name, Stream.MASK, offset, length)
            z *= bits < self.mask.keep
        return z

    def apply(self, z: FloatArray, theta: FloatArray, scale: FloatArray | None) -> FloatArray:
        """What depends on the session: z, θ and the scale have one shape; z is not written to."""
        if self.limit is not None:
            z = z * (np.abs(theta) <= np.float32(self.limit))
        return z if scale is None else z * scale

    @property
    def depends_on_state(self) -> bool:
        """Whether `apply` does anything."""
        return self.limit is not None or self.scale is not None


@dataclass(frozen=True)
class Basis:
    """What a low-rank trainable A[m, r] stands for: base + gain · left · A · right.

    Attributes:
        right: name of the factor f32[r, n].
        base: name of the matrix that A is folded into at a refresh, when the factors are drawn
            anew; None where they stay and the matrix is frozen.
        left: name of the factor f32[m, r] of a two-sided trainable A[r, r].
        gain: what the product is multiplied by.
        orthonormal: whether rows of `right` and columns of `left` are made orthonormal.
    """

    right: str
    base: str | None = None
    left: str | None = None
    gain: float = 1.0
    orthonormal: bool = False


@cache
def _plain(kind: Kind) -> DirectionSpec:
    """A draw, and no more."""
    return DirectionSpec(kind)


@dataclass(frozen=True)
class Noise:
    """The directions of an artifact.

    Attributes:
        kind: the distribution of every trainable's draw.
        specs: slice → its spec, where that is more than a draw.
        bases: low-rank trainable → its basis.
    """

    kind: Kind
    specs: Mapping[str, DirectionSpec] = field(default_factory=dict)
    bases: Mapping[str, Basis] = field(default_factory=dict)

    def spec(self, name: str) -> DirectionSpec:
        """A trainable's spec."""
        return self.specs.get(name) or _plain(self.kind)

    @property
    def depends_on_state(self) -> bool:
        """Whether the direction of a key changes as the session moves."""
        return any(spec.depends_on_state for spec in self.specs.values())

    @property
    def turns(self) -> Turn | None:
        """Any trainable's turn: how many groups there are, and what counts them."""
        return next((spec.turn for spec in self.specs.values() if spec.turn), None)

    def to_dict(self) -> dict[str, Any]:
        """As in the manifest: what is absent is left out."""
        fields = {
            "kind": self.kind,
            "specs": {name: _without_none(asdict(spec)) for name, spec in self.specs.items()},
            "bases": {name: _without_none(asdict(basis)) for name, basis in self.bases.items()},
        }
        return {key: value for key, value in fields.items() if value}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read it back."""
        specs = {name: _spec(**spec) for name, spec in fields.get("specs", {}).items()}
        bases = {name: Basis(**basis) for name, basis in fields.get("bases", {}).items()}
        return cls(fields["kind"], specs, bases)


def _spec(
    mask: Mapping[str, Any] | None = None, turn: Mapping[str, Any] | None = None, **fields: Any
) -> DirectionSpec:
    return DirectionSpec(
        mask=RandomMask(**mask) if mask else None, turn=Turn(**turn) if turn else None, **fields
    )


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
