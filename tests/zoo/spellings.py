"""Every spelling of pool, view and affine op, and the heads that they make together.

The pairs of pool and view are a third of the full product, every spelling of each beside several
of the other; the affine spelling goes round with them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import CHANNELS, CLASSES, MAP, Chain, Entry, seeded

Step = nn.Module | Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Spelling:
    """One way to write a step.

    Attributes:
        name: part of the entry's name.
        make: builds the step.
        is_fixed: for a pool, whether its output extent depends on the input's.
        rank: for a pool, how many spatial axes the last step of it collapses.
    """

    name: str
    make: Callable[[], Step]
    is_fixed: bool = False
    rank: int = 2


def function(
    name: str, step: Callable[[Tensor], Tensor], *, is_fixed: bool = False, rank: int = 2
) -> Spelling:
    """A step without weights, written as a function."""
    return Spelling(name, lambda: step, is_fixed, rank)


def _shape_unpacked(x: Tensor) -> Tensor:
    batch, channels = x.shape[:2]
    return x.view(batch, channels)


def _gem(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(3.0), 1).pow(1.0 / 3.0)


class ConcatPool(nn.Module):
    """fastai's pool: the maximum beside the average."""

    def __init__(self) -> None:
        super().__init__()
        self.mp = nn.AdaptiveMaxPool2d(1)
        self.ap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 2C, 1, 1]``."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


class GeM(nn.Module):
    """Generalised mean with a learned exponent."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, 1, 1]``."""
        return F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), (x.size(-2), x.size(-1))).pow(1.0 / self.p)


