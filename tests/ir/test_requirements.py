"""What running a program takes, read off it."""

import pytest

from tests.golden import captured
from tests.passes.toys import OneLinear
from zofx.ir.pipeline import Pipeline
from zofx.ir.requirements import products_of, result_of
from zofx.ir.schema import Products, Result
from zofx.passes import PASSES

HEAD = "canonicalize, narrow-positions, select-parameters{match=bias}, split-dense, "
PERTURBED = "insert-perturbation, stack-probes"


@pytest.mark.parametrize(
    ("text", "products", "result"),
    [
        (PERTURBED, Products.FLOATS, Result.LOGPROB),
        (f"quantize-frozen{{format=int8}}, {PERTURBED}", Products.FLOATS, Result.LOGPROB),
        (f"quantize-frozen{{format=int4}}, {PERTURBED}", Products.NIBBLES, Result.LOGPROB),
        (
            f"quantize-frozen{{format=int8-row}}, {PERTURBED}, split-base-probe, "
            "quantize-activations",
            Products.INTEGERS,
            Result.LOGPROB,
        ),
        ("insert-perturbation, forward-mode", Products.FLOATS, Result.TANGENTS),
    ],
)
def test_what_a_program_takes(text: str, products: Products, result: Result) -> None:
    """By the ops it has at the end, however it came to have them."""
    program = Pipeline.parse(HEAD + text, PASSES).run(captured(OneLinear(32)))
    assert (products_of(program.graph), result_of(program)) == (products, result)
