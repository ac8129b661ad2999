"""A session whose engine scores one rectangular batch at a time: all engines here are of that kind.

evaluate(batch, keys, C)   feeds once  →  one forward per group of rows  →  rows in their order
gradient(batch, weigh)     the same groups, forward and backward (`gradient`)

Where the program is cut, its frozen prefix is computed row by row, or looked up. Tables of a
row per token are cut to the batch's tokens, where that does (`vocabulary`).
"""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest
from zofx.ir.schema import HIDDEN
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.batching import BatchingPolicy, by_length, in_parts
from zofx.runtimes.host.engine_errors import engine_errors
from zofx.runtimes.host.gradient import Feeds, GradientEngine, Gradients, Map, gradient
from zofx.runtimes.host.prefix import Compute, FrozenPrefix, processor
from zofx.runtimes.host.theta import HostThetaSession, initial_theta
from zofx.runtimes.host.vocabulary import BFLOAT16, BatchVocabulary, Vocabulary
from zofx.session import RESIDUAL_POSITIONS, Batch, Weigh, unperturbed
from zofx.zo.types import FloatArray, IntArray, Key

Arrays: TypeAlias = dict[str, NDArray[Any]]


class EngineSession(HostThetaSession):
    """θ on the host, and the forwards of an engine.

    Args:
        folder: the artifact.
        manifest: its description.
        engine: what the bits of a forward depend on beside the artifact, as text.
        batching: how the engine gets through a batch.

    Attributes:
        frozen_prefix: the program below the cut; None if there is no cut.
        batching: as it was given.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, engine: str, batching: BatchingPolicy | None = None
    ) -> None:
        trainables = initial_theta(folder, manifest)
        super().__init__(trainables)
        self._frozen = (folder / layout.WEIGHTS).stat().st_size
        owner = f"{manifest.hash} {engine} {processor()}"
        roles = {row.name: row.role for row in manifest.tensors}
        self._vocabulary = Vocabulary(folder / layout.WEIGHTS, roles)
        # A product takes time as its matrix takes bytes: integers are smaller, and faster.
        self._head = self._vocabulary.head / max(1, self._frozen - self._vocabulary.head)
        self._closed = False
        self._artifact, self._engine_name = folder, engine.partition(" ")[0]
        self.batching = batching or BatchingPolicy()
        workers = self.batching.workers
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._map: Map = self._pool.map if self._pool else map
        self._probed = bool(manifest.trainables)
        self._gradient_engine: GradientEngine | None = None
        self.frozen_prefix = FrozenPrefix(self._open_prefix, owner) if manifest.cut else None

    def keep_activations(self, activations: ActivationCache) -> None:
        """Look up there the results of the frozen prefix, and keep those that are not there yet."""
        if self.frozen_prefix is not None:
            self.frozen_prefix.keep(activations)

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Score a batch under P probes; rows of about the same length share a forward."""
        probes = len(coefficients)
        groups = self._groups(batch, keys, coefficients)
        with engine_errors(self._engine_name, self._artifact):
            scores = list(self._map(lambda group: self._forward(group[1]), groups))
        back = np.argsort(np.concatenate([rows for rows, _ in groups]))
        if self._probed:
            return np.concatenate(scores, axis=1)[:, back]
        alike = np.concatenate(scores)[back]  # nothing moves along directions
        return np.broadcast_to(alike, (probes, *alike.shape))

    def gradient(self, batch: Batch, weigh: Weigh) -> Gradients:
        """The exact gradient of a loss at θ, for the tensors that train by it."""
        groups = self._groups(batch, (), unperturbed())
        with engine_errors(self._engine_name, self._artifact):
            if self._gradient_engine is None:
                self._gradient_engine = self._open_gradient()
            return gradient(self._gradient_engine, groups, weigh, self._map)

    def _groups(
        self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray
    ) -> list[tuple[IntArray, Feeds]]:
        """Rows of about the same length, and all that the engine is fed for them."""
        if self._closed:
            raise RuntimeError("this session is closed; open another one")
        head = 0.0 if batch.relative else self._head
        cost_model = self.batching.cost_model(
            self._slices.bytes, self._frozen, len(coefficients), head
        )
        words = self._vocabulary.words(batch)
        feeds = {**self._feeds(keys, coefficients), **self._tables(words)}
        groups = by_length(batch, cost_model)
        if not self._probed:  # its engine keeps residuals, in every forward
            groups = in_parts(groups, RESIDUAL_POSITIONS)
        return [(rows, {**feeds, **self._inputs(part, words)}) for rows, part in groups]

    def _tables(self, words: BatchVocabulary) -> Feeds:
        """Rows of tables in place of whole ones."""
        return {
            name: self._bfloat16(rows) if rows.dtype == BFLOAT16 else rows
            for name, rows in words.tables.items()
        }

    def _inputs(self, batch: Batch, words: BatchVocabulary) -> Arrays:
        """What the graph reads of a batch; more than that, if it reads less."""
        named = words.number(batch).named()
        return named if self.frozen_prefix is None else {**named, HIDDEN: self.frozen_prefix(batch)}

    def close(self) -> None:
        """Release the frozen prefix and the workers; engines release the rest."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        if self.frozen_prefix is not None:
            self.frozen_prefix.close()

    @abstractmethod
    def _open_prefix(self) -> Compute:
        """Open the program below the cut."""

    @abstractmethod
    def _feeds(self, keys: Sequence[Key], coefficients: FloatArray) -> Feeds:
        """Inputs beside the batch; no keys mean no perturbation."""

    @abstractmethod
    def _bfloat16(self, bits: NDArray[np.uint16]) -> Any:
        """A tensor of numbers that numpy has no type for."""

    @abstractmethod
    def _open_gradient(self) -> GradientEngine:
        """Open the forward graph with residuals, and the backward graph."""

    @abstractmethod
    def _forward(self, feeds: Feeds) -> FloatArray:
        """f32[P, N, C], or [N, C] of a program without probes.

        Rows are all computed to the length of the longest.
        Where there are workers, several threads ask at a time.
        """
