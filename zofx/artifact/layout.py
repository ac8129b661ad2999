"""Names of an artifact's files."""

from typing import Final

FORMAT: Final = "zofx-artifact"
VERSION: Final = 8
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
TRAINABLES: Final = "trainables.safetensors"
GRAPH: Final = "graph.json"
ONNX: Final = "graph.onnx"
PREFIX_GRAPH: Final = "prefix.json"
PREFIX_ONNX: Final = "prefix.onnx"
FORWARD_GRAPH: Final = "forward.json"
FORWARD_ONNX: Final = "forward.onnx"
BACKWARD_GRAPH: Final = "backward.json"
BACKWARD_ONNX: Final = "backward.onnx"
NOISE: Final = "noise.onnx"
PROGRAM: Final = "program.txt"
TOKENIZER: Final = "tokenizer.json"
REQUIRED: Final = frozenset({WEIGHTS, TRAINABLES, GRAPH, ONNX, PROGRAM, TOKENIZER})
"""Files that every artifact has."""
GRADIENT: Final = frozenset({FORWARD_GRAPH, FORWARD_ONNX, BACKWARD_GRAPH, BACKWARD_ONNX})
"""Files of an artifact with tensors that train by exact gradients."""
OPTIONAL: Final = frozenset({PREFIX_GRAPH, PREFIX_ONNX, NOISE}) | GRADIENT
"""Files that some have; there are no others."""
STAGES: Final = "stages"
"""A folder of printed programs, where asked for: no part of the artifact."""
