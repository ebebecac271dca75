"""A name that torch keeps to itself, with the reason."""

from torch.fx._pytree import tree_flatten_spec

__all__ = [
    "tree_flatten_spec",  # what the source of a traced graph calls to take nested inputs apart
]
