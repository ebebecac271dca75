"""Models that are built, not read: by torchvision's name, or by a callable of the user's own."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fxhead.loading.hub_folders import build_from_hub_folder, read_hub_folder
from fxhead.loading.timm_models import build_timm
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, InputError, brief, suggest
from fxpasses.wall.wall import downloading, lowered

_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".tar")


def build(source: Source, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """The freshly built model, with torchvision's own weights if they are named.

    The name of a file in ``weights`` is left to the caller.

    Raises:
        InputError: the name is unknown, or what it names makes no module.
        FileError: the weights cannot be downloaded.
    """
    if source.kind is SourceKind.TORCHVISION:
        return _from_torchvision(source.name, weights, num_classes)
    if weights is not None:
        what, fix = f"{weights!r} is no file of weights", "name a file with the model's state dict"
        if source.kind is SourceKind.TIMM:
            what += ", and timm's are not downloaded here"
            fix = f"fetch model.safetensors from https://huggingface.co/timm/{source.name} and name it"
        raise InputError(what, where="--weights", fix=fix)
    if source.kind is SourceKind.FOLDER:
        return build_from_hub_folder(read_hub_folder(source))
    if source.kind is SourceKind.TIMM:
        options = {} if num_classes is None else {"num_classes": num_classes}
        return build_timm(source.name, source.text, **options)
    return _from_callable(source.name, num_classes)


def takes_num_classes(source: Source) -> bool:
    """Whether the model can be built with another number of outputs."""
    if source.kind in (SourceKind.TORCHVISION, SourceKind.TIMM):
        return True
    if source.kind is SourceKind.FOLDER:
        return False  # its texts say how many
    found = _found(source.name)
    if isinstance(found, nn.Module) or not callable(found):
        return False
    try:
        return "num_classes" in inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False


def is_weight_file(weights: str) -> bool:
    """Whether ``--weights`` names a file, not one of torchvision's."""
    return weights.lower().endswith(_WEIGHT_SUFFIXES) or Path(weights).is_file()


@contextlib.contextmanager
def importable_here() -> Iterator[None]:
    """Lets the working directory's modules be imported, as ``python -m`` does.

    Afterwards it stays on the path, last: a model may import in its forward, but a file that
    happens to be called like one of our own lazy imports must not shadow it.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        with lowered():  # it is the user's own code
            yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _from_torchvision(name: str, weights: str | None, num_classes: int | None) -> nn.Module:
    import torchvision.models

    known = torchvision.models.list_models()
    if name not in known:
        raise InputError(
            f"torchvision has no model {name!r}", where="torchvision:" + name, fix=suggest(name, known)
        )
    chosen = None
    if weights is not None and not is_weight_file(weights):
        members = torchvision.models.get_model_weights(name)
        if weights not in members.__members__:
            raise InputError(
                f"torchvision has no weights {weights!r} for {name}",
                where="--weights",
                fix=suggest(weights, members.__members__),
            )
        chosen = members[weights]
    options: dict[str, Any] = {"weights": chosen}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters:
        # detection and segmentation builders download these unless told not to
        options["weights_backbone"] = None
    try:
        with downloading():
            module: nn.Module = torchvision.models.get_model(name, **options)
    except OSError as error:
        raise FileError(
            f"the weights cannot be downloaded ({brief(error)})",
            where=f"torchvision:{name} --weights {weights}",
            fix="check the network, or give --weights FILE",
        ) from error
    return module


def _found(name: str) -> Any:
    """What ``package.module:attribute`` names."""
    module_name, _, attribute = name.partition(":")
    with importable_here():
        try:
            found: Any = importlib.import_module(module_name)
        except Exception as error:  # importing runs the user's code
            raise InputError(
                f"{module_name!r} cannot be imported ({brief(error)})",
                where=name,
                fix="run fxhead in the folder of that module, or install it",
            ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise InputError(f"there is no {part!r} in it", where=name, fix=suggest(part, public))
        found = getattr(found, part)
    return found


def _from_callable(name: str, num_classes: int | None) -> nn.Module:
    found = _found(name)
    options = {} if num_classes is None else {"num_classes": num_classes}
    if callable(found) and not isinstance(found, nn.Module):
        try:
            with importable_here():
                found = found(**options)
        except Exception as error:  # so does calling it
            raise InputError(
                f"calling it failed ({brief(error)})",
                where=name,
                fix="give a callable that works without arguments and returns an nn.Module",
            ) from error
    if not isinstance(found, nn.Module):
        raise InputError(
            f"gave an object of class {type(found).__name__}, not an nn.Module",
            where=name,
            fix="give a callable that returns an nn.Module",
        )
    return found
