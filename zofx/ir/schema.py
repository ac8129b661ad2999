"""What a program and an artifact agree on: roles of tensors, names of inputs. No torch."""

from enum import IntEnum, StrEnum
from typing import Final

HIDDEN: Final = "hidden"
"""What crosses a cut: result of the frozen prefix, input of the trainable remainder."""

INPUTS = ("input_ids", "attention_mask", "positions", "targets")
TOKENS = INPUTS[:2]
KEYS = "keys"
COEFFICIENTS = "coefficients"
COTANGENT = "cotangent"
RESIDUAL = "residual"


class Role(StrEnum):
    """What a tensor is for."""

    FROZEN = "frozen"  # never changes; in weights.safetensors
    TABLE = "table"  # the same, a row per token, looked up: a batch may bring those of its own
    HEAD = "head"  # the same, and multiplied by for a logit per token
    INDEX = "index"  # where a trainable's entries sit in the tensor it was cut from; frozen too
    TRAINABLE = "trainable"  # trains; f32; initial value in trainables.safetensors
    EXACT = "exact"  # trains by exact gradients, on an engine that has them; f32; also there
    STATE = "state"  # f32 beside a trainable; changes when the driver refreshes it; also there


VOCABULARY: Final = (Role.TABLE, Role.HEAD)
"""What has a row per token, as many as a batch needs."""

FROZEN_ROLES: Final = (Role.FROZEN, *VOCABULARY, Role.INDEX)
"""What training leaves as it is."""

UPDATED_ROLES: Final = (Role.TRAINABLE, Role.EXACT, Role.STATE)


class Form(StrEnum):
    """How a tensor was derived from its origin, or where else it is from.

    What stores the codes of a frozen matrix has the name of its format here (`zofx.ir.formats`).
    """

    STORED = ""  # the tensor of the checkpoint, as it is there
    COMPUTED = "computed"  # in no checkpoint: the model or a pass computes it
    ADAPTER = "adapter"  # in no checkpoint: it stands before the text, and trains
    TRANSPOSED = "transposed"  # [out, in] of one that is stored as [in, out]
    INDEX = "index"  # flat positions of the entries that train
    SLICE = "slice"  # these entries
    LOW_RANK = "low-rank"  # A of gain · left · A · right
    LEFT = "left"
    RIGHT = "right"


_TRANSPOSED: Final = ".T"


def transposed(name: str) -> str:
    """The name of a matrix that is kept as the transpose of the checkpoint's."""
    return f"{name}{_TRANSPOSED}"


def checkpoint_name(name: str) -> str:
    """The name in the checkpoint of a matrix that may be kept as its transpose."""
    return name.removesuffix(_TRANSPOSED)


class Result(StrEnum):
    """What a program computes of a batch."""

    LOGPROB = "logprob"  # log-probabilities under P probes: f32[P, N, C]
    TANGENTS = "tangents"  # those at θ, then P directional derivatives: f32[1 + P, N, C]


class Products(StrEnum):
    """What a program's products with frozen matrices are of."""

    FLOATS = "floats"
    NIBBLES = "nibbles"  # floats with 4-bit codes, which the product unpacks
    INTEGERS = "integers"  # 8-bit integers on both sides


class Stage(IntEnum):
    """Where in a pipeline a pass belongs; an option that brings a pass puts it by its stage."""

    NORMALIZE = 0  # one spelling of the model, and what of it may train at all
    SELECT = 1  # which tensors or coordinates train
    SPLIT = 2  # these apart from what is frozen
    STORE = 3  # the format of what is frozen
    PERTURB = 4  # how what trains is read: under probes, or by exact gradients
    BATCH = 5  # several probes in one forward
    LOWER = 6  # products in the arithmetic of an engine
    PARTITION = 7  # the program in two parts
