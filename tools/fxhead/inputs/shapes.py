"""The input that a model takes: given, known from its metadata, or tried out without computing."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

from fxexport.untrusted.tensor_budget import TensorBudget
from fxhead.inputs.images import ImageSize
from fxhead.inputs.input_shapes import InputShapes, ShapeOrigin
from fxhead.inputs.naturals import natural_in
from fxhead.inputs.preset import find_preset
from fxhead.source import Source, SourceKind
from fxpasses.errors import InputError, brief
from fxpasses.fcn.native_size import native_size, require_native
from fxpasses.graph.held import Held
from fxpasses.graph.quiet import quiet_trial
from fxpasses.private_names import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    pytree,
)
from fxpasses.wall.clock import SlowError
from fxpasses.wall.marks import walled_for

_HOW = "give it, as in --input-shape 1x3x224x224"
# torchvision's clip_len for the models that were trained there
_FRAMES = 16
_EXTENTS = (224, 299, 256, 384, 227, 512, 32, 28, 64, 96, 128, 112, 160, 192, 48, 16, 8)
_VOLUMES = ((_FRAMES, 112, 112), (_FRAMES, 224, 224), *((n, n, n) for n in (32, 28, 64, 128, 16, 8)))
_TRIAL_BATCH = 2


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape that ``1x3x224x224`` (or ``1,3,224,224``) says.

    Raises:
        InputError: it is no list of positive numbers, or has no axis after the batch.
    """
    parts = re.split(r"[x,×]", text.strip().lower())
    extents = [extent for extent in map(natural_in, parts) if extent]
    if len(extents) < len(parts):
        raise InputError(f"{text!r} is not a shape", where="--input-shape", fix="write it as 1x3x224x224")
    if len(parts) < 2:
        raise InputError(
            f"{text!r} has only one axis", where="--input-shape", fix="write batch first, as 1x3x224x224"
        )
    return tuple(extents)


def find_shapes(
    module: nn.Module | ExportedProgram,
    source: Source,
    given: Sequence[tuple[int, ...]] = (),
    weights: str | None = None,
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    size: ImageSize | None = None,
) -> InputShapes:
    """The shapes of the model's inputs: a program's own, or checked by a forward on fake tensors.

    Shapes that are given go with ``dtypes``; by default with the weights' own, or with integers where the
    model has embeddings and takes no floats. ``size`` is tried where nothing customary fits.

    Raises:
        InputError: the model does not take the shape that was given, or none was found.
    """
    if isinstance(module, ExportedProgram):
        # it builds on this file
        from fxhead.inputs.program_shapes import program_shapes

        return program_shapes(module, source, given)
    _require_initialized(module, source)
    dtype = _input_dtype(module)
    if given:
        kinds = (dtype,) * len(given) if dtypes is None else tuple(dtypes)
        shapes = InputShapes(shapes=tuple(given), dtypes=kinds, origin=ShapeOrigin.GIVEN)
        tokens = _as_tokens(module, shapes) if dtypes is None else None
        return tokens or _checked(module, shapes)
    # the model first: torchvision's default weights may be of another size than a fresh model
    known = _from_images(module, source) or _from_attributes(module) or _from_torchvision(source, weights)
    if known is not None:
        return _checked(module, InputShapes(shapes=(known,), dtypes=(dtype,), origin=ShapeOrigin.METADATA))
    for shape in _candidates(module, () if size is None else size.meant):
        guess = InputShapes(shapes=(shape,), dtypes=(dtype,), origin=ShapeOrigin.GUESSED)
        if _refusal(module, guess) is None:
            return guess
    tried = "" if size is None else f", and does not run on {'x'.join(map(str, size.extents))}"
    what = f"the model does not say which input shape it takes{tried}"
    raise InputError(what, where=source.text, fix=_HOW)


def embeddings(module: nn.Module) -> int | None:
    """The size of the smallest embedding: every token below it is valid; None without embeddings."""
    layers = (nn.Embedding, nn.EmbeddingBag)
    return min(
        (layer.num_embeddings for layer in module.modules() if isinstance(layer, layers)), default=None
    )


def _as_tokens(module: nn.Module, shapes: InputShapes) -> InputShapes | None:
    """The shapes as those of integers, where the model takes them so and takes no floats."""
    limit = embeddings(module)
    if limit is None or _refusal(module, shapes) is None:
        return None
    tokens = dataclasses.replace(shapes, dtypes=(torch.int64,) * len(shapes.shapes), limit=limit)
    return tokens if _refusal(module, tokens) is None else None


