"""An ONNX file that gives its map of scores: as an output, or once its head stands before its pool.

What ``rewrite --to dense --with-map`` wrote has the map as an output. Any other classifier becomes its dense
form in memory, by the rewriter, and gives the map that its pool averages then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxexport.onnx_dialect.arrays import WeightPool, arrays_of
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.extents import numpy_name, shape_of
from fxexport.onnx_dialect.maps import MappedFile, mapped_file
from fxexport.onnx_dialect.rewrite import read_content
from fxexport.proof.pairing.outputs import is_map_name
from fxexport.providers import Session
from fxexport.subjects.samples import InputSpec
from fxhead.cam.scorer import HeadScores, choose_head, laid_out, require_map_of
from fxhead.inputs.images import ImageSize
from fxhead.inputs.specs import Hint, Shapes, filled
from fxhead.source import Source
from fxpasses.errors import InputError

_PROVIDER = "cpu"
_CHANNELS = (1, 3)
_FIX = "give the model that it was exported from, or a file that fxhead rewrite --to dense --with-map wrote"


class OnnxScorer:
    """An ONNX file on ONNX Runtime's CPU provider.

    Attributes:
        input_shape: what the file takes, without the batch.

    Args:
        given: shapes of its inputs, batch first, where the user says them.
        size: of the images, where the user says that.
        wanted: which output, by name or number; None where it has one.

    Raises:
        FileError: the file is no ONNX model.
        InputError: it has no map, or several inputs, or takes another shape.
    """

    def __init__(
        self, source: Source, given: Shapes, size: ImageSize | None, wanted: str | None = None
    ) -> None:
        content = read_content(Path(source.name))
        values = [value for value in content.proto.graph.input if value.name not in content.initializers]
        if len(values) != 1:
            raise InputError(f"has {len(values)} inputs, an image is one", where=source.text, fix=_FIX)
        declared, self.fixed_batch = _declared(values[0])
        if declared.shape is not None and len(declared.shape) != 3:
            what = f"input {declared.name!r} has {len(declared.shape) + 1} axes, an image has four"
            raise InputError(what, where=source.text, fix=_FIX)
        known: InputSpec = filled((declared,), _hint(declared, given, size), source)[0]
        extents = tuple(extent for extent in known.shape or () if extent is not None)
        if len(extents) != 3:
            raise InputError(
                f"input {known.name!r} leaves its shape open", where=source.text, fix="give --size"
            )
        self.input_shape = extents
        self._is_channels_last = _has_channels_last(extents)
        rows = (extents[-1], *extents[:-1]) if self._is_channels_last else extents
        self.spec = dataclasses.replace(known, shape=rows)
        shapes = () if extents == declared.shape else ((1, *extents),)
        mapped = _with_own_map(content) or mapped_file(
            content, lambda names: choose_head(names, wanted), shapes
        )
        self._name, self.head = source.text, mapped.head
        proto = bytes(mapped.file.proto.SerializeToString())
        self._session = Session(proto, _PROVIDER, mapped.file.weights, name=source.text)

    def __call__(self, batch: NDArray[Any], /) -> HeadScores:
        """The scores of the head.

        Raises:
            InputError: what the file gives is no map of its logits.
        """
        given = np.ascontiguousarray(np.moveaxis(batch, 1, -1)) if self._is_channels_last else batch
        logits, maps = self._session.run((given,))
        drawn = laid_out(maps.astype(np.float32), batch.shape[2:])
        found = HeadScores(logits.reshape(len(maps), -1).astype(np.float32), drawn)
        require_map_of(found, float(np.finfo(logits.dtype).eps), f"{self._name}: of the output {self.head!r}")
        return found


def _declared(value: Any) -> tuple[InputSpec, int | None]:
    """What a file declares of its input, and the only batch that it takes, or None."""
    kind, dims = shape_of(value) or (value.type.tensor_type.elem_type, None)
    known = (
        None if dims is None else [extent if isinstance(extent, int) and extent else None for extent in dims]
    )
    dtype = numpy_name(kind)
    shape = None if known is None else tuple(known[1:])
    return InputSpec(name=value.name, shape=shape, dtype=dtype), known[0] if known else None


def _with_own_map(content: Content) -> MappedFile | None:
    """A file with a map beside its logits, as ``export_onnx`` calls them; or None."""
    outputs = [*content.proto.graph.output]
    maps = [value for value in outputs if is_map_name(value.name)]
    others = [value for value in outputs if not is_map_name(value.name)]
    if not maps or not others:
        return None
    file = arrays_of(content, WeightPool())
    del file.proto.graph.output[:]
    file.proto.graph.output.extend((others[0], maps[0]))
    return MappedFile(head=others[0].name, file=file)


def _hint(spec: InputSpec, given: Shapes, size: ImageSize | None) -> Hint | None:
    """The input's shape as the user says it."""
    if given:
        return Hint(shapes=given, origin="--input-shape")
    if size is None or spec.shape is None or len(spec.shape) != 3:
        return None
    is_last = _has_channels_last(spec.shape)
    channels, own = (spec.shape[-1], spec.shape[:-1]) if is_last else (spec.shape[0] or 3, spec.shape[1:])
    extents = size.of_input(*own).extents
    shape = (*extents, channels) if is_last else (channels, *extents)
    return Hint(shapes=((1, *shape),), origin="--size")


def _has_channels_last(shape: Sequence[int | None]) -> bool:
    """Whether an image's channels are the last axis, as Keras has them."""
    return len(shape) == 3 and shape[-1] in _CHANNELS and shape[0] not in _CHANNELS
