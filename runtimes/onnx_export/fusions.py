"""What ONNX has one op for: rewrites of a translated graph, before it is written.

    w · (x · 1/√(mean x² + ε))                       →   RMSNormalization(x, w)
    x·cos + (−x₂ ‖ x₁)·sin                           →   RotaryEmbedding(x, cos₁, sin₁)
    RotaryEmbedding(heads(x), …)                     →   heads(RotaryEmbedding(x, …, num_heads=H))
    Attention(q, repeated(k), repeated(v), …)        →   Attention(q, k, v, …)
    merged(Attention(heads(q), heads(k), heads(v)))  →   Attention(q, k, v, …, q_num_heads=H)

    v = v₁ ‖ v₂: halves of the last axis      heads: [N, T, H·D] → [N, H, T, D], merged its inverse
    repeated: a head of k or v as often as heads of q read it

The last three move numbers and round nothing. The first two round as what they replace does, with
u = 2⁻²⁴: an entry of the first is off by (k/2 + 8)·u of itself at most, k terms in the mean, one of
the second by 3u·(|x·cos| + |x'·sin|). Rows do not see each other, so P probes in one call stay P
calls. All are ops of the standard's opset 23. What no rule fits stays as it is.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass
from onnx_ir.tape import Tape
from onnxscript.rewriter._basics import MatchFailureError  # what a rule may raise; not re-exported
from onnxscript.rewriter.pattern import RewriteRule, RewriteRuleSet

Sizes: TypeAlias = tuple[int | str, ...]

SWAPPED: Final = [0, 2, 1, 3]
"""From [N, T, H, D] to [N, H, T, D], and back."""


def fuse(model: ir.Model) -> None:
    """Apply the rules in the order above."""
    for rules in RULES:
        RewriteRuleSet(rules).apply_to_model(model)


def share(model: ir.Model) -> None:
    """Compute once what is written twice, and nothing that nobody reads."""
    _share_shapes(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)


def _share_shapes(model: ir.Model) -> None:
    """Read every size from the first value that has it: a symbol is one number everywhere.

    Most are then sizes of an input, so that what asks for one waits for no other value. Of what is
    ready, ONNX Runtime computes first what the last node asks for, and would go through all layers
    of the first probe, and keep them for the others, to know how long a row is.
    """
    first = dict[str, tuple[ir.Value, int]]()

    def see(value: ir.Value) -> None:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None:
                first.setdefault(size.value, (value, axis))

    for value in model.graph.inputs:
        see(value)
    for node in list(model.graph):
        if node.op_type == "Shape":
            try:
                known = sizes(node.inputs[0])
            except MatchFailureError:
                continue
            start, end = (node.attributes.get_int(name) for name in ("start", "end"))
            (read,) = node.outputs
            tape = Tape()
            parts = [_size(tape, size, first) for size in known[start:end]]
            made = _joined(tape, parts)
            made.type, made.shape = read.type, read.shape
            model.graph.insert_before(node, tape.nodes)
            replace_all_uses_with(read, made)
        for output in node.outputs:
            see(output)


def _joined(tape: Tape, parts: list[ir.Value]) -> ir.Value:
    """Sizes i64[1] as a shape; of no sizes, an empty one."""
    if not parts:
        return tape.op("Constant", [], {"value_ints": []})
    return parts[0] if len(parts) == 1 else tape.op("Concat", parts, {"axis": 0})


def _size(tape: Tape, size: int | str, first: Mapping[str, tuple[ir.Value, int]]) -> ir.Value:
    """As i64[1]."""
    if isinstance(size, int):
        return tape.op("Constant", [], {"value_ints": [size]})
    value, axis = first[size]
    return tape.op("Shape", [value], {"start": axis, "end": axis + 1})


def sizes(value: ir.Value | None) -> Sizes:
    """Of a value's axes, numbers or symbols; a rule does not fit where they are not known."""
    if value is None or value.shape is None:
        raise MatchFailureError("a shape is not known")
    known = [size if isinstance(size, int) else size.value for size in value.shape]
    if None in known:
        raise MatchFailureError("a size is not known")
    return tuple(size for size in known if size is not None)


