"""Which numbered parameter of an optimiser is which of the model, without the model.

An optimiser's state dict has numbers and no names. Two facts are safe to go by. A parameter's state has its
shape: where every parameter of that shape in the model is reshaped alike, or none is, it does not matter
which one it is. Else the order decides: within a param group, parameters stand in the model's order (torch's,
torchvision's and timm's weight-decay groups all keep it), so the group is a subsequence of the state dict;
a number may be given a name only where every such subsequence agrees on what happens to it. Buffers, frozen
parameters and ties need no special care: they are names that a subsequence leaves out. Everything else is
refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from fxpasses import WeightMove
from fxpasses.errors import PlanError
from fxpasses.weights.optimizer_state import Key, ParameterState, Shape

_FIX = "say which is which: --optimizer-names FILE, its parameters' names in its own order, one a line"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NamedState:
    """A tensor of a model's state dict, and what happens to it."""

    name: str
    shape: Shape
    move: WeightMove | None


_Change = tuple[Shape, Shape, str] | None
"""What a move does, whatever the parameter is called."""


def find_moves(
    groups: Sequence[Sequence[ParameterState]],
    models: Sequence[Sequence[NamedState]],
    elsewhere: Collection[Shape],
    where: str,
) -> dict[Key, WeightMove]:
    """The moves of an optimiser's parameters, by number.

    ``models`` are the state dicts that the plan fits, each in its order; ``elsewhere`` has shapes of named
    tensors in none of these.

    Raises:
        PlanError: it cannot be told for certain.
    """
    moves: dict[_Change, WeightMove] = {
        _change(named.move): named.move for model in models for named in model if named.move is not None
    }
    found: dict[Key, WeightMove] = {}
    for group in groups:
        shapes = [_shape(state, where) for state in group]
        for position, state in enumerate(group):
            if (shape := shapes[position]) is None:
                continue
            changes = {_change(named.move) for model in models for named in model if named.shape == shape}
            if not changes and shape not in elsewhere:
                raise PlanError(
                    f"its state has the shape {shape}, which no tensor of the model has",
                    where=f"{where}/state/{state.key}",
                    fix=_FIX,
                )
            if changes and shape in elsewhere:
                changes.add(None)
            if len(changes) > 1:
                changes = _by_order(shapes, position, models, where)
                if shape in elsewhere:
                    changes.add(None)
            if len(changes) > 1:
                raise PlanError(
                    f"its state has the shape {shape}, and it may be the state of several parameters of that "
                    "shape, of which not all are reshaped alike",
                    where=f"{where}/state/{state.key}",
                    fix=_FIX,
                )
            change = next(iter(changes), None)
            if change is not None:
                found[state.key] = moves[change]
    _require_enough(found, models, where)
    return found


def _by_order(
    shapes: Sequence[Shape | None], position: int, models: Sequence[Sequence[NamedState]], where: str
) -> set[_Change]:
    """What may happen to the parameter at ``position``, by every way to fit the group into a model."""
    changes: set[_Change] = set()
    for model in models:
        before = _greedy(shapes[:position], model)
        after = _greedy(shapes[position + 1 :][::-1], model[::-1])
        if before is not None and after is not None:
            fitting = model[before : len(model) - after]
            changes |= {_change(named.move) for named in fitting if named.shape == shapes[position]}
    if not changes:
        raise PlanError(
            "its parameters are not in the order of the model's state dict, so they cannot be told apart",
            where=where,
            fix=_FIX,
        )
    return changes


def _greedy(shapes: Sequence[Shape | None], model: Sequence[NamedState]) -> int | None:
    """How many names the shapes take up at least, from the left; None where they do not fit."""
    position = 0
    for shape in shapes:
        while position < len(model) and shape is not None and model[position].shape != shape:
            position += 1
        if position == len(model):
            return None
        position += 1
    return position


def _require_enough(
    found: Mapping[Key, WeightMove], models: Sequence[Sequence[NamedState]], where: str
) -> None:
    """Returns where no more numbers than names got the same move."""
    for move in {_change(move): move for move in found.values()}.values():
        have = max(sum(_change(named.move) == _change(move) for named in model) for model in models)
        keys = [key for key, other in found.items() if _change(other) == _change(move)]
        if len(keys) > have:
            raise PlanError(
                f"the states {', '.join(map(str, keys))} are all shaped like {move.name!r}",
                where=where,
                fix=_FIX,
            )


def _shape(state: ParameterState, where: str) -> Shape | None:
    try:
        return state.shape
    except PlanError as error:
        raise PlanError(error.what, where=f"{where}/state/{state.key}", fix=_FIX) from error


def _change(move: WeightMove | None) -> _Change:
    return None if move is None else (move.linear_shape, move.conv_shape, str(move.order))
