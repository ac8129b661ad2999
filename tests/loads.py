"""What the sessions of `tests.artifacts` are asked: batches of several shapes, under probes.

Load = (batch, matrix)      Q = 0, 1, 3      P = 1, 2, 4      padded left, right, not at all
"""

from dataclasses import dataclass

import numpy as np

from tests import tiny
from zofx.session import IGNORED, Batch, Session, unperturbed
from zofx.zo.types import FloatArray, Key

FIRST_WORD = len(tiny.SPECIAL)
EPS = 0.02
"""The standard deviation of the weights: probes are far apart, and nothing saturates."""

KEYS = (Key(11, 0), Key(11, 3, 1), Key(2**64 - 1, 2**48 - 1, 2**16 - 1))


@dataclass(frozen=True, eq=False)
class Load:
    """A batch under some probes.

    Attributes:
        name: of the test.
        batch: what is read.
        matrix: f32[P, Q], under the first Q of `KEYS`.
    """

    name: str
    batch: Batch
    matrix: FloatArray

    def __str__(self) -> str:
        return self.name

    @property
    def keys(self) -> tuple[Key, ...]:
        """Q of them."""
        return KEYS[: self.matrix.shape[1]]

    def on(self, session: Session) -> FloatArray:
        """f32[P, N, C]."""
        return session.evaluate(self.batch, self.keys, self.matrix)


def batch(
    rows: int, tokens: int, scored: int, alternatives: int, padding: str = "", seed: int = 0
) -> Batch:
    """Random words, every second row half as long.

    Args:
        rows: N.
        tokens: T.
        scored: S; the last position of the first row is not scored, if there are others.
        alternatives: C; the last of the last row is scored nowhere, if there are others.
        padding: "left", "right", or "" for none.
        seed: of the words.
    """
    random = np.random.default_rng(seed)
    mask = np.ones((rows, tokens), np.int64)
    half = slice(tokens // 2) if padding == "left" else slice(tokens - tokens // 2, tokens)
    if padding:
        mask[::2, half] = 0
    words = random.integers(FIRST_WORD, tiny.VOCABULARY, (rows, tokens))
    positions = np.stack([random.choice(np.flatnonzero(row), scored) for row in mask])
    targets = random.integers(0, tiny.VOCABULARY, (rows, scored, alternatives))
    if scored > 1:
        targets[0, -1] = IGNORED
    if alternatives > 1:
        targets[-1, :, -1] = IGNORED
    pad = tiny.SPECIAL.index("<pad>")
    return Batch(np.where(mask == 1, words, pad), mask, positions, targets)


def bits(values: FloatArray) -> FloatArray:
    """f32 as integers: equal where all bits are, −0 and NaN included."""
    same: FloatArray = np.ascontiguousarray(values).view(np.uint32)
    return same


def _matrix(*rows: list[float]) -> FloatArray:
    return np.array(rows, np.float32)


LONGEST = batch(2, tiny.POSITIONS, 1, 4, "left")
LOADS = (
    Load("one row, Q=0 P=1", batch(1, 5, 1, 1), unperturbed()),
    Load("left padded, Q=1 P=2", batch(3, 9, 2, 3, "left"), _matrix([EPS], [-EPS])),
    Load(
        "right padded, Q=3 P=4",
        batch(4, 13, 3, 2, "right"),
        _matrix([0, 0, 0], [EPS, 0, 0], [0, EPS, 0], [0, 0, EPS]),
    ),
    Load("longest, Q=3 P=1", LONGEST, _matrix([EPS, -2 * EPS, EPS / 3])),
)
PLAIN, TWO_POINT, ONE_SIDED, MIXED = LOADS
