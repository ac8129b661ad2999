"""ONNX Runtime: trains an artifact on the stock inference engine, with numpy and nothing else.

    graph.onnx   batch, C f32[P, Q], and per trainable θ and z f32[Q, …]   →   logprob f32[P, N, C]

θ lives here as numpy arrays; a direction is made on the host (`zofx.zo.random.noise`), once per
step, and shared by the forward and the move. CPU provider; the CUDA provider is chosen by
device="cuda" where the wheel has it. CUDA was never run on the machine this was written on.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import UnsupportedError
from zofx.ir.schema import HIDDEN, Products
from zofx.runtimes import ort_integers
from zofx.runtimes.host.batching import BatchingPolicy, cpu_batching_policy
from zofx.runtimes.host.engine_errors import engine_errors
from zofx.runtimes.host.engine_session import Arrays, EngineSession
from zofx.runtimes.host.gradient import Feeds, GradientEngine
from zofx.runtimes.host.prefix import Compute
from zofx.runtimes.onnx_check import check_models
from zofx.runtimes.ort_gradient import OrtGradient, reads_of
from zofx.session import Support
from zofx.zo.types import FloatArray, Key

COEFFICIENTS = "coefficients"
MODELS = (
    layout.ONNX, layout.PREFIX_ONNX, layout.NOISE, layout.FORWARD_ONNX, layout.BACKWARD_ONNX,
)  # fmt: skip
BFLOAT16 = 16  # ONNX's number for it
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Products also add probes and move weights, by factors of 1 and ε: TF32 would round both.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}


class OrtSession(EngineSession):
    """One artifact on ONNX Runtime.

    Args:
        folder: the artifact.
        manifest: its description.
        device: "cpu" or "cuda".
        threads: of the engine; None lets it choose.
        rows: of a batch, as a rule.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, device: str, threads: int | None, rows: int
    ) -> None:
        import onnxruntime

        on_cpu = device == "cpu"
        batching = (
            cpu_batching_policy(manifest.products, manifest.cut, rows, threads)
            if on_cpu
            else BatchingPolicy()
        )
        self._folder, self._device = folder, device
        self._threads = threads if batching.workers == 1 else 1
        integers = manifest.products is Products.INTEGERS
        self._kernels = (ort_integers.kernels() or ()) if integers else ()
        # Without probes, the forward graph of the gradient serves: its weights are there anyway.
        self._engine = self._open(layout.ONNX if manifest.trainables else layout.FORWARD_ONNX)
        self._reads = reads_of(self._engine)
        parts = ("ort", onnxruntime.__version__, device, threads or os.cpu_count())
        super().__init__(folder, manifest, " ".join(map(str, parts)), batching)

    def _open(self, file: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # A plan of memory is kept for every shape of a batch, with a block of its own: batches have
        # many shapes, and the blocks add up to more than they save.
        options.enable_mem_pattern = False
        for entry in self._kernels:
            options.add_session_config_entry(*entry)
        if self._threads:
            options.intra_op_num_threads = self._threads
        engine = onnxruntime.InferenceSession(
            self._folder / file,
            options,
            providers=[PROVIDERS[self._device]],
            provider_options=[PROVIDER_OPTIONS[self._device]],
        )
        _give_back()
        return engine

    def _open_prefix(self) -> Compute:
        engine = self._open(layout.PREFIX_ONNX)

        def compute(row: Arrays) -> FloatArray:
            (hidden,) = engine.run([HIDDEN], row)
            rows: FloatArray = hidden
            return rows

        return compute

    def _feeds(self, keys: Sequence[Key], coefficients: FloatArray) -> Feeds:
        z, matrix = self._slices.probes(keys, coefficients)
        draws = {f"{name}.z": value for name, value in z.items()}
        return {**self._slices.values, **draws, COEFFICIENTS: matrix}

    def _bfloat16(self, bits: NDArray[np.uint16]) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16)

    def _open_gradient(self) -> GradientEngine:
        forward = self._open(layout.FORWARD_ONNX) if self._probed else self._engine
        return OrtGradient(forward, self._open(layout.BACKWARD_ONNX))

    def _forward(self, feeds: Feeds) -> FloatArray:
        read = {name: value for name, value in feeds.items() if name in self._reads}
        (logprob,) = self._engine.run(["logprob"], read)
        scores: FloatArray = logprob
        return scores

    def close(self) -> None:
        """Drop the engine and its memory, after the last forward."""
        super().close()
        self._gradient_engine = None
        del self._engine


class OrtRuntime:
    """See the module."""

    name = "ort"

    def support(self, folder: Path) -> Support:
        """Whether onnxruntime is here and the artifact has its graph."""
        reasons = []
        if find_spec("onnxruntime") is None:
            reasons.append(
                "onnxruntime is not installed: "
                "pip install 'zofx[ort]' (or 'zofx[ort-gpu]', never both)"
            )
        if not (folder / layout.ONNX).is_file():
            reasons.append(f"{folder} has no {layout.ONNX}")
            return Support(tuple(reasons))
        manifest = read_manifest(folder, check=False)
        if (folder / layout.WEIGHTS).is_symlink():
            reasons.append(
                f"{layout.WEIGHTS} is a symbolic link, and ONNX Runtime reads tensors from files "
                f"inside the folder alone: copy the file there, or link the folder {folder.name}"
            )
        integers = manifest.products is Products.INTEGERS
        if not reasons and integers and ort_integers.kernels() is None:
            reasons.append(ort_integers.SATURATED)
        return Support(tuple(reasons))

    def load(
        self, folder: Path, *, device: str = "cpu", threads: int | None = None, rows: int = 1
    ) -> OrtSession:
        """Open a session.

        Raises:
            UnsupportedError: every reason why not.
            ArtifactError: the artifact is damaged.
        """
        reasons = list(self.support(folder).reasons) or _provider_missing(device)
        if reasons:
            raise UnsupportedError(f"the ort runtime cannot load {folder}", reasons)
        manifest = read_manifest(folder)
        check_models(folder, [name for name in MODELS if name in manifest.files])
        with engine_errors(self.name, folder):
            return OrtSession(folder, manifest, device, threads, rows)


def _give_back() -> None:
    """Return freed memory to the system, where the C library would rather keep it.

    Folding constants and packing matrices leave half a GB of a model of 7 billion weights.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


def _provider_missing(device: str) -> list[str]:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if device not in PROVIDERS:
        return [f"there is no device '{device}'; there are: {', '.join(PROVIDERS)}"]
    if PROVIDERS[device] not in there:
        return [
            f"this onnxruntime has no {PROVIDERS[device]} (it has {', '.join(there)}); "
            "'zofx[ort-gpu]' brings it"
        ]
    return []


RUNTIME = OrtRuntime()
