"""What a checkpoint holds: dicts of tensors, optimisers' states, and every mention of a tensor.

Any nesting is looked through: what a training loop calls its entries does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fxexport.untrusted.pickle_records import Made
from fxhead.convert.stored_tensors import StoredTensor, pairs_of, tensor_in
from fxhead.loading.recognise import is_module, is_tensor
from fxhead.loading.state_dicts import weights_of
from fxpasses.errors import InputError
from fxpasses.weights.optimizer_state import Key

_SHOWN_PARTS = 8


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CheckpointPlace:
    """Where something is: in what, and by which key."""

    parent: CheckpointPlace | None
    key: Any

    def __str__(self) -> str:
        parts: list[str] = []
        place: CheckpointPlace | None = self
        while place is not None and place.parent is not None and len(parts) < _SHOWN_PARTS:
            parts.append(str(place.key)[:200])
            place = place.parent
        return "/".join(reversed(parts))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mention:
    """One place that has a tensor; ``tensor`` is None where it is of a kind that is not read."""

    place: CheckpointPlace
    tensor: StoredTensor | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorDict:
    """A dict in which names stand for tensors, among other things perhaps."""

    place: CheckpointPlace
    tensors: Mapping[str, Mention]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OptimizerDict:
    """The state dict of an optimiser.

    Attributes:
        state: by parameter, the tensors of its state by name.
        groups: what the groups call their parameters, group by group.
        names: the parameters' names in the order of the groups, where the groups have them.
    """

    place: CheckpointPlace
    state: Mapping[Key, Mapping[str, Mention]]
    groups: tuple[tuple[Key, ...], ...]
    names: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSurvey:
    """All of it, in the file's order."""

    dicts: tuple[TensorDict, ...]
    optimizers: tuple[OptimizerDict, ...]
    mentions: tuple[Mention, ...]


def survey(root: Any, where: str, moved: Collection[str]) -> CheckpointSurvey:
    """What the checkpoint ``root`` holds; modules that are not the model stay as they are.

    ``moved`` names the weights that a plan moves.

    Raises:
        FileError: a tensor's description contradicts itself.
        InputError: it holds the model as a pickled module, whose code would still be that of the other form.
    """
    nodes = list(_containers(root))
    mentions: dict[tuple[int, Any], Mention] = {}
    every: list[Mention] = []
    for node in nodes:
        if is_module(node.value) and _has_any(node.value, moved):
            raise InputError(
                f"holds a pickled module ({node.value.function}) at {str(node.place)!r}, not its state dict",
                where=where,
                fix="save module.state_dict() instead, or give fxhead rewrite the module",
            )
        for place, value in node.content:
            tensor = tensor_in(value, where)
            if tensor is not None or is_tensor(value):
                mention = Mention(place=place, tensor=tensor)
                every.append(mention)
                if isinstance(place.key, str | int):
                    mentions[id(node.value), place.key] = mention
    optimizers = [found for node in nodes if (found := _optimizer(node, mentions)) is not None]
    states = {id(entry) for node in nodes for entry in _state_entries(node.value).values()}
    dicts = []
    for node in nodes:
        if pairs_of(node.value) is None or id(node.value) in states or node.is_in_module:
            continue
        keys = [place.key for place, _ in node.content if isinstance(place.key, str)]
        tensors = {key: mentions[id(node.value), key] for key in keys if (id(node.value), key) in mentions}
        if tensors:
            dicts.append(TensorDict(place=node.place, tensors=tensors))
    return CheckpointSurvey(dicts=tuple(dicts), optimizers=tuple(optimizers), mentions=tuple(every))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """Something that holds other things, what it holds, and whether a module holds it."""

    place: CheckpointPlace
    value: Any
    content: tuple[tuple[CheckpointPlace, Any], ...]
    is_in_module: bool = False


def _containers(root: Any) -> Iterator[_Node]:
    """Everything that holds something, each once, in the file's order; nesting costs no recursion."""
    top = CheckpointPlace(None, "")
    waiting, seen = [(top, root, False)], set()
    if tensor_in(root, "") is not None:
        yield _Node(top, None, ((CheckpointPlace(top, "the tensor"), root),))
        return
    while waiting:
        place, value, is_in_module = waiting.pop()
        if id(value) in seen or is_tensor(value):
            continue
        inside = tuple((CheckpointPlace(place, key), content) for key, content in _content(value))
        if inside:
            seen.add(id(value))
            yield _Node(place, value, inside, is_in_module)
            is_within = is_in_module or is_module(value)
            waiting += [(at, part, is_within) for at, part in reversed(inside)]


def _content(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = pairs_of(value)
    if pairs is not None:
        yield from pairs
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    if isinstance(value, Made):
        if pairs is None:
            yield from (("items", item) for item in value.items)
        yield "arguments", value.args
        yield from (("attributes", state) for state in value.states)


def _has_any(module: Made, names: Collection[str]) -> bool:
    """Whether a module has a weight of one of these names, in itself or in what it wraps."""
    own = [name for name, _ in weights_of(module).pairs]
    return any(f".{name}".endswith(f".{moved}") for name in own for moved in names)


def _entries(value: Any) -> dict[Any, Any]:
    return {key: content for key, content in pairs_of(value) or () if isinstance(key, str | int)}


def _state_entries(value: Any) -> dict[Key, Any]:
    """By parameter, the state of what looks like an optimiser's state dict; else nothing."""
    entries = _entries(value)
    if not isinstance(entries.get("param_groups"), list) or "state" not in entries:
        return {}
    return _entries(entries["state"])


def _optimizer(node: _Node, mentions: Mapping[tuple[int, Any], Mention]) -> OptimizerDict | None:
    entries = _entries(node.value)
    records = entries.get("param_groups")
    if not isinstance(records, list) or "state" not in entries:
        return None
    groups: list[tuple[Key, ...]] = []
    names: list[str] = []
    for record in map(_entries, records):
        keys = record.get("params")
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            return None
        groups.append(tuple(keys))
        named = record.get("param_names")
        names += map(str, named) if isinstance(named, list) else ()
    return OptimizerDict(
        place=node.place,
        state={key: dict(_tensors(entry, mentions)) for key, entry in _state_entries(node.value).items()},
        groups=tuple(groups),
        names=tuple(names) if names and len(names) == sum(map(len, groups)) else None,
    )


def _tensors(entry: Any, mentions: Mapping[tuple[int, Any], Mention]) -> Iterator[tuple[str, Mention]]:
    """The tensors of one parameter's state, also those in a list or a dict in it."""
    for name, value in _content(entry):
        if (id(entry), name) in mentions:
            yield str(name), mentions[id(entry), name]
        elif not is_tensor(value):
            for key, _ in _content(value):
                if (id(value), key) in mentions:
                    yield f"{name}/{key}", mentions[id(value), key]
