"""θ as an adapter file of ONNX Runtime: what the artifact's graph.onnx reads beside a batch.

    θ, and one draw of zeros under a probe matrix of zero ──AdapterFormat──▶ model.onnx_adapter

An application with a stock ONNX Runtime then scores rows with graph.onnx, weights.safetensors and
any number of such files, and knows of neither probes nor journals. No torch.
Source: ONNX Runtime, `onnxruntime.AdapterFormat` and `RunOptions.add_active_adapter`.
"""

from pathlib import Path
from typing import Final

import numpy as np

from zofx.artifact import layout
from zofx.errors import UsageError
from zofx.files.atomic import new_folder, require_free
from zofx.runs.export.card import card
from zofx.runs.export.subject import Subject
from zofx.zo.types import FloatArray

ADAPTER: Final = "model.onnx_adapter"
VERSION: Final = 1
WHAT: Final = (
    "An adapter for ONNX Runtime: what was trained, as inputs of the artifact's `graph.onnx`."
    " It was trained by [zofx](https://github.com/zofx/zofx)."
)
USAGE: Final = f"""```python
import onnxruntime

session = onnxruntime.InferenceSession("ARTIFACT/graph.onnx")
adapter = onnxruntime.AdapterFormat.read_adapter("FOLDER/{ADAPTER}")
rows = {{name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in batch.items()}}
(logprob,) = session.run_with_ort_values(None, {{**rows, **adapter.get_parameters()}})
```

`batch` has input_ids and attention_mask i64[N, T], positions i64[N, S] and targets i64[N, S, C];
`logprob` is f32[1, N, C]. In other languages the file is an active adapter of the run options."""


def export_onnx_adapter(subject: Subject, out: Path) -> None:
    """Write the adapter.

    Args:
        subject: an artifact at some θ.
        out: the folder to make.

    Raises:
        UsageError: the folder is taken, or ONNX Runtime is not installed.
    """
    require_free(out)
    try:
        from onnxruntime import AdapterFormat, OrtValue
    except ImportError as error:
        raise UsageError(
            "--to onnx-adapter needs onnxruntime; run `pip install 'zofx[ort]'`"
        ) from error
    adapter = AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    read = _inputs(subject)
    adapter.set_parameters(
        {n: OrtValue.ortvalue_from_numpy(v) for n, v in _parameters(subject).items() if n in read}
    )
    with new_folder(out) as folder:
        adapter.export_adapter(str(folder / ADAPTER))
        text = card(subject, WHAT, [USAGE])
        (folder / "README.md").write_text(text, encoding="utf-8")


def _parameters(subject: Subject) -> dict[str, FloatArray]:
    """θ, and what makes the graph evaluate it as it is: one draw of zeros, multiplied by zero."""
    shapes = subject.manifest.trainables
    draws = {f"{name}.z": np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
    theta = {name: np.ascontiguousarray(v, np.float32) for name, v in subject.theta.items()}
    return {**theta, **draws, "coefficients": np.zeros((1, 1), np.float32)}


def _inputs(subject: Subject) -> set[str]:
    """What the graph reads."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(
        subject.folder / layout.ONNX, options, providers=["CPUExecutionProvider"]
    )
    return {value.name for value in session.get_inputs()}
