"""What a graph gives out beside its result: maps, and the tree of outputs with and without them."""

from __future__ import annotations

from typing import Any

from fxpasses.private_names import pytree

KEY = "map"


def with_maps(spec: pytree.TreeSpec, count: int) -> pytree.TreeSpec:
    """The structure of a result together with ``count`` maps."""
    leaves = [*range(spec.num_leaves)]
    return pytree.tree_structure(_added(pytree.tree_unflatten(leaves, spec), tuple(range(count))))


def without_maps(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """The structure of a result before maps were added."""
    leaves = [*range(spec.num_leaves)]
    return pytree.tree_structure(_removed(pytree.tree_unflatten(leaves, spec)))


def _added(result: Any, maps: tuple[Any, ...]) -> Any:
    added = maps[0] if len(maps) == 1 else maps
    return {**result, KEY: added} if isinstance(result, dict) else (result, added)


def _removed(result: Any) -> Any:
    if isinstance(result, dict):
        return {name: value for name, value in result.items() if name != KEY}
    return result[0]
