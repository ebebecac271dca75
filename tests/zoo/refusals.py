"""Heads that must be refused, each with the code that is true of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxpasses.miss_codes import MissCode
from zoo.bridges import chain
from zoo.entry import CHANNELS, CLASSES, Entry, seeded
from zoo.model import conv, linear, model, pooled
from zoo.spellings import FunctionalHead


def _facts(code: MissCode, **facts: Any) -> dict[str, Any]:
    name = facts.pop("site", "head")
    misses = ((name, code), *((name, other) for other in facts.pop("also", ())))
    return {"sites": (), "kernels": (), "misses": misses, **facts}


def refused(
    name: str, code: MissCode, call: Callable[..., Any], modules: Callable[[], Any], **facts: Any
) -> Entry:
    """An entry written as one function of its modules, with the one site ``head`` refused."""
    return model(name, call, modules, **_facts(code, **facts))


def refused_chain(name: str, code: MissCode, steps: Callable[[], dict[str, Any]], **facts: Any) -> Entry:
    """An entry that is a chain of steps, with the one site ``head`` refused."""
    return chain(name, steps, **_facts(code, **facts))


def plain(m: Any, x: Tensor) -> Any:
    return m.head(pooled(m.stem(x)))


def plain_conv(m: Any, x: Tensor) -> Any:
    return m.head(F.adaptive_avg_pool2d(m.stem(x), 1)).flatten(1)


class ClassToken(nn.Module):
    """Patches, a class token in front, one mixing step, the class token read out (ViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, CHANNELS, 2, stride=2)
        self.class_token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.norm = nn.LayerNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + x.mean(1, keepdim=True)
        return self.head(self.norm(x)[:, 0])


