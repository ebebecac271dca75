"""Folders as model hubs lay them out: ``config.json`` says what builds the model, beside its weights.

What builds it is a class of the installed timm or transformers. No code of a folder is run, and no model is
built that is larger than the file of its weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fxexport.untrusted.limits import MAX_CONFIG_INTEGER
from fxhead.extras import import_extra
from fxhead.files.strict_json import read_json
from fxhead.loading.timm_models import build_timm
from fxhead.source import Source
from fxpasses.errors import FileError, InputError, brief, suggest
from fxpasses.wall.wall import lowered

_FIX = "fetch the folder again, whole"
HUB_TEXTS = ("config.json", "preprocessor_config.json")
_CODE = "auto_map"
_NOT_READ = ("attn_implementation", "dtype", "torch_dtype", "transformers_version", "architectures")
_SPARE_BYTES = 1 << 26
"""What a model may have beyond the bytes of its weights, as layers that are replaced while it is built."""
_EACH_BYTES = 1 << 12
"""What a parameter counts beside its own bytes: many small ones take long to make."""
_GROWTH = 4
"""The same as a factor: a model is built in float32, whatever the file has."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubFolder:
    """What the texts of a folder say.

    Attributes:
        weights_bytes: length of the file of weights.
        images: ``preprocessor_config.json``; empty where there is none.
    """

    path: Path
    weights_bytes: int
    config: dict[str, Any]
    images: dict[str, Any]

    @property
    def is_timm(self) -> bool:
        """Whether timm builds the model; else transformers does."""
        return "architecture" in self.config

    @property
    def timm_config(self) -> dict[str, Any]:
        """How timm's model was trained; older folders have it among the rest."""
        own = self.config.get("pretrained_cfg")
        return own if isinstance(own, dict) else self.config


def read_hub_folder(source: Source) -> HubFolder:
    """What the texts of the folder say.

    Raises:
        FileError: it is no such folder, is not whole, or names code of its own.
    """
    path, weights = Path(source.name), source.path or Path()
    config, images = (path / name for name in HUB_TEXTS)
    if not config.is_file():
        fix = "give a file in it, or a folder as timm and transformers save a model"
        raise FileError("is a folder without config.json", where=str(path), fix=fix)
    if not weights.is_file():
        fix = "fetch it, as in hf download OWNER/NAME --local-dir FOLDER"
        raise FileError(f"has no {weights.name}", where=str(path), fix=fix)
    folder = HubFolder(
        path=path,
        weights_bytes=weights.stat().st_size,
        config=_read(config),
        images=_read(images) if images.is_file() else {},
    )
    name = "architecture" if folder.is_timm else "model_type"
    if not isinstance(folder.config.get(name), str):
        what = "names neither an architecture of timm nor a model_type of transformers"
        raise FileError(what, where=str(config), fix=_FIX)
    return folder


def _read(path: Path) -> dict[str, Any]:
    field = read_json(path, _FIX)
    if not isinstance(field.value, dict):
        field.refuse("is no object")
    if _CODE in field.value:
        raise FileError(
            f"says that code of its own builds the model ({_CODE}), which is not run",
            where=str(path),
            fix="give a model that timm or transformers has, or package.module:callable",
        )
    pending = [field.value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list):
            pending += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and abs(value) > MAX_CONFIG_INTEGER:
            raise FileError(
                f"has the number {value:.3g}, which is no size of a model", where=str(path), fix=_FIX
            )
    return field.value


def build_from_hub_folder(folder: HubFolder) -> nn.Module:
    """The model without its weights.

    Raises:
        FileError: the library cannot build what the folder says.
        InputError: the library is not installed.
    """
    make = _from_timm if folder.is_timm else _from_transformers
    where = str(folder.path / "config.json")
    try:
        with _no_larger_than(_GROWTH * folder.weights_bytes + _SPARE_BYTES, where):
            return make(folder, where)
    except (FileError, InputError):
        raise
    except Exception as error:  # whatever a class makes of values that it does not expect
        raise FileError(f"says what cannot be built ({brief(error)})", where=where, fix=_FIX) from error


@contextlib.contextmanager
def _no_larger_than(most_bytes: int, where: str) -> Iterator[None]:
    """Within it this thread's modules get no more bytes of parameters than that, nor more of them."""
    own, left = threading.get_ident(), most_bytes

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is None or threading.get_ident() != own:
            return
        left -= parameter.numel() * parameter.element_size() + _EACH_BYTES
        if left < 0:
            raise FileError(
                "describes a larger model than the weights beside it are for", where=where, fix=_FIX
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _from_timm(folder: HubFolder, where: str) -> nn.Module:
    timm = import_extra("timm", where)
    options = dict(folder.config.get("model_args") or {})
    if taken := sorted({*options} & {*inspect.signature(timm.create_model).parameters}):
        raise FileError(f"has model_args.{taken[0]}, which is not the model's", where=where, fix=_FIX)
    classes = folder.config.get("num_classes", folder.timm_config.get("num_classes"))
    if classes is not None:
        options["num_classes"] = classes
    return build_timm(folder.config["architecture"], where, **options)


def _from_transformers(folder: HubFolder, where: str) -> nn.Module:
    transformers = import_extra("transformers", where)
    with lowered():  # imports of each
        known = {kind.model_type: kind for kind in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING}
    name = folder.config["model_type"]
    if name not in known:
        what = f"transformers has no image classifier of model_type {name!r}"
        raise FileError(what, where=where, fix=suggest(name, known))
    if folder.config.get("quantization_config") is not None:
        fix = "give the weights that it was quantised from"
        raise FileError("is of quantised weights", where=where, fix=fix)
    # names of code that runs attention begin so, too
    kept = {key: value for key, value in folder.config.items() if key[:1] != "_" and key not in _NOT_READ}
    config = known[name].from_dict(kept)
    with lowered():  # imports the class
        kinds = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    asked = folder.config.get("architectures") or ()
    kind = next((kind for kind in kinds if kind.__name__ in asked), kinds[0])
    module: nn.Module = kind(config)
    return module


def named_as_built(module: Any, names: Iterable[str]) -> dict[str, str]:
    """What transformers calls weights today, by the names under which it stores them."""
    with lowered():
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightRenaming, apply_renamings
        except ImportError:  # older ones store them under the model's own names
            return {name: name for name in names}
        found = get_model_conversion_mapping(module)
    renamings = [rule for rule in found if isinstance(rule, WeightRenaming)]
    return {name: apply_renamings(name, renamings) for name in names}
