"""Example inputs as a call: names, batch axis, dynamic shapes; and the names of the outputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn

from fxpasses.engine.outputs import count_maps
from fxpasses.errors import InputError
from fxpasses.graph.arguments import packed
from fxpasses.graph.maps import KEY as MAP
from fxpasses.private_names import pytree
from fxpasses.vocabulary.vocabulary import Vocabulary

SINGLE_OUTPUT = "logits"
_FIRST_SIZE = 2
"""The first axis behind batch and channels."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExampleCall:
    """One call of a module.

    Attributes:
        names: one name for each tensor, in the order of the arguments.
        batch: extent of axis 0 of the tensors that have the batch axis.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    batch: int

    def dynamic_shapes(
        self, module: nn.Module, batch: object, size: object
    ) -> dict[str, Any] | tuple[Any, ...]:
        """The ``dynamic_shapes`` argument of torch.export.

        Args:
            module: what is called.
            batch: what axis 0 of every batched tensor is; None fixes it.
            size: what the axes behind the channels are; None fixes them.
        """

        def axes(leaf: object) -> dict[int, object] | None:
            if not _is_batched(leaf, self.batch):
                return None
            sizes = dict.fromkeys(range(_FIRST_SIZE, leaf.dim()), size)
            return {axis: dim for axis, dim in ({0: batch} | sizes).items() if dim is not None} or None

        if not self.kwargs:
            return packed(module.forward, pytree.tree_map(axes, self.args))
        return {name: pytree.tree_map(axes, value) for name, value in self.kwargs.items()}

    def resized(self, size: Callable[[int, int], int]) -> ExampleCall:
        """A call with zeros of other sizes: ``size`` of an axis behind the channels and its extent."""

        def other(leaf: object) -> object:
            if not _is_batched(leaf, self.batch):
                return leaf
            extents = [size(axis, extent) for axis, extent in enumerate(leaf.shape) if axis >= _FIRST_SIZE]
            return leaf.new_zeros((*leaf.shape[:_FIRST_SIZE], *extents))

        args, kwargs = pytree.tree_map(other, (self.args, self.kwargs))
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the tensors that have the batch axis."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [tuple(leaf.shape) for leaf in leaves if _is_batched(leaf, self.batch)]

    def sizes(self) -> str:
        """Extents behind the channels, in words."""
        sizes = [shape[_FIRST_SIZE:] for shape in self.shapes() if len(shape) > _FIRST_SIZE]
        return " and ".join(dict.fromkeys("x".join(map(str, size)) for size in sizes))


def example_call(module: nn.Module, example_inputs: object, *, double: bool) -> ExampleCall:
    """The call that ``example_inputs`` stand for; batch 1 becomes 2 if ``double``.

    Raises:
        InputError: the inputs do not fit ``forward``, or hold no tensor with a batch axis.
    """
    args, kwargs = _as_arguments(example_inputs)
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            f"the example inputs do not fit forward ({error})",
            where=type(module).__name__,
            fix="give one tensor, a tuple of positional arguments or a dict by argument name",
        ) from error
    batch = _batch_of((args, kwargs), type(module).__name__)
    if double and batch == 1:
        args, kwargs = pytree.tree_map(_doubled, (args, kwargs))
        batch = 2
    names = tuple(name for key, value in bound.arguments.items() for name in _leaf_names(key, value))
    return ExampleCall(args=tuple(args), kwargs=dict(kwargs), names=names, batch=batch)


def _as_arguments(example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return tuple(example_inputs), {}
    raise InputError(
        f"example inputs of type {type(example_inputs).__name__}",
        fix="give one tensor, a tuple of positional arguments or a dict by argument name",
    )


def _batch_of(tree: object, where: str) -> int:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.dim() >= 1:
            if leaf.shape[0] == 0:
                break
            return int(leaf.shape[0])
    raise InputError(
        "no example input is a tensor with a batch axis", where=where, fix="give an input of shape [N, …]"
    )


def _is_batched(leaf: object, batch: int) -> TypeGuard[torch.Tensor]:
    return isinstance(leaf, torch.Tensor) and leaf.dim() >= 1 and leaf.shape[0] == batch


def _doubled(leaf: object) -> object:
    return torch.cat([leaf, leaf]) if _is_batched(leaf, 1) else leaf


def _leaf_names(name: str, value: object) -> tuple[str, ...]:
    """``name`` for a tensor; ``name_0``, ``name_key``, … for the tensors inside a container."""
    paths, _ = pytree.tree_flatten_with_path(value)
    return tuple(_joined((name, *_parts(path))) for path, leaf in paths if isinstance(leaf, torch.Tensor))


def output_names(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Stable names of the program's tensor outputs, as ``export_onnx`` documents them."""
    spec = program.call_spec.out_spec
    outputs = [item.arg for item in program.graph_signature.output_specs if item.kind.name == "USER_OUTPUT"]
    if spec is None:
        return tuple(f"output_{index}" for index in range(len(outputs)))
    maps = count_maps(program.graph, Vocabulary(program.graph_module))
    places = leaf_names(pytree.tree_unflatten(range(len(outputs)), spec), maps)
    return tuple(
        name
        for name, index in places
        if not isinstance(outputs[index], torch.export.graph_signature.ConstantArgument)
    )


def leaf_names(tree: object, maps: int = 0) -> tuple[tuple[str, Any], ...]:
    """Name and value of every leaf of a module's output, named as ``export_onnx`` documents.

    The last ``maps`` leaves are maps of the others; see ``fxpasses.engine.outputs``.
    """
    if maps and type(tree) is tuple and len(tree) == 2 and len(pytree.tree_leaves(tree[1])) <= maps:
        paths, _ = pytree.tree_flatten_with_path(tree[1])
        names = _distinct([_joined((MAP, *_parts(path))) for path, _ in paths])
        return (*leaf_names(tree[0]), *zip(names, (leaf for _, leaf in paths), strict=True))
    paths, _ = pytree.tree_flatten_with_path(tree)
    names = []
    for path, _leaf in paths:
        parts = _parts(path)
        first = [SINGLE_OUTPUT] if not parts else ["output"] if parts[0].isdecimal() else []
        names.append(_joined((*first, *parts)))
    return tuple(zip(_distinct(names), (leaf for _, leaf in paths), strict=True))


def _parts(path: Sequence[Any]) -> tuple[str, ...]:
    keys = (getattr(step, "key", getattr(step, "name", getattr(step, "idx", None))) for step in path)
    return tuple(str(key) for key in keys)


def _joined(parts: Sequence[str]) -> str:
    return "_".join(parts)


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct
