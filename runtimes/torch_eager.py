"""PyTorch: the artifact's graph, op by op, on the CPU or a CUDA device.

    graph.json + weights.safetensors + θ, keys, C   →   logprob f32[P, N, C]

Weights are mapped, not read; every value is dropped after its last use. On the CPU θ is shared with
numpy, and the one piece of arithmetic that must be bit-equal everywhere (`zofx.zo.random.apply`)
moves it. On CUDA z is computed on the device (`torch_noise`) from the same bits. CUDA is chosen by
device="cuda" where torch has it; it was never run on the machine this was written on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import UnsupportedError
from zofx.ir import ops
from zofx.ir.formats import FORMATS
from zofx.ir.graph_json import load_graph
from zofx.ir.ops import directions
from zofx.ir.program import last_uses, output_node
from zofx.ir.schema import COEFFICIENTS, KEYS
from zofx.runtimes.host.engine_errors import engine_errors
from zofx.runtimes.host.engine_session import Arrays, EngineSession, Feeds
from zofx.runtimes.host.prefix import Compute
from zofx.runtimes.host.vocabulary import BatchVocabulary
from zofx.runtimes.torch_noise import sample_torch
from zofx.session import Batch, Support, Weigh, unperturbed
from zofx.zo.random.noise import Kind
from zofx.zo.types import FloatArray, Key, key_words


@directions.direction.register_kernel("cuda")
def _(keys: Tensor, table: Tensor | None, name: str, size: Sequence[int], kind: Kind) -> Tensor:
    """The same bits, made where they are used."""
    return sample_torch(kind, keys, name, tuple(size), table, keys.device)


Call: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def _plain(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return target(*args, **kwargs)


def _differentiable(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Our own ops have no backward; what they are written in has one."""
    if getattr(target, "namespace", "") == "zofx" and any(map(_trains, args)):
        target = ops.meaning(target)
    return target(*args, **kwargs)


def _trains(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


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
        self._graph = _Graph(folder / layout.GRAPH, self._device)
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
    def _forward(self, inputs: Feeds, feeds: Feeds) -> FloatArray:
        scores: FloatArray = self._graph({**feeds, **self._placed(inputs)}).cpu().numpy()
        return scores

    def _open_prefix(self) -> Compute:
        graph = _Graph(self._folder / layout.PREFIX_GRAPH, self._device)

        @torch.inference_mode()
        def compute(row: Arrays) -> FloatArray:
            hidden: FloatArray = graph({**self._weights, **self._placed(row)}).cpu().numpy()
            return hidden

        return compute

    def _placed(self, arrays: Mapping[str, NDArray[Any] | Tensor]) -> dict[str, Tensor]:
        """Arrays where the graph runs; on the CPU they are shared."""
        return {name: _tensor(value).to(self._device) for name, value in arrays.items()}

    def _tables(self, words: BatchVocabulary) -> dict[str, Tensor]:
        return self._placed(super()._tables(words))

    def _bfloat16(self, bits: NDArray[np.uint16]) -> Tensor:
        return torch.from_numpy(bits).view(torch.bfloat16)

    def gradient(self, batch: Batch, weigh: Weigh) -> dict[str, FloatArray]:
        """The exact gradient of a loss, for the tensors that train by it.

        Args:
            batch: N rows.
            weigh: the loss's derivative: logprob f32[N, C] → f32[N, C].

        Returns:
            Name → gradient, f32.
        """
        words = self._vocabulary.words(batch)
        feeds = {**self._feeds([], unperturbed()), **self._tables(words)}
        inputs = {**feeds, **self._placed(self._inputs(batch, words))}
        exact = {name: inputs[name].clone().requires_grad_() for name in self._exact}
        with torch.enable_grad():
            (scores,) = self._graph({**inputs, **exact}, _differentiable)
            weights = weigh(scores.detach().cpu().numpy()).astype(np.float32)
            total = (scores * torch.from_numpy(weights).to(self._device)).sum()
            found = torch.autograd.grad(total, list(exact.values()))
        return {name: g.cpu().numpy() for name, g in zip(exact, found, strict=True)}

    def close(self) -> None:
        """Unmap the weights."""
        self._weights.clear()
        super().close()


def _tensor(value: NDArray[Any] | Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


class _Graph:
    """A graph that is run op by op; every value is dropped after its last use.

    Args:
        path: of the file.
        device: where it runs.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._graph = _placed(load_graph(path), device)
        self._last_use = last_uses(self._graph)

    def __call__(self, inputs: Mapping[str, Tensor], call: Call = _plain) -> Tensor:
        """The result."""
        values: dict[fx.Node, Any] = {}
        for node in self._graph.nodes:
            if node.op == "placeholder":
                values[node] = inputs[str(node.target)]
            elif node.op == "call_function":
                args = map_arg(node.args, values.__getitem__)
                kwargs = map_arg(node.kwargs, values.__getitem__)
                values[node] = call(node.target, args, kwargs)
            for dead in self._last_use.get(node, ()):
                del values[dead]
        result: Tensor = values[output_node(self._graph).all_input_nodes[0]]
        return result


def _placed(graph: fx.Graph, device: torch.device) -> fx.Graph:
    """Let factories make their tensors on the device of the run."""
    for node in graph.nodes:
        node.args, node.kwargs = (
            map_aggregate(a, lambda v: device if isinstance(v, torch.device) else v)
            for a in (node.args, node.kwargs)
        )
    return graph


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
