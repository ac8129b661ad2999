"""Soft prompts and key/value prefixes: what trains stands before the text, the model stays whole.

    prompt   embed(x)            →   [prompt; embed(x)]                        prompt: f32[m, D]
    prefix   K, V of a layer l   →   [prefix.l.key; K], [prefix.l.value; V]    each: f32[H, m, d]

The text sees m positions before it and counts its own from m. Both begin as what the model itself
makes of m random tokens of its vocabulary, computed with one weight in memory at a time; so a
prefix begins as those tokens in front of the text. A layer that attends to a window sees as much of
them as of tokens there.
Source: Lester et al. 2021, arXiv 2104.08691 (prompt); Li and Liang 2021, arXiv 2101.00190 (prefix);
trained by forward passes in Malladi et al. 2023, arXiv 2305.17333 (a prefix of 5 that begins at
activations), and Zhang et al. 2024, arXiv 2402.11592 (a prompt of 10).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from zofx.errors import UnsupportedError, UsageError
from zofx.ir.program import Loader, SharedLoader
from zofx.ir.symbols import FakeTensorMode
from zofx.models.trace import constant, run_lazily, trace
from zofx.zo.random.noise import trainable_id


@dataclass(frozen=True)
class Prompt:
    """Learned embeddings before those of the text.

    Attributes:
        tokens: how many, m.
        seed: which tokens of the vocabulary they begin as.
    """

    tokens: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check_tokens(self)


@dataclass(frozen=True)
class Prefix:
    """Learned keys and values before those of the text, in every layer.

    Attributes:
        tokens: how many, m.
        seed: which tokens of the vocabulary they begin as.
    """

    tokens: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_tokens(self)


Adapter: TypeAlias = Prompt | Prefix
ADAPTERS: Mapping[str, Callable[[], Adapter]] = {"prompt": Prompt, "prefix": Prefix}


def _check_tokens(adapter: Adapter) -> None:
    if adapter.tokens < 1:
        raise UsageError(f"{adapter}: it takes at least one token")


def adapter_for(name: str) -> Adapter:
    """The adapter of this name, in its usual size.

    Raises:
        UsageError: there is none.
    """
    if name not in ADAPTERS:
        raise UsageError(f"there is no adapter '{name}'; there are: {', '.join(ADAPTERS)}")
    return ADAPTERS[name]()


class Attachment(nn.Module):
    """What an adapter adds to a model while that is traced; its parameters are what trains.

    Attributes:
        embedded: how many positions stand before the text and have logits.
        cached: how many stand before it as keys and values alone.
        initial: what the parameters begin as, by their names.
    """

    embedded = 0
    cached = 0
    initial: Mapping[str, Loader]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """Arguments of the model, for i64[N, T] and i64[N, T]."""
        raise NotImplementedError

    def _begin(self, recipes: Sequence[Loader]) -> None:
        names = [name for name, _ in self.named_parameters()]
        self.initial = dict(zip(names, recipes, strict=True))


def attach(
    adapter: Adapter, model: nn.Module, loaders: Mapping[str, Loader], *, causal: bool
) -> Attachment:
    """Prepare a model to be traced with an adapter; nothing of it is read yet.

    Args:
        adapter: which.
        model: its weights are fake; a prompt leaves hooks on it.
        loaders: recipes for its parameters and buffers.
        causal: whether it predicts the next token.

    Raises:
        UnsupportedError: the model has no place for it.
    """
    if reason := _obstacle(adapter, model, causal):
        kind = type(model).__name__
        raise UnsupportedError(f"{kind} cannot be given a {_name(adapter)}", [reason])
    language_model: Any = model  # of transformers, which is not typed
    embeddings = language_model.get_input_embeddings()
    padding = language_model.config.get_text_config().pad_token_id
    ids = draw_tokens(adapter, len(embeddings.weight), padding)
    source = _Embeds(model) if isinstance(adapter, Prompt) else _KeysAndValues(model)
    parameters, recipes = _computed(source, ids, embeddings.weight.fake_mode, loaders)
    if isinstance(adapter, Prompt):
        return _SoftPrompt(parameters[0], recipes, embeddings, int(ids[0, 0]))
    return _KeyValuePrefix(parameters, recipes, cache_argument(model))


def cache_argument(model: nn.Module) -> str:
    """What a model calls the keys and values of earlier tokens, "" if it takes none.

    transformers 5.24 has another name for them than those before it.
    """
    known = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in known), "")


def _name(adapter: Adapter) -> str:
    return next(name for name, kind in ADAPTERS.items() if kind is type(adapter))


def _obstacle(adapter: Adapter, model: nn.Module, causal: bool) -> str | None:
    """Why a model cannot be given an adapter."""
    if isinstance(adapter, Prompt):
        known = hasattr(model, "get_input_embeddings")
        return None if known else "it does not say which layer embeds its tokens"
    if not causal:
        return "it is a masked model, and those keep no keys and values; train a prompt instead"
    if not cache_argument(model):
        return "it keeps no keys and values of earlier tokens; train a prompt instead"
    layers = DynamicCache(config=model.config).layers
    if not all(isinstance(layer, DynamicLayer) for layer in layers):
        return "some of its layers keep a state, not keys and values; train a prompt instead"
    return None


def draw_tokens(adapter: Adapter, vocabulary: int, padding: int | None) -> Tensor:
    """The tokens an adapter begins as, i64[1, m]: any but padding, by seed alone."""
    counter = (0, trainable_id("adapter.tokens"), 0, 0)
    words = np.random.Philox(key=(adapter.seed, 0), counter=counter).random_raw(adapter.tokens)
    choices = [token for token in range(vocabulary) if token != padding]
    return torch.tensor([[choices[word % len(choices)] for word in words.tolist()]])


class _SoftPrompt(Attachment):
    """The model reads m more tokens; the layer that embeds tokens gives the prompt for them.

    So the model counts positions and tells padding as it does for any text, whatever its way.
    """

    def __init__(
        self, prompt: nn.Parameter, recipes: Sequence[Loader], embeddings: nn.Module, token: int
    ) -> None:
        super().__init__()
        self.prompt = prompt
        self.embedded = len(prompt)
        self.token = token
        self._begin(recipes)
        embeddings.register_forward_pre_hook(self._leave_out)
        embeddings.register_forward_hook(self._put_before)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """See the base."""
        before = input_ids.new_full((input_ids.shape[0], self.embedded), self.token)
        return {
            "input_ids": torch.cat((before, input_ids), 1),
            "attention_mask": _widened(attention_mask, self.embedded),
        }

    def _leave_out(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0][:, self.embedded :], *args[1:]

    def _put_before(self, _: nn.Module, args: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        return torch.cat((_for_rows(self.prompt, embedded), embedded), 1)


class _Pair(nn.Module):
    """Keys and values of one layer, f32[H, m, d]."""

    def __init__(self, key: nn.Parameter, value: nn.Parameter) -> None:
        super().__init__()
        self.key, self.value = key, value


class _KeyValuePrefix(Attachment):
    """The model goes on from m tokens whose keys and values it is given."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], recipes: Sequence[Loader], argument: str
    ) -> None:
        super().__init__()
        self.argument = argument
        pairs = zip(parameters[::2], parameters[1::2], strict=True)
        self.prefix = nn.ModuleList(_Pair(key, value) for key, value in pairs)
        self.cached = parameters[0].shape[-2]
        self._begin(recipes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """See the base."""
        cache = _new_cache()
        for layer, (key, value) in enumerate(pair.parameters() for pair in self.prefix):
            cache.update(_for_rows(key, input_ids), _for_rows(value, input_ids), layer)
        return {
            "input_ids": input_ids,
            "attention_mask": _widened(attention_mask, self.cached),
            self.argument: cache,
            "use_cache": True,
        }


def _for_rows(parameter: Tensor, like: Tensor) -> Tensor:
    """[*k] → [N, *k], N the rows of another value."""
    return parameter.unsqueeze(0).expand(like.shape[0], *parameter.shape)


def _widened(attention_mask: Tensor, tokens: int) -> Tensor:
    """[N, T] → [N, m + T]: what stands before the text is always seen."""
    ones = attention_mask.new_ones((attention_mask.shape[0], tokens))
    return torch.cat((ones, attention_mask), 1)


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer's keys and values; its base appends the first ones to an empty constant."""

    is_initialized: bool

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.is_initialized:
            both: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return both
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


def _new_cache() -> Any:
    """Grows by a layer when the model gets there; none of them forgets."""
    return Cache(layer_class_to_replicate=_Layer)


class _Embeds(nn.Module):
    """i64[1, m] → what a model embeds them as, f32[m, D]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.model.get_input_embeddings()(ids)  # type: ignore[operator]
        return rows.squeeze(0)


class _KeysAndValues(nn.Module):
    """i64[1, m] → their keys and values in every layer, f32[H, m, d] each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        cache = _new_cache()
        seen = torch.ones_like(ids)
        given = {cache_argument(self.model): cache}
        self.model(input_ids=ids, attention_mask=seen, use_cache=True, **given)
        return tuple(x.squeeze(0) for layer in cache.layers for x in (layer.keys, layer.values))


def _computed(
    source: nn.Module, ids: Tensor, mode: FakeTensorMode, loaders: Mapping[str, Loader]
) -> tuple[list[nn.Parameter], list[Loader]]:
    """Parameters of the shapes a model computes from some tokens, and recipes for the values."""
    with mode:
        example = torch.zeros(ids.shape, dtype=torch.long)
    traced = trace(source, {"ids": example})
    values = traced.recipes(loaders) | {"ids": constant(ids)}
    computed = SharedLoader(lambda: run_lazily(traced, values))
    parameters = []
    with mode:
        for node in traced.results:
            shape = node.meta["val"].shape
            parameters.append(nn.Parameter(torch.empty(shape), requires_grad=False))
    return parameters, [computed.part(place) for place in range(len(parameters))]
