"""State dicts, in whatever they come: found in a checkpoint, fitted to a model, loaded strictly."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fxexport.untrusted.allowed import Allowed
from fxexport.untrusted.archive import held_open
from fxexport.untrusted.pickle_records import Made, PlainDict
from fxhead.loading.architectures import build, takes_num_classes
from fxhead.loading.hub_folders import named_as_built
from fxhead.loading.recognise import Container, FileKind, dict_entries, is_module, is_state_dict, is_tensor
from fxhead.loading.unpickle import make
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, InputError, brief

Note = Callable[[str], None]
State = Mapping[str, torch.Tensor]

_MODEL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_EMA_KEYS = (
    "model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema", "params_ema", "ema_model"
)  # fmt: skip
# what torch itself wraps a model in; other prefixes are the user's to name
_WRAPPERS = ("module.", "_orig_mod.")
_PARALLEL = ("torch.nn.parallel.data_parallel.", "torch.nn.parallel.distributed.")
_COUNTERS = ("n_averaged",)
_SHOWN = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How to get a model from a file of weights.

    Attributes:
        ema: whether to take the averaged weights.
        prefix: what stands before every name in the file and is not the model's.
    """

    architecture: Source
    ema: bool = False
    prefix: str | None = None


def load_checkpoint(container: Container, fit: Fit, allowed: Allowed, note: Note) -> nn.Module:
    """The model that the weights in the file belong to, with them.

    Raises:
        FileError: the file holds no weights, or others than the model has.
        InputError: the model cannot be built.
    """
    state = read_state(container, allowed, ema=fit.ema, note=note)
    return _fitted(state, fit, str(container.path))


def read_state(container: Container, allowed: Allowed, *, ema: bool, note: Note) -> State:
    """The state dict in a file, or in the checkpoint that it is.

    Raises:
        FileError: there is none, or not the averaged one that is asked for.
    """
    where = str(container.path)
    if container.kind is FileKind.SAFETENSORS:
        if ema:
            raise FileError("a safetensors file has one set of weights", where=where, fix="leave --ema out")
        return _from_safetensors(container)
    record: Any = container.pickle.root if container.pickle is not None else None
    if container.kind is FileKind.CHECKPOINT:
        record = _chosen(container, ema=ema, note=note)
    elif container.kind is not FileKind.STATE_DICT:
        raise FileError(
            f"is a {container.title}, not a state dict", where=where, fix="give a state dict or a checkpoint"
        )
    elif ema:
        raise FileError("is a state dict, with one set of weights", where=where, fix="leave --ema out")
    state = make(container, allowed, record)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return {name: value for name, value in tensors.items() if name not in _COUNTERS}


def _chosen(container: Container, *, ema: bool, note: Note) -> Any:
    """The record of the state dict in a checkpoint."""
    assert container.pickle is not None
    entries = dict_entries(container.pickle.root) or {}
    states = {name: value for name, value in entries.items() if is_state_dict(dict_entries(value) or {})}
    states |= {name: weights_of(value) for name, value in entries.items() if is_module(value)}
    models = [name for name in _MODEL_KEYS if name in states]
    averages = [name for name in _EMA_KEYS if name in states]
    where = str(container.path)
    if ema:
        if not averages:
            what = "is a training checkpoint without averaged weights"
            raise FileError(what, where=where, fix="leave --ema out")
        return states[averages[0]]
    others = [name for name in states if name not in averages]
    if not models and len(others) != 1:
        keys = ", ".join(map(repr, [*entries][:_SHOWN]))
        raise FileError(
            f"is a training checkpoint with the keys {keys}, and no state dict under a known one",
            where=where,
            fix="save the state dict of the model in a file of its own",
        )
    chosen = (models or others)[0]
    if averages:
        note(f"{where} has averaged weights, too ({averages[0]!r}); --ema takes them instead of {chosen!r}")
    return states[chosen]


def model_keys(*, ema: bool) -> tuple[str, ...]:
    """What checkpoints call a model or its weights, the likeliest first."""
    return _EMA_KEYS if ema else (*_MODEL_KEYS, *_EMA_KEYS)


def module_in(container: Container, *, ema: bool) -> Any:
    """The record of a whole model that is a part of the file, or None.

    A checkpoint holds it in place of its weights, and ``DataParallel`` only runs it.
    """
    root: Any = None if container.pickle is None else container.pickle.root
    record = root
    if container.kind is FileKind.CHECKPOINT:
        entries = dict_entries(root) or {}
        record = next((entries[name] for name in model_keys(ema=ema) if is_module(entries.get(name))), None)
    if is_module(record) and str(record.function).startswith(_PARALLEL):
        parts = dict(record.states[0].pairs)["_modules"]
        record = (dict_entries(parts) or {}).get("module")
    return None if record is root else record


def weights_of(module: Made) -> PlainDict:
    """The state dict of a module's record; the module is not made, so no class of it is needed."""
    found = PlainDict()
    pending = [("", module)]
    while pending:
        prefix, part = pending.pop()
        if not is_module(part):
            continue
        state = dict(part.states[0].pairs)
        for registry in ("_parameters", "_buffers"):
            named = (dict_entries(state.get(registry)) or {}).items()
            found.pairs += [(prefix + name, tensor) for name, tensor in named if is_tensor(tensor)]
        parts = (dict_entries(state.get("_modules")) or {}).items()
        pending += [(f"{prefix}{name}.", inner) for name, inner in parts]
    return found