def number(value: ir.Value | None) -> float:
    """The one entry of a constant, seen through casts and reshapes; else the rule does not fit."""
    while value is not None and value.const_value is None:
        node = value.producer()
        value = node.inputs[0] if node and node.op_type in ("Cast", "Reshape") else None
    if value is None or value.const_value is None or value.const_value.size != 1:
        raise MatchFailureError("not a constant number")
    entry: float = value.const_value.numpy().item()
    return entry


def ints(op: Any, *entries: int | str) -> Any:
    """A constant i64[n]; a symbol is none, and a rule that meets it does not fit."""
    if not all(isinstance(entry, int) for entry in entries):
        raise MatchFailureError("a size is not a number")
    return op.Constant(value_ints=list(entries))


# --- normalization --------------------------------------------------------------------------------


def _scaled_left(op: Any, x: Any, scale: Any, axes: Any, epsilon: Any) -> Any:
    return op.Mul(scale, _normalized(op, x, axes, epsilon))


def _scaled_right(op: Any, x: Any, scale: Any, axes: Any, epsilon: Any) -> Any:
    return op.Mul(_normalized(op, x, axes, epsilon), scale)


def _normalized(op: Any, x: Any, axes: Any, epsilon: Any) -> Any:
    mean = op.ReduceMean(op.Pow(x, 2.0), axes, keepdims=1, _outputs=["mean"])
    return op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon))))


def _by_rows(_: Any, x: ir.Value, scale: ir.Value, mean: ir.Value, **__: Any) -> bool:
    """The mean is over the last axis; the weight has that axis alone: it is no trainable's."""
    return sizes(mean) == (*sizes(x)[:-1], 1) and sizes(scale) == sizes(x)[-1:]


def _rms(op: Any, x: ir.Value, scale: ir.Value, epsilon: ir.Value, **_: Any) -> Any:
    return op.RMSNormalization(x, scale, axis=-1, epsilon=number(epsilon))


# --- rotary embedding -----------------------------------------------------------------------------

KEEPS_HALVES: Final = ("Cos", "Sin", "Tile", "Unsqueeze")


