"""A session whose engine scores one rectangular batch at a time: all engines here are of that kind.

evaluate(batch, keys, C)   feeds once  →  one forward per group of rows  →  rows in their order
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from zofx import artifact
from zofx.artifact import Manifest
from zofx.runtime import Batch
from zofx.runtimes.grouping import by_length, overhead
from zofx.runtimes.slices import HostSession, artifact_slices
from zofx.zo.types import FloatArray, Key

Feeds: TypeAlias = dict[str, Any]


class EngineSession(HostSession):
    """θ on the host, and the forwards of an engine.

    Args:
        folder: the artifact.
        manifest: its description.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        slices = artifact_slices(folder, manifest)
        super().__init__(slices)
        self._overhead = overhead(slices.bytes, (folder / artifact.WEIGHTS).stat().st_size)

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Score a batch under P probes; rows of about the same length share a forward."""
        feeds = self._feeds(keys, coefficients)
        groups = list(by_length(batch, self._overhead))
        scores = np.concatenate([self._forward(part, feeds) for _, part in groups], axis=1)
        back = np.argsort(np.concatenate([rows for rows, _ in groups]))
        return scores[:, back]

    @abstractmethod
    def _feeds(self, keys: Sequence[Key], coefficients: FloatArray) -> Feeds:
        """Inputs beside the batch; no keys mean no perturbation."""

    @abstractmethod
    def _forward(self, batch: Batch, feeds: Feeds) -> FloatArray:
        """f32[P, N, C] of rows that are all computed to the length of the longest."""
