"""``load_model`` and ``save_model``: the command line's rules for files, for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from fxexport.untrusted.programs import PROGRAM_SUFFIX
from fxhead.files.publish import publish, staged
from fxhead.files.save import save_module
from fxhead.loading.load import Loading, load
from fxhead.source import Source
from fxpasses.errors import FileError, InputError

_SUFFIXES = (".pt", ".pth", PROGRAM_SUFFIX)


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
    target = Path(path)
    suffix = target.suffix.lower()
    is_program = isinstance(model, ExportedProgram)
    if suffix not in _SUFFIXES or is_program != (suffix == PROGRAM_SUFFIX):
        kind = "program" if is_program else "module"
        raise InputError(
            f"a {kind} is not saved as {target.suffix or 'a file without a suffix'}",
            where=str(target),
            fix="name a .pt2 file" if is_program else "name a .pt file, or export the module for a .pt2 file",
        )
    if target.is_dir() or (os.path.lexists(target) and not force):
        raise FileError("exists already", where=str(target), fix="give force=True to replace it")
    with staged(target.parent) as staging:
        save_module(model, staging / target.name)
        publish(staging, force=force)
    return target
