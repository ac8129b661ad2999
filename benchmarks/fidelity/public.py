"""Public code, run where it lies: a trainer's own step methods, on a model of ours, along given z.

    CHECKOUT/file.py ─exec─▶ namespace     torch, numpy and the standard library are what they are;
                                           every other import is a stand-in
    its `torch`      ─▶ Draws              the normals it asks for are given, in the order it asks
    its class        ─▶ an object          its step methods, and the attributes that they read

The stand-ins make a trainer of 2023 importable beside a transformers of today, of which its step
methods use nothing. Nothing of torch is patched: only the name `torch` in that file's namespace is
another. Source files are read, never copied.
"""

import builtins
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from zofx.errors import UsageError

Namespace: TypeAlias = dict[str, Any]
Inputs: TypeAlias = dict[str, Tensor]

REAL: Final = sys.stdlib_module_names | {"numpy", "packaging", "torch"}


class StandIn(type):
    """What an import gives that no step needs: false, callable, a base class, of any attribute."""

    def __getattr__(cls, name: str) -> "StandIn":
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return StandIn(name, (), {})

    def __call__(cls, *args: Any, **options: Any) -> "StandIn":
        """Another."""
        return StandIn(cls.__name__, (), {})

    def __bool__(cls) -> bool:
        return False


def _import(
    name: str, globals: Any = None, locals: Any = None, names: Sequence[str] = (), level: int = 0
) -> Any:
    """`import`, as public code is given it."""
    if level == 0 and name.partition(".")[0] in REAL:
        return builtins.__import__(name, globals, locals, names, level)
    return StandIn(name, (), {})


def namespace(path: Path) -> Namespace:
    """What a source file defines.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there: the checkout is of another repository or commit")
    names: Namespace = {
        "__name__": path.stem,
        "__file__": str(path),
        "__builtins__": {**vars(builtins), "__import__": _import},
    }
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


class Draws:
    """`torch` as a trainer sees it: of standard normals, it gets those it is given.

    A seeded generator is a sequence that starts anew at every seeding; so are these.
    """

    def __init__(self) -> None:
        self.values = torch.zeros(0, dtype=torch.float64)
        self.place = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def give(self, values: Sequence[Tensor]) -> None:
        """What will be drawn after every seeding, one tensor after the other."""
        self.values, self.place = torch.cat([part.flatten() for part in values]), 0

    def manual_seed(self, seed: int) -> None:
        """Start over."""
        self.place = 0

    def normal(self, mean: float, std: float, size: Sequence[int], **kind: Any) -> Tensor:
        """As `torch.normal`."""
        if (mean, std) != (0, 1):
            raise UsageError(f"a draw of mean {mean} and deviation {std}: no standard normal")
        return self.randn(*size, **kind)

    def randn(self, *size: int, device: Any = None, dtype: Any = None) -> Tensor:
        """As `torch.randn`."""
        shape = torch.Size(size)
        start, self.place = self.place, self.place + shape.numel()
        if self.place > len(self.values):
            raise UsageError(f"the trainer draws {list(shape)} beyond its order of draws")
        return self.values[start : self.place].view(shape).to(device=device, dtype=dtype, copy=True)

    def require_used(self) -> None:
        """Every value was drawn since the last seeding.

        Raises:
            UsageError: the trainer draws in another order than its peer lists.
        """
        if self.place != len(self.values):
            raise UsageError(
                f"the trainer drew {self.place} of {len(self.values)} normals: its order is another"
            )


@dataclass
class Losses:
    """What a trainer calls for a loss: that of the model, or a given one.

    Attributes:
        losses_given: f64[P], the losses of a step; None for the model's own.
        own: the model's, evaluation by evaluation, whatever was answered.
    """

    losses_given: Tensor | None = None
    own: list[Tensor] = field(default_factory=list)

    def __call__(self, model: PreTrainedModel, inputs: Inputs) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = model(**inputs)[0]
        self.own.append(loss.double())
        return (
            loss
            if self.losses_given is None
            else self.losses_given[len(self.own) - 1].to(loss.dtype)
        )


def tuned_model(folder: Path, dtype: torch.dtype, code: Namespace) -> PreTrainedModel:
    """A checkpoint whose forward returns the loss of MeZO's family of code, by that code."""
    # transformers' own ("eager") attention takes its softmax in float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa"
    ).eval()
    model.original_forward = model.forward
    model.forward = code["forward_wrap_with_option_len"].__get__(model)
    return model


@dataclass
class PublicRun:
    """A public trainer at work.

    Attributes:
        code: what its file defines.
        trainer: its class.
        methods: of the class, that a step calls.
        model: what it trains, with a loss of its own.
        take: (run, step, batch), gives draws and calls methods: one step.
        draws: its normals.
        losses: its calls for a loss.
        me: the `self` of its methods.
    """

    code: Namespace
    trainer: str
    methods: Sequence[str]
    model: PreTrainedModel
    take: Callable[["PublicRun", int, Inputs], None]
    draws: Draws = field(default_factory=Draws)
    losses: Losses = field(default_factory=Losses)
    me: Any = None

    def __post_init__(self) -> None:
        own = vars(self.code.get(self.trainer, object))
        missing = [name for name in self.methods if name not in own]
        if missing:
            raise UsageError(f"{self.code['__file__']}: {self.trainer} has no {missing}")
        self.code["torch"] = self.draws  # the name in its file, which its methods look up
        self.me = type(self.trainer, (), {name: own[name] for name in self.methods})()

    def carry(self, lr: float, args: Mapping[str, Any], **more: Any) -> None:
        """Give the trainer what its methods read.

        Args:
            lr: the learning rate.
            args: of its own, beside those that all of them read.
            more: attributes.
        """
        vars(self.me).update(
            args=SimpleNamespace(
                weight_decay=0.0, non_diff=False, n_gpu=1, gradient_accumulation_steps=1, **args
            ),
            model=self.model,
            lr_scheduler=SimpleNamespace(step=lambda: None),
            compute_loss=self.losses,
            compute_loss_context_manager=nullcontext,
            _prepare_inputs=lambda inputs: inputs,
            _get_learning_rate=lambda: lr,
            **more,
        )

    @property
    def weights(self) -> dict[str, Tensor]:
        """θ, f64, a copy."""
        return {n: p.detach().double().clone() for n, p in self.model.named_parameters()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """θ ← these."""
        for name, parameter in self.model.named_parameters():
            parameter.data = weights[name].to(parameter.dtype, copy=True)

    def step(self, t: int, inputs: Inputs, losses_given: Tensor | None = None) -> Tensor:
        """One step; returns its model's losses, f64[P], in the order it asked for them."""
        self.losses.losses_given, self.losses.own = losses_given, []
        self.take(self, t, inputs)
        return torch.stack(self.losses.own)


def commit(checkout: Path) -> str | None:
    """What is checked out, with "+changes" if tracked files differ; None outside git."""
    head, changed = (
        subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
