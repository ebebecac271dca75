"""Heads that must be refused for their module or their weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from fxpasses.miss_codes import MissCode
from zoo.entry import CHANNELS, CLASSES, IMAGE
from zoo.model import TwoInputModel, conv, linear, pooled
from zoo.refusals import plain, plain_conv, refused
from zoo.spellings import FunctionalHead


def _also_on_tokens(m: Any, x: Tensor) -> Any:
    x = m.stem(x)
    return m.head(pooled(x)), m.head(x.flatten(2).transpose(1, 2))


def _also_on_map(m: Any, x: Tensor) -> Any:
    x = m.stem(x)
    return m.head(F.adaptive_avg_pool2d(x, 1)).flatten(1), m.head(x)


def _labels(m: Any, x: Tensor, y: Tensor) -> Any:
    return m.head(pooled(m.stem(x))), m.embedding((y > 0).long())


def _embedding_tied() -> dict[str, nn.Module]:
    modules = {"embedding": nn.Embedding(CLASSES, CHANNELS), "head": linear()}
    modules["head"].weight = modules["embedding"].weight
    return modules


def _with_norm(m: Any, x: Tensor) -> Any:
    return m.head(pooled(m.stem(x))) * m.head.weight.norm()


def _hooked(register: str, make: Callable[[], nn.Module] = linear) -> Callable[[], dict[str, nn.Module]]:
    def modules() -> dict[str, nn.Module]:
        head = make()
        getattr(head, register)(_hook)
        return {"head": head}

    return modules


def _hook(*_: object) -> None:
    """Returns None, as a hook that only looks does."""


def _wrapped(
    wrap: Callable[[nn.Module], object], make: Callable[[], nn.Module] = linear
) -> Callable[[], dict[str, nn.Module]]:
    def modules() -> dict[str, nn.Module]:
        head = make()
        with warnings.catch_warnings():
            # the old weight_norm says that it is deprecated; models that use it exist
            warnings.simplefilter("ignore", FutureWarning)
            wrap(head)
        return {"head": head}

    return modules


def _dynamically_quantized() -> dict[str, nn.Module]:
    with warnings.catch_warnings():
        # eager quantisation says that it is deprecated; models that use it exist
        warnings.simplefilter("ignore")
        from torch.ao.nn.quantized import dynamic

        return {"head": dynamic.Linear(CHANNELS, CLASSES)}


class Tagged(torch.Tensor):
    """A tensor subclass that a view of its storage would not be."""


def _subclass_weight() -> dict[str, nn.Module]:
    head = linear()
    head.weight = nn.Parameter(head.weight.detach().as_subclass(Tagged))
    return {"head": head}


class IntegerHead(nn.Module):
    """A head in whole numbers, which Linear has a kernel for and convolution has not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(CLASSES * CHANNELS).view(CLASSES, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        """Logits in int64."""
        return F.linear(F.adaptive_max_pool2d(x, 1).flatten(1).long(), self.weight)


REFUSED_WEIGHTS = (
    refused(
        "shared_with_tokens",
        MissCode.SHARED_MODULE,
        _also_on_tokens,
        lambda: {"head": linear()},
        also=(MissCode.NOT_POOLED,),
    ),
    refused("shared_with_map", MissCode.SHARED_MODULE, _also_on_map, lambda: {"head": conv()}, form="conv"),
    refused(
        "tied_to_embedding",
        MissCode.TIED_WEIGHT,
        _labels,
        _embedding_tied,
        kind=TwoInputModel,
        input_shapes=(IMAGE, (3,)),
    ),
    refused("weight_also_read", MissCode.TIED_WEIGHT, _with_norm, lambda: {"head": linear()}),
    refused("forward_hook", MissCode.HOOKED, plain, _hooked("register_forward_hook")),
    refused("forward_pre_hook", MissCode.HOOKED, plain, _hooked("register_forward_pre_hook")),
    refused("backward_hook", MissCode.HOOKED, plain, _hooked("register_full_backward_hook")),
    refused(
        "conv_forward_hook", MissCode.HOOKED, plain_conv, _hooked("register_forward_hook", conv), form="conv"
    ),
    refused("weight_norm", MissCode.PARAMETRIZED, plain, _wrapped(parametrizations.weight_norm)),
    refused("spectral_norm", MissCode.PARAMETRIZED, plain, _wrapped(parametrizations.spectral_norm)),
    refused(
        "conv_weight_norm",
        MissCode.PARAMETRIZED,
        plain_conv,
        _wrapped(parametrizations.weight_norm, conv),
        form="conv",
    ),
    refused("old_weight_norm", MissCode.PARAMETRIZED, plain, _wrapped(nn.utils.weight_norm)),
    refused(
        "pruned", MissCode.PARAMETRIZED, plain, _wrapped(lambda m: prune.l1_unstructured(m, "weight", 0.3))
    ),
    refused(
        "subclass_leaf",
        MissCode.SUBCLASS,
        plain,
        lambda: {"head": nn.modules.linear.NonDynamicallyQuantizableLinear(CHANNELS, CLASSES)},
    ),
    refused("quantized_dynamic", MissCode.QUANTIZED, plain, _dynamically_quantized, runs=False),
    refused("lazy", MissCode.UNINITIALIZED, plain, lambda: {"head": nn.LazyLinear(CLASSES)}, runs=False),
    refused(
        "lazy_conv",
        MissCode.UNINITIALIZED,
        plain_conv,
        lambda: {"head": nn.LazyConv2d(CLASSES, 1)},
        runs=False,
        form="conv",
    ),
    refused(
        "computed_weight",
        MissCode.COMPUTED_WEIGHT,
        plain,
        lambda: {
            "head": FunctionalHead(lambda x, w, b: F.linear(x, w * 2, b), (CLASSES, CHANNELS), bias=True)
        },
        site="linear",
    ),
    refused(
        "normalized_weight",
        MissCode.COMPUTED_WEIGHT,
        plain,
        lambda: {
            "head": FunctionalHead(
                lambda x, w, b: F.linear(F.normalize(x), F.normalize(w)), (CLASSES, CHANNELS), bias=False
            )
        },
        site="linear",
    ),
    refused(
        "computed_conv_weight",
        MissCode.COMPUTED_WEIGHT,
        plain_conv,
        lambda: {
            "head": FunctionalHead(
                lambda x, w, b: F.conv2d(x, w.abs(), b), (CLASSES, CHANNELS, 1, 1), bias=True
            )
        },
        form="conv",
        site="conv2d",
    ),
    refused("weight_subclass", MissCode.WEIGHT_TYPE, plain, _subclass_weight),
    refused(
        "integer_weight", MissCode.DTYPE, lambda m, x: m.head(m.stem(x)), lambda: {"head": IntegerHead()}
    ),
)
