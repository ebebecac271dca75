"""What somebody gives as a state dict, looked at before it is used: it may come from any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fxpasses.errors import PlanError


def require_mapping(value: Any, what: str) -> None:
    """Returns where it is a mapping; else raises PlanError."""
    if not isinstance(value, Mapping):
        raise PlanError(f"no {what}, but of class {type(value).__name__}", fix=f"give a {what}")


def is_dense(value: Any) -> bool:
    """Whether it is a tensor whose elements lie by strides, and not sparse, nested or no tensor at all."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_nested


def require_state(optimizer_state: Any, names: Any) -> None:
    """Returns where it is what ``torch.optim.Optimizer.state_dict`` gives, and the names are texts.

    Raises:
        PlanError: it is something else.
    """
    require_mapping(optimizer_state, "state dict of an optimiser")
    state, groups = optimizer_state.get("state"), optimizer_state.get("param_groups")
    is_state = isinstance(state, Mapping) and all(isinstance(own, Mapping) for own in state.values())
    is_grouped = isinstance(groups, list | tuple) and all(map(_is_group, groups))
    if not is_state or not is_grouped:
        what = "no state dict of an optimiser: its state or param_groups are not as torch writes them"
        raise PlanError(what, fix="give optimizer.state_dict()")
    if not (names is None or _are_texts(names)):
        raise PlanError(
            "the names of the optimiser's parameters are no texts",
            fix="give them in the optimiser's order, as texts",
        )


def _is_group(group: Any) -> bool:
    if not isinstance(group, Mapping) or not isinstance(keys := group.get("params"), list | tuple):
        return False
    names = group.get("param_names")
    return all(isinstance(key, int | str) for key in keys) and (names is None or _are_texts(names))


def _are_texts(names: Any) -> bool:
    return isinstance(names, Sequence) and not isinstance(names, str) and all(map(_is_text, names))


def _is_text(name: Any) -> bool:
    return isinstance(name, str)
