"""Program → text made for reading and for goldens: stable, no ids, devices, paths or versions.

program                              facts: canonical, sliced
  input   input_ids        i64[N, T]
  frozen  fc.weight.codes  u8[4, 1, 4]   int4 of fc.weight
  trainable fc.weight.slice  f32[3]        slice of fc.weight
body
  %0 = zofx.linear_int(x, fc.weight.codes, …, 4)   : f32[N, 4]
  return %0
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

from zofx.ir.program import Program, output_node, placeholders
from zofx.ir.schema import INPUTS, VOCABULARY, Role
from zofx.ir.symbols import OpOverload

SHORT = {
    torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64",
    torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8", torch.int8: "i8", torch.bool: "bool",
}  # fmt: skip
AXES = {"input_ids": "NT", "positions": " S", "targets": "  C", "keys": "Q", "coefficients": "PQ"}
PLACEMENT = {"device", "layout", "pin_memory"}  # where, not what
LETTERS = "PQNTSCV"


def show(program: Program, remarks: Iterable[object] = ()) -> str:
    """The whole program."""
    symbols = _symbols(program)
    lines = [f"program{' ' * 34}facts: {', '.join(sorted(program.facts)) or 'none'}"]
    lines += _table(program, symbols)
    lines.append("body")
    names = {n: str(n.target) for n in placeholders(program.graph)}
    for number, node in enumerate(n for n in program.graph.nodes if n.op == "call_function"):
        names[node] = f"%{number}"
        lines.append(
            f"  {names[node]} = {_call(node, names)}   : {_type(node.meta['val'], symbols)}"
        )
    lines.append(
        f"  return {', '.join(names[n] for n in output_node(program.graph).all_input_nodes)}"
    )
    indented = [f"  {remark}" for remark in remarks]
    return "\n".join([*lines, *(["remarks", *indented] if indented else [])]) + "\n"


def summary(program: Program) -> str:
    """Inputs, facts, bytes per role, and how often each op occurs."""
    ops = Counter(_op_name(n) for n in program.graph.nodes if n.op == "call_function")
    roles: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for spec in program.tensors.values():
        roles[spec.role] += spec.nbytes
        counts[spec.role] += 1
    return "\n".join(
        [
            f"inputs  {', '.join(program.inputs)}",
            f"facts   {', '.join(sorted(program.facts)) or 'none'}",
            *(
                f"{role:<7} {counts[role]} tensors, {roles[role]:,} bytes"
                for role in Role
                if counts[role]
            ),
            "ops",
            *(f"  {count:>5}  {name}" for name, count in sorted(ops.items())),
        ]
    ) + "\n"  # fmt: skip


def diff(before: str, after: str, names: tuple[str, str]) -> str:
    """Unified diff of two printed programs; an op added early renumbers the lines below it."""
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), *names, n=2
        )
    )


def _symbols(program: Program) -> dict[str, str]:
    """Trace symbols (s43) → axis letters (N)."""
    table: dict[str, str] = {}
    for node in placeholders(program.graph):
        spec = program.tensors.get(str(node.target))
        axes = "V" if spec and spec.role in VOCABULARY else AXES.get(str(node.target), "")
        for letter, size in zip(axes, node.meta["val"].shape, strict=False):
            if letter != " " and not isinstance(size, int):
                table.setdefault(str(size), letter)
    return table


def _table(program: Program, symbols: dict[str, str]) -> Sequence[str]:
    rows = []
    for node in placeholders(program.graph):
        spec = program.tensors.get(str(node.target))
        about = f"{spec.form} of {spec.origin}" if spec and spec.origin else ""
        rows.append(
            (
                spec.role if spec else "input",
                str(node.target),
                _type(node.meta["val"], symbols),
                about,
            )
        )
    order = {"input": 0}
    rows.sort(
        key=lambda row: (order.get(row[0], 1), INPUTS.index(row[1]) if row[1] in INPUTS else 9)
    )
    wide = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return [
        f"  {r[0]:<{wide[0]}}  {r[1]:<{wide[1]}}  {r[2]:<{wide[2]}}  {r[3]}".rstrip() for r in rows
    ]


def _type(value: Any, symbols: dict[str, str]) -> str:
    if isinstance(value, torch.Tensor):
        sizes = ", ".join(_size(size, symbols) for size in value.shape)
        return f"{SHORT.get(value.dtype, str(value.dtype))}[{sizes}]"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_type(v, symbols) for v in value)})"
    return _size(value, symbols)


def _size(size: Any, symbols: dict[str, str]) -> str:
    """An axis by its letter; a product in the order of LETTERS, whatever order torch keeps."""
    text = re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), str(size))
    if re.fullmatch(r"[A-Z](\*[A-Z])+", text):
        return "*".join(sorted(text.split("*"), key=LETTERS.index))
    return text


def _op_name(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        return str(node.target).removesuffix(".default")
    return (
        f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"
    )


def _call(node: fx.Node, names: dict[fx.Node, str]) -> str:
    arguments = [_argument(a, names) for a in node.args if not isinstance(a, torch.device)]
    arguments += [
        f"{key}={_argument(value, names)}"
        for key, value in node.kwargs.items()
        if key not in PLACEMENT
    ]
    return f"{_op_name(node)}({', '.join(arguments)})"


def _argument(value: Any, names: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument(v, names) for v in value)}]"
    if isinstance(value, torch.dtype):
        return SHORT.get(value, str(value))
    return str(value)