def _from_safetensors(container: Container) -> State:
    import safetensors

    where = str(container.path)
    try:
        # maps the file
        with (
            held_open(container.path) as name,
            safetensors.safe_open(name, framework="pt", device="cpu") as file,
        ):
            return {name: file.get_tensor(name) for name in file.keys()}
    except FileError:
        raise
    except Exception as error:  # the library has one error for all
        raise FileError(
            f"is a safetensors file, but is damaged ({brief(error)})",
            where=where,
            fix="copy or save the file again",
        ) from error


# --- fitting a model -------------------------------------------------------------------------------


def _fitted(state: State, fit: Fit, where: str) -> nn.Module:
    module = build(fit.architecture)
    wanted = module.state_dict()
    if fit.prefix is not None:
        state = _without(state, fit.prefix, where)
    state = _unwrapped(state, set(wanted))
    is_library = type(module).__module__.startswith("transformers.")
    if is_library and fit.architecture.kind is SourceKind.FOLDER and not set(state) <= set(wanted):
        names = named_as_built(module, state)
        state = {names[name]: tensor for name, tensor in state.items()}
    classes = _num_classes(wanted, state)
    if classes is not None and takes_num_classes(fit.architecture):
        module = build(fit.architecture, num_classes=classes)
    _load(module, state, where)
    return module


def _without(state: State, prefix: str, where: str) -> State:
    kept = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not kept:
        names = ", ".join(map(repr, [*state][:_SHOWN]))
        raise InputError(
            f"no name in {where} starts with {prefix!r}", where="--prefix", fix=f"the names are like {names}"
        )
    return kept


def _unwrapped(state: State, wanted: set[str]) -> State:
    """The names without what DataParallel, torch.compile and AveragedModel put before all of them."""
    while state and not wanted & set(state):
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _num_classes(wanted: Mapping[str, Any], state: State) -> int | None:
    """How many outputs the weights are for, where that is all that differs; else None.

    The head is the last layer whose weight and bias differ in their first extent, and in nothing else.
    """
    differing = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name].shape and tensor.ndim == wanted[name].ndim
    }
    extents = {(wanted[name].shape[0], tensor.shape[0]) for name, tensor in differing.items() if tensor.ndim}
    only_first = all(tensor.shape[1:] == wanted[name].shape[1:] for name, tensor in differing.items())
    if len(extents) == 1 and only_first and all(tensor.ndim for tensor in differing.values()):
        return int(extents.pop()[1])
    return None


def _load(module: nn.Module, state: State, where: str) -> None:
    own = module.state_dict()
    wanted = {name: value for name, value in own.items() if isinstance(value, torch.Tensor)}
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in state and name not in optional]
    unknown = [name for name in state if name not in wanted]
    shapes = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if not (missing or unknown or shapes):
        full = collections.OrderedDict({**{name: wanted[name] for name in optional}, **state})
        full._metadata = own._metadata  # type: ignore[attr-defined] # MNASNet asks for the version
        try:
            module.load_state_dict(full)
        except Exception as error:  # a module's own hooks on loading
            raise FileError(
                f"its weights cannot be loaded into the model ({brief(error)})", where=where
            ) from error
        return
    raise FileError(
        "its weights cannot be loaded into the model: "
        + _difference(missing, unknown, shapes, wanted, state),
        where=where,
        fix=_advice(wanted, state, shapes),
    )


def _difference(
    missing: list[str], unknown: list[str], shapes: list[str], wanted: Mapping[str, Any], state: State
) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(wanted)} are missing ({_listed(missing)})")
    if unknown:
        parts.append(f"{len(unknown)} are not the model's ({_listed(unknown)})")
    for name in shapes[:1]:
        found, expected = ("x".join(map(str, part.shape)) for part in (state[name], wanted[name]))
        parts.append(f"{name} is {found} and should be {expected}")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _advice(wanted: Mapping[str, Any], state: State, shapes: list[str]) -> str:
    prefix = likely_prefix(set(wanted), set(state))
    if prefix is not None:
        return f"give --prefix {prefix}"
    for name in shapes:
        if state[name].numel() == wanted[name].numel():
            return "the weights are of the other form; fxhead convert-weights gives those of this one"
    return "give the model that these weights were trained with"


def likely_prefix(wanted: set[str], found: set[str]) -> str | None:
    """What stands before most of the model's names in the file, or None."""
    counts: dict[str, int] = {}
    for name in sorted(found):
        parts = name.split(".")
        for index in range(1, len(parts)):
            if ".".join(parts[index:]) in wanted:
                prefix = ".".join(parts[:index]) + "."
                counts[prefix] = counts.get(prefix, 0) + 1
    best = max(counts, key=lambda prefix: counts[prefix], default=None)
    return best if best is not None and counts[best] > len(wanted) / 2 else None
