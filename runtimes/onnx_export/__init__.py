"""A program as ONNX: translation, lowerings of the zofx:: ops, fusions."""
