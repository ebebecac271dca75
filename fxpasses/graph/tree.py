"""Module trees: what is at a path, and a copy of a tree that shares every tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
          "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")  # fmt: skip
_REGISTRIES = ("_parameters", "_buffers", "_modules")


def clone_tree(
    module: nn.Module,
    *,
    keep: set[str],
    path: str,
    memo: dict[int, nn.Module] | None = None,
    whole: bool = False,
) -> nn.Module:
    """A tree of new modules over the same tensors, every name in its place.

    What the graph calls keeps its class, and so does torch's own; other modules only hold parameters
    and become plain ``nn.Module``, so that a saved graph needs none of the user's classes.
    """
    memo = {} if memo is None else memo
    if id(module) in memo:
        return memo[id(module)]
    whole = whole or path in keep
    has_class = whole or (bool(path) and _is_torch(module)) or has_state_of_its_own(module)
    new = _shallow(module) if has_class and bool(path) else _holder(module)
    memo[id(module)] = new
    for name, child in module._modules.items():
        below = f"{path}.{name}" if path else name
        cloned = None if child is None else clone_tree(child, keep=keep, path=below, memo=memo, whole=whole)
        new._modules[name] = cloned
    return new


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))


def has_state_of_its_own(module: nn.Module) -> bool:
    """Whether a module's part of a state dict may have more than its tensors, or less."""
    return type(module).get_extra_state is not nn.Module.get_extra_state or bool(module._state_dict_hooks)


def _shallow(module: nn.Module) -> nn.Module:
    new = type(module).__new__(type(module))
    if isinstance(module, GraphModule):  # each of them is of a class of its own, which has its code
        type(new).forward = type(module).forward
    new.__dict__.update(module.__dict__)
    for registry in _REGISTRIES:
        new.__dict__[registry] = dict(module.__dict__[registry])
    new.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    for hooks in HOOKS:
        new.__dict__[hooks] = module.__dict__[hooks].copy()
    return new


def _holder(module: nn.Module) -> nn.Module:
    new = nn.Module()
    new.training = module.training
    new._parameters.update(module._parameters)
    new._buffers.update(module._buffers)
    new._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
    for name, value in module.__dict__.items():
        if isinstance(value, torch.Tensor):
            hold(new, name, value)
    for hooks in HOOKS:
        new.__dict__[hooks] = module.__dict__[hooks].copy()
    return new


def hold(module: nn.Module, name: str, value: Any) -> None:
    """A tensor that is no parameter, without adding a key to the state dict."""
    if isinstance(value, torch.Tensor):
        module.register_buffer(name, value, persistent=False)
    else:
        module.__dict__[name] = value


def walk(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module below ``root`` under every name, with the prefix of the names below it."""
    pending = [("", root)]
    while pending:
        prefix, module = pending.pop()
        yield prefix, module
        for key, child in module.__dict__["_modules"].items():
            if child is not None:
                pending.append((f"{prefix}{key}.", child))


def holders(root: nn.Module, objects: Mapping[str, object]) -> list[tuple[str, nn.Module]]:
    """The modules that hold one of some objects as a parameter, buffer or child, under every name.

    Nearly always each is held once, by the module that its name says; then no other names are put together.

    Returns:
        The modules with the prefix of the names below them.
    """
    parts: list[object] = []
    modules: list[nn.Module] = [root]
    for module in modules:  # grows while it is read
        held = module.__dict__
        if tensors := held["_parameters"]:
            parts += tensors.values()
        if tensors := held["_buffers"]:
            parts += tensors.values()
        if children := held["_modules"]:
            modules += [child for child in children.values() if child is not None]
    parts += modules
    wanted = {id(one) for one in objects.values()}
    if len([part for part in parts if id(part) in wanted]) != len(wanted):
        return _search(root, wanted)
    found: dict[str, nn.Module] = {}
    for name, one in objects.items():
        path, _, leaf = name.rpartition(".")
        owner = attribute(root, path) if path else root
        if not isinstance(owner, nn.Module) or all(held.get(leaf) is not one for held in _registries(owner)):
            return _search(root, wanted)
        found[f"{path}." if path else ""] = owner
    return [*found.items()]


def _search(root: nn.Module, wanted: Collection[int]) -> list[tuple[str, nn.Module]]:
    return [
        (prefix, module)
        for prefix, module in walk(root)
        if any(id(part) in wanted for held in _registries(module) for part in held.values())
    ]


def _registries(module: nn.Module) -> tuple[dict[str, Any], ...]:
    held = module.__dict__
    return held["_parameters"], held["_buffers"], held["_modules"]


def attribute(root: nn.Module, path: str | None) -> Any:
    """The object at a dotted path below ``root``, or None."""
    if path is None:
        return None
    found: Any = root
    for part in path.split("."):
        below = found._modules.get(part) if isinstance(found, nn.Module) else None
        found = getattr(found, part, None) if below is None else below
    return found


def is_uninitialized(tensor: Any) -> bool:
    """Whether a parameter of a lazy module has no shape yet."""
    return isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