def _turned(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    first = op.Slice(x, _allow_other_inputs=True, _outputs=["first"])
    second = op.Slice(x, _allow_other_inputs=True, _outputs=["second"])
    return op.Add(op.Mul(x, cos), op.Mul(op.Concat(op.Neg(second), first, axis=-1), sin))


def _by_halves(
    _: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, first: ir.Value, second: ir.Value
) -> bool:
    """All heads turn by the same angles, and so do both halves of the last axis."""
    if len(sizes(x)) != len(SWAPPED):
        return False
    rows, _heads, tokens, width = sizes(x)
    return (
        isinstance(width, int)
        and _cut(first, width) == (0, width / 2, 3, 1)
        and _cut(second, width) == (width / 2, width, 3, 1)
        and all(
            sizes(angles) == (rows, 1, tokens, width) and _both_halves_equal(angles)
            for angles in (cos, sin)
        )
    )


def _cut(value: ir.Value, width: int) -> tuple[float, ...]:
    """Start, end, axis and step of a trainable."""
    node = value.producer()
    assert node is not None
    start, end, *others = (number(entry) for entry in node.inputs[1:])
    return start, min(end, width), *others


def _both_halves_equal(value: ir.Value | None) -> bool:
    """Its last axis is something twice, changed elementwise or repeated along other axes."""
    width = sizes(value)[-1:]
    while value is not None and (node := value.producer()) and sizes(value)[-1:] == width:
        if node.op_type == "Concat":
            one, *others = node.inputs
            return others == [one] and node.attributes["axis"].as_int() == -1
        scaled = node.op_type == "Mul" and sizes(node.inputs[1]) == ()
        value = node.inputs[0] if scaled or node.op_type in KEEPS_HALVES else None
    return False


def _rotary(op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, first: ir.Value, **_: Any) -> Any:
    *_rows, half = sizes(first)
    return op.RotaryEmbedding(x, *(_half(op, angles, half) for angles in (cos, sin)))


def _half(op: Any, angles: ir.Value, width: int | str) -> Any:
    """[N, 1, T, D] → [N, T, D/2]."""
    return op.Slice(op.Squeeze(angles, ints(op, 1)), ints(op, 0), ints(op, width), ints(op, 2))


def _rotary_of_heads(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    return op.RotaryEmbedding(op.Transpose(x, perm=SWAPPED), cos, sin)


def _heads_of_rotary(op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value) -> Any:
    *_, heads, width = sizes(x)
    flat = _flat(op, x)
    turned = op.RotaryEmbedding(flat, cos, sin, num_heads=heads)
    split = op.Reshape(turned, ints(op, 0, 0, heads, width))
    turned.type, turned.shape = x.type, flat.shape
    split.type, split.shape = x.type, x.shape
    return op.Transpose(split, perm=SWAPPED)


def _flat(op: Any, x: ir.Value) -> Any:
    """[N, T, H, D] → [N, T, H·D]: what it was split from, if it was."""
    rows, tokens, heads, width = sizes(x)
    node = x.producer()
    if node and node.op_type == "Reshape" and _is_flat(node.inputs[0], rows, tokens):
        return node.inputs[0]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise MatchFailureError("a size is not a number")
    flat = op.Reshape(x, ints(op, 0, 0, heads * width))
    flat.type, flat.shape = x.type, ir.Shape([rows, tokens, heads * width])
    return flat


def _is_flat(value: ir.Value | None, rows: int | str, tokens: int | str) -> bool:
    """[N, T, …], of a reshape from or to [N, T, H, D]."""
    return len(sizes(value)) == 3 and sizes(value)[:2] == (rows, tokens)


# --- attention ------------------------------------------------------------------------------------


def _attention_to_repeated(
    op: Any, q: Any, k: Any, v: Any, axis: Any, every: Any, shape: Any
) -> Any:
    keys, values = (op.Expand(op.Unsqueeze(x, axis), every) for x in (k, v))
    keys = op.Reshape(keys, shape, _outputs=["keys"])
    values = op.Reshape(values, shape, _outputs=["values"])
    return op.Attention(q, keys, values, _allow_other_inputs=True, _outputs=["attended"])


def _heads_repeated(
    _: Any, k: ir.Value, v: ir.Value, keys: ir.Value, values: ir.Value, axis: ir.Value, **__: Any
) -> bool:
    """And nothing else: along an axis behind the heads', so that copies are neighbours."""
    return number(axis) == 2 and all(
        len(sizes(one)) == len(sizes(many)) == len(SWAPPED)
        and (sizes(one)[0], *sizes(one)[2:]) == (sizes(many)[0], *sizes(many)[2:])
        for one, many in ((k, keys), (v, values))
    )


def _attention_to_given(op: Any, attended: ir.Value, q: Any, k: Any, v: Any, **_: Any) -> Any:
    return _attention(op, attended, q, k, v)


def _attention_of_heads(op: Any, q: Any, k: Any, v: Any, shape: Any) -> Any:
    heads = (op.Transpose(x, perm=SWAPPED) for x in (q, k, v))
    attended = op.Attention(*heads, _allow_other_inputs=True, _outputs=["attended"])
    return op.Reshape(op.Transpose(attended, perm=SWAPPED), shape, _outputs=["merged"])


def _heads_merged(_: Any, attended: ir.Value, merged: ir.Value, **__: Any) -> bool:
    rows, _heads, tokens, _width = sizes(attended)
    return _is_flat(merged, rows, tokens)


def _attention_of_rows(
    op: Any, attended: ir.Value, q: ir.Value, k: ir.Value, v: ir.Value, **_: Any
) -> Any:
    heads = {"q_num_heads": sizes(q)[2], "kv_num_heads": sizes(k)[2]}
    return _attention(op, attended, *(_flat(op, x) for x in (q, k, v)), **heads)


def _attention(op: Any, like: ir.Value, *qkv: Any, **heads: int | str) -> Any:
    """With the mask and the attributes of another."""
    node = like.producer()
    assert node is not None
    return op.Attention(*qkv, *node.inputs[3:], **node.attributes, **heads)


RULES: Final = (
    [RewriteRule(pattern, _rms, _by_rows) for pattern in (_scaled_left, _scaled_right)],
    [RewriteRule(_turned, _rotary, _by_halves)],
    [RewriteRule(_rotary_of_heads, _heads_of_rotary)],
    [RewriteRule(_attention_to_repeated, _attention_to_given, _heads_repeated)],
    [RewriteRule(_attention_of_heads, _attention_of_rows, _heads_merged)],
)