def _checked(module: nn.Module, shapes: InputShapes) -> InputShapes:
    refusal = _refusal(module, shapes)
    if refusal is None:
        return shapes
    batch = shapes.shapes[0][0]
    if batch != _TRIAL_BATCH and _refusal(module, shapes, batch) is None:
        raise InputError(
            f"the model takes a batch of {batch} but not of {_TRIAL_BATCH}: something in it fixes the batch",
            where="--input-shape" if shapes.origin is ShapeOrigin.GIVEN else None,
            fix="let the batch vary, as in x.view(x.size(0), -1) or torch.flatten(x, 1)",
        ) from refusal
    require_native(native_size(module), shapes.shapes, "--input-shape")
    raise InputError(
        f"the model does not take an input of {shapes} ({brief(refusal)})",
        where="--input-shape" if shapes.origin is ShapeOrigin.GIVEN else None,
        fix=f"{_HOW.replace('it', 'another', 1)}, once for each tensor that forward takes by position",
    ) from refusal


def _refusal(module: nn.Module, shapes: InputShapes, batch: int = _TRIAL_BATCH) -> Exception | None:
    """Why a forward on this shape fails, or None. Fake tensors: nothing is computed."""
    held = Held(module)  # with its classes, files and what their functions remember, which no copy has
    try:
        trial = _shadow(module)
        with quiet_trial(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            pairs = zip(shapes.shapes, shapes.dtypes, strict=True)
            inputs = [torch.empty((batch, *shape[1:]), dtype=dtype) for shape, dtype in pairs]
            with TensorBudget(inputs), walled_for(module):
                leaves = pytree.tree_leaves(trial(*inputs))
    except SlowError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        # it went as far as a value that nothing computed: that says nothing against a shape that is known
        return error if shapes.origin is ShapeOrigin.GUESSED else None
    except Exception as error:  # noqa: BLE001 - a forward is the user's code; the error is the answer
        return error
    finally:
        held.put_back()
    if shapes.origin is not ShapeOrigin.GUESSED:
        return None
    outputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    # a map that was too large and got folded into the batch axis runs through, wrongly
    if not outputs or any(output.dim() == 0 or output.shape[0] != _TRIAL_BATCH for output in outputs):
        return ValueError(f"the outputs do not keep the batch of {_TRIAL_BATCH}")
    return None


def _shadow(module: nn.Module) -> nn.Module:
    """A copy over the same tensors: what a trial caches in it must not stay in the model."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _require_initialized(module: nn.Module, source: Source) -> None:
    for name, parameter in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(parameter):
            raise InputError(
                f"{name} is not initialised yet",
                where=source.text,
                fix="run the model on one input before saving it",
            )


def _input_dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _from_images(module: nn.Module, source: Source) -> tuple[int, ...] | None:
    """The shape that images have which are prepared as the folder of a hub, or the module itself, says."""
    is_told = source.kind in (SourceKind.FOLDER, SourceKind.FILE)
    size = find_preset(source, None, module).size if is_told else None
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return None if size is None or first is None else (1, first.in_channels, *size.extents)


def _from_torchvision(source: Source, weights: str | None) -> tuple[int, ...] | None:
    """The shape that torchvision's own preprocessing for this model makes."""
    if source.kind is not SourceKind.TORCHVISION:
        return None
    from torchvision.models import get_model_weights

    members = get_model_weights(source.name).__members__
    chosen: Any = members.get(weights or "DEFAULT") or members.get("DEFAULT")
    crop = getattr(chosen.transforms, "keywords", {}).get("crop_size") if chosen is not None else None
    if isinstance(crop, int):
        return (1, 3, crop, crop)
    if isinstance(crop, tuple):  # (height, width): torchvision's video models, and only those
        return (1, 3, _FRAMES, *crop)
    return None


def _from_attributes(module: nn.Module) -> tuple[int, ...] | None:
    """What timm, torchvision and transformers models say about themselves."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(module, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if isinstance(size, tuple | list) and all(isinstance(extent, int) for extent in size):
            return (1, *size)
    size = getattr(module, "image_size", None) or getattr(getattr(module, "config", None), "image_size", None)
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if isinstance(size, int) and first is not None:
        return (1, first.in_channels, size, size)
    if type(module).__name__ == "Inception3":
        return (1, 3, 299, 299)
    return None


def _in_order(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in the order of their calls, where a graph tells it; else as they were made."""
    if isinstance(module, GraphModule):
        calls = (str(node.target) for node in module.graph.nodes if node.op == "call_module")
        yield from map(module.get_submodule, calls)
    yield from module.modules()


def _candidates(module: nn.Module, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Shapes to try, by the first layer with weights; the customary ones first, then those of ``sizes``."""
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    first = next((m for m in _in_order(module) if isinstance(m, layers)), None)
    if isinstance(first, nn.Linear):
        yield (1, first.in_features)
    elif isinstance(first, nn.Conv3d):
        yield from ((1, first.in_channels, *volume) for volume in _VOLUMES)
    elif isinstance(first, nn.Conv1d | nn.Conv2d):
        rank = 1 if isinstance(first, nn.Conv1d) else 2
        yield from ((1, first.in_channels, *(extent,) * rank) for extent in _EXTENTS)
        if isinstance(first, nn.Conv2d):
            yield from ((1, first.in_channels, *size) for size in sizes)