# [N, C, H, W] -> [N, C, 1, 1]
POOLS = (
    Spelling("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d(1)),
    Spelling("AdaptiveAvgPool2d_pair", lambda: nn.AdaptiveAvgPool2d((1, 1))),
    Spelling("AvgPool2d", lambda: nn.AvgPool2d(MAP), is_fixed=True),
    function("F_adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1)),
    function("F_adaptive_avg_pool2d_kwargs", lambda x: F.adaptive_avg_pool2d(x, output_size=(1, 1))),
    function("F_avg_pool2d", lambda x: F.avg_pool2d(x, MAP), is_fixed=True),
    function("F_avg_pool2d_shape", lambda x: F.avg_pool2d(x, x.shape[2:])),
    function("F_avg_pool2d_kwarg", lambda x: F.avg_pool2d(x, kernel_size=x.size()[2:])),
    function("F_avg_pool2d_sizes", lambda x: F.avg_pool2d(x, (x.size(2), x.size(3)))),
    function("mean_keepdim", lambda x: x.mean((-2, -1), keepdim=True)),
    function("mean_keepdim_positional", lambda x: x.mean([2, 3], True)),
    function("torch_mean_keepdim", lambda x: torch.mean(x, dim=(2, 3), keepdim=True)),
    function("mean_twice_keepdim", lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True)),
    Spelling("AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d(1)),
    function("F_adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (1, 1))),
    function("amax_keepdim", lambda x: x.amax((2, 3), keepdim=True)),
    function("gem", _gem),
    Spelling("GeM", GeM),
)

# [N, C, H, W] -> [N, C]
FLAT_POOLS = (
    function("mean_list", lambda x: x.mean([2, 3])),
    function("mean_negative", lambda x: x.mean((-2, -1))),
    function("mean_kwarg", lambda x: x.mean(dim=(2, 3))),
    function("mean_keepdim_false", lambda x: x.mean((3, 2), keepdim=False)),
    function("torch_mean", lambda x: torch.mean(x, [2, 3])),
    function("torch_mean_kwarg", lambda x: torch.mean(x, dim=[-1, -2])),
    function("mean_twice", lambda x: x.mean(3).mean(2)),
    function("mean_twice_negative", lambda x: x.mean(-1).mean(-1)),
    function("flatten_mean", lambda x: x.flatten(2).mean(-1), rank=1),
    function("torch_flatten_mean", lambda x: torch.flatten(x, 2).mean(2), rank=1),
    function("amax", lambda x: x.amax((2, 3))),
    function("torch_amax", lambda x: torch.amax(x, dim=(-2, -1))),
)

# [N, C, 1, 1] -> [N, C]
FLATTENING_VIEWS = (
    Spelling("Flatten", nn.Flatten),
    Spelling("Flatten_1", lambda: nn.Flatten(1)),
    function("torch_flatten", lambda x: torch.flatten(x, 1)),
    function("torch_flatten_kwarg", lambda x: torch.flatten(x, start_dim=1)),
    function("flatten", lambda x: x.flatten(1)),
    function("flatten_kwarg", lambda x: x.flatten(start_dim=1)),
    function("flatten_end", lambda x: x.flatten(1, -1)),
    function("view_size", lambda x: x.view(x.size(0), -1)),
    function("view_shape", lambda x: x.view(x.shape[0], -1)),
    function("view_size_all", lambda x: x.view(x.size()[0], -1)),
    function("reshape_size", lambda x: x.reshape(x.size(0), -1)),
    function("torch_reshape", lambda x: torch.reshape(x, (x.shape[0], -1))),
)
UNIT_VIEWS = (
    function("view_minus_one", lambda x: x.view(-1, CHANNELS)),
    function("reshape_minus_one", lambda x: x.reshape(-1, CHANNELS)),
    function("view_size_channels", lambda x: x.view(x.size(0), CHANNELS)),
    function("view_tuple", lambda x: x.view((x.shape[0], x.shape[1]))),
    function("view_unpacked", _shape_unpacked),
    function("squeeze_twice", lambda x: x.squeeze(-1).squeeze(-1)),
    function("squeeze_3_2", lambda x: x.squeeze(3).squeeze(2)),
    function("squeeze_2_2", lambda x: x.squeeze(2).squeeze(2)),
    function("squeeze_tuple", lambda x: x.squeeze((2, 3))),
    function("torch_squeeze", lambda x: torch.squeeze(torch.squeeze(x, -1), -1)),
    function("torch_squeeze_tuple", lambda x: torch.squeeze(x, dim=(-2, -1))),
    function("getitem", lambda x: x[:, :, 0, 0]),
    function("getitem_ellipsis", lambda x: x[..., 0, 0]),
)
VIEWS = FLATTENING_VIEWS + UNIT_VIEWS

# the views after a convolution name its output channels
_BY_CLASSES = {
    "view_minus_one": lambda x: x.view(-1, CLASSES),
    "reshape_minus_one": lambda x: x.reshape(-1, CLASSES),
    "view_size_channels": lambda x: x.view(x.size(0), CLASSES),
}
CONV_VIEWS = tuple(
    function(view.name, _BY_CLASSES[view.name]) if view.name in _BY_CLASSES else view for view in VIEWS
)


class FunctionalHead(nn.Module):
    """An affine op on parameters of its own, written as a call of ``torch.nn.functional``."""

    def __init__(self, call: Callable[..., Tensor], weight_shape: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.call = call
        self.weight = nn.Parameter(torch.randn(weight_shape) / 2)
        self.bias = nn.Parameter(torch.randn(weight_shape[0])) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The affine op."""
        return self.call(x, self.weight, self.bias)


def functional(name: str, call: Callable[..., Tensor], kernel: tuple[int, ...], *, bias: bool) -> Spelling:
    """An affine op on a parameter."""
    return Spelling(name, lambda: FunctionalHead(call, (CLASSES, CHANNELS, *kernel), bias=bias))


LINEARS = (
    Spelling("Linear", lambda: nn.Linear(CHANNELS, CLASSES)),
    Spelling("Linear_no_bias", lambda: nn.Linear(CHANNELS, CLASSES, bias=False)),
    functional("F_linear", lambda x, w, b: F.linear(x, w, b), (), bias=True),
    functional("F_linear_no_bias", lambda x, w, b: F.linear(x, w), (), bias=False),
    functional("F_linear_kwargs", lambda x, w, b: F.linear(input=x, weight=w, bias=b), (), bias=True),
    functional("F_linear_bias_kwarg", lambda x, w, b: F.linear(x, w, bias=b), (), bias=True),
    functional("F_linear_bias_none", lambda x, w, b: F.linear(x, w, None), (), bias=False),
)
CONVOLUTIONS = (
    Spelling("Conv2d", lambda: nn.Conv2d(CHANNELS, CLASSES, 1)),
    Spelling("Conv2d_no_bias", lambda: nn.Conv2d(CHANNELS, CLASSES, (1, 1), bias=False)),
    Spelling("Conv2d_stride", lambda: nn.Conv2d(CHANNELS, CLASSES, 1, stride=2, padding="valid")),
    functional("F_conv2d", lambda x, w, b: F.conv2d(x, w, b), (1, 1), bias=True),
    functional("F_conv2d_no_bias", lambda x, w, b: F.conv2d(x, w), (1, 1), bias=False),
    functional(
        "F_conv2d_kwargs", lambda x, w, b: F.conv2d(input=x, weight=w, bias=b, stride=1), (1, 1), bias=True
    ),
)


def _chain(**spellings: Spelling) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return Chain(**{role: spelling.make() for role, spelling in spellings.items()})

    return seeded(make)


def _linear_heads() -> Iterator[Entry]:
    flattening = {view.name for view in FLATTENING_VIEWS}
    for i, pool in enumerate(POOLS):
        for j, view in enumerate(VIEWS):
            if (i + j) % 3 and i and j:
                continue
            head = LINEARS[(i + 2 * j) % len(LINEARS)]
            yield Entry(
                name=f"{pool.name}-{view.name}-{head.name}",
                make=_chain(pool=pool, view=view, head=head),
                needs_inputs=pool.is_fixed and view.name not in flattening,
            )
    for i, pool in enumerate(FLAT_POOLS):
        for head in (LINEARS[i % len(LINEARS)], LINEARS[(i + 3) % len(LINEARS)]):
            yield Entry(
                name=f"{pool.name}-{head.name}",
                make=_chain(pool=pool, head=head),
                kernels=((1,) * pool.rank,),
                added_nodes=1,
            )


def _conv_heads() -> Iterator[Entry]:
    for i, pool in enumerate(POOLS):
        for j, view in enumerate(CONV_VIEWS):
            if (i + j) % 4 and i and j:
                continue
            head = CONVOLUTIONS[(i + 2 * j) % len(CONVOLUTIONS)]
            yield Entry(
                name=f"{pool.name}-{head.name}-{view.name}",
                make=_chain(pool=pool, head=head, view=view),
                form="conv",
                needs_inputs=pool.is_fixed,
            )
        head = CONVOLUTIONS[i % len(CONVOLUTIONS)]
        yield Entry(
            name=f"{pool.name}-{head.name}",
            make=_chain(pool=pool, head=head),
            form="conv",
            needs_inputs=pool.is_fixed,
            added_nodes=2,
        )


def _concat_heads() -> Iterator[Entry]:
    views = (FLATTENING_VIEWS[0], FLATTENING_VIEWS[7], UNIT_VIEWS[5], UNIT_VIEWS[11])
    concat = Spelling("ConcatPool", ConcatPool)
    wide = Spelling("Linear", functools.partial(nn.Linear, 2 * CHANNELS, CLASSES))
    for view in views:
        yield Entry(name=f"ConcatPool-{view.name}", make=_chain(pool=concat, view=view, head=wide))
    flat = function("concat_flat", lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
    yield Entry(name="concat_flat", make=_chain(pool=flat, head=wide), added_nodes=2)
    yield Entry(
        name="ConcatPool-Conv2d",
        make=_chain(
            pool=concat, head=Spelling("", lambda: nn.Conv2d(2 * CHANNELS, CLASSES, 1)), view=views[0]
        ),
        form="conv",
    )


SPELLINGS = (*_linear_heads(), *_conv_heads(), *_concat_heads())
