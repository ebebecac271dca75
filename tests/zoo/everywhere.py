"""Models with sites of scope ``all``: Linears on maps and tokens, 1×1 convolutions on whole maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from fxpasses.miss_codes import MissCode
from zoo.entry import seeded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """One such model and what is true of it.

    Attributes:
        name: identifier, also the test's.
        make: builds the model; always the same weights.
        input_shape: shape of its input, without the batch axis.
        form: the form that its sites have.
        sites: module path of every site, in graph order, each once.
        kernels: kernel of each site's convolution.
        permutes: how many permutes the graph has before the rewrite, and after it.
        misses: what is refused: module path and code.
        needs_inputs: whether the number of axes is known from example inputs alone.
        exports: whether ``torch.export`` traces it with a dynamic batch, and every site is a site there too.
        batched: the sites that decompositions write as a batched product, as what they read is no matrix.
    """

    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    form: str = "linear"
    sites: tuple[str, ...]
    kernels: tuple[tuple[int, ...], ...]
    permutes: tuple[int, int]
    misses: tuple[tuple[str, MissCode], ...] = ()
    needs_inputs: bool = False
    exports: bool = True
    batched: tuple[str, ...] = ()

    @property
    def to(self) -> str:
        """The other form."""
        return "conv" if self.form == "linear" else "linear"

    def input(self, batch: int) -> Tensor:
        """A random input in float64."""
        generator = torch.Generator().manual_seed(batch)
        return torch.randn((batch, *self.input_shape), generator=generator, dtype=torch.float64)

    def build(self) -> nn.Module:
        """The model in eval mode and float64."""
        return self.make().eval().double()


class Net(nn.Module):
    """Modules and parameters by name, and one function of them."""

    def __init__(self, call: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, x: Tensor) -> Any:
        """Whatever ``call`` returns."""
        return self.call(self, x)


def net(name: str, call: Callable[..., Any], parts: Callable[[], dict[str, Any]], **facts: Any) -> Whole:
    """An entry written as one function of its parts."""
    return Whole(name=name, make=seeded(lambda: Net(call, **parts())), **facts)


def convnext_block(m: Any, x: Tensor) -> Tensor:
    for _ in range(2):
        y = m.norm(m.dw(x).permute(0, 2, 3, 1))
        y = m.down(F.gelu(m.up(y))).permute(0, 3, 1, 2)
        x = x + m.drop(m.scale * y)
    return m.dw(x)


def encoder(m: Any, x: Tensor) -> Tensor:
    x = m.patch(x).flatten(2).transpose(1, 2)
    x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.positions
    x = x + m.attention(m.norm(x), m.norm(x), m.norm(x), need_weights=False)[0]
    x = x + m.down(F.dropout(F.gelu(m.up(m.norm(x))), 0.1, m.training))
    return m.head(m.norm(x)[:, 0])


def encoder_parts() -> dict[str, Any]:
    return {
        "patch": nn.Conv2d(3, 8, 2, 2),
        "token": torch.randn(1, 1, 8),
        "positions": torch.randn(1, 10, 8),
        "attention": nn.MultiheadAttention(8, 2, batch_first=True),
        "norm": nn.LayerNorm(8),
        "up": nn.Linear(8, 12),
        "down": nn.Linear(12, 8),
        "head": nn.Linear(8, 5),
    }


def mixer(m: Any, x: Tensor) -> Tensor:
    y = m.norm(x).transpose(1, 2)
    x = x + m.tokens_down(F.gelu(m.tokens_up(y))).transpose(1, 2)
    return x + m.down(F.gelu(m.up(m.norm(x))))


def windows(m: Any, x: Tensor) -> Tensor:
    """Attention in windows of 2×2, with views where reshapes would be safer."""
    n, h, w, c = x.shape
    x = m.norm(x).view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    qkv = F.linear(x, m.weight, m.bias).view(-1, 4, 3, c).permute(2, 0, 1, 3)
    x = F.softmax(qkv[0] @ qkv[1].transpose(-2, -1), -1) @ qkv[2]
    x = m.out(x).view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return m.last(x.reshape(n, h, w, c))


def bottleneck(m: Any, x: Tensor) -> Tensor:
    y = m.relu(m.norm(m.reduce(x)))
    y = m.expand(m.relu(m.mid(y)))
    x = y.add_(x)
    return m.mid2(m.relu(m.again(m.relu(m.reduce2(x)))))


def fire(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.squeeze(x))
    return torch.cat([F.relu(m.one(x)), F.relu(m.three(x))], 1)


def permutator(m: Any, x: Tensor) -> Tensor:
    """Linears along the rows, the columns and the channels of a map."""
    rows = m.rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    columns = m.columns(x.permute(0, 1, 3, 2)).permute(0, 1, 3, 2)
    return rows + columns + m.channels(x)


def pyramid(m: Any, x: Tensor) -> Tensor:
    """Lateral convolutions, and a pooled head beside them."""
    x = m.stem(x)
    lateral = m.lateral(x) * torch.sigmoid(m.gate(F.adaptive_avg_pool2d(x, 1)))
    return m.head(m.grid(F.adaptive_avg_pool2d(lateral, 2))).flatten(1)


WHOLE = (
    net(
        "convnext_block", convnext_block,
        lambda: {
            "dw": nn.Conv2d(6, 6, 3, padding=1, groups=6), "norm": nn.LayerNorm(6), "up": nn.Linear(6, 9),
            "down": nn.Linear(9, 6), "scale": torch.randn(6, 1, 1), "drop": StochasticDepth(0.5, "row"),
        },
        input_shape=(6, 5, 4), sites=("up", "down"), kernels=((1, 1),) * 2, permutes=(4, 4),
    ),
    net(
        "encoder", encoder, encoder_parts, input_shape=(3, 6, 6), sites=("up", "down", "head"),
        kernels=((1,),) * 3, permutes=(1, 3), misses=(("attention.out_proj", MissCode.OPAQUE_CALL),),
        needs_inputs=True, exports=False,
    ),
    net(
        "mixer", mixer,
        lambda: {
            "norm": nn.LayerNorm(6), "tokens_up": nn.Linear(5, 7), "tokens_down": nn.Linear(7, 5),
            "up": nn.Linear(6, 9), "down": nn.Linear(9, 6),
        },
        input_shape=(5, 6), sites=("tokens_up", "tokens_down", "up", "down"), kernels=((1,),) * 4,
        permutes=(2, 2), needs_inputs=True, batched=("tokens_up",),
    ),
    net(
        "windows", windows,
        lambda: {
            "norm": nn.LayerNorm(6), "weight": torch.randn(18, 6) / 3, "bias": torch.randn(18),
            "out": nn.Linear(6, 6), "last": nn.Linear(6, 4),
        },
        input_shape=(4, 6, 6), sites=("weight", "out", "last"), kernels=((1,), (1,), (1, 1)),
        permutes=(4, 10),
    ),
    net(
        "bottleneck", bottleneck,
        lambda: {
            "reduce": nn.Conv2d(8, 4, 1, bias=False), "norm": nn.BatchNorm2d(4), "relu": nn.ReLU(True),
            "mid": nn.Conv2d(4, 4, 3, padding=1), "expand": nn.Conv2d(4, 8, 1), "reduce2": nn.Conv2d(8, 4, 1),
            "again": nn.Conv2d(4, 4, 1), "mid2": nn.Conv2d(4, 4, 3),
        },
        input_shape=(8, 5, 4), form="conv", sites=("reduce", "expand", "reduce2", "again"),
        kernels=((1, 1),) * 4, permutes=(0, 4),
    ),
    net(
        "fire", fire,
        lambda: {
            "squeeze": nn.Conv2d(6, 3, 1), "one": nn.Conv2d(3, 4, 1), "three": nn.Conv2d(3, 4, 3, padding=1),
        },
        input_shape=(6, 5, 4), form="conv", sites=("squeeze", "one"), kernels=((1, 1),) * 2, permutes=(0, 3),
    ),
    net(
        "conv_1d", lambda m, x: m.last(F.relu(m.second(F.relu(m.first(x))))),
        lambda: {"first": nn.Conv1d(3, 6, 1), "second": nn.Conv1d(6, 6, 1), "last": nn.Conv1d(6, 4, 3)},
        input_shape=(3, 7), form="conv", sites=("first", "second"), kernels=((1,),) * 2, permutes=(0, 2),
    ),
    net(
        "conv_3d", lambda m, x: F.conv3d(m.first(x), m.weight), 
        lambda: {"first": nn.Conv3d(3, 6, 1), "weight": torch.randn(4, 6, 1, 1, 1)},
        input_shape=(3, 2, 3, 4), form="conv", sites=("first", "weight"), kernels=((1, 1, 1),) * 2,
        permutes=(0, 2),
    ),
    net(
        "linear_3d", lambda m, x: m.down(m.scale * F.silu(m.up(x))),
        lambda: {"up": nn.Linear(3, 6), "scale": torch.randn(6), "down": nn.Linear(6, 4)},
        input_shape=(2, 3, 4, 3), sites=("up", "down"), kernels=((1, 1, 1),) * 2, permutes=(0, 2),
        needs_inputs=True,
    ),
    net(
        "vectors", lambda m, x: m.down(F.relu(m.scale * m.up(x))) + x,
        lambda: {"up": nn.Linear(6, 9), "scale": torch.randn(9), "down": nn.Linear(9, 6)},
        input_shape=(6,), sites=("up", "down"), kernels=((1, 1),) * 2, permutes=(0, 0), needs_inputs=True,
    ),
    net(
        "length_first", lambda m, x: m.norm(x.permute(1, 0, 2) + m.b(F.gelu(m.a(x.permute(1, 0, 2))))),
        lambda: {"norm": nn.LayerNorm(6), "a": nn.Linear(6, 9), "b": nn.Linear(9, 6)},
        input_shape=(5, 6), sites=("a", "b"), kernels=((1,),) * 2, permutes=(2, 2), batched=("a",),
    ),
    net(
        "permutator", permutator,
        lambda: {"rows": nn.Linear(4, 4), "columns": nn.Linear(5, 5), "channels": nn.Linear(6, 6)},
        input_shape=(4, 5, 6), sites=("rows", "columns", "channels"), kernels=((1, 1),) * 3, permutes=(4, 5),
        batched=("rows", "columns"),
    ),
    net(
        "itself_transposed", lambda m, x: m.b(m.a(x) + m.a(x).transpose(1, 2)),
        lambda: {"a": nn.Linear(6, 6), "b": nn.Linear(6, 3)},
        input_shape=(6, 6), sites=("a", "b"), kernels=((1,),) * 2, permutes=(1, 4), needs_inputs=True,
    ),
    net(
        "called_twice", lambda m, x: m.a(F.relu(m.a(x))),
        lambda: {"a": nn.Linear(6, 6)},
        input_shape=(5, 6), sites=("a",), kernels=((1,),), permutes=(0, 2), needs_inputs=True,
    ),
    net(
        "sizes_read", lambda m, x: m.a(x.permute(0, 2, 3, 1)).reshape(x.shape[0], -1) * m.a(
            x.permute(0, 2, 3, 1)).shape[1],
        lambda: {"a": nn.Linear(6, 7)},
        input_shape=(6, 5, 4), sites=("a",), kernels=((1, 1),), permutes=(2, 2), batched=("a",),
    ),
    net(
        "pyramid", pyramid,
        lambda: {
            "stem": nn.Conv2d(3, 6, 3), "lateral": nn.Conv2d(6, 6, 1), "gate": nn.Conv2d(6, 6, 1),
            "grid": nn.Conv2d(6, 4, 1), "head": nn.Conv2d(4, 3, 2),
        },
        input_shape=(3, 6, 6), form="conv", sites=("lateral", "gate", "grid", "head"),
        kernels=((1, 1), (1, 1), (1, 1), (2, 2)),
        permutes=(0, 4),
    ),
)  # fmt: skip
