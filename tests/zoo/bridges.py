"""Heads with something between pool and site, between two sites, or after the last."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import CHANNELS, CLASSES, Chain, Entry, Stem, seeded

HIDDEN = 7
GRID = (2, 3)


class FunctionalDropout(nn.Module):
    """Dropout that reads the training flag of its own module."""

    def __init__(self, p: float = 0.4) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Dropout in train mode, identity in eval mode."""
        return F.dropout(x, p=self.p, training=self.training)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, between two permutes (ConvNeXt)."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` as it came."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permuted(nn.Module):
    """A module that reads channels last, between two permutes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` as it came."""
        return torch.permute(self.inner(torch.permute(x, (0, 2, 3, 1))), [0, 3, 1, 2])


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


def _fc(inside: int = CHANNELS, outside: int = CLASSES, **options: Any) -> nn.Module:
    return nn.Linear(inside, outside, **options)


def _conv(inside: int = CHANNELS, outside: int = CLASSES, kernel: Any = 1) -> nn.Module:
    return nn.Conv2d(inside, outside, kernel)


def chain(name: str, steps: Callable[[], dict[str, Any]], rank: int = 2, **facts: Any) -> Entry:
    """An entry whose model is a chain of steps."""
    return Entry(name=name, make=seeded(lambda: Chain(rank, **steps())), **facts)


def between(name: str, bridge: Callable[[], Any], *, flat: bool = True, **facts: Any) -> Entry:
    """Pool, flatten and Linear with a bridge after the flatten, or before it where not ``flat``."""

    def steps() -> dict[str, Any]:
        if flat:
            return {"pool": _pool(), "flat": nn.Flatten(), "bridge": bridge(), "head": _fc()}
        return {"pool": _pool(), "bridge": bridge(), "flat": nn.Flatten(), "head": _fc()}

    return chain(name, steps, **facts)


def after(name: str, tail: Callable[[Tensor], Tensor], **facts: Any) -> Entry:
    """Pool, flatten, Linear and a tail on the logits."""
    return chain(name, lambda: {"pool": _pool(), "flat": nn.Flatten(), "head": _fc(), "tail": tail}, **facts)


BRIDGES = (
    between("dropout_head", lambda: nn.Dropout(0.4)),
    between("dropout_in_place", lambda: nn.Dropout(0.4, inplace=True)),
    between("dropout_before_view", lambda: nn.Dropout(0.4), flat=False),
    between("functional_dropout", FunctionalDropout),
    between("functional_dropout_before_view", FunctionalDropout, flat=False),
    between("alpha_dropout", lambda: nn.AlphaDropout(0.3)),
    between("identity", nn.Identity),
    between("relu", nn.ReLU),
    between("relu_in_place", lambda: nn.ReLU(inplace=True)),
    between("hardswish", nn.Hardswish),
    between("gelu_tanh", lambda: nn.GELU("tanh")),
    between("leaky_relu_before_view", lambda: nn.LeakyReLU(0.3), flat=False),
    between("sigmoid_functional", lambda: torch.sigmoid),
    between("relu_functional", lambda: F.relu),
    between("silu_functional_in_place", lambda: lambda x: F.silu(x, inplace=True)),
    between("relu_functional_underscore", lambda: torch.relu_),
    between("relu_method", lambda: lambda x: x.relu()),
    between("relu_method_in_place", lambda: lambda x: x.relu_()),
    between("tanh_method", lambda: lambda x: x.tanh()),
    between("clamp_method", lambda: lambda x: x.clamp(0.0, 6.0)),
    between("scaled", lambda: lambda x: x * 2.5),
    between("scaled_from_left", lambda: lambda x: 1.0 - x),
    between("contiguous", lambda: lambda x: x.contiguous()),
    between("batch_norm_1d", lambda: nn.BatchNorm1d(CHANNELS)),
    between("batch_norm_1d_not_affine", lambda: nn.BatchNorm1d(CHANNELS, affine=False)),
    between("batch_norm_2d", lambda: nn.BatchNorm2d(CHANNELS), flat=False),
    between("layer_norm", lambda: nn.LayerNorm(CHANNELS), added_nodes=2),
    between("layer_norm_2d_functional", lambda: LayerNorm2d(CHANNELS), flat=False),
    between("layer_norm_permuted", lambda: Permuted(nn.LayerNorm(CHANNELS)), flat=False),
    between("normalize", lambda: lambda x: F.normalize(x, dim=1), added_nodes=2),
    between("normalize_last", lambda: lambda x: 3 * F.normalize(x, dim=-1), added_nodes=2),
    between("softmax_before", lambda: lambda x: F.softmax(x, -1), added_nodes=2),
)
AFTER = (
    after("softmax", lambda x: torch.softmax(x, 1)),
    after("softmax_last", lambda x: x.softmax(-1)),
    after("log_softmax", lambda x: F.log_softmax(x, dim=-1)),
    after("sigmoid", torch.sigmoid),
    after("normalize_after", lambda x: F.normalize(x)),
    after("column", lambda x: x[:, 0]),
    after("scaled_after", lambda x: x / 0.07),
    after("argmax", lambda x: x.argmax(1)),
    after("unsqueeze", lambda x: x.unsqueeze(1)),
    after("clamped_in_place", lambda x: x.clamp_(-1, 1)),
)


