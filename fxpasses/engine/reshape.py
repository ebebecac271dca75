"""Modules and parameters in their other form, over the same storage.

Nothing is copied but where strides do not allow a view, and nothing is initialised, so no random
number is drawn. Names, order, ``requires_grad``, gradients, training flags and attributes stay.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fxpasses.engine.fake_values import refresh_weight
from fxpasses.engine.match import Match
from fxpasses.engine.uses import Uses
from fxpasses.graph.tree import attribute, walk
from fxpasses.report import Form
from fxpasses.vocabulary.ops import WeightSource
from fxpasses.weights.move import WeightMove

_PADS = "_reversed_padding_repeated_twice"  # what padding_mode pads with; a list
_CONV_EXTRAS = ("stride", "padding", "dilation", "padding_mode", _PADS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reshaped:
    """What ``reshape`` did.

    Attributes:
        copied: bytes copied per site's weight name; 0 where the new weight is a view of the old.
        moves: how each state-dict entry changed, also under its other names where weights are tied.
    """

    copied: dict[str, int]
    moves: tuple[WeightMove, ...]


def reshape(root: nn.Module, uses: Uses, matches: Iterable[Match], to: Form) -> Reshaped:
    """Puts the weights of all ``matches``, which ``uses`` knows, into form ``to`` below ``root``.

    Those that are inputs of the graph are the caller's, and stay.
    """
    matches = [match for match in matches if match.op.weight_source is not WeightSource.INPUT]
    made: dict[int, tuple[torch.Tensor, int]] = {}
    moves: dict[int, WeightMove] = {}
    modules: dict[int, nn.Module] = {}
    copied: dict[str, int] = {}
    kept = [attribute(root, match.site.weight) for match in matches]  # ids stay theirs while they live
    for match, old in zip(matches, kept, strict=True):
        name, module = match.site.weight, match.op.module
        if id(old) not in made:
            made[id(old)], moves[id(old)] = _converted(old, match, to), match.move
        weight, cost = made[id(old)]
        copied.setdefault(name, cost)
        if module is not None and id(module) not in modules:
            modules[id(module)] = _module(module, match, weight, to)
    for old, (weight, _) in made.items():
        for owner, name in uses.owners[old]:
            if id(owner) not in modules:  # a layer's own module is exchanged whole instead
                _put(owner, name, weight)
    for old, module in modules.items():
        for path in uses.paths[old]:
            parent, _, key = path.rpartition(".")
            root.get_submodule(parent)._modules[key] = module
    for old, move in moves.items():
        for node in uses.reads.get(old, ()):
            refresh_weight(node, functools.partial(move.convert, to=to))
    return Reshaped(
        copied=copied,
        moves=tuple(
            dataclasses.replace(moves[old], name=name) for old in made for _, name in uses.owners[old]
        ),
    )


def _put(owner: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Puts a tensor where the old one is, whatever holds it: a list, or a layer that nobody calls."""
    leaf = name.rpartition(".")[2]
    registry: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
    registry[leaf] = tensor


def swap_batch_norm(root: nn.Module, path: str, rank: int) -> None:
    """Replaces the batch norm at ``path`` by the class for maps of ``rank`` axes (0: ``[N, C]``)."""
    old = root.get_submodule(path)
    kind: type[nn.Module] = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank]
    new = kind.__new__(kind)
    new.__dict__.update(old.__dict__)
    for registry in ("_parameters", "_buffers", "_modules"):
        new.__dict__[registry] = dict(old.__dict__[registry])
    parents = [
        (module, key) for _, module in walk(root) for key, child in module._modules.items() if child is old
    ]
    for parent, key in parents:  # after the walk, which may meet a module under two names
        parent._modules[key] = new


def _converted(old: torch.Tensor, match: Match, to: Form) -> tuple[torch.Tensor, int]:
    plain = old.detach()
    data = match.move.convert(plain, to)
    # a kernel is always a view of the matrix
    is_view = to is Form.CONV or data.untyped_storage().data_ptr() == plain.untyped_storage().data_ptr()
    copied = 0 if is_view else data.numel() * data.element_size()
    if not isinstance(old, nn.Parameter):
        return data, copied
    new = nn.Parameter(data, requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = match.move.convert(old.grad, to)
    new.__dict__.update(old.__dict__)
    return new, copied


def _module(old: nn.Module, match: Match, weight: torch.Tensor, to: Form) -> nn.Module:
    bias = old._parameters.get("bias")
    new: Any  # Conv and Linear have no common class with these attributes
    if to is Form.CONV:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(match.site.kernel_size) - 1]
        new = _blank(kind, 1, 1, match.site.kernel_size, bias=bias is not None)
        new.in_channels, new.out_channels = match.channels, match.site.out_features
    else:
        new = _blank(nn.Linear, 1, 1, bias=bias is not None)
        new.in_features, new.out_features = match.site.in_features, match.site.out_features
    skipped = {*new.__dict__, *_layer_attributes()}
    new.__dict__.update({key: value for key, value in old.__dict__.items() if key not in skipped})
    new.training = old.training
    new._parameters.clear()
    new._parameters.update({name: weight if name == "weight" else bias for name in old._parameters})
    made: nn.Module = new
    return made


def _blank(kind: Any, *arguments: Any, bias: bool = True) -> Any:
    """A layer without values: nothing is initialised, so that no random number is drawn."""

    class Blank(kind):  # type: ignore[misc]  # the base is picked by form and rank
        def reset_parameters(self) -> None:
            """Leave the placeholder as it is."""

    module = Blank(*arguments, bias=bias)
    module.__class__ = kind
    return module


@functools.cache
def _layer_attributes() -> frozenset[str]:
    layers = _blank(nn.Linear, 1, 1), _blank(nn.Conv2d, 1, 1, 1)
    return frozenset(name for layer in layers for name in layer.__dict__)


def conv_extras(module: nn.Module) -> dict[str, Any]:
    """Settings of a convolution that its Linear form does not have; plain data."""
    return {name: getattr(module, name) for name in _CONV_EXTRAS}


def set_conv_extras(module: nn.Module, extras: dict[str, Any]) -> None:
    """Gives a convolution back the settings that ``conv_extras`` read."""
    for name, value in extras.items():
        setattr(module, name, tuple(value) if isinstance(value, list) and name != _PADS else value)
