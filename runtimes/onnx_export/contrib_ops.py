"""What lowerings are written in: ONNX's ops, ONNX Runtime's own, and sizes of values."""

from typing import Any

import onnx
from onnxscript import opset21 as op
from onnxscript import values

ms = values.Opset("com.microsoft", 1)


def register(name: str, inputs: str, attributes: str, like: int = 0) -> None:
    """Tell onnx of a contrib op of ONNX Runtime, so that a translation may call it.

    Args:
        name: of the op.
        inputs: its inputs; a trailing "?" marks an optional one.
        attributes: its integer attributes.
        like: which input its output has the type of.
    """
    schema = onnx.defs.OpSchema
    optional = schema.FormalParameterOption.Optional
    onnx.defs.register_schema(
        schema(
            name,
            ms.domain,
            ms.version,
            inputs=[
                schema.FormalParameter(
                    word.rstrip("?"), f"T{i}", **({"param_option": optional} if "?" in word else {})
                )
                for i, word in enumerate(inputs.split())
            ],
            outputs=[schema.FormalParameter("Y", f"T{like}")],
            type_constraints=[
                (f"T{i}", [f"tensor({t})" for t in ("float", "uint8", "int8", "int32")], "")
                for i in range(len(inputs.split()))
            ],
            attributes=[
                schema.Attribute(word, schema.AttrType.INT, required=False)
                for word in attributes.split()
            ],
        )
    )


register("FusedMatMul", "A B", "transA transB")
register("MatMulBnb4", "A B absmax", "K N block_size quant_type training_mode")
register(
    "MatMulNBits", "A B scales zero_points? g_idx? bias?", "K N bits block_size accuracy_level"
)
register(
    "MatMulIntegerToFloat",
    "A B a_scale b_scale a_zero_point? b_zero_point? bias?",
    "",
    like=2,
)


def head(x: Any, count: int) -> Any:
    """The first `count` sizes of x."""
    return op.Shape(x, start=0, end=count)


def leading(x: Any) -> Any:
    """All sizes of x but the last."""
    return op.Shape(x, start=0, end=-1)


def ints(*numbers: int) -> Any:
    """A constant i64[n]."""
    return op.Constant(value_ints=list(numbers))


def add_bias(y: Any, bias: Any) -> Any:
    """Y + b, if there is one."""
    return y if bias is None else op.Add(y, bias)
