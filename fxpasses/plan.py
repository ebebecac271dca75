"""WeightPlan: the reversible map of parameter names and shapes between two forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fxpasses.errors import PlanError
from fxpasses.report import Form, JsonRecord
from fxpasses.weights.move import WeightMove, WeightOrder
from fxpasses.weights.optimizer_state import converted_state
from fxpasses.weights.saved_state import is_dense, require_mapping

SCHEMA_VERSION = 1
_MAX_AXES, _MAX_EXTENT = 64, 1 << 48


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan(JsonRecord):
    """The reversible map of a model's parameters from one form to the other.

    ``apply`` takes a state dict of the model before the rewrite to one of the model after it;
    ``invert`` turns the plan round. Names never change; only shapes do.

    >>> move = WeightMove(name="fc.weight", linear_shape=(10, 512), conv_shape=(10, 512, 1, 1))
    >>> plan = WeightPlan(to=Form.CONV, moves=(move,))
    >>> import torch
    >>> plan.apply({"fc.weight": torch.zeros(10, 512)})["fc.weight"].shape
    torch.Size([10, 512, 1, 1])
    >>> plan.invert().invert() == plan
    True
    """

    to: Form
    moves: tuple[WeightMove, ...]

    @property
    def source(self) -> Form:
        """The form that ``apply`` reads."""
        return Form.CONV if self.to is Form.LINEAR else Form.LINEAR

    def apply(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """A new state dict in the other form; tensors are views of those given.

        Raises:
            PlanError: a parameter of the plan is missing or has an unexpected shape.
        """
        require_mapping(state_dict, "state dict")
        converted = dict(state_dict)
        for move in self.moves:
            weight = state_dict.get(move.name)
            if weight is None:
                raise PlanError(
                    "the plan's parameter is missing from the state dict",
                    where=move.name,
                    fix="give the state dict of the model that the plan was made for",
                )
            if not is_dense(weight):
                raise PlanError(
                    f"is no dense tensor (it is of class {type(weight).__name__})",
                    where=move.name,
                    fix="give the state dict of the float model",
                )
            shape = tuple(weight.shape)
            if shape != move.shape(self.source):
                already = " (it is in the target form already)" if shape == move.shape(self.to) else ""
                raise PlanError(
                    f"shape {shape} where the plan expects {move.shape(self.source)}{already}",
                    where=move.name,
                    fix="use plan.invert() for the other direction"
                    if already
                    else "give the state dict of the model that the plan was made for",
                )
            converted[move.name] = move.convert(weight, self.to)
        return converted

    def apply_optimizer(
        self, optimizer_state: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """A new optimiser's state dict for the other form, so that training resumes where it was.

        Every tensor of a moved parameter's state (momentum, Adam's moments, whatever is shaped like the
        parameter) becomes a view in the other form; steps, groups and everything else stay as they are.

        Args:
            optimizer_state: what ``optimizer.state_dict()`` gives.
            names: the parameters' names in the optimiser's order, one for each entry of its
                ``param_groups``; for ``SGD(model.parameters())`` those of ``model.named_parameters()``.
                None takes the names that the state dict has, as after ``SGD(model.named_parameters())``.

        Raises:
            PlanError: the names are missing or do not fit, or the state has another shape than the
                parameter (Adafactor's factors), and so no equal in the other form.

        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(10, 512))
        >>> optimizer = torch.optim.Adam([("fc.weight", weight)])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> move = WeightMove(name="fc.weight", linear_shape=(10, 512), conv_shape=(10, 512, 1, 1))
        >>> plan = WeightPlan(to=Form.CONV, moves=(move,))
        >>> plan.apply_optimizer(optimizer.state_dict())["state"][0]["exp_avg"].shape
        torch.Size([10, 512, 1, 1])
        """
        moves = {move.name: move for move in self.moves}
        return converted_state(optimizer_state, names, moves, self.source, self.to)

    def invert(self) -> WeightPlan:
        """The same map in the other direction."""
        return dataclasses.replace(self, to=self.source)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with a schema version."""
        return {"schema_version": SCHEMA_VERSION, **JsonRecord.to_dict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightPlan:
        """The plan that ``to_dict`` wrote.

        Raises:
            PlanError: the data is not a plan, or one of another schema version.
        """
        fix = "give a file that fxhead wrote as *.plan.json"
        if not isinstance(data, Mapping):
            raise PlanError("not a weight plan (it is no JSON object)", fix=fix)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            is_short = isinstance(version, str) or (isinstance(version, int) and version.bit_length() < 64)
            told = repr(version) if is_short else f"that is of class {type(version).__name__}"
            raise PlanError(
                f"weight plan of schema version {told}, this fxhead reads {SCHEMA_VERSION}", fix=fix
            )
        try:
            moves = tuple(
                WeightMove(
                    name=_name(move["name"]),
                    linear_shape=_extents(move["linear_shape"]),
                    conv_shape=_extents(move["conv_shape"]),
                    order=WeightOrder(move["order"]),
                )
                for move in data["moves"]
            )
            if len({move.name for move in moves}) != len(moves):
                raise ValueError("a weight that moves twice")
            return cls(to=_form(data["to"]), moves=moves)
        except (KeyError, TypeError, ValueError, RecursionError) as error:  # the last of nested values
            raise PlanError(f"damaged weight plan ({error!r})", fix=fix) from error


def _name(value: Any) -> str:
    """The name of a weight.

    Raises:
        ValueError: it is no text.
    """
    if not isinstance(value, str):
        raise ValueError("a name that is no text")
    return value


def _form(value: Any) -> Form:
    """The form that weights get.

    Raises:
        ValueError: it is none, or one whose weights have the shapes of another.
    """
    form = Form(value)
    if form is not form.weights:
        raise ValueError(f"no weight has the form {form}")
    return form


def _extents(values: Any) -> tuple[int, ...]:
    """A shape.

    Raises:
        ValueError: it is none that a weight can have.
    """
    is_list = isinstance(values, list | tuple) and 0 < len(values) <= _MAX_AXES
    if not is_list or not all(type(extent) is int and 0 < extent < _MAX_EXTENT for extent in values):
        raise ValueError("a shape that no weight has")
    return tuple(values)
