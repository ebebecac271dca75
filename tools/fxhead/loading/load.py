"""SOURCE → a module or a program; what a file is decides how it is read, and no code in it is run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from fxexport.untrusted.allowed import Allowed
from fxexport.untrusted.archive import open_regular
from fxexport.untrusted.programs import read_program
from fxhead.loading.architectures import build, importable_here, is_weight_file
from fxhead.loading.hub_folders import read_hub_folder
from fxhead.loading.recognise import Container, FileKind, recognise
from fxhead.loading.state_dicts import Fit, load_checkpoint, model_keys, module_in
from fxhead.loading.unpickle import listed, load_trusted, make_module
from fxhead.source import FORMS, Source, SourceKind
from fxpasses.errors import FileError, InputError
from fxpasses.wall.clock import add_bytes
from fxpasses.wall.marks import mark_unvouched, tensors_of
from fxpasses.wall.wall import walled

_WEIGHTS = (FileKind.STATE_DICT, FileKind.CHECKPOINT, FileKind.SAFETENSORS)
_MODELS = (FileKind.MODULE, FileKind.GRAPH_MODULE)
_BUILT = (SourceKind.TORCHVISION, SourceKind.TIMM, SourceKind.CALLABLE)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How files are loaded; a certificate keeps it.

    Attributes:
        arch: what builds the model of a state dict or checkpoint: ``torchvision:NAME`` or
            ``package.module:callable``.
        ema: takes a checkpoint's averaged weights.
        prefix: what stands before every name in a file of weights and is not the model's.
        allow: full names of classes that a pickled module may have.
        trust: unpickles the file as it is, which runs whatever it says.
    """

    arch: str | None = None
    ema: bool = False
    prefix: str | None = None
    allow: tuple[str, ...] = ()
    trust: bool = False

    def code(self) -> str | None:
        """What loading again would import or run that torch and torchvision do not bring, in words."""
        if self.trust:
            return "was made with --trust: to load its files again is to run whatever is in them"
        if self.allow:
            return f"names the classes {', '.join(self.allow)}, and to import them is to run their code"
        if self.arch is not None and Source.parse_architecture(self.arch).kind is SourceKind.CALLABLE:
            return f"names the callable {self.arch!r}, and to import it is to run its code"
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loading(FileOptions):
    """How SOURCE is loaded, a file or not.

    Attributes:
        weights: torchvision's name of pretrained weights, or a file of weights.
        seed: seeds torch first, so that a freshly initialised model is the same in every run.
    """

    weights: str | None = None
    seed: int = 0

    @property
    def of_files(self) -> FileOptions:
        """The part that is about files."""
        return FileOptions(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(FileOptions)}
        )

    def for_source(self, source: Source) -> Loading:
        """The same for one of two sources: weights are for what is built, ``arch`` for a file."""
        if source.kind in _BUILT:
            return dataclasses.replace(self, arch=None, ema=False, prefix=None)
        return dataclasses.replace(self, weights=None)

    def built(self, source: Source) -> Source:
        """What builds the model: it may say which input it takes."""
        return source if self.arch is None else Source.parse_architecture(self.arch)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """What was loaded.

    Attributes:
        model: a module on the CPU and in eval mode, or a program as it is.
        container: what the file is, in words; None where the model was built.
    """

    model: nn.Module | ExportedProgram
    container: str | None = None


def load(source: Source, loading: Loading | None = None, note: Callable[[str], None] = _warn) -> Loaded:
    """The model that ``source`` names, and what it came in.

    ``note`` receives what the user should know, as that code of the file is run.

    Raises:
        FileError: a file cannot be read, is damaged, holds no model, or needs code that is not allowed.
        InputError: the name is unknown, or what it names is no module.
    """
    loading = loading or Loading()
    torch.manual_seed(loading.seed)
    if source.kind in _BUILT:
        return Loaded(model=_built(source, loading, note).eval())
    if loading.weights is not None:
        raise InputError(
            "a module file brings its own weights",
            where=source.text,
            fix="leave --weights out, or give package.module:callable and --weights FILE",
        )
    if source.kind is SourceKind.FOLDER:
        read_hub_folder(source)  # tells better what is missing
    path = source.path or Path(source.name)
    require_readable(path)
    with _guarded(source.text, loading), _by_name(path):
        container = recognise(path)
        if source.kind is SourceKind.FOLDER:
            model: nn.Module | ExportedProgram = _from_weights(container, source, loading, note)
        else:
            model = _from_file(container, loading, note)
        if not isinstance(model, ExportedProgram):
            model.eval()
    if not loading.trust:
        mark_unvouched(model)
    return Loaded(model=model, container=container.title)


@contextlib.contextmanager
def _guarded(where: str, loading: Loading) -> Iterator[None]:
    if loading.trust:
        yield
    else:
        with walled(where):
            yield


@contextlib.contextmanager
def _by_name(path: Path) -> Iterator[None]:
    """Says of a file that torch cannot open that it is the name, where it is."""
    try:
        yield
    except FileError as error:
        if os.fspath(path).isascii() or os.fsencode(path) == os.fspath(path).encode(errors="replace"):
            raise
        what = "has a name that is no UTF-8, by which torch cannot open it"
        raise FileError(what, where=str(path), fix="rename it, or link to it under another name") from error


