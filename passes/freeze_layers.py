"""Leave the first layers as they are, and what comes before them: nothing there may train.

    fixed = {W : layer(W) < K}  ∪  {W without a layer : some reader of W depends on no layer ≥ K}

A layer is what has one number in its name: the longest series of numbered modules counts. So the
final norm and the head may train, embeddings may not, nor may a head that is tied to them. The
graph is not touched, so the meaning is the same; passes that choose what trains leave out what is
fixed. ActivationCache that no trainable reaches are the same in every step: `cut-frozen-prefix` is
what uses that.
Source: Lee et al. 2019, What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning, arXiv
1911.03090 (the last fourth of the layers reaches 90 % of the quality).
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from zofx.errors import PipelineError
from zofx.ir.facts import CANONICAL
from zofx.ir.patterns import block_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, placeholders
from zofx.ir.schema import Form, Role, Stage


@dataclass(frozen=True)
class FreezeLayers(Pass):
    """See the module.

    Attributes:
        below: K, the first layer that may train.
    """

    name: ClassVar[str] = "freeze-layers"
    stage = Stage.NORMALIZE
    serves: ClassVar[dict[str, str]] = {"train-from-layer": "below"}
    requires = (CANONICAL,)
    below: int = 1

    def run(self, program: Program, remark: Remarker) -> Program:
        """Go by the numbers in names, and by the graph where there are none."""
        parameters = [
            spec.name
            for spec in program.tensors.values()
            if spec.role is Role.FROZEN
            and spec.form != Form.COMPUTED
            and not program.choice(spec.name).fixed
        ]
        layer = layers_of(parameters)
        count = max(layer.values(), default=-1) + 1
        if not 0 < self.below < count:
            cure = f"the first to train is one from 1 to {count - 1}"
            raise PipelineError(
                f"freeze-layers{{below={self.below}}}: the model has {count} numbered layers; "
                f"{cure if count > 1 else 'it takes two or more'}"
            )
        free = {name for name, number in layer.items() if number >= self.below}
        above = _downstream(program.graph, free)
        readers = {str(node.target): set(node.users) for node in placeholders(program.graph)}
        free |= {name for name in parameters if name not in layer and readers[name] <= above}
        remark("tensors", "applied", f"{len(parameters) - len(free)} of {len(parameters)} stay")
        before = [name for name, choice in program.choices.items() if choice.fixed]
        stay = [name for name in parameters if name not in free]
        return program.choosing("fixed", dict.fromkeys([*before, *stay], True))


def layers_of(names: list[str]) -> dict[str, int]:
    """The layer of each parameter that is in one."""
    series: dict[str, dict[str, int]] = defaultdict(dict)
    for name in names:
        if block := block_of(name):
            series[block[0]][name] = block[1]
    return max(series.values(), key=lambda numbers: len(set(numbers.values())), default={})


def _downstream(graph: fx.Graph, names: set[str]) -> set[fx.Node]:
    """What depends on any of these tensors."""
    reached = {node for node in placeholders(graph) if node.target in names}
    for node in graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return reached
