"""Names of an artifact's files."""

from typing import Final

FORMAT: Final = "zofx-artifact"
VERSION: Final = 7
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
SLICES: Final = "slices.safetensors"
GRAPH: Final = "graph.json"
ONNX: Final = "graph.onnx"
BELOW_GRAPH: Final = "below.json"
BELOW_ONNX: Final = "below.onnx"
NOISE: Final = "noise.onnx"
PROGRAM: Final = "program.txt"
TOKENIZER: Final = "tokenizer.json"
