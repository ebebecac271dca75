"""Module trees: what is at a path, and a copy of a tree that shares every tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

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
    has_class = whole or (bool(path) and _is_torch(module)) or _has_state_of_its_own(module)
    new = _shallow(module) if has_class and bool(path) else _holder(module)
    memo[id(module)] = new
    for name, child in module._modules.items():
        below = f"{path}.{name}" if path else name
        cloned = None if child is None else clone_tree(child, keep=keep, path=below, memo=memo, whole=whole)
        new._modules[name] = cloned
    return new


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))


def _has_state_of_its_own(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state or bool(module._state_dict_hooks)


def _shallow(module: nn.Module) -> nn.Module:
    new = type(module).__new__(type(module))
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


def holders(root: nn.Module, wanted: Collection[int]) -> list[tuple[str, nn.Module]]:
    """The modules that hold an object as a parameter, buffer or child, under every name that they have.

    A tree has hundreds of modules and a rewrite of a head is quick, so names are put together only for
    what is found.

    Args:
        root: the top of the tree.
        wanted: identities of the objects.

    Returns:
        The modules with the prefix of the names below them.
    """
    modules: list[nn.Module | None] = [root]
    keys, parents = [""], [0]
    found: dict[int, nn.Module] = {}
    for index, module in enumerate(modules):  # grows while it is read
        if module is None:
            continue
        held = module.__dict__
        for tensor in held["_parameters"].values():
            if id(tensor) in wanted:
                found[index] = module
        for tensor in held["_buffers"].values():
            if id(tensor) in wanted:
                found[index] = module
        if children := held["_modules"]:
            modules.extend(children.values())
            keys.extend(children)
            parents.extend([index] * len(children))
            for child in children.values():
                if id(child) in wanted:
                    found[index] = module
    return [(_prefix(keys, parents, index), module) for index, module in found.items()]


def _prefix(keys: list[str], parents: list[int], index: int) -> str:
    prefix = ""
    while index:
        prefix = f"{keys[index]}.{prefix}"
        index = parents[index]
    return prefix


def attribute(root: nn.Module, path: str | None) -> Any:
    """The object at a dotted path below ``root``, or None."""
    if path is None:
        return None
    found: Any = root
    for part in path.split("."):
        below = found._modules.get(part) if isinstance(found, nn.Module) else None
        found = getattr(found, part, None) if below is None else below
    return found
