"""Submodules whose call signatures a program preserves: what crosses their boundaries after an edit.

``torch.export.unflatten`` cuts the graph at the values that ``module_call_graph`` names. Where a view that
was such a value moved behind the head, the value that its readers read now stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.fx import Graph, Node


def follow(entries: Iterable[Any], before: Graph, after: Graph) -> None:
    """Makes the preserved signatures among ``entries`` name the values that cross the boundaries now."""
    kept = [entry for entry in entries if entry.fqn and entry.signature is not None]
    if not kept:
        return
    old, new = ({node.name: node for node in graph.nodes} for graph in (before, after))
    for entry in kept:
        for argument in entry.signature.inputs:
            _rename(argument, entry.fqn, old, new, is_input=True)
        for argument in entry.signature.outputs:
            _rename(argument, entry.fqn, old, new, is_input=False)


def _rename(argument: Any, path: str, old: dict[str, Node], new: dict[str, Node], *, is_input: bool) -> None:
    name = getattr(argument, "name", None)
    if name not in old or _crosses(new.get(name), path, is_input=is_input):
        return
    for user in old[name].users:
        if _is_inside(user, path) is not is_input or user.name not in new:
            continue
        known = {source.name for source in user.all_input_nodes}
        for source in new[user.name].all_input_nodes:
            if source.name not in known and _crosses(source, path, is_input=is_input):
                argument.name = source.name
                return


def _crosses(node: Node | None, path: str, *, is_input: bool) -> bool:
    """Whether a computed value leaves or enters the module at ``path``."""
    if node is None or _is_inside(node, path) is is_input:
        return False
    return any(_is_inside(user, path) is is_input for user in node.users)


def _is_inside(node: Node, path: str) -> bool:
    return any(entry[0] == path for entry in (node.meta.get("nn_module_stack") or {}).values())
