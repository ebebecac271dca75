"""SOURCE → a module or a program. All reading of pickles is here."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from fxhead.programs import PROGRAM_SUFFIX, is_program_file, read_program
from fxhead.sources import FORMS, Source, SourceKind
from fxpasses.errors import FileError, InputError, suggest

_ZIP_MAGIC = b"PK\x03\x04"


def load_model(source: Source, *, weights: str | None = None, seed: int = 0) -> nn.Module | ExportedProgram:
    """The model that ``source`` names: a module on the CPU and in eval mode, or a program as it is.

    Args:
        source: what to load.
        weights: torchvision's name of pretrained weights, or a file with a state dict.
        seed: seeds torch first, so that a freshly initialised model is the same in every run.

    Raises:
        FileError: a file cannot be read, or holds no module.
        InputError: the name is unknown, or what it names is no module.
    """
    if weights is not None and source.kind is SourceKind.FILE:
        raise InputError(
            "a module file brings its own weights",
            where=source.text,
            fix="leave --weights out, or give package.module:callable and --weights FILE",
        )
    torch.manual_seed(seed)
    if source.kind is SourceKind.FILE:
        loaded = _from_file(Path(source.name))
        if isinstance(loaded, ExportedProgram):
            return loaded
        module = loaded
    elif source.kind is SourceKind.TORCHVISION:
        module = _from_torchvision(source.name, weights)
    elif source.kind is SourceKind.CALLABLE:
        module = _from_callable(source.name)
    else:
        raise InputError("an ONNX file is not a module", where=source.text, fix=f"give {FORMS}")
    if weights is not None and _is_file_name(weights):
        _load_state(module, Path(weights))
    return module.eval()


def _is_file_name(weights: str) -> bool:
    return weights.lower().endswith((".pt", ".pth", ".bin")) or Path(weights).is_file()


def require_readable(path: Path) -> None:
    """Returns where ``path`` is a file with something in it that may be read.

    Raises:
        FileError: it is missing, a folder, empty, or not readable.
    """
    try:
        if path.is_dir():
            raise FileError("is a folder", where=str(path), fix="give a file in it")
        with path.open("rb") as file:
            if not file.read(1):
                raise FileError("the file is empty", where=str(path), fix="save the model again")
    except FileNotFoundError as error:
        raise FileError("no such file", where=str(path), fix=f"give {FORMS}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"cannot be read ({reason})", where=str(path), fix="check its permissions") from error


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    """Lets the working directory's modules be imported, as ``python -m`` does.

    Afterwards it stays on the path, last: a model may import in its forward, but a file that
    happens to be called like one of our own lazy imports must not shadow it.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _unpickle(path: Path, *, weights_only: bool) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    # mapped, a weight costs memory only once it is used; only the zip format can be mapped
    return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=is_zip)


def _from_file(path: Path) -> nn.Module | ExportedProgram:
    require_readable(path)
    if is_program_file(path):
        with _importable_here():  # a program may hold operators and dataclasses of the user's own
            return read_program(path)
    try:
        with _importable_here():
            loaded = _unpickle(path, weights_only=False)
    except ModuleNotFoundError as error:
        raise FileError(
            f"it needs the Python module {error.name!r}, which cannot be imported",
            where=str(path),
            fix="run fxhead in the folder of that module, or install it",
        ) from error
    except AttributeError as error:
        raise FileError(
            f"a class that it needs is not where it was saved from ({error})",
            where=str(path),
            fix="define the class in an importable module (not in the script that saves) and save again, "
            "or give package.module:callable --weights STATE_DICT",
        ) from error
    except Exception as error:  # a pickle runs code of its own and can fail with anything
        is_program = path.suffix.lower() == PROGRAM_SUFFIX
        save = "torch.export.save(program, path)" if is_program else "torch.save(model, path)"
        raise FileError(
            f"is not a file that {save.partition('(')[0]} wrote, or is damaged ({_brief(error)})",
            where=str(path),
            fix=f"save it again with {save}",
        ) from error
    return _require_module(loaded, where=str(path))


