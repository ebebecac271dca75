"""The edits that take a whole checkpoint to the other form: weights, averages, optimisers' states."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

from fxhead.convert.optimizer_order import NamedState, find_moves
from fxhead.convert.stored_tensors import TensorEdit, edit_of
from fxhead.convert.survey import CheckpointPlace, CheckpointSurvey, Mention, OptimizerDict
from fxhead.convert.weights import Weights, find_weights
from fxpasses import WeightMove, WeightPlan
from fxpasses.errors import PlanError
from fxpasses.weights.optimizer_state import Key, ParameterState, is_scalar, moves_by_name, none_named

_UNREAD = (-1,)
"""The shape of a tensor that is not read: that of no parameter."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a checkpoint needs.

    Attributes:
        edits: one for each tensor, in the file's order; empty where it has the target form already.
        strangers: tensors that have the name or shape of a converted one and are left as they are.
    """

    edits: tuple[TensorEdit, ...]
    strangers: tuple[str, ...]


def find_edits(
    found: CheckpointSurvey, plan: WeightPlan, prefixes: Sequence[str], names: Sequence[str] | None
) -> Conversion:
    """The edits that take the checkpoint to the form ``plan.to``.

    ``prefixes`` and ``names`` (of an optimiser's parameters, in its order) are the user's; without them both
    are found.

    Raises:
        PlanError: the plan does not fit, or it cannot be told for certain what belongs to what.
    """
    alone = not found.dicts and found.optimizers
    weights = Weights(groups=(), strangers=()) if alone else find_weights(found, plan, prefixes)
    moved: dict[int, tuple[Mention, WeightMove]] = {
        id(weight.mention.place): (weight.mention, weight.move)
        for group in weights.groups
        for weight in group.weights
    }
    if weights.groups or alone:
        for mention, move in _optimizer_moves(found, plan, weights, names):
            moved[id(mention.place)] = (mention, move)
    edits: dict[int, TensorEdit] = {}
    for mention, move in moved.values():
        assert mention.tensor is not None, "what is not read has been refused"
        edits[id(mention.tensor.arguments)] = edit_of(str(mention.place), mention.tensor, move, plan.to)
    _require_whole(found, moved, edits)
    _require_movable(found, edits)
    shapes = {move.shape(plan.source) for move in plan.moves}
    return Conversion(
        edits=tuple(edits.values()),
        strangers=tuple(map(str, (*weights.strangers, *_alike(found, shapes, moved, weights)))),
    )


def _optimizer_moves(
    found: CheckpointSurvey, plan: WeightPlan, weights: Weights, names: Sequence[str] | None
) -> Iterator[tuple[Mention, WeightMove]]:
    moves = {move.name: move for move in plan.moves}
    for group in weights.groups:
        moves |= {weight.name: weight.move for weight in group.weights}
    counts = [sum(map(len, optimizer.groups)) for optimizer in found.optimizers]
    if names is not None and len(names) not in counts:
        raise PlanError(
            f"{len(names)} names, but the checkpoint's optimisers have {counts} parameters",
            where="--optimizer-names",
            fix="give one name for each parameter of the optimiser, in its order, one a line",
        )
    claims: dict[tuple[int, str], CheckpointPlace] = {}
    for optimizer, count in zip(found.optimizers, counts, strict=True):
        states = {key: _state(key, tensors) for key, tensors in optimizer.state.items()}
        given = names if names is not None and len(names) == count else None
        chosen = _chosen(optimizer, states, given, moves, weights, found)
        for key, move in chosen.items():
            if key not in states or not states[key].shapes:
                continue
            states[key].require_shaped(move, plan.source)
            other = claims.setdefault((id(optimizer.place.parent), move.name), optimizer.place)
            if other is not optimizer.place and given is None and _names(optimizer) is None:
                raise PlanError(
                    f"{other} and {optimizer.place} both have a state shaped like {move.name!r}",
                    where="checkpoint",
                    fix="say which parameters one of them has: --optimizer-names FILE",
                )
            yield from (
                (mention, move)
                for name, mention in optimizer.state[key].items()
                if name in states[key].shapes
            )


def _chosen(
    optimizer: OptimizerDict,
    states: dict[Key, ParameterState],
    given: Sequence[str] | None,
    moves: dict[str, WeightMove],
    weights: Weights,
    found: CheckpointSurvey,
) -> dict[Key, WeightMove]:
    """The moves of the optimiser's parameters: by name where there are names, else by shape and order."""
    keys = [key for group in optimizer.groups for key in group]
    own = given if given is not None else _names(optimizer)
    if own is not None:
        chosen = moves_by_name(keys, own, moves)
        if given is not None and not chosen:
            raise none_named(own, moves)
        return chosen
    if not weights.groups:
        raise PlanError(
            "it calls its parameters by number, and the checkpoint has no state dict to go by",
            where=str(optimizer.place) or "checkpoint",
            fix="give their names in the optimiser's order, one a line: --optimizer-names FILE",
        )
    by_place = {id(weight.mention.place): weight.move for group in weights.groups for weight in group.weights}
    holders = {id(group.holder): group.holder for group in weights.groups}
    models = [
        [
            NamedState(
                name=name,
                shape=mention.tensor.shape if mention.tensor is not None else _UNREAD,
                move=by_place.get(id(mention.place)),
            )
            for name, mention in holder.tensors.items()
        ]
        for holder in holders.values()
    ]
    elsewhere = {
        mention.tensor.shape
        for holder in found.dicts
        if id(holder) not in holders
        for mention in holder.tensors.values()
        if mention.tensor is not None
    }
    groups = [
        [states.get(key, ParameterState(key=key, shapes={})) for key in group] for group in optimizer.groups
    ]
    return find_moves(groups, models, elsewhere, str(optimizer.place) or "checkpoint")


def _names(optimizer: OptimizerDict) -> Sequence[str] | None:
    """The names that the optimiser itself has, as keys or beside them."""
    keys = [key for group in optimizer.groups for key in group]
    if keys and all(isinstance(key, str) for key in keys):
        return [str(key) for key in keys]
    return optimizer.names


def _state(key: Key, tensors: Mapping[str, Mention]) -> ParameterState:
    shapes = {
        name: mention.tensor.shape if mention.tensor is not None else _UNREAD
        for name, mention in tensors.items()
    }
    return ParameterState(
        key=key, shapes={name: shape for name, shape in shapes.items() if not is_scalar(shape)}
    )


def _require_whole(
    found: CheckpointSurvey, moved: Mapping[int, tuple[Mention, WeightMove]], edits: Mapping[int, TensorEdit]
) -> None:
    """Returns where no tensor that changes is also mentioned where it must not change."""
    for mention in found.mentions:
        edit = edits.get(id(mention.tensor.arguments)) if mention.tensor is not None else None
        if edit is not None and id(mention.place) not in moved:
            raise PlanError(
                f"{str(mention.place)!r} is the same tensor, and the plan does not reshape it",
                where=edit.place,
                fix="save a clone of one of them",
            )


def _require_movable(found: CheckpointSurvey, edits: Mapping[int, TensorEdit]) -> None:
    """Returns where every tensor that needs another order can be written anew in its place."""
    for edit in edits.values():
        if not edit.is_copy:
            continue
        tensor = edit.tensor
        others = [
            mention
            for mention in found.mentions
            if mention.tensor is not None
            and mention.tensor.storage.key == tensor.storage.key
            and not _is_same(edits.get(id(mention.tensor.arguments)), edit)
            and mention.tensor.first_byte < tensor.first_byte + tensor.extent_bytes
            and tensor.first_byte < mention.tensor.first_byte + mention.tensor.extent_bytes
        ]
        if others or not tensor.is_dense:
            what = f"shares memory with {str(others[0].place)!r}" if others else "has gaps in memory"
            raise PlanError(
                f"its elements need another order, and it {what}", where=edit.place, fix="save a clone of it"
            )


def _is_same(other: TensorEdit | None, edit: TensorEdit) -> bool:
    """Whether an edit does to the same bytes what ``edit`` does, as with weights that are tied."""
    return other is not None and _on_bytes(other) == _on_bytes(edit)


def _on_bytes(edit: TensorEdit) -> tuple[object, ...]:
    tensor, move = edit.tensor, edit.move
    return tensor.first_byte, tensor.shape, tensor.stride, edit.shape, edit.to, move.order


def _alike(
    found: CheckpointSurvey,
    shapes: Collection[tuple[int, ...]],
    moved: Mapping[int, tuple[Mention, WeightMove]],
    weights: Weights,
) -> Iterator[CheckpointPlace]:
    """Places outside the models and optimisers of tensors that are shaped like a converted one."""
    known = {id(mention.place) for group in weights.groups for mention in group.holder.tensors.values()}
    for optimizer in found.optimizers:
        known.update(id(mention.place) for state in optimizer.state.values() for mention in state.values())
    for mention in found.mentions:
        is_alike = mention.tensor is not None and mention.tensor.shape in shapes
        if is_alike and id(mention.place) not in moved and id(mention.place) not in known:
            yield mention.place
