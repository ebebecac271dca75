"""A real model as ``torch.export`` writes it, and its head as one canonical pattern."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim

MODEL = "densenet121"
CHANNELS = 1024
CLASSES = 1000
_aten = torch.ops.aten


def program() -> torch.export.ExportedProgram:
    """DenseNet-121 in core ATen with a dynamic batch, without weights in memory."""
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(MODEL, weights=None).eval()
        images = torch.empty(4, 3, 64, 64)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch", min=1, max=4096)},))
    return exported.run_decompositions()


def graph(source: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program's graph over a module of its own."""
    module = source.module()
    assert isinstance(module, fx.GraphModule)
    return module


def linear_pattern(x: Tensor, weight: Tensor, bias: Tensor, batch: Any) -> Any:
    """The head of the model, in the one spelling that it has."""
    flat = _aten.view.default(_aten.mean.dim(x, [-1, -2], True), [batch, CHANNELS])
    return _aten.addmm.default(bias, flat, _aten.permute.default(weight, [1, 0]))


def conv_pattern(x: Tensor, weight: Tensor, bias: Tensor, batch: Any) -> Any:
    """The same as a convolution, the weight being viewed at run time for want of anything better."""
    kernel = _aten.view.default(weight, [CLASSES, CHANNELS, 1, 1])
    pooled = _aten.mean.dim(x, [-1, -2], True)
    logits = _aten.convolution.default(pooled, kernel, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    return _aten.view.default(logits, [batch, CLASSES])
