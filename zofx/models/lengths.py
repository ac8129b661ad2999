"""How long a text may be, and who numbers its positions: by what the model does, not by its name.

    numbers_its_own    a table looked up by cumsum(f(token ids)): the model counts by itself
    trace_lengths      bounds of T to trace under, the widest first
    usable_tokens      the largest T whose every looked-up index is a row of its table

Where the first holds, giving positions would override the model's own rule (which may begin at the
row after the padding's). The last is computed, not read from the configuration: only what turns
tokens and mask into indices runs, on integers, for a few lengths.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from zofx.ir.program import Program, is_call
from zofx.ir.rewrite import run_node
from zofx.ir.schema import TOKENS
from zofx.ir.symbols import FakeTensorMode, TorchDispatchMode, tree_leaves

aten = torch.ops.aten

LIMIT: Final = 2**20
"""Of a model whose configuration names none."""
SAMPLED: Final = 4
"""Token ids 0 … 3: among them is at most one that pads, and rows of the others count them all."""
LOOKUPS: Final = {aten.embedding.default: (0, 1), aten.index_select.default: (0, 2)}
"""Op → where its table is, and its index."""
SOFTMAXES: Final = (
    aten.softmax.int, aten._softmax.default, aten.scaled_dot_product_attention.default
)  # fmt: skip


def position_rows(model: nn.Module) -> int | None:
    """How many positions there are by the configuration."""
    config: Any = getattr(model, "config", None)
    own = config.get_text_config() if hasattr(config, "get_text_config") else config
    rows = getattr(own, "max_position_embeddings", None)
    return rows if isinstance(rows, int) and rows > 1 else None


def trace_lengths(model: nn.Module, before: int = 0) -> Iterator[int]:
    """Bounds of T to try: what the configuration names, or one less where code asks for less.

    Args:
        model: with its configuration.
        before: positions that stand before the text.
    """
    rows = position_rows(model)
    if rows is None or rows - before < 2:
        yield LIMIT
    else:
        yield rows - before
        if rows - before > 2:
            yield rows - before - 1


class _Stop(Exception):  # noqa: N818  no error
    """Enough is known."""


class _Follow(TorchDispatchMode):
    """Follows what is counted of token ids up to the first attention."""

    def __init__(self, input_ids: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.derived, self.counted = {id(input_ids)}, set[int]()
        self.alive: list[Any] = [input_ids]  # so that no id is taken twice
        self.reached = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        operands = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if func in LOOKUPS and id(args[LOOKUPS[func][1]]) in self.counted:
            self.reached = True
        if self.reached or func in SOFTMAXES or "attention" in str(func):
            raise _Stop
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not leaf.is_floating_point():
                self.alive.append(leaf)
                if operands & self.counted or (
                    func is aten.cumsum.default and operands & self.derived
                ):
                    self.counted.add(id(leaf))
                if operands & self.derived:
                    self.derived.add(id(leaf))
        return result


def numbers_its_own(model: nn.Module, mode: FakeTensorMode) -> bool:
    """Whether a model that is given no positions counts them from the token ids themselves.

    Args:
        model: with fake weights.
        mode: their world.
    """
    with mode, torch.no_grad():
        input_ids = torch.zeros((2, 5), dtype=torch.long)
        follow = _Follow(input_ids)
        try:
            with follow:
                model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
        except Exception:  # what cannot run says so when it is traced
            return follow.reached
    return follow.reached


def usable_tokens(program: Program, limit: int | None) -> int | None:
    """The longest text whose positions are rows of the tables they are looked up in.

    Args:
        program: as captured.
        limit: what configuration and tokenizer allow; None if they set none.
    """
    lookups = [node for node in program.graph.nodes if _by_position(node, program)]
    if not lookups:
        return limit
    high = limit or max(int(_table(node).meta["val"].shape[0]) for node in lookups)
    if all(_fits(node, program, high) for node in lookups):
        return high
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        if all(_fits(node, program, middle) for node in lookups):
            low = middle
        else:
            high = middle
    return low


def _table(node: fx.Node) -> fx.Node:
    table: fx.Node = node.args[LOOKUPS[node.target][0]]  # type: ignore[index, assignment]  # a lookup
    return table


def _index(node: fx.Node) -> fx.Node:
    index: fx.Node = node.args[LOOKUPS[node.target][1]]  # type: ignore[index, assignment]  # a lookup
    return index


def _by_position(node: fx.Node, program: Program) -> bool:
    """Whether it looks up a row of a tensor by an index made of sizes, tokens and mask alone."""
    if node.target not in LOOKUPS or not isinstance(_index(node), fx.Node):
        return False
    if str(_table(node).target) not in program.tensors or len(_index(node).meta["val"].shape) > 2:
        return False
    needed = _needed(_index(node))
    tensors = [program.tensors.get(str(n.target)) for n in needed if n.op == "placeholder"]
    inputs = [n.target for n in needed if n.op == "placeholder"]
    whole = all(t is None or not t.dtype.is_floating_point for t in tensors)
    known = all(name in TOKENS or name in program.tensors for name in inputs)
    return whole and known and any(n.op == "call_function" for n in needed)


def _needed(node: fx.Node) -> list[fx.Node]:
    """A node and all that it is made of, in order."""
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        if (now := waiting.pop()) not in seen:
            seen.add(now)
            waiting += now.all_input_nodes
    return [n for n in node.graph.nodes if n in seen]


def _fits(node: fx.Node, program: Program, tokens: int) -> bool:
    """Whether texts of so many tokens find a row."""
    values: dict[fx.Node, Any] = {}
    try:
        for each in _needed(_index(node)):
            if each.op == "placeholder":
                values[each] = _input(str(each.target), program, tokens)
            elif not is_call(each, aten._assert_scalar.default):
                values[each] = run_node(each, values.__getitem__)
    except (RuntimeError, IndexError):  # a table of positions that is sliced beyond its end
        return False
    index = values[_index(node)]
    rows = _table(node).meta["val"].shape[0]
    return bool(index.min() >= 0) and bool(index.max() < rows)


def _input(name: str, program: Program, tokens: int) -> Tensor:
    if name in program.tensors:
        return program.load(name)
    if name == TOKENS[0]:
        return torch.arange(SAMPLED)[:, None].expand(SAMPLED, tokens).contiguous()
    return torch.ones((SAMPLED, tokens), dtype=torch.long)
