"""The smallest models that show a case: vocabulary 7, widths that fit on a line."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.golden import apply, captured
from zofx.ir.program import Program

VOCABULARY = 7


_TRACED: dict[tuple[type[nn.Module], bool], Program] = {}


def canonical(toy: type[nn.Module], *, integers: bool = True) -> Program:
    """A toy traced, once, and brought into canonical form."""
    if (toy, integers) not in _TRACED:
        traced = captured(toy(), integers=integers)
        _TRACED[toy, integers], _ = apply("canonicalize", traced)
    return _TRACED[toy, integers]


class Toy(nn.Module):
    """A language model: subclasses say what happens between embedding and logits."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits [N, T, V], as transformers' models return them."""
        return SimpleNamespace(logits=self.logits(self.embed(input_ids)))

    def logits(self, x: Tensor) -> Any:
        """From embeddings [N, T, D]."""
        raise NotImplementedError


class OneLinear(Toy):
    """x·Wᵀ + b."""

    def __init__(self, width: int = 4, bias: bool = True) -> None:
        super().__init__(width)
        self.fc = nn.Linear(width, VOCABULARY, bias=bias)

    def logits(self, x: Tensor) -> Any:
        return self.fc(x)


class TwoLinears(Toy):
    """A layer and a head."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.fc = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def logits(self, x: Tensor) -> Any:
        return self.head(self.fc(x).relu())


class Tied(Toy):
    """A layer, and a head that is the embedding."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.fc = nn.Linear(width, width, bias=False)

    def logits(self, x: Tensor) -> Any:
        return nn.functional.linear(self.fc(x), self.embed.weight)


class Shared(Toy):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY)
        self.fc = nn.Linear(VOCABULARY, VOCABULARY, bias=False)

    def logits(self, x: Tensor) -> Any:
        return self.fc(self.fc(x))


class Gpt2Linear(Toy):
    """A layer whose weight is stored [in, out]; used once or twice."""

    def __init__(self, width: int = 4, times: int = 1) -> None:
        super().__init__(width)
        self.fc = Conv1D(VOCABULARY if times == 1 else width, width)
        self.times = times

    def logits(self, x: Tensor) -> Any:
        for _ in range(self.times):
            x = self.fc(x)
        return x


class Cluttered(Toy):
    """One linear among things that do nothing in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, VOCABULARY)
        self.dropout = nn.Dropout(0.5)

    def logits(self, x: Tensor) -> Any:
        x = self.dropout(x).contiguous().to(torch.float32) + 0
        return self.fc(x.detach().view(x.shape))


class Masked(OneLinear):
    """Masks by Python's operators, and a cast that changes the type."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        seen = (attention_mask > 0) & (input_ids > 1) | (input_ids == 0)
        x = self.embed(input_ids) * seen.to(torch.float32)[..., None]
        return SimpleNamespace(logits=self.fc(x))


class Products(Toy):
    """Products with a weight's transpose, with activations, and addmm of either."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(VOCABULARY, 4))

    def logits(self, x: Tensor) -> Any:
        rows = x.flatten(0, 1)
        mixed = torch.addmm(rows, rows @ rows.t(), rows)
        return torch.matmul(mixed.view(x.shape), self.weight.t())


class MultiQuery(Toy):
    """Two heads of queries share one of keys and values; the head is a product with W.T."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(VOCABULARY, 4))

    def logits(self, x: Tensor) -> Any:
        query = x.view(*x.shape[:2], 2, 2).transpose(1, 2)
        key, value = query[:, :1], query[:, 1:]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(x.shape) @ self.weight.T


class MatrixBias(Toy):
    """addmm whose addend is a matrix: no linear has such a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, VOCABULARY))

    def logits(self, x: Tensor) -> Any:
        rows = x.flatten(0, 1)
        addend = torch.cat((rows, rows[:, 1:]), 1)
        return torch.addmm(addend, rows, self.weight).view(*x.shape[:2], VOCABULARY)


class Norms(Toy):
    """LayerNorm, then RMSNorm written out."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY)
        self.norm = nn.LayerNorm(VOCABULARY)
        self.gain = nn.Parameter(torch.empty(VOCABULARY))

    def logits(self, x: Tensor) -> Any:
        x = self.norm(x.cumsum(1))
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.5) * self.gain


