"""Which nodes count on how a value lies in memory, and which make it lie as its axes do."""

from __future__ import annotations

import torch
from torch.fx import Node

_VIEWS = ("view", torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def needs_strides(node: Node) -> bool:
    """Whether a node views what it reads without a copy, so that it takes no operand of other strides."""
    return node.target in _VIEWS


def makes_contiguous(node: Node) -> bool:
    """Whether a node copies what it reads into the order of its axes."""
    if node.target is torch.ops.aten.clone.default:
        return node.kwargs.get("memory_format") is torch.contiguous_format
    return node.target == "contiguous" and not node.kwargs
