"""What programs import: the passes for models of every kind, and the command line's rules for files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

import fxpasses
from fxexport.untrusted.archive import path_of_file
from fxexport.untrusted.programs import PROGRAM_SUFFIX
from fxhead.files.publish import publish, staged
from fxhead.files.save import save_module
from fxhead.loading.load import Loading, load
from fxhead.source import Source
from fxpasses import RewriteResult, Sites
from fxpasses.api import model_of
from fxpasses.errors import FileError, InputError
from fxpasses.wall.marks import walled_for

_SUFFIXES = (".pt", ".pth", PROGRAM_SUFFIX)


def rewrite(
    model: Any,
    to: str,
    scope: str = "head",
    example_inputs: Any = None,
    way: str = "auto",
    outputs: Sequence[str] = ("logits",),
) -> RewriteResult[Any]:
    """The model with its head in another form; see ``fxpasses.rewrite``.

    Args:
        model: a module, a GraphModule, an ExportedProgram, an ``onnx.ModelProto``, an ``onnx_ir.Model``, the
            path of an ONNX file, or the result of another rewrite; the result is of the same kind (an
            ``onnx.ModelProto`` for a path).
        to: ``"conv"``, ``"linear"``, ``"dense"``, ``"fcn"``, or for PyTorch models ``"unfold"``.
        scope: see ``fxpasses.rewrite``.
        example_inputs: see there; for ONNX models they say the extents that the model leaves open.
        way: see there; ONNX models are graphs already.
        outputs: see there; ONNX models give what they gave.

    Raises:
        InputError: an argument is not of the kind that is needed.
        FileError: an ONNX model is damaged.
        TraceError: the model cannot be traced.
    """
    model = model_of(model)
    if not _is_onnx(model):
        return fxpasses.rewrite(model, to, scope, example_inputs, way, outputs)
    from fxexport.onnx_dialect.rewrite import rewrite_onnx

    if tuple(outputs) != ("logits",):
        raise InputError("an ONNX model gives what it gave", where="outputs", fix="leave them out")
    with walled_for(model):
        return rewrite_onnx(model, to, scope, _shapes(example_inputs))


def find_sites(
    model: Any, scope: str = "head", example_inputs: Any = None, way: str = "auto", to: str | None = None
) -> Sites:
    """Every site of a model, and every miss; see ``fxpasses.find_sites``, and ``rewrite`` for the kinds."""
    model = model_of(model)
    if not _is_onnx(model):
        return fxpasses.find_sites(model, scope, example_inputs, way, to)
    from fxexport.onnx_dialect.rewrite import find_onnx_sites

    with walled_for(model):
        return find_onnx_sites(model, scope, to, _shapes(example_inputs))


def _is_onnx(model: object) -> bool:
    """Whether a model is one of ONNX; nothing of onnx is imported for one of PyTorch."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model).lower().endswith(".onnx")
    return type(model).__module__.partition(".")[0] in ("onnx", "onnx_ir")


def _shapes(example_inputs: Any) -> tuple[tuple[int, ...], ...]:
    given = example_inputs() if callable(example_inputs) else example_inputs
    if given is None:
        return ()
    inputs = given if isinstance(given, (tuple, list)) else (given,)
    return tuple(tuple(value.shape) for value in inputs)


def load_model(
    source: str | os.PathLike[str],
    *,
    arch: str | None = None,
    ema: bool = False,
    prefix: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    allow: Iterable[str] = (),
    trust: bool = False,
) -> nn.Module | ExportedProgram:
    """The model in a file, in eval mode on the CPU; no code in the file is run.

    Args:
        source: a file, ``torchvision:NAME`` or ``package.module:callable``.
        arch: for a state dict, checkpoint or safetensors file, what builds the model:
            ``torchvision:NAME`` or ``package.module:callable``.
        ema: whether to take a checkpoint's averaged weights.
        prefix: what stands before every name in a file of weights and is not the model's.
        weights: for a model that is built: torchvision's name of weights, or a file of weights.
        seed: seeds torch, for weights that are freshly initialised.
        allow: full names of classes of yours that a pickled module may have.
        trust: whether to unpickle the file as it is, which runs whatever it says; warns.

    Returns:
        A module, or an ``ExportedProgram`` for a ``.pt2`` file.

    Raises:
        FileError: the file cannot be read, is damaged, or needs code that is not allowed.
        SlowError: reading it takes more time or memory than files may; a call into compiled code is waited
            for, here and wherever such a model is run.
        InputError: the file is of a kind that holds no model, or an argument does not fit it.
    """
    loading = Loading(
        weights=weights, seed=seed, arch=arch, ema=ema, prefix=prefix, allow=tuple(allow), trust=trust
    )
    return load(Source.parse(os.fspath(source)), loading).model


def save_model(
    model: nn.Module | ExportedProgram, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """The path of the file written from ``model``: whole, or not at all.

    The same model gives the same bytes under any name. A GraphModule in a ``.pt`` file, as ``rewrite``
    gives, needs only torch to be loaded.

    Args:
        model: a module, for ``.pt`` or ``.pth``; a program, for ``.pt2``.
        path: the file.
        force: whether to replace an existing file.

    Raises:
        InputError: the suffix does not fit the model, or something in it cannot be pickled.
        FileError: there is such a file already, or it cannot be written.
    """
    target = path_of_file(path)
    suffix = target.suffix.lower()
    is_program = isinstance(model, ExportedProgram)
    if suffix not in _SUFFIXES or is_program != (suffix == PROGRAM_SUFFIX):
        kind = "program" if is_program else "module"
        raise InputError(
            f"a {kind} is not saved as {target.suffix or 'a file without a suffix'}",
            where=str(target),
            fix="name a .pt2 file" if is_program else "name a .pt file, or export the module for a .pt2 file",
        )
    if os.path.isdir(target) or (os.path.lexists(target) and not force):
        raise FileError("exists already", where=str(target), fix="give force=True to replace it")
    with staged(target.parent) as staging:
        save_module(model, staging / target.name)
        publish(staging, force=force)
    return target