def _mobilenet() -> dict[str, Any]:
    head = nn.Sequential(
        _fc(CHANNELS, HIDDEN), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), _fc(HIDDEN)
    )
    return {"pool": _pool(), "flat": nn.Flatten(1), "classifier": head}


def _vgg(kernel: tuple[int, int], **view: Any) -> dict[str, Any]:
    size = CHANNELS * kernel[0] * kernel[1]
    head = nn.Sequential(
        _fc(size, HIDDEN),
        nn.ReLU(True),
        nn.Dropout(),
        _fc(HIDDEN, HIDDEN),
        nn.ReLU(True),
        nn.Dropout(),
        _fc(HIDDEN),
    )
    return {"pool": nn.AdaptiveAvgPool2d(kernel), **(view or {"flat": nn.Flatten()}), "classifier": head}


def _vgg_conv(kernel: tuple[int, int]) -> dict[str, Any]:
    head = nn.Sequential(_conv(CHANNELS, HIDDEN, kernel), nn.ReLU(True), nn.Dropout(), _conv(HIDDEN))
    return {"pool": nn.AdaptiveAvgPool2d(kernel), "classifier": head, "flat": nn.Flatten()}


def _alexnet() -> dict[str, Any]:
    size = CHANNELS * GRID[0] * GRID[1]
    head = nn.Sequential(nn.Dropout(), _fc(size, HIDDEN, bias=False), nn.ReLU(True), _fc(HIDDEN))
    return {"pool": nn.AdaptiveAvgPool2d(GRID), "flat": lambda x: x.view(x.size(0), size), "classifier": head}


def _mlp_norms() -> dict[str, Any]:
    head = nn.Sequential(_fc(CHANNELS, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), _fc(HIDDEN))
    return {"pool": lambda x: x.mean((2, 3)), "classifier": head}


def _convnext() -> dict[str, Any]:
    return {"avgpool": _pool(), "classifier": nn.Sequential(LayerNorm2d(CHANNELS), nn.Flatten(1), _fc())}


def _fastai() -> dict[str, Any]:
    head = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(CHANNELS),
        nn.Dropout(0.25),
        _fc(CHANNELS, HIDDEN, bias=False),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(HIDDEN),
        nn.Dropout(0.5),
        _fc(HIDDEN, CLASSES, bias=False),
    )
    return {"pool": _pool(), "head": head}


