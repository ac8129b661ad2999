"""Who takes part: zofx under some options, or a peer under some settings; a row each.

A zofx row is what a user would type: options of `zofx compile` and of `zofx tune`. A peer has a
learning rate and a precision. Settings were searched on dev with the same budget for every row
(README.md), never on test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

BATCH: Final = 16
PEER_RATE: Final = 4e-3


@dataclass(frozen=True)
class Zofx:
    """An artifact and a run of it.

    Attributes:
        label: in tables and plots.
        method: of `zofx compile`.
        compiled: further options of it, as `compiler.options.Options` has them.
        tuned: options of `zofx tune`.
        forwards: rows that a step puts through the model for each row of the batch; a backward
            pass counts as two.
    """

    label: str
    method: str
    compiled: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    forwards: int = 2


@dataclass(frozen=True)
class FirstOrder:
    """A model in PyTorch, trained by AdamW.

    Attributes:
        label: in tables and plots.
        kind: "lora" or "last-block".
        lr: of AdamW, at the first step.
        steps: over which it falls to zero, as zofx's own does.
        bfloat16: whether products are computed in it.
    """

    label: str
    kind: str
    lr: float
    steps: int
    bfloat16: bool = True
    forwards: int = 3


Contestant: TypeAlias = Zofx | FirstOrder

CONTESTANTS: Final[Mapping[str, Contestant]] = {
    "senszoq": Zofx("SensZOQ, two probes, int8", "senszoq", tuned={"steps": 500}),
    "senszoq-cut": Zofx(
        "SensZOQ of the last block, frozen prefix kept, int8",
        "senszoq",
        {"from_layer": 29, "fraction": 0.01},
        {"steps": 6000, "lr": 7e-4},
    ),
    "mezo": Zofx("MeZO", "mezo", tuned={"steps": 1000}),
    "lozo": Zofx("LOZO", "lozo", tuned={"steps": 1000}),
    "fzoo": Zofx("FZOO", "fzoo", tuned={"steps": 1000}, forwards=9),
    "exact-lora": Zofx(
        "LoRA, exact gradients on ONNX Runtime, int8",
        "senszoq",
        {"train": "lora", "exact_layers": "all"},
        {"steps": 200},
        forwards=3,
    ),
    "exact-lora-half": Zofx(
        "LoRA of layers 15 to 29, the same, frozen prefix kept",
        "senszoq",
        {"train": "lora", "exact_layers": "all", "from_layer": 15},
        {"steps": 300},
        forwards=3,
    ),
    "exact-lora-last": Zofx(
        "LoRA of layers 26 to 29, the same, frozen prefix kept",
        "senszoq",
        {"train": "lora", "exact_layers": "all", "from_layer": 26},
        {"steps": 800},
        forwards=3,
    ),
    "peft-lora": FirstOrder("PEFT LoRA + AdamW on PyTorch, bf16", "lora", PEER_RATE, steps=100),
    "last-block": FirstOrder(
        "torch, whole last block + AdamW, bf16", "last-block", 1e-4, steps=400
    ),
}