def _require_module(loaded: object, *, where: str) -> nn.Module:
    """``loaded`` if it is a module to work on; else an error that says what it is."""
    if isinstance(loaded, torch.jit.ScriptModule):
        raise InputError("is TorchScript", where=where, fix="give the nn.Module that it was made from")
    if isinstance(loaded, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InputError(f"is wrapped in {type(loaded).__name__}", where=where, fix="save model.module")
    if isinstance(loaded, nn.Module):
        return loaded
    if isinstance(loaded, dict):
        if loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise InputError(
                f"holds a state dict of {len(loaded)} tensors, not a module",
                where=where,
                fix="save the module itself, or give package.module:callable --weights " + where,
            )
        keys = ", ".join(repr(key) for key in list(loaded)[:5])
        raise InputError(
            f"holds a dict with the keys {keys}, not a module",
            where=where,
            fix="save the module itself with torch.save(model, path)",
        )
    raise InputError(
        f"holds an object of class {type(loaded).__name__}, not an nn.Module",
        where=where,
        fix="save the module itself with torch.save(model, path)",
    )


def _from_torchvision(name: str, weights: str | None) -> nn.Module:
    import torchvision.models

    known = torchvision.models.list_models()
    if name not in known:
        raise InputError(
            f"torchvision has no model {name!r}", where="torchvision:" + name, fix=suggest(name, known)
        )
    chosen = None
    if weights is not None and not _is_file_name(weights):
        members = torchvision.models.get_model_weights(name)
        if weights not in members.__members__:
            raise InputError(
                f"torchvision has no weights {weights!r} for {name}",
                where="--weights",
                fix=suggest(weights, members.__members__),
            )
        chosen = members[weights]
    options: dict[str, Any] = {"weights": chosen}
    if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters:
        # detection and segmentation builders download these unless told not to
        options["weights_backbone"] = None
    try:
        module: nn.Module = torchvision.models.get_model(name, **options)
    except OSError as error:
        raise FileError(
            f"the weights cannot be downloaded ({_brief(error)})",
            where=f"torchvision:{name} --weights {weights}",
            fix="check the network, or give --weights FILE",
        ) from error
    return module


def _from_callable(name: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    with _importable_here():
        try:
            found: Any = importlib.import_module(module_name)
        except Exception as error:  # importing runs the user's code
            raise InputError(
                f"{module_name!r} cannot be imported ({_brief(error)})",
                where=name,
                fix="run fxhead in the folder of that module, or install it",
            ) from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                public = [known for known in dir(found) if not known.startswith("_")]
                raise InputError(f"there is no {part!r} in it", where=name, fix=suggest(part, public))
            found = getattr(found, part)
        if callable(found) and not isinstance(found, nn.Module):
            try:
                found = found()
            except Exception as error:  # so does calling it
                raise InputError(
                    f"calling it failed ({_brief(error)})",
                    where=name,
                    fix="give a callable that works without arguments and returns an nn.Module",
                ) from error
    if not isinstance(found, nn.Module):
        raise InputError(
            f"gave an object of class {type(found).__name__}, not an nn.Module",
            where=name,
            fix="give a callable that returns an nn.Module",
        )
    return _require_module(found, where=name)


def _load_state(module: nn.Module, path: Path) -> None:
    require_readable(path)
    try:
        state = _unpickle(path, weights_only=True)
        module.load_state_dict(state)
    except Exception as error:  # torch.load documents no set of errors
        raise FileError(
            f"its weights cannot be loaded into the model ({_brief(error)})",
            where=str(path),
            fix="give a file that torch.save(model.state_dict(), path) wrote for the same model",
        ) from error


def _brief(error: BaseException) -> str:
    """The error's class and the first line of its message."""
    first = next(iter(str(error).strip().splitlines()), "")
    if len(first) > 160:
        first = first[:159] + "…"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
