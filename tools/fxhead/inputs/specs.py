"""What the models under comparison take, put together from all that says something about it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from fxexport.subjects.samples import InputSpec
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.samples import DataFiles
from fxhead.inputs.shapes import find_shapes
from fxhead.source import Source
from fxpasses.errors import InputError

_GIVEN = "--input-shape"

Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Shapes of inputs, batch first, and where they are from.

    Attributes:
        origin: what to name in an error.
        dtypes: their types, where those are known.
    """

    shapes: Shapes
    origin: str
    dtypes: tuple[torch.dtype, ...] | None = None


def argument_names(model: nn.Module | ExportedProgram) -> tuple[str, ...]:
    """What a module or program calls its inputs, optional ones included."""
    if isinstance(model, ExportedProgram):
        return tuple(str(name) for name in model.graph_signature.user_inputs)
    return tuple(inspect.signature(model.forward).parameters)


def module_specs(model: nn.Module | ExportedProgram, shapes: InputShapes) -> tuple[InputSpec, ...]:
    """The inputs of a module or program in these shapes, by the names that it gives them."""
    names = argument_names(model)
    # NumPy has no bfloat16; the module casts what it gets
    kinds = [str(dtype).removeprefix("torch.").replace("bfloat16", "float32") for dtype in shapes.dtypes]
    return tuple(
        InputSpec(name=name, shape=shape[1:], dtype=kind, limit=shapes.limit)
        for name, shape, kind in zip(names, shapes.shapes, kinds, strict=False)
    )


def find_hint(
    given: Shapes,
    declared: Sequence[tuple[InputSpec, ...]],
    files: DataFiles | None,
    names: Sequence[tuple[str, ...]],
) -> Hint | None:
    """Shapes by what says them best: the user, an ONNX file, the samples; or None.

    ``names``: what each model calls its inputs; samples are put in the order of the first that has theirs.
    """
    if given:
        return Hint(shapes=given, origin=_GIVEN)
    for specs in declared:
        shapes = [spec.shape for spec in specs if spec.shape is not None]
        known = [tuple(e for e in shape if e is not None) for shape in shapes]
        if len(shapes) == len(specs) and [*map(len, shapes)] == [*map(len, known)]:
            dtypes = tuple(_torch_dtype(spec.dtype) for spec in specs)
            is_known = all(dtype is not None and not dtype.is_floating_point for dtype in dtypes)
            return Hint(
                shapes=tuple((1, *shape) for shape in known),
                origin="the ONNX file",
                # floats become those of the module
                dtypes=tuple(d for d in dtypes if d is not None) if is_known else None,
            )
    if files is None or not files.arrays:
        return None
    arrays = {array.name: array for array in files.arrays}
    heads = (own[: len(arrays)] for own in names)
    order = next((own for own in heads if {*own} == {*arrays}), tuple(arrays))
    ordered = [arrays[name] for name in order]
    kinds = [array.rows.dtype for array in ordered]
    all_ints = all(kind.kind != "f" for kind in kinds)
    return Hint(
        shapes=tuple((1, *array.rows.shape[1:]) for array in ordered),
        origin=str(files.path),
        dtypes=tuple(_torch_dtype(kind.name) or torch.float32 for kind in kinds) if all_ints else None,
    )


def _torch_dtype(name: str | None) -> torch.dtype | None:
    dtype = None if name is None else getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) else None


def shapes_of(
    model: nn.Module | ExportedProgram, source: Source, hint: Hint | None, weights: str | None
) -> InputShapes:
    """The shapes that a module or program takes.

    Raises:
        InputError: it does not take those of the hint, or nothing says which it takes.
    """
    if hint is None:
        return find_shapes(model, source, (), weights)
    try:
        return find_shapes(model, source, hint.shapes, weights, dtypes=hint.dtypes)
    except InputError as error:
        if error.where != _GIVEN or hint.origin == _GIVEN:
            raise
        where, fix = f"{source.text} with {hint.origin}", "give inputs in the shape that both take"
        raise InputError(error.what, where=where, fix=fix) from error


def filled(specs: tuple[InputSpec, ...], hint: Hint | None, source: Source) -> tuple[InputSpec, ...]:
    """An ONNX file's inputs with open extents as the hint has them.

    Raises:
        InputError: the file declares other shapes.
    """
    if hint is None:
        return specs
    if len(hint.shapes) != len(specs):
        what = f"{len(hint.shapes)} shapes for {len(specs)} inputs"
        raise InputError(what, where=source.text, fix=f"give {_GIVEN} once for each input")
    return tuple(
        _filled(spec, shape[1:], hint, source) for spec, shape in zip(specs, hint.shapes, strict=True)
    )


def _filled(spec: InputSpec, shape: tuple[int, ...], hint: Hint, source: Source) -> InputSpec:
    own = (None,) * len(shape) if spec.shape is None else spec.shape
    if len(own) != len(shape) or any(a not in (None, b) for a, b in zip(own, shape, strict=True)):
        takes = "x".join(["N", *("?" if extent is None else str(extent) for extent in own)])
        raise InputError(
            f"input {spec.name!r} takes {takes}, not N{''.join(f'x{extent}' for extent in shape)}",
            where=f"{source.text} with {hint.origin}",
            fix="give the shape that the file declares",
        )
    return dataclasses.replace(spec, shape=shape)


def require_known(specs: Sequence[InputSpec], source: Source) -> None:
    """Returns where random samples can be drawn for all inputs; else raises InputError."""
    for spec in specs:
        if spec.shape is None or None in spec.shape:
            shape = (3, 224, 224) if spec.shape is None else [extent or 224 for extent in spec.shape]
            raise InputError(
                f"input {spec.name!r} leaves its shape open",
                where=source.text,
                fix=f"give it, as in --input-shape {'x'.join(map(str, (1, *shape)))}",
            )
        kind = None if spec.dtype is None else np.dtype(spec.dtype)
        if kind is None or (kind.kind in "iu" and kind.itemsize > 1 and spec.limit is None):
            raise InputError(
                f"nothing says which values of type {spec.dtype} input {spec.name!r} takes",
                where=source.text,
                fix="give samples to fxhead check with --inputs; fxhead rewrite --no-check needs none",
            )
