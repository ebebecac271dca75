"""Several heads, several inputs, outputs of every kind, and sites inside the backbone."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bridges import HIDDEN
from zoo.entry import CHANNELS, IMAGE
from zoo.model import TwoInputModel, conv, linear, model, pooled

LogitsAndFeatures = namedtuple("LogitsAndFeatures", ("logits", "features"))
ONE = ((1, 1),)


def _two_heads() -> dict[str, nn.Module]:
    return {"a": linear(), "b": linear()}


def two_heads_averaged(m: Any, x: Tensor) -> Tensor:
    features = pooled(m.stem(x))
    return (m.a(features) + m.b(features)) / 2


def _auxiliary(m: Any, x: Tensor) -> Any:
    early = m.stem(x)
    late = m.body(early)
    logits = m.fc(pooled(late))
    if m.training:
        return logits, m.aux(pooled(early))
    return logits


def _siamese(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.head(pooled(m.stem(x))) - m.head(pooled(m.stem(y)))


def _siamese_conv(m: Any, x: Tensor, y: Tensor) -> Tensor:
    left = m.head(F.adaptive_avg_pool2d(m.stem(x), 1)).flatten(1)
    return left - m.head(F.adaptive_avg_pool2d(m.stem(y), 1)).flatten(1)


def _features_beside(m: Any, x: Tensor) -> Any:
    features = pooled(m.stem(x))
    return m.head(features), features


def _map_beside(m: Any, x: Tensor) -> Any:
    maps = m.stem(x)
    pool = F.adaptive_avg_pool2d(maps, 1)
    return {"logits": m.head(pool.flatten(1)), "map": maps, "pooled": pool}


def _named(m: Any, x: Tensor) -> Any:
    features = pooled(m.stem(x))
    return LogitsAndFeatures(m.head(features), features)


def _fused(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.head(torch.cat([pooled(m.stem(x)), pooled(m.stem(y))], dim=1))


def _hidden_used_twice(m: Any, x: Tensor) -> Any:
    hidden = F.relu(m.fc(pooled(m.stem(x))))
    return m.head(hidden), hidden.sum(1)


def _residual(m: Any, x: Tensor) -> Tensor:
    features = pooled(m.stem(x))
    return m.head(features + torch.relu(m.fc(features)))


def _unused(m: Any, x: Tensor) -> Tensor:
    return m.head(pooled(m.stem(x)))


class WithBuffers(nn.Module):
    """A submodule that is never called, holding parameters and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("dropped", torch.ones(2), persistent=False)
        self.norm = nn.BatchNorm2d(3)
        self.extra = nn.Linear(2, 3)


STRUCTURES = (
    model(
        "two_heads",
        lambda m, x: (m.a(pooled(m.stem(x))), m.b(pooled(m.stem(x)))),
        _two_heads,
        sites=("a", "b"),
        kernels=ONE * 2,
    ),
    model(
        "two_heads_one_pool",
        lambda m, x: [head(f) for f in [pooled(m.stem(x))] for head in (m.a, m.b)],
        _two_heads,
        sites=("a", "b"),
        kernels=ONE * 2,
        added_nodes=1,
    ),
    model(
        "two_heads_averaged",
        two_heads_averaged,
        _two_heads,
        sites=("a", "b"),
        kernels=ONE * 2,
        added_nodes=1,
    ),
    model(
        "auxiliary_in_train",
        _auxiliary,
        lambda: {"body": nn.Conv2d(CHANNELS, CHANNELS, 3), "fc": linear(), "aux": linear()},
        sites=("fc",),
    ),
    model(
        "siamese", _siamese, lambda: {"head": linear()}, TwoInputModel, input_shapes=(IMAGE, IMAGE), calls=2
    ),
    model(
        "siamese_conv",
        _siamese_conv,
        lambda: {"head": conv()},
        TwoInputModel,
        form="conv",
        input_shapes=(IMAGE, IMAGE),
        calls=2,
    ),
    model("features_beside", _features_beside, lambda: {"head": linear()}, added_nodes=1),
    model("map_beside", _map_beside, lambda: {"head": linear()}),
    model("named_tuple", _named, lambda: {"head": linear()}, added_nodes=1),
    model(
        "dict_output", lambda m, x: {"out": {"logits": m.head(pooled(m.stem(x)))}}, lambda: {"head": linear()}
    ),
    model(
        "fused_inputs",
        _fused,
        lambda: {"head": linear(2 * CHANNELS)},
        TwoInputModel,
        input_shapes=(IMAGE, IMAGE),
        added_nodes=2,
    ),
    model(
        "features_from_outside",
        lambda m, x, y: m.head(torch.cat([pooled(m.stem(x)), y], dim=1)),
        lambda: {"head": linear(CHANNELS + 2)},
        TwoInputModel,
        input_shapes=(IMAGE, (2,)),
        added_nodes=2,
    ),
    model(
        "hidden_used_twice",
        _hidden_used_twice,
        lambda: {"fc": linear(CHANNELS, HIDDEN), "head": linear(HIDDEN)},
        sites=("fc", "head"),
        kernels=ONE * 2,
        added_nodes=2,
    ),
    model(
        "residual_head",
        _residual,
        lambda: {"fc": linear(CHANNELS, CHANNELS), "head": linear()},
        sites=("fc", "head"),
        kernels=ONE * 2,
        added_nodes=2,
    ),
    model(
        "unused_modules", _unused, lambda: {"first": WithBuffers(), "head": linear(), "last": WithBuffers()}
    ),
)


def _excite(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x)
    scale = torch.sigmoid(m.fc2(F.relu(m.fc1(pooled(x))))).view(x.size(0), CHANNELS, 1, 1)
    return m.head(pooled(x * scale))


def _excite_conv(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x)
    scale = torch.sigmoid(m.fc2(F.relu(m.fc1(x.mean((2, 3), keepdim=True)))))
    return m.head(F.adaptive_avg_pool2d(x * scale, 1)).flatten(1)


_EXCITE = {"sites": ("head",), "pooled_sites": ("fc1", "fc2", "head"), "kernels": ONE * 3}
SCOPES = (
    model(
        "squeeze_excite",
        _excite,
        lambda: {"fc1": linear(CHANNELS, 3), "fc2": linear(3, CHANNELS), "head": linear()},
        **_EXCITE,
    ),
    model(
        "squeeze_excite_conv",
        _excite_conv,
        lambda: {"fc1": conv(CHANNELS, 3), "fc2": conv(3, CHANNELS), "head": conv()},
        form="conv",
        added_nodes=2,
        **_EXCITE,
    ),
)
