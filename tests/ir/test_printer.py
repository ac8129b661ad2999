"""The printed form: whole programs, summaries and differences, the same on every machine."""

import re
from typing import Any

import torch
from torch import Tensor

from tests.golden import apply, assert_golden, captured, with_scores
from tests.passes.toys import Broadcasts, OneLinear, Tied, TwoLinears
from zofx.ir.printer import diff, show, summary
from zofx.ir.program import Program, placeholders

PIPELINE = (
    "canonicalize, narrow-positions, select-sensitive{fraction=0.2}, split-sparse, "
    "quantize-frozen{format=codebook}, insert-perturbation, stack-probes"
)


def compiled() -> Program:
    program = with_scores(captured(TwoLinears()), "fc.weight", "head.weight")
    return apply(PIPELINE, program)[0]


def test_summary_of_a_whole_method() -> None:
    """Inputs, facts, bytes per role and how often each op occurs."""
    assert_golden(
        summary(compiled()),
        """\
inputs  input_ids, attention_mask, positions, targets, keys, coefficients
facts   canonical, narrowed, perturbed, quantized, sliced, stacked
frozen  6 tensors, 262,982 bytes
index   2 tensors, 36 bytes
trainable 2 tensors, 36 bytes
ops
      2  aten.add.Tensor
      1  aten.embedding
      1  aten.relu
      2  zofx.direction
      2  zofx.linear_codebook
      2  zofx.perturb
      3  zofx.replicate
      1  zofx.score_targets
      1  zofx.select_positions
      2  zofx.sparse_linear
      1  zofx.split_probes
""",
    )


def test_says_nothing_that_changes_between_runs() -> None:
    """Two captures of one model print the same, and no symbol, id or path is left in it."""
    for make in (compiled, lambda: captured(Broadcasts())):
        text = show(make())
        assert text == show(make())
        assert not re.search(r"\bs\d+\b|0x|cpu|pin_memory|/", text)


def test_values_that_are_inputs_come_in_their_own_order() -> None:
    """Inputs first, then tensors as the graph reads them."""
    names = [line.split()[1] for line in show(compiled()).split("body")[0].splitlines()[1:]]
    assert names[:6] == [
        "input_ids", "attention_mask", "positions", "targets", "keys", "coefficients",
    ]  # fmt: skip
    assert len(names) == len(set(names)) == len(list(placeholders(compiled().graph)))


def test_symbols_that_begin_alike_are_told_apart() -> None:
    """A size is replaced as a word: s4 is not a part of s43."""
    program = captured(OneLinear())
    mode = next(placeholders(program.graph)).meta["val"].fake_mode
    sizes = [mode.shape_env.create_unbacked_symint() for _ in range(12)]
    for node in placeholders(program.graph):
        if node.target == "input_ids":
            with mode:
                node.meta["val"] = torch.empty(sizes[1], sizes[11], dtype=torch.int64)
    assert "input_ids       i64[N, T]" in show(program)


def test_a_product_of_axes_has_one_spelling() -> None:
    """P before N, whatever order torch keeps them in."""
    text = show(compiled())
    assert "[P*N, S, 4]" in text
    assert "N*P" not in text


def test_a_device_is_not_shown() -> None:
    """Where a tensor was traced is not part of what the op means."""

    class Moved(Tied):
        def logits(self, x: Tensor) -> Any:
            return super().logits(x.to(torch.device("cpu"), torch.float64).to(torch.float32))

    text = show(captured(Moved()))
    assert "aten.to.device(%0, f64)   : f64[N, T, 4]" in text
    assert "cpu" not in text


def test_a_difference_shows_what_changed() -> None:
    """Two lines around it, under the names given."""
    before, _ = apply("canonicalize", captured(Tied()))
    after, _ = apply("narrow-positions", before)
    assert_golden(
        diff(show(before), show(after), ("before", "after")),
        """\
--- before
+++ after
@@ -1,3 +1,3 @@
-program                                  facts: canonical
+program                                  facts: canonical, narrowed
   input   input_ids       i64[N, T]
   input   attention_mask  i64[N, T]
@@ -8,7 +8,7 @@
 body
   %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
-  %1 = aten.linear(%0, fc.weight)   : f32[N, T, 4]
-  %2 = aten.linear(%1, embed.weight)   : f32[N, T, 7]
-  %3 = zofx.select_positions(%2, positions)   : f32[N, S, 7]
+  %1 = zofx.select_positions(%0, positions)   : f32[N, S, 4]
+  %2 = aten.linear(%1, fc.weight)   : f32[N, S, 4]
+  %3 = aten.linear(%2, embed.weight)   : f32[N, S, 7]
   %4 = zofx.score_targets(%3, targets)   : f32[N, C]
   return %4
""",
    )
    assert diff(show(before), show(before), ("before", "after")) == ""
