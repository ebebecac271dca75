"""What a state dict has beside tensors: a graph keeps it for layers, and has no class to keep its root's."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxpasses.errors import InputError, first_line
from fxpasses.graph.tree import has_state_of_its_own, walk


def require_kept_state(model: Any, graph_module: Any) -> None:
    """Returns where the state dict of a model's graph has every key of the model's own.

    Only one that a class or a hook has a part in can have others; then both are asked for theirs.

    Raises:
        InputError: it lacks some.
    """
    if not isinstance(model, nn.Module) or not any(_writes_its_state(part) for _, part in walk(model)):
        return
    try:
        before = set(model.state_dict())
    except Exception as error:
        raise InputError(
            f"its state dict cannot be read ({first_line(error)})",
            where=type(model).__name__,
            fix="mend its get_extra_state or state-dict hooks, or remove them",
        ) from error
    lost = sorted(before - set(graph_module.state_dict()))
    if lost:
        raise InputError(
            f"its state dict has what its graph would not keep: {', '.join(lost)}, of get_extra_state "
            "or a state-dict hook",
            where=type(model).__name__,
            fix="keep it in a layer below the model, traced symbolically, or remove it before the rewrite",
        )


def _writes_its_state(module: nn.Module) -> bool:
    is_plain = type(module).state_dict is nn.Module.state_dict
    return has_state_of_its_own(module) or bool(module._state_dict_pre_hooks) or not is_plain
