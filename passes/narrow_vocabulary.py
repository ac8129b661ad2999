"""Let a batch bring the rows of its own tokens, where tokens are nothing but names of rows.

    W[ids]                 ids = u[i]   →   W[u][i]                    u the batch's V' tokens
    score(x·Wᵀ + b, t)     t = u[j]     →   score(x·W[u]ᵀ + b[u], j)   up to a number per row

A table that is only looked up may be any that has the rows looked up. The head's may, too, where
only differences between the alternatives of a row count (`Batch.relative`): a score is a logit less
the logsumexp of all logits, which they have in common. So these tables get a free first axis and a
role of their own, and a session that is given a few tokens reads a few rows: of SmolLM2's 113 MB,
half of what it weighs in 8 bits, a batch of TREC takes 0.3. Whole tables stay valid, and batches
that are scored against the whole vocabulary get them.
Exact, but for what relative scores lack.
Skips, with a remark: programs that read tokens in another way or look them up in what trains; a
head that trains, is quantized, or is read by something else.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from zofx.ir.facts import NARROWED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role, Stage
from zofx.ir.traits import Trait, has

aten = torch.ops.aten
zofx = torch.ops.zofx


@dataclass(frozen=True)
class NarrowVocabulary(Pass):
    """See the module."""

    name: ClassVar[str] = "narrow-vocabulary"
    stage = Stage.BATCH
    requires = (NARROWED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Find the tables, then free their rows."""
        edit = Editor(program)
        frozen = {n for n in edit.nodes if _is_frozen(n, program)}
        readers = list(_readers(edit.placeholder("input_ids")))
        lookups = [n for n in readers if _looks_up(n, frozen)]
        if other := _other(readers, lookups):
            remark("input_ids", "skipped", f"{other.target} does more than look up a frozen row")
            return edit.done()
        roles = {node.all_input_nodes[0]: Role.TABLE for node in lookups}
        head, why = _head(edit, frozen, lookups)
        if head is None:
            remark("head", "skipped", why)
        else:
            roles |= dict.fromkeys(head.all_input_nodes[1:], Role.HEAD)
        if other := _other((user for table in roles for user in table.users), [*lookups, head]):
            remark("input_ids", "skipped", f"{other.target} reads a table as a whole")
            return edit.done()
        axis = edit.new_axis()
        for table, role in roles.items():
            name, (rows, *_) = str(table.target), shape_of(table)
            edit.free_rows(name, role, axis)
            remark(name, "applied", f"any of its {rows} rows, as a {role}")
        return edit.done()


def _is_frozen(node: fx.Node, program: Program) -> bool:
    spec = program.tensors.get(str(node.target)) if node.op == "placeholder" else None
    return spec is not None and spec.role is Role.FROZEN


def _readers(tokens: fx.Node) -> Iterator[fx.Node]:
    """What reads token ids, for one probe or for all; not what counts them."""
    for user in tokens.users:
        if is_call(user, zofx.replicate.default):
            yield from _readers(user)
        elif not is_call(user, aten.sym_size.int):
            yield user


def _looks_up(node: fx.Node, frozen: Collection[fx.Node]) -> bool:
    return is_call(node, aten.embedding.default) and node.all_input_nodes[0] in frozen


def _head(
    edit: Editor, frozen: Collection[fx.Node], lookups: Sequence[fx.Node]
) -> tuple[fx.Node | None, str]:
    """The product that makes the logits, or why there is none whose rows are free."""
    (scores,) = edit.graph.find_nodes(op="call_function", target=zofx.score_targets.default)
    logits = scores.all_input_nodes[0]
    while has(logits, Trait.ELEMENTWISE) and len(logits.all_input_nodes) == len(logits.users) == 1:
        (logits,) = logits.all_input_nodes  # logit by logit
    if not is_call(logits, aten.linear.default) or len(logits.users) > 1:
        return None, f"{logits.target} makes the logits, not a product with a matrix as it is"
    operands = logits.all_input_nodes[1:]
    if other := _other(operands, frozen):
        return None, f"{other.target} is no frozen weight"
    rows = {shape_of(x)[0] for x in (*operands, *(node.all_input_nodes[0] for node in lookups))}
    if len(rows) > 1:
        return None, f"{' and '.join(map(str, sorted(rows)))} rows are not the same tokens"
    if other := _other((user for x in operands for user in x.users), [*lookups, logits]):
        return None, f"{other.target} reads it as well"
    return logits, ""


def _other(nodes: Iterable[fx.Node], known: Collection[fx.Node | None]) -> fx.Node | None:
    """The first of some nodes that is not among others."""
    return next((node for node in nodes if node not in known), None)