def _last_channels(kernel: tuple[int, int], flat: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {"pool": nn.AdaptiveAvgPool2d(kernel), "flat": flat, "head": _fc(CHANNELS * kernel[0] * kernel[1])}


_TWO = {"sites": ("classifier.0", "classifier.3"), "kernels": ((1, 1), (1, 1))}
_VGG = ("classifier.0", "classifier.3", "classifier.6")
_LAST = {"kernels": (GRID,)}
SEVERAL = (
    chain("mobilenet_v3", _mobilenet, **_TWO),
    chain("mlp_batch_norm", _mlp_norms, added_nodes=1, **_TWO),
    chain("vgg", lambda: _vgg(GRID), sites=_VGG, kernels=(GRID, (1, 1), (1, 1))),
    chain("vgg_square", lambda: _vgg((2, 2)), sites=_VGG, kernels=((2, 2), (1, 1), (1, 1))),
    chain(
        "vgg_row",
        lambda: _vgg((1, 3), flat=lambda x: x.reshape(x.shape[0], -1)),
        sites=_VGG,
        kernels=((1, 3), (1, 1), (1, 1)),
    ),
    chain(
        "vgg_conv",
        lambda: _vgg_conv(GRID),
        form="conv",
        sites=("classifier.0", "classifier.3"),
        kernels=(GRID, (1, 1)),
    ),
    chain("alexnet", _alexnet, sites=("classifier.1", "classifier.3"), kernels=(GRID, (1, 1))),
    chain("convnext", _convnext, sites=("classifier.2",)),
    chain("fastai", _fastai, sites=("head.3", "head.7"), kernels=((1, 1), (1, 1))),
    chain(
        "channels_last_flatten",
        lambda: _last_channels(GRID, lambda x: x.permute(0, 2, 3, 1).flatten(1)),
        **_LAST,
    ),
    chain(
        "channels_last_reshape",
        lambda: _last_channels(GRID, lambda x: torch.permute(x, (0, 2, 3, 1)).reshape(x.size(0), -1)),
        **_LAST,
    ),
    chain("channels_last_unit", lambda: _last_channels((1, 1), lambda x: x.permute(0, 2, 3, 1).flatten(1))),
)


class Activation(nn.Module):
    """One ReLU object used twice, as many hand-written models do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(CHANNELS, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.relu(self.stem(x))
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)
        return self.fc2(self.relu(self.fc1(x)))


_tail_conv = functools.partial(chain, form="conv")
CONV_CHAINS = (
    _tail_conv(
        "conv_dropout", lambda: {"pool": _pool(), "drop": nn.Dropout(), "head": _conv(), "flat": nn.Flatten()}
    ),
    _tail_conv(
        "conv_relu_after", lambda: {"pool": _pool(), "head": _conv(), "act": nn.ReLU(), "flat": nn.Flatten()}
    ),
    _tail_conv(
        "conv_batch_norm",
        lambda: {
            "pool": _pool(),
            "fc": _conv(CHANNELS, HIDDEN),
            "bn": nn.BatchNorm2d(HIDDEN),
            "act": nn.ReLU(),
            "head": _conv(HIDDEN),
            "flat": nn.Flatten(),
        },
        sites=("fc", "head"),
        kernels=((1, 1), (1, 1)),
    ),
    _tail_conv(
        "conv_softmax",
        lambda: {"pool": _pool(), "head": _conv(), "soft": nn.Softmax(dim=1), "flat": nn.Flatten()},
        added_nodes=2,
    ),
    _tail_conv(
        "conv_layer_norm",
        lambda: {"pool": _pool(), "norm": LayerNorm2d(CHANNELS), "head": _conv(), "flat": nn.Flatten()},
    ),
    _tail_conv(
        "conv_grid_not_square",
        lambda: {"pool": nn.AdaptiveAvgPool2d(GRID), "head": _conv(kernel=GRID), "flat": nn.Flatten()},
        kernels=(GRID,),
    ),
)
HEADS = (
    *BRIDGES,
    *AFTER,
    *SEVERAL,
    *CONV_CHAINS,
    Entry(name="shared_relu", make=seeded(Activation), sites=("fc1", "fc2"), kernels=((1, 1), (1, 1))),
)
