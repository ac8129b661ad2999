"""A session whose engine scores one rectangular batch at a time: all engines here are of that kind.

evaluate(batch, keys, C)   feeds once  →  one forward per group of rows  →  rows in their order

Where the program is cut, what is below is computed row by row, or looked up (`below`). Tables of a
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
from zofx.runtimes.host.batching import BatchingPolicy, by_length
from zofx.runtimes.host.engine_errors import engine_errors
from zofx.runtimes.host.prefix import Compute, FrozenPrefix, processor
from zofx.runtimes.host.theta import HostThetaSession, initial_theta
from zofx.runtimes.host.vocabulary import BFLOAT16, BatchVocabulary, Vocabulary
from zofx.session import Batch
from zofx.zo.types import FloatArray, Key

Feeds: TypeAlias = dict[str, Any]
Arrays: TypeAlias = dict[str, NDArray[Any]]


class EngineSession(HostThetaSession):
    """θ on the host, and the forwards of an engine.

    Args:
        folder: the artifact.
        manifest: its description.
        engine: what the bits of a forward depend on beside the artifact, as text.
        batching: how the engine gets through a batch.

    Attributes:
        below: what is below the cut; None if the program has none.
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
        self._pool = (
            ThreadPoolExecutor(self.batching.workers) if self.batching.workers > 1 else None
        )
        self.below = FrozenPrefix(self._open_prefix, owner) if manifest.cut else None

    def keep_activations(self, activations: ActivationCache) -> None:
        """Look up there what is below the cut, and keep what is not there yet."""
        if self.below is not None:
            self.below.keep(activations)

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Score a batch under P probes; rows of about the same length share a forward."""
        if self._closed:
            raise RuntimeError("this session is closed; open another one")
        feeds = self._feeds(keys, coefficients)
        head = 0.0 if batch.relative else self._head
        cost_model = self.batching.cost_model(
            self._slices.bytes, self._frozen, len(coefficients), head
        )
        rows, parts = zip(*by_length(batch, cost_model), strict=True)
        words = self._vocabulary.words(batch)
        feeds |= self._tables(words)
        forwards = map if self._pool is None else self._pool.map
        with engine_errors(self._engine_name, self._artifact):
            run = forwards(lambda part: self._forward(self._inputs(part, words), feeds), parts)
            scores = list(run)
        back = np.argsort(np.concatenate(rows))
        return np.concatenate(scores, axis=1)[:, back]

    def _tables(self, words: BatchVocabulary) -> Feeds:
        """Rows of tables in place of whole ones."""
        return {
            name: self._bfloat16(rows) if rows.dtype == BFLOAT16 else rows
            for name, rows in words.tables.items()
        }

    def _inputs(self, batch: Batch, words: BatchVocabulary) -> Arrays:
        """What the graph reads of a batch; more than that, if it reads less."""
        named = words.number(batch).named()
        return named if self.below is None else {**named, HIDDEN: self.below(batch)}

    def close(self) -> None:
        """Release what is below the cut, and the workers; engines release the rest."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        if self.below is not None:
            self.below.close()

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
    def _forward(self, inputs: Feeds, feeds: Feeds) -> FloatArray:
        """f32[P, N, C] of rows that are all computed to the length of the longest.

        Where there are workers, several threads ask at a time.
        """
