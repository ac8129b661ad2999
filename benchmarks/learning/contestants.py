"""Who takes part: zofx under some options, or a peer under some settings; a row each.

A zofx row is what a user would type: options of `zofx compile` and of `zofx tune`. A peer has a
learning rate and a precision. Settings were searched on dev with the same budget for every row
(README.md), never on test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

BATCH: Final = 16


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
        lr: of AdamW.
        bfloat16: whether products are computed in it.
    """

    label: str
    kind: str
    lr: float
    bfloat16: bool = True
    forwards: int = 3


Contestant: TypeAlias = Zofx | FirstOrder

CONTESTANTS: Final[Mapping[str, Contestant]] = {
    "senszoq": Zofx("SensZOQ int8", "senszoq", tuned={"steps": 2000}),
    "senszoq-cut": Zofx(
        "SensZOQ int8, last block, prefix cached",
        "senszoq",
        {"from_layer": 29, "fraction": 0.01},
        {"steps": 8000, "lr": 7e-4},
    ),
    "mezo": Zofx("MeZO", "mezo", tuned={"steps": 1000}),
    "lozo": Zofx("LOZO", "lozo", tuned={"steps": 1000}),
    "fzoo": Zofx("FZOO", "fzoo", tuned={"steps": 1000}, forwards=9),
    "exact-lora": Zofx(
        "zofx LoRA, exact gradients, int8",
        "senszoq",
        {"train": "lora", "exact_layers": "all"},
        {"steps": 400, "lr": 1e-3},
        forwards=3,
    ),
    "exact-lora-last": Zofx(
        "zofx LoRA of the last 4 blocks, prefix cached, int8",
        "senszoq",
        {"train": "lora", "exact_layers": "all", "from_layer": 26},
        {"steps": 2000, "lr": 1e-3},
        forwards=3,
    ),
    "peft-lora": FirstOrder("PEFT LoRA + AdamW, bf16", "lora", 1e-3),
    "last-block": FirstOrder("torch, whole last block + AdamW, bf16", "last-block", 1e-4),
}