def require_readable(path: Path, fix: str | None = None) -> None:
    """Returns where ``path`` is a file with something in it that may be read.

    ``fix`` says what to give in the place of what is none; None where that is a model.

    Raises:
        FileError: it is missing, a folder, a pipe or device, empty, or not readable.
    """
    try:
        if path.is_dir():
            raise FileError("is a folder", where=str(path), fix=fix or "give a file in it")
        with open_regular(path) as file:
            if not file.read(1):
                raise FileError("the file is empty", where=str(path), fix=fix or "save the model again")
    except FileNotFoundError as error:
        raise FileError("no such file", where=str(path), fix=fix or _to_get(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"cannot be read ({reason})", where=str(path), fix="check its permissions") from error


def _to_get(path: Path) -> str:
    """What helps where there is no such file: it may be what a hub calls a model."""
    if (
        re.fullmatch(r"[\w.-]+/[\w.-]+", str(path), re.ASCII)
        and not path.parent.is_dir()
        and not is_weight_file(path.name)
    ):
        return f"give {FORMS}; a model of a hub is fetched first: hf download {path} --local-dir {path.name}"
    return f"give {FORMS}"


def _built(source: Source, loading: Loading, note: Callable[[str], None]) -> nn.Module:
    if loading.arch is not None or loading.ema or loading.prefix is not None:
        raise InputError(
            "--arch, --ema and --prefix are about files of weights", where=source.text, fix="leave them out"
        )
    if loading.weights is not None and is_weight_file(loading.weights):
        path = Path(loading.weights)
        require_readable(path)
        with walled(str(path)):
            return _from_weights(recognise(path), source, loading, note)
    module = build(source, loading.weights)
    add_bytes(sum(tensor.nbytes for tensor in tensors_of(module)))
    return _require_usable(module, where=source.text)


def _from_file(
    container: Container, loading: Loading, note: Callable[[str], None]
) -> nn.Module | ExportedProgram:
    path = container.path
    if loading.arch is not None and container.kind not in (*_WEIGHTS, FileKind.OBJECT):
        what = f"is a {container.title}, which brings its own architecture"
        raise InputError(what, where=str(path), fix="leave --arch out")
    record = module_in(container, ema=loading.ema) if loading.arch is None else None
    if container.kind in _WEIGHTS and record is None:
        return _from_weights(container, _architecture(container, loading, note), loading, note)
    if container.kind is FileKind.PROGRAM:
        if not loading.trust:
            return read_program(path, archive=container.archive)
        note(f"--trust: {path} is loaded unchecked, and may run any code")
        with importable_here():  # a program may hold operators and dataclasses of the user's own
            return read_program(path, trust=True)
    is_model = container.kind in _MODELS or record is not None
    if loading.trust and (is_model or container.kind is FileKind.OBJECT):
        note(f"--trust: {path} is unpickled, and runs whatever code is in it")
        loaded = load_trusted(path)
        if isinstance(loaded, dict):
            parts = (loaded.get(key) for key in model_keys(ema=loading.ema))
            loaded = next((part for part in parts if isinstance(part, nn.Module)), loaded)
        return _require_module(loaded, where=str(path))
    if is_model:
        return _require_usable(make_module(container, _allowed(loading), record), where=str(path))
    raise _refusal(container)


def _architecture(container: Container, loading: Loading, note: Callable[[str], None]) -> Source:
    if loading.arch is None:
        fix = "say what builds the model: --arch torchvision:NAME or --arch package.module:callable"
        if container.path.with_name("config.json").is_file():
            fix = f"give the folder {container.path.parent}, or " + fix
        raise InputError(
            f"is a {container.title}, which has weights and no architecture",
            where=str(container.path),
            fix=fix,
        )
    architecture = Source.parse_architecture(loading.arch)
    if architecture.text != loading.arch:
        note(f"--arch {loading.arch} is read as {architecture.text}")
    if architecture.kind not in _BUILT:
        raise InputError(
            f"{loading.arch!r} builds no model",
            where="--arch",
            fix="give torchvision:NAME, timm:NAME or package.module:callable",
        )
    return architecture


def _from_weights(
    container: Container, architecture: Source, loading: Loading, note: Callable[[str], None]
) -> nn.Module:
    fit = Fit(architecture=architecture, ema=loading.ema, prefix=loading.prefix)
    module = load_checkpoint(container, fit, _allowed(loading), note)
    return _require_usable(module, where=str(container.path))


def _allowed(loading: Loading) -> Allowed:
    return Allowed(extra=frozenset(loading.allow), here=importable_here)


_FIXES = {
    FileKind.TORCHSCRIPT: "loading it runs the code in it; give the nn.Module that it was made from",
    FileKind.COMPILED: "give the program that it was compiled from",
    FileKind.ONNX: ("end its name in .onnx, by which ONNX files are known"),
    FileKind.OBJECT: "save the module itself, or its state dict, with torch.save",
}


def _refusal(container: Container) -> FileError:
    names = (
        container.pickle.names if container.kind is FileKind.OBJECT and container.pickle is not None else ()
    )
    foreign = Allowed().refused(names, in_graph=False)
    needs = f" that needs {listed(foreign)}" if foreign else ""
    return FileError(
        f"is {'an' if container.kind is FileKind.ONNX else 'a'} {container.title}{needs}, not a module",
        where=str(container.path),
        fix=_FIXES[container.kind],
    )


def _require_module(loaded: object, *, where: str) -> nn.Module:
    if not isinstance(loaded, nn.Module):
        raise InputError(
            f"holds an object of class {type(loaded).__name__}, not an nn.Module",
            where=where,
            fix="save the module itself with torch.save(model, path)",
        )
    return _require_usable(loaded, where=where)


def _require_usable(module: nn.Module, *, where: str) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("is TorchScript", where=where, fix="give the nn.Module that it was made from")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _require_usable(module.module, where=where)
    for part in module.modules():
        # what the older weight_norm computes while the model is built cannot be copied with its history
        computed = {key: value for key, value in vars(part).items() if isinstance(value, torch.Tensor)}
        vars(part).update((key, value.detach()) for key, value in computed.items() if not value.is_leaf)
    return module
