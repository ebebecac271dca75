"""The input that an exported program takes, read from its own placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from fxhead.inputs.input_shapes import InputShapes, ShapeOrigin
from fxhead.source import Source
from fxpasses.errors import InputError
from fxpasses.graph.shapes import static_extent
from fxpasses.private_names import pytree

_BATCH = 2
_NO_ONNX = "rewrite with --no-onnx, or inspect it"


def program_shapes(
    program: ExportedProgram, source: Source, given: Sequence[tuple[int, ...]] = ()
) -> InputShapes:
    """The shapes of the program's inputs: as given, or as its placeholders and its example inputs say.

    A symbolic batch is shown as 2.

    Raises:
        InputError: an input is no tensor of floats, a shape that was given does not fit, or an axis that
            is dynamic has no extent.
    """
    values = _values(program, source)
    fixed = static_extent(values[0].shape[0])
    if given:
        _require_fit(values, given)
        shapes, origin = tuple(given), ShapeOrigin.GIVEN
    else:
        examples = _examples(program, len(values))
        shapes = tuple(
            _shape(value, None if examples is None else examples[index], source)
            for index, value in enumerate(values)
        )
        origin = ShapeOrigin.METADATA
    shapes = tuple((fixed or _BATCH, *shape[1:]) for shape in shapes)
    dtypes = tuple(value.dtype for value in values)
    return InputShapes(shapes=shapes, dtypes=dtypes, origin=origin, fixed_batch=fixed)


def _values(program: ExportedProgram, source: Source) -> list[torch.Tensor]:
    """The fake tensors that stand for the inputs."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values: list[torch.Tensor] = []
    for name in names:
        value = nodes[name].meta.get("val") if isinstance(name, str) else None
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 2:
            raise InputError(f"input {name!r} is no batch of floats", where=source.text, fix=_NO_ONNX)
        values.append(value)
    if not values:
        raise InputError("the program has no inputs", where=source.text, fix=_NO_ONNX)
    return values


def _examples(program: ExportedProgram, count: int) -> list[Any] | None:
    if program.example_inputs is None:
        return None
    leaves = pytree.tree_leaves(program.example_inputs)
    return leaves if len(leaves) == count else None


def _shape(value: torch.Tensor, example: Any, source: Source) -> tuple[int, ...]:
    if isinstance(example, torch.Tensor) and example.ndim == value.ndim:
        return tuple(example.shape)
    extents = [static_extent(extent) for extent in value.shape]
    known = [extent for extent in extents[1:] if extent is not None]
    if len(known) < value.ndim - 1:
        raise InputError(
            "the program leaves an axis dynamic and has no example inputs",
            where=source.text,
            fix="give its extent, as in --input-shape 1x3x224x224",
        )
    return (extents[0] or _BATCH, *known)


def _require_fit(values: Sequence[torch.Tensor], given: Sequence[tuple[int, ...]]) -> None:
    """Returns where every shape has the rank and the static extents of its input, the batch aside."""
    for value, shape in zip(values, given, strict=False):
        static = [static_extent(extent) for extent in value.shape]
        pairs = zip(static[1:], shape[1:], strict=False)
        if len(static) != len(shape) or any(fixed not in (None, extent) for fixed, extent in pairs):
            takes = "x".join("N" if extent is None else str(extent) for extent in static)
            raise InputError(
                f"the program does not take an input of {'x'.join(map(str, shape))}",
                where="--input-shape",
                fix=f"it takes {takes}; leave the option out",
            )
    if len(values) != len(given):
        raise InputError(
            f"the program has {len(values)} inputs, {len(given)} shapes were given",
            where="--input-shape",
            fix="leave the option out",
        )
