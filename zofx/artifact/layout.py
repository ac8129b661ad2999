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
NOISE: Final = "noise.onnx"
PROGRAM: Final = "program.txt"
TOKENIZER: Final = "tokenizer.json"
REQUIRED: Final = frozenset({WEIGHTS, TRAINABLES, GRAPH, ONNX, PROGRAM, TOKENIZER})
"""Files that every artifact has."""
OPTIONAL: Final = frozenset({PREFIX_GRAPH, PREFIX_ONNX, NOISE})
"""Files that some have; there are no others."""
STAGES: Final = "stages"
"""A folder of printed programs, where asked for: no part of the artifact."""
