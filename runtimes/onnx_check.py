"""What an ONNX model may hold before an engine sees it: listed ops, and tensors of the artifact.

    graph.onnx ─protobuf, the few fields below─▶ ops, subgraphs, tensors ─▶ an error, or nothing

An artifact may come from anyone, and an engine runs what a model names: custom domains, loops that
never end, constants of any size, tensors from any file. What is here has none of these. The fields
are read by protobuf, which onnxruntime brings along; the package onnx is not needed. Fields that
are not declared here are skipped by the reader, as the format has it.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from zofx.artifact.layout import NOISE, WEIGHTS
from zofx.errors import ArtifactError

LISTED: Final = """
    Abs Add And ArgMax ArgMin Attention BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
    Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv Cos CumProd CumSum
    DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements
    GatherND Gelu Gemm Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish
    Identity If InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish Mod Mul Neg NonZero Not OneHot Or
    Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL2 ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    RotaryEmbedding Round ScatterElements ScatterND SequenceAt SequenceConstruct Shape
    Sigmoid Sign Sin Size Slice Softmax Softplus Split SplitToSequence Sqrt Squeeze Sub Sum
    Tan Tanh Tile TopK Transpose Trilu Unique Unsqueeze Where Xor com.microsoft.FusedMatMul
    com.microsoft.MatMulBnb4 com.microsoft.MatMulIntegerToFloat com.microsoft.MatMulNBits
"""
OPS: Final = frozenset(LISTED.split())
"""What the exporter emits, with the domain unless that is ONNX's own; a test holds it to that."""

NOISE_OPS: Final = OPS | {"Scan"}
"""The model that draws directions goes through its blocks in a loop of known length."""

MOST_ELEMENTS: Final = 1 << 34
"""Of a tensor that a model declares: a bound on sizes that no file backs."""

# message → field → (number, type, repeated); types are messages of this table, or "string", …
FIELDS: Final[dict[str, dict[str, tuple[int, str, bool]]]] = {
    "Model": {
        "graph": (7, "Graph", False),
        "opset_import": (8, "Opset", True),
        "functions": (25, "Empty", True),
    },
    "Opset": {"domain": (1, "bytes", False)},
    "Graph": {
        "node": (1, "Node", True),
        "initializer": (5, "Tensor", True),
        "sparse_initializer": (15, "Empty", True),
    },
    "Node": {
        "op_type": (4, "bytes", False),
        "attribute": (5, "Attribute", True),
        "domain": (7, "bytes", False),
    },
    "Attribute": {
        "t": (5, "Tensor", False),
        "g": (6, "Graph", False),
        "tensors": (10, "Tensor", True),
        "graphs": (11, "Graph", True),
        "sparse_tensor": (22, "Empty", False),
        "sparse_tensors": (23, "Empty", True),
    },
    "Tensor": {
        "dims": (1, "int64", True),
        "external_data": (13, "Entry", True),
    },
    "Entry": {"key": (1, "bytes", False), "value": (2, "bytes", False)},
    "Empty": {},
}


def check_models(folder: Path, files: Sequence[str]) -> None:
    """Check the models of an artifact.

    Raises:
        ArtifactError: one holds what the compiler never writes; names it.
    """
    for name in files:
        check_model(folder / name, NOISE_OPS if name == NOISE else OPS)


def check_model(path: Path, ops: frozenset[str] = OPS) -> None:
    """Check one model.

    Args:
        path: the file.
        ops: the ops it may hold, with the name of their domain unless that is ONNX's own.

    Raises:
        ArtifactError: it is no model, or holds what the compiler never writes.
    """
    try:
        problem = next(_problems(_parsed(path), ops), None)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise ArtifactError(
            f"{path} is no model of zofx: {problem}. It is not loaded; compile the model again"
        )


def _parsed(path: Path) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return _model_class().FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"it is damaged ({error})") from error


def _problems(model: Any, ops: frozenset[str]) -> Iterator[str]:
    """What is wrong with a model, one after the other."""
    if model.functions:
        yield "it has functions of its own"
    if not model.HasField("graph"):
        yield "it has no graph"
    yield from _problems_of(model.graph, ops)


def _problems_of(graph: Any, ops: frozenset[str]) -> Iterator[str]:
    if graph.sparse_initializer:
        yield "it has sparse tensors"
    for tensor in graph.initializer:
        yield from _tensor(tensor)
    for node in graph.node:
        name = b".".join(filter(None, (node.domain, node.op_type))).decode(errors="replace")
        if name.removeprefix("ai.onnx.") not in ops:
            yield f"it calls '{name[:80]}'"
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                yield "it has sparse tensors"
            for tensor in (attribute.t, *attribute.tensors):
                yield from _tensor(tensor)
            for inner in (attribute.g, *attribute.graphs):
                yield from _problems_of(inner, ops)


def _tensor(tensor: Any) -> Iterator[str]:
    sizes = list(tensor.dims)
    if any(size < 0 for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
        yield f"it has a tensor of shape {sizes[:8]}"
    for entry in tensor.external_data:
        if entry.key == b"location" and entry.value != WEIGHTS.encode():
            yield f"it reads tensors from {entry.value[:80].decode(errors='replace')!r}"


@cache
def _model_class() -> Any:
    """The message of a model, made of the fields above."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="zofx_onnx.proto", package="zofx_onnx")
    field_type = descriptor_pb2.FieldDescriptorProto
    for message, fields in FIELDS.items():
        made = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            scalar = kind not in FIELDS
            made.field.add(
                name=name,
                number=number,
                label=field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL,
                type=getattr(field_type, f"TYPE_{kind.upper()}")
                if scalar
                else field_type.TYPE_MESSAGE,
                type_name=None if scalar else f".zofx_onnx.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("zofx_onnx.Model"))
