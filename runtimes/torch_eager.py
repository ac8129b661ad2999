"""PyTorch: the artifact's graph, op by op, on the CPU or a CUDA device.

    graph.json + weights.safetensors + θ, keys, C   →   logprob f32[P, N, C]

Weights are mapped, not read; every value is dropped after its last use. On the CPU θ is shared with
numpy, and the one piece of arithmetic that must be bit-equal everywhere (`zofx.zo.random.apply`)
moves it. On CUDA z is computed on the device (`torch_noise`) from the same bits. CUDA is chosen by
device="cuda" where torch has it; it was never run on the machine this was written on.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import UnsupportedError
from zofx.ir.formats import FORMATS
from zofx.ir.ops import directions
from zofx.ir.schema import COEFFICIENTS, KEYS
from zofx.runtimes.host.engine_errors import engine_errors
from zofx.runtimes.host.engine_session import Arrays, EngineSession
from zofx.runtimes.host.gradient import Feeds, GradientEngine
from zofx.runtimes.host.prefix import Compute
from zofx.runtimes.host.vocabulary import BatchVocabulary
from zofx.runtimes.torch_graph import TorchGradient, TorchGraph, placed
from zofx.runtimes.torch_noise import sample_torch
from zofx.session import Support
from zofx.zo.random.noise import Kind
from zofx.zo.types import FloatArray, Key, key_words


@directions.direction.register_kernel("cuda")
def _(keys: Tensor, table: Tensor | None, name: str, size: Sequence[int], kind: Kind) -> Tensor:
    """The same bits, made where they are used."""
    return sample_torch(kind, keys, name, tuple(size), table, keys.device)


class TorchSession(EngineSession):
    """One artifact on PyTorch.

    Args:
        folder: the artifact.
        manifest: its description.
        device: "cpu" or "cuda".
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str) -> None:
        self._device = torch.device(device)
        self._folder = folder
        self._graph = TorchGraph(folder / layout.GRAPH, self._device)
        parts = ("torch", torch.__version__, device, torch.get_num_threads())
        super().__init__(folder, manifest, " ".join(map(str, parts)))
        self._exact = manifest.exact
        self._weights: dict[str, Tensor] = {}
        with safe_open(folder / layout.WEIGHTS, framework="pt", device=device) as file:
            self._weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def _feeds(self, keys: Sequence[Key], coefficients: FloatArray) -> Feeds:
        if not keys:
            keys, coefficients = [Key(0, 0)], np.zeros((len(coefficients), 1), np.float32)
        words = key_words(tuple(keys)).view(np.int64)
        fed: dict[str, NDArray[Any]] = {**self._slices.values, KEYS: words}
        fed[COEFFICIENTS] = coefficients
        return {**self._weights, **self._placed(fed)}

    @torch.inference_mode()
    def _forward(self, feeds: Feeds) -> FloatArray:
        (scores,) = self._graph(self._placed(feeds))
        logprob: FloatArray = scores.cpu().numpy()
        return logprob

    def _open_prefix(self) -> Compute:
        graph = TorchGraph(self._folder / layout.PREFIX_GRAPH, self._device)

        @torch.inference_mode()
        def compute(row: Arrays) -> FloatArray:
            (hidden,) = graph({**self._weights, **self._placed(row)})
            rows: FloatArray = hidden.cpu().numpy()
            return rows

        return compute

    def _placed(self, arrays: Mapping[str, NDArray[Any] | Tensor]) -> dict[str, Tensor]:
        return placed(arrays, self._device)

    def _tables(self, words: BatchVocabulary) -> dict[str, Tensor]:
        return self._placed(super()._tables(words))

    def _bfloat16(self, bits: NDArray[np.uint16]) -> Tensor:
        return torch.from_numpy(bits).view(torch.bfloat16)

    def _open_gradient(self) -> GradientEngine:
        return TorchGradient(self._folder, self._device, self._exact)

    def close(self) -> None:
        """Unmap the weights."""
        self._weights.clear()
        super().close()


def _missing_modules(manifest: Manifest) -> Iterator[str]:
    """Why codes cannot be read, per format that takes a package which is not installed."""
    for name in sorted({row.form for row in manifest.tensors if row.form in FORMATS}):
        module = FORMATS[name].notes("torch").module
        if module is not None and find_spec(module) is None:
            yield f"its {name} weights need {module}: pip install 'zofx[torch]'"


class TorchRuntime:
    """See the module."""

    name = "torch"

    def support(self, folder: Path) -> Support:
        """Whether what the graph needs is here."""
        reasons = []
        if not (folder / layout.GRAPH).is_file():
            reasons.append(f"{folder} has no {layout.GRAPH}")
        else:
            reasons += _missing_modules(read_manifest(folder, check=False))
        return Support(tuple(reasons))

    def load(
        self, folder: Path, *, device: str = "cpu", threads: int | None = None, rows: int = 1
    ) -> TorchSession:
        """Open a session, the same for any number of rows.

        Raises:
            UnsupportedError: every reason why not.
            ArtifactError: the artifact is damaged.
        """
        reasons = list(self.support(folder).reasons)
        if device not in ("cpu", "cuda"):
            reasons.append(f"there is no device '{device}'; there are: cpu, cuda")
        elif device == "cuda" and not torch.cuda.is_available():
            reasons.append("this torch sees no CUDA device")
        if reasons:
            raise UnsupportedError(f"the torch runtime cannot load {folder}", reasons)
        manifest = read_manifest(folder)
        if threads:
            torch.set_num_threads(threads)
        with engine_errors(self.name, folder):
            return TorchSession(folder, manifest, device)


RUNTIME = TorchRuntime()
