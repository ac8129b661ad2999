"""Choose whole tensors to train, by name.

    chosen = {W : a parameter of the checkpoint whose name the pattern is found in}

The graph is not touched, so the meaning is the same. A tensor that the model computes (a rotary
table) is no parameter and never chosen.
Source: Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv 2305.17333
(all parameters: embeddings, norms and biases too).
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from zofx.errors import PipelineError
from zofx.ir.facts import ALL_TRAIN, CANONICAL, TENSORS_SELECTED, Fact
from zofx.ir.pass_options import require_regex
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.schema import Form, Role, Stage

EVERY = "."
"""The pattern that finds every name."""


@dataclass(frozen=True)
class SelectParameters(Pass):
    """See the module.

    Attributes:
        match: a regular expression searched for in the names; "." finds every one.
    """

    name: ClassVar[str] = "select-parameters"
    stage = Stage.SELECT
    serves: ClassVar[dict[str, str]] = {"train": "match"}
    requires = (CANONICAL,)
    match: str = EVERY

    def __post_init__(self) -> None:
        require_regex("select-parameters.match", self.match)

    @property
    def establishes(self) -> tuple[Fact, ...]:
        """A pattern that finds every name leaves nothing frozen."""
        every = ALL_TRAIN.undone_by(
            "train less: --train lora, --train REGEX, or a method with a sparse trainable"
        )
        return (TENSORS_SELECTED, *((every,) if self.match == EVERY else ()))

    def run(self, program: Program, remark: Remarker) -> Program:
        """Go by the names."""
        eligible = [
            spec
            for spec in program.tensors.values()
            if spec.role is Role.FROZEN
            and spec.form != Form.COMPUTED
            and spec.dtype.is_floating_point
            and not program.choice(spec.name).fixed
        ]
        chosen = [spec for spec in eligible if re.search(self.match, spec.name)]
        if not chosen:
            some = ", ".join(spec.name for spec in eligible[:3])
            raise PipelineError(
                f"select-parameters.match={self.match} finds none of the model's "
                f"{len(eligible)} parameters, which are called {some}, …"
            )
        size = sum(spec.size for spec in chosen)
        remark("parameters", "applied", f"{len(chosen)} of {len(eligible)} tensors, {size} weights")
        return program.choosing("whole", {spec.name: True for spec in chosen})
