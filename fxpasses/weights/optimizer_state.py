"""What of an optimiser's state belongs to a reshaped parameter, and that state in the other form.

An optimiser's state dict calls its parameters by number. Which number is which parameter has to be known
by name; ``WeightPlan.apply_optimizer`` is the public way in.

Source:
    ``torch.optim.Optimizer.state_dict``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fxpasses.errors import PlanError
from fxpasses.weights.saved_state import is_dense, require_state
from fxpasses.weights.wrappers import is_wrapping

if TYPE_CHECKING:
    from fxpasses.report import Form
    from fxpasses.weights.move import WeightMove

Shape = tuple[int, ...]
Key = int | str
_FACTORED = frozenset({"row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col"})
_NAMES_FIX = "give the parameters' names in the optimiser's order, one for each entry of its param_groups"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ParameterState:
    """The state of one parameter.

    Attributes:
        key: what ``param_groups`` calls the parameter: its number, or its name.
        shapes: shapes of the state's tensors by name; scalars, such as a step, are left out.
    """

    key: Key
    shapes: Mapping[str, Shape]

    @property
    def shape(self) -> Shape | None:
        """The parameter's shape, as far as the state tells it: None where it has no tensors.

        Raises:
            PlanError: its tensors have several shapes, or are factors, so it does not say.
        """
        shapes = {*self.shapes.values()}
        if len(shapes) > 1 or _FACTORED & {*self.shapes}:
            raise PlanError(
                f"its tensors are not all shaped like its parameter ({_listed(self.shapes)})",
                where=f"optimiser state {self.key}",
                fix="such state cannot be matched by shape: " + _NAMES_FIX,
            )
        return next(iter(shapes), None)

    def require_shaped(self, move: WeightMove, source: Form) -> None:
        """Returns where every tensor has the shape that the move's parameter has in ``source``.

        Raises:
            PlanError: one has not: it is factored, belongs to another parameter, or is converted already.
        """
        expected = move.shape(source)
        odd = {name: shape for name, shape in self.shapes.items() if shape != expected}
        if odd or _FACTORED & {*self.shapes}:
            raise PlanError(
                f"its state is not shaped like the parameter, {expected}, but {_listed(odd or self.shapes)}",
                where=f"optimiser state {self.key} ({move.name})",
                fix="state that depends on the parameter's shape (Adafactor's, Shampoo's) has no equal in "
                "the other form: leave the optimiser out and start it anew; else check the order of names",
            )


def is_scalar(shape: Shape) -> bool:
    """Whether a state of this shape is a number, such as a step, and no tensor of the parameter's."""
    return shape in ((), (1,))


def grouped_keys(groups: Iterable[Mapping[str, Any]]) -> list[list[Key]]:
    """What the groups call their parameters, group by group."""
    return [list(group["params"]) for group in groups]


def recorded_names(groups: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The names that an optimiser made from ``named_parameters()`` writes down, else None."""
    if not groups or not all(group.get("param_names") for group in groups if group["params"]):
        return None
    return [str(name) for group in groups for name in group.get("param_names") or ()]


def moves_by_name(
    keys: Sequence[Key], names: Sequence[str], moves: Mapping[str, WeightMove]
) -> dict[Key, WeightMove]:
    """The moves of an optimiser's parameters, by what its groups call them.

    ``keys`` and ``names`` are in the order of the groups; wrappers' prefixes are looked through.

    Raises:
        PlanError: names and parameters differ in number.
    """
    if len(keys) != len(names):
        raise PlanError(
            f"{len(names)} names for {len(keys)} parameters", where="optimiser's names", fix=_NAMES_FIX
        )
    return {
        key: move for key, name in zip(keys, names, strict=True) if (move := _named(name, moves)) is not None
    }


def none_named(names: Sequence[str], moves: Mapping[str, WeightMove]) -> PlanError:
    """The error where none of the names is one of the moves'."""
    return PlanError(
        f"none of the optimiser's {len(names)} names is one of the plan's ({', '.join(moves)})",
        where="optimiser's names",
        fix="give the names that the model itself has, as in model.named_parameters()",
    )


def _named(name: str, moves: Mapping[str, WeightMove]) -> WeightMove | None:
    if name in moves:
        return moves[name]
    return next(
        (move for own, move in moves.items() if name.endswith(own) and is_wrapping(name.removesuffix(own))),
        None,
    )


def converted_state(
    optimizer_state: Mapping[str, Any],
    names: Sequence[str] | None,
    moves: Mapping[str, WeightMove],
    source: Form,
    to: Form,
) -> dict[str, Any]:
    """The optimiser's state dict with the state of the moves' parameters in the form ``to``."""
    require_state(optimizer_state, names)
    groups = optimizer_state["param_groups"]
    keys = [key for group in grouped_keys(groups) for key in group]
    if names is None:
        named = all(isinstance(key, str) for key in keys)
        names = [str(key) for key in keys] if named else recorded_names(groups)
    if names is None:
        raise PlanError("the optimiser calls its parameters by number only", fix=_NAMES_FIX)
    chosen = moves_by_name(keys, names, moves)
    if not chosen:
        raise none_named(names, moves)
    state = dict(optimizer_state["state"])
    for key, move in chosen.items():
        if key in state:
            state[key] = _converted(key, state[key], move, source, to)
    return {**optimizer_state, "state": state}


def _converted(
    key: Key, values: Mapping[str, Any], move: WeightMove, source: Form, to: Form
) -> dict[str, Any]:
    tensors = {
        name: value
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and not (is_dense(value) and is_scalar(tuple(value.shape)))
    }
    held = [name for name, value in values.items() if isinstance(value, list | tuple | Mapping)]
    if any(isinstance(item, torch.Tensor) for name in held for item in _items(values[name])):
        raise PlanError(
            f"its state holds tensors in {', '.join(held)}",
            where=f"optimiser state {key} ({move.name})",
            fix="leave the optimiser out and start it anew",
        )
    if odd := [name for name, tensor in tensors.items() if not is_dense(tensor)]:
        fix = "leave the optimiser out and start it anew"
        raise PlanError(
            f"its {odd[0]!r} is no dense tensor", where=f"optimiser state {key} ({move.name})", fix=fix
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    ParameterState(key=key, shapes=shapes).require_shaped(move, source)
    return {**values, **{name: move.convert(tensor, to) for name, tensor in tensors.items()}}


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else value


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
