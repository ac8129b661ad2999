"""From a checkpoint's names and layout to the parameters of a transformers model, unread.

    checkpoint name ─rename, add or strip the base model's prefix─▶ parameter
    several names   ─convert (stack experts, split qkv, …)─▶ one or several parameters
    no name         ─tied to a parameter that is there─▶ the same recipe under both names

The rules are transformers' own, those `from_pretrained` applies. A conversion is run once on meta
tensors to learn the names and shapes it gives, and on the real ones when a recipe runs.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

from zofx.errors import CaptureError
from zofx.models.safetensors_folder import StoredTensor

SHOWN = 8


def resolve(model: PreTrainedModel, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """A recipe for every parameter and persistent buffer of a model.

    Args:
        model: built on the meta device.
        stored: the checkpoint's tensors under the checkpoint's names.

    Returns:
        Recipes in the order of the model's state dict; tied parameters have the very same recipe.
        Dtypes are those of the checkpoint.

    Raises:
        CaptureError: parameters are missing or of another shape (lists them), or the two ends of a
            tie differ.
    """
    state: dict[str, Tensor] = model.state_dict()
    loaders: dict[str, StoredTensor] = {}
    unused: list[str] = []
    for group in _groups(model, state, stored):
        outputs = group.outputs(model, stored)
        loaders.update((name, recipe) for name, recipe in outputs.items() if name in state)
        unused += [name for name in outputs if name not in state]
    _tie(model, loaders)
    loaders.update(_own_buffers(model, state.keys() - loaders.keys()))
    _check(model, state, loaders, unused)
    return {name: loaders[name] for name in state}


@dataclass(frozen=True)
class _Group:
    """Tensors of the checkpoint that one rule turns into parameters.

    Attributes:
        target: the (first) parameter they become.
        converter: how; None is a plain renaming.
        members: the checkpoint's names, each with the pattern of the converter that it matched.
    """

    target: str
    converter: WeightConverter | None
    members: tuple[tuple[str, str], ...]

    def outputs(
        self, model: PreTrainedModel, stored: Mapping[str, StoredTensor]
    ) -> dict[str, StoredTensor]:
        """Parameter name → recipe."""
        if self.converter is None:
            return {self.target: stored[self.members[0][1]]}
        names = [name for _, name in self.members]
        meta = {name: replace(stored[name], read=_meta(stored[name])) for name in names}
        try:
            made = self._convert(model, meta)
        except Exception as error:  # whatever the rules of one of many architectures run into
            raise CaptureError(
                f"transformers' rule for {self.target} does not fit {', '.join(names[:SHOWN])}: "
                f"{error}; save the checkpoint again with the transformers version that wrote it"
            ) from error
        return {
            name: StoredTensor(tuple(value.shape), value.dtype, self._recipe(model, stored, name))
            for name, value in made.items()
        }

    def _recipe(
        self, model: PreTrainedModel, stored: Mapping[str, StoredTensor], name: str
    ) -> Callable[[], Tensor]:
        return lambda: self._convert(model, stored)[name]

    def _convert(
        self, model: PreTrainedModel, stored: Mapping[str, StoredTensor]
    ) -> dict[str, Tensor]:
        converter: Any = deepcopy(self.converter)  # it collects its inputs
        for pattern, name in self.members:
            converter.add_tensor(self.target, name, pattern, stored[name].read)
        values = converter.convert(self.target, model=model, config=model.config)
        return {name: v[0] if isinstance(v, list) else v for name, v in values.items()}


def _meta(tensor: StoredTensor) -> Callable[[], Tensor]:
    return lambda: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _groups(
    model: PreTrainedModel, state: Mapping[str, Tensor], names: Iterable[str]
) -> list[_Group]:
    """Which tensors go together, and where."""
    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix = model.base_model_prefix
    members: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:  # already in the model's own form
            target, pattern = name, None
        members.setdefault(target, []).append((pattern or "", name))
    return [
        _Group(target, by_pattern.get(group[0][0]), tuple(group))
        for target, group in members.items()
    ]


def _tie(model: PreTrainedModel, loaders: dict[str, StoredTensor]) -> None:
    """Give all ends of a tie one recipe; those that the file holds must agree."""
    ties: dict[str, list[str]] = {}
    for target, source in model.all_tied_weights_keys.items():
        ties.setdefault(source, [source]).append(target)
    for names in ties.values():
        present = [name for name in names if name in loaders]
        for other in present[1:]:
            if not torch.equal(loaders[present[0]](), loaders[other]()):
                raise CaptureError(
                    f"the configuration ties {other} to {present[0]}, and the checkpoint holds "
                    "different values for them; set tie_word_embeddings to false in config.json"
                )
        loaders.update((name, loaders[present[0]]) for name in names if present)


def _own_buffers(model: PreTrainedModel, missing: Iterable[str]) -> dict[str, StoredTensor]:
    """Missing buffers that the model computes itself, and says so."""
    ignored = model._keys_to_ignore_on_load_missing or ()
    buffers = {name: b for name, b in model.named_buffers() if not b.is_meta}
    return {
        name: StoredTensor(tuple(buffers[name].shape), buffers[name].dtype, buffers[name].clone)
        for name in missing
        if name in buffers and any(re.search(pattern, name) for pattern in ignored)
    }


def _check(
    model: PreTrainedModel,
    state: Mapping[str, Tensor],
    loaders: Mapping[str, StoredTensor],
    unused: list[str],
) -> None:
    missing = [name for name in state if name not in loaders]
    misfits = [
        f"{name} is {list(loaders[name].shape)}, the model wants {list(state[name].shape)}"
        for name in state
        if name in loaders and loaders[name].shape != tuple(state[name].shape)
    ]
    if missing or misfits:
        lines = [f"the checkpoint does not fit {type(model).__name__}:"]
        lines += _listed("missing", missing) + _listed("wrong shape", misfits)
        lines += _listed("in the checkpoint, but not used", unused)
        lines.append(
            "check that config.json belongs to these weights and names the right model class"
        )
        raise CaptureError("\n".join(lines))


def _listed(title: str, names: list[str]) -> list[str]:
    more = [f"    … and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"  {title}:", *(f"    {name}" for name in names[:SHOWN]), *more] if names else []