class AveragedTokens(ClassToken):
    """The mean of the scores of two class tokens, stacked before the batch (CrossViT)."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return torch.stack([super().forward(x), super().forward(-x)]).mean(0)


class MatrixProduct(nn.Module):
    """A head written out as a matrix product with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3)
        self.weight = nn.Parameter(torch.randn(CHANNELS, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return pooled(self.stem(x)) @ self.weight


class TransposedProduct(nn.Module):
    """A head written out as Linear writes it, ``f @ W.T + b``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3)
        self.weight = nn.Parameter(torch.randn(CLASSES, CHANNELS))
        self.bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return pooled(self.stem(x)) @ self.weight.T + self.bias


class LeNet(nn.Module):
    """Max pools that leave a grid, flattened: no pool collapses the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.fc1 = nn.Linear(CHANNELS * 2 * 3, 7)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x: [N, 3, 8, 12]``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(F.relu(self.fc1(torch.flatten(x, 1))))


def _bilinear(m: Any, x: Tensor) -> Any:
    features = pooled(m.stem(x))
    return m.head(features, torch.relu(features))


def _pool_to(extent: Any) -> nn.Module:
    return nn.AdaptiveAvgPool2d(extent)


def _squeezenet() -> dict[str, Any]:
    return {"drop": nn.Dropout(), "head": conv(), "act": nn.ReLU(), "pool": _pool_to(1), "flat": nn.Flatten()}


def _image_linear(
    view: Callable[[Tensor], Tensor], grid: Any = 1, features: int = CHANNELS
) -> Callable[[], dict[str, Any]]:
    return lambda: {"pool": _pool_to(grid), "view": view, "head": nn.Linear(features, CLASSES)}


INPUTS = (
    Entry(
        name="matrix_product",
        make=seeded(MatrixProduct),
        **(_facts(MissCode.MATRIX_PRODUCT) | {"misses": (("matmul", MissCode.MATRIX_PRODUCT),)}),
    ),
    Entry(
        name="transposed_matrix_product",
        make=seeded(TransposedProduct),
        **(_facts(MissCode.MATRIX_PRODUCT) | {"misses": (("matmul", MissCode.MATRIX_PRODUCT),)}),
    ),
    refused(
        "bilinear",
        MissCode.MATRIX_PRODUCT,
        _bilinear,
        lambda: {"head": nn.Bilinear(CHANNELS, CHANNELS, CLASSES)},
    ),
    Entry(name="class_token", make=seeded(ClassToken), **_facts(MissCode.NOT_POOLED)),
    Entry(
        name="averaged_class_tokens",
        make=seeded(AveragedTokens),
        **_facts(MissCode.NOT_POOLED, also=(MissCode.NOT_POOLED,)),
    ),
    refused_chain("squeezenet", MissCode.BEFORE_POOL, _squeezenet, form="conv"),
    refused_chain(
        "flatten_0",
        MissCode.BATCH_FLATTENED,
        _image_linear(lambda x: x.flatten(0)),
        batches=(1,),
        train_batch=1,
    ),
    refused_chain(
        "flatten_default", MissCode.BATCH_FLATTENED, _image_linear(torch.flatten), batches=(1,), train_batch=1
    ),
    refused_chain(
        "view_minus_one_only",
        MissCode.BATCH_FLATTENED,
        _image_linear(lambda x: x.view(-1)),
        batches=(1,),
        train_batch=1,
    ),
    refused_chain(
        "baked_view",
        MissCode.BAKED_BATCH,
        _image_linear(lambda x: x.view(8, -1)),
        batches=(8,),
        train_batch=8,
    ),
    refused_chain(
        "baked_reshape",
        MissCode.BAKED_BATCH,
        _image_linear(lambda x: x.reshape(8, CHANNELS)),
        batches=(8,),
        train_batch=8,
    ),
    refused_chain("squeeze_all", MissCode.AMBIGUOUS_SQUEEZE, _image_linear(lambda x: x.squeeze())),
    refused_chain("torch_squeeze_all", MissCode.AMBIGUOUS_SQUEEZE, _image_linear(torch.squeeze)),
    refused_chain(
        "transposed_grid",
        MissCode.FLATTEN_ORDER,
        _image_linear(lambda x: x.permute(0, 1, 3, 2).flatten(1), (2, 3), 6 * CHANNELS),
    ),
    refused_chain(
        "pooled_channels_last", MissCode.UNFLATTENED, _image_linear(lambda x: x.permute(0, 2, 3, 1))
    ),
)


def _in_place_on_a_view(m: Any, x: Tensor) -> Any:
    maps = F.adaptive_avg_pool2d(m.stem(x), 1)
    flat = torch.flatten(maps, 1)
    return m.head(flat.mul_(2.0)), maps


def _in_place_module(m: Any, x: Tensor) -> Any:
    maps = F.adaptive_avg_pool2d(m.stem(x), 1)
    return m.head(m.act(maps.view(maps.size(0), -1))), maps


ALIASES = (
    refused("in_place_on_a_view", MissCode.IN_PLACE_ALIAS, _in_place_on_a_view, lambda: {"head": linear()}),
    refused(
        "in_place_module_on_a_view",
        MissCode.IN_PLACE_ALIAS,
        _in_place_module,
        lambda: {"act": nn.Hardtanh(-0.1, 0.1, inplace=True), "head": linear()},
    ),
)


def _kernel(
    extent: Any, *arguments: Any, kind: type[nn.Module] = nn.Conv2d, **options: Any
) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "pool": _pool_to(extent),
        "head": kind(CHANNELS, *arguments, **options),
        "flat": nn.Flatten(),
    }


KERNELS = (
    refused_chain("conv_kernel_not_covering", MissCode.KERNEL, _kernel((2, 2), CLASSES, 1), form="conv"),
    refused_chain("conv_kernel_smaller", MissCode.KERNEL, _kernel((4, 4), CLASSES, 2, stride=2), form="conv"),
    refused_chain(
        "conv_stride_on_a_grid", MissCode.KERNEL, _kernel((2, 2), CLASSES, 1, stride=2), form="conv"
    ),
    refused_chain("conv_padding", MissCode.PADDING, _kernel(1, CLASSES, 3, padding=1), form="conv"),
    refused_chain("conv_padding_same", MissCode.PADDING, _kernel(1, CLASSES, 3, padding="same"), form="conv"),
    refused_chain("conv_dilation", MissCode.DILATION, _kernel((3, 3), CLASSES, 2, dilation=2), form="conv"),
    refused_chain("conv_groups", MissCode.GROUPS, _kernel(1, CHANNELS, 1, groups=2), form="conv"),
    refused_chain(
        "conv_transposed", MissCode.TRANSPOSED, _kernel(1, CLASSES, 1, kind=nn.ConvTranspose2d), form="conv"
    ),
    refused(
        "F_conv_padding",
        MissCode.PADDING,
        plain_conv,
        lambda: {
            "head": FunctionalHead(
                lambda x, w, b: F.conv2d(x, w, b, padding=1), (CLASSES, CHANNELS, 3, 3), bias=True
            )
        },
        form="conv",
    ),
    refused(
        "F_conv_groups",
        MissCode.GROUPS,
        plain_conv,
        lambda: {
            "head": FunctionalHead(
                lambda x, w, b: F.conv2d(x, w, b, 1, 0, 1, 2), (4, CHANNELS // 2, 1, 1), bias=True
            )
        },
        form="conv",
    ),
)


def _conv_behind(step: Callable[[Tensor], Tensor], grid: Any = (1, 1)) -> Callable[[], dict[str, Any]]:
    return lambda: {"pool": _pool_to(grid), "step": step, "head": conv(), "flat": nn.Flatten()}


_LENET = {"sites": (), "kernels": (), "input_shapes": ((3, 8, 12),)}
UNFOLLOWED = (
    refused_chain(
        "conv_behind_flip",
        MissCode.UNKNOWN_LAYOUT,
        _conv_behind(lambda x: torch.flip(x, (1,))),
        form="conv",
    ),
    refused_chain(
        "conv_behind_roll", MissCode.UNKNOWN_LAYOUT, _conv_behind(lambda x: x.roll(1, 1)), form="conv"
    ),
    refused_chain(
        "conv_behind_expand",
        MissCode.UNKNOWN_LAYOUT,
        _conv_behind(lambda x: x.expand(-1, -1, 1, 1)),
        form="conv",
    ),
    Entry(name="lenet", make=seeded(LeNet), misses=(("head", MissCode.NOT_POOLED),), **_LENET),
)


REFUSALS = (*INPUTS, *ALIASES, *KERNELS, *UNFOLLOWED)