class Block(Toy):
    """A running sum over positions, then a residual MLP, then the head."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 4, bias=False)
        self.head = nn.Linear(4, VOCABULARY, bias=False)

    def logits(self, x: Tensor) -> Any:
        x = x.cumsum(1)
        return self.head(x + self.down(self.up(x).relu()))


class FlatBlock(Block):
    """The same on N·T rows, as OPT writes it."""

    def logits(self, x: Tensor) -> Any:
        x = x.cumsum(1)
        rows = x.reshape(-1, 4)
        rows = rows + self.down(self.up(rows).relu())
        return self.head(rows.view(x.shape))


class MixedRows(TwoLinears):
    """A layer on N·T rows, whose result goes to a sum over all rows too."""

    def logits(self, x: Tensor) -> Any:
        rows = self.fc(x.reshape(-1, 4))
        return self.head(rows.view(x.shape) + rows.cumsum(0).view(x.shape))


class ReadTwice(TwoLinears):
    """A layer whose result goes to the head and to a sum over positions."""

    def logits(self, x: Tensor) -> Any:
        y = self.fc(x).relu()
        return self.head(y + y.cumsum(1))


class Broadcasts(TwoLinears):
    """Sums of [N, T, D] with [T, D] and with [N, 1, D], then with [D]."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(16, 4)
        self.shift = nn.Parameter(torch.empty(4))

    def logits(self, x: Tensor) -> Any:
        x = self.fc(x) + self.place(torch.arange(x.shape[1])) + x.amax(1, keepdim=True)
        return self.head(x - self.shift)


class MixedLogits(Toy):
    """Logits that sum over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, VOCABULARY)

    def logits(self, x: Tensor) -> Any:
        return self.head(x).cumsum(1)


class ReversedRows(TwoLinears):
    """Rows addressed by number below a trainable, and put back."""

    def logits(self, x: Tensor) -> Any:
        back = torch.arange(x.shape[0] - 1, -1, -1)
        return self.head(self.fc(x)[back].relu()[back])


class TokensFirst(TwoLinears):
    """ActivationCache as [T, N, D] between the layer and the head, joined with untouched ones."""

    def logits(self, x: Tensor) -> Any:
        joined = self.fc(x).transpose(0, 1) + x.transpose(0, 1)
        return self.head(joined.transpose(0, 1))


class SharedByRows(TwoLinears):
    """A layer that multiplies position embeddings [T, D], which no row owns."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(16, 4)

    def logits(self, x: Tensor) -> Any:
        return self.head(x + self.fc(self.place(torch.arange(x.shape[1]))))


class WithSizes(TwoLinears):
    """Sizes that count rows below a trainable, and a mask with rows of its own."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        n, t = input_ids.shape
        y = self.fc(self.embed(input_ids)).view(n, t, 2, 2)
        y = y * attention_mask.view(n, t, 1, 1)
        return SimpleNamespace(logits=self.head(y.reshape(n * t, 4)).view(n, t, VOCABULARY))


class Normed(Toy):
    """A LayerNorm, a layer with a bias, a gain and a shift that rows meet, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.empty(4))
        self.head = nn.Linear(4, VOCABULARY, bias=False)

    def logits(self, x: Tensor) -> Any:
        return self.head(self.fc(self.norm(x)) * self.gain)


class Prompted(OneLinear):
    """Two positions that train stand before the text."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.empty(2, 4))

    def logits(self, x: Tensor) -> Any:
        before = self.prompt.unsqueeze(0).expand(x.shape[0], -1, -1)
        return self.fc(torch.cat([before, x], 1).cumsum(1))[:, 2:]


class Doubled(OneLinear):
    """A layer that multiplies by twice its weight, plus one."""

    def logits(self, x: Tensor) -> Any:
        return nn.functional.linear(x, 2 * self.fc.weight + 1)


class Rescaled(OneLinear):
    """A layer whose columns are scaled, by numbers for each of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(4))

    def logits(self, x: Tensor) -> Any:
        return nn.functional.linear(x, self.fc.weight * self.scale)


class Affine(OneLinear):
    """A gain and a shift that rows meet before the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(4))
        self.shift = nn.Parameter(torch.empty(4))

    def logits(self, x: Tensor) -> Any:
        return self.fc(self.shift - x * self.gain)


class Blocks(Toy):
    """Two numbered blocks of two layers between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4, bias=False)) for _ in "ab"
        )
        self.head = nn.Linear(4, VOCABULARY, bias=False)

    def logits(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)
