"""Which dicts of a checkpoint are state dicts of the plan's model, and under which prefix.

A name alone does not say that: ``layer1.0.se.fc.weight`` also ends with ``fc.weight``. So a prefix has to
be one that wrappers are known to add, or common to all names of the dict, or given by the user.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from fxhead.convert.survey import CheckpointPlace, CheckpointSurvey, Mention, TensorDict
from fxpasses import WeightMove, WeightPlan
from fxpasses.errors import PlanError
from fxpasses.weights.wrappers import is_wrapping

_RIGHT_MODEL = "give the plan that was made for this model"


class CheckpointFit(enum.Enum):
    """What a group's shapes say."""

    SOURCE = "in the form that the plan starts from"
    TARGET = "converted already"
    NEITHER = "another model"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter of the plan in a checkpoint; ``name`` is its whole key."""

    name: str
    mention: Mention
    move: WeightMove


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A model's parameters in one dict, under one prefix."""

    holder: TensorDict
    prefix: str
    weights: tuple[Weight, ...]
    fit: CheckpointFit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a checkpoint has of the plan's parameters.

    Attributes:
        groups: those to be converted; empty where all have the target form already.
        strangers: places of equally named parameters of another shape, which belong to other models.
    """

    groups: tuple[Group, ...]
    strangers: tuple[CheckpointPlace, ...]


def find_weights(found: CheckpointSurvey, plan: WeightPlan, prefixes: Sequence[str]) -> Weights:
    """The plan's parameters in the checkpoint.

    Raises:
        PlanError: there are none, only some, in no form that the plan knows, or not in one form; or it
            cannot be told under which prefix they are.
    """
    groups: list[Group] = []
    for holder in found.dicts:
        groups += _groups(holder, plan, prefixes)
    forms = {group.fit: group for group in reversed(groups)}
    strangers = [group for group in groups if group.fit is CheckpointFit.NEITHER]
    if {CheckpointFit.SOURCE, CheckpointFit.TARGET} <= {*forms}:
        ready, done = forms[CheckpointFit.SOURCE], forms[CheckpointFit.TARGET]
        raise PlanError(
            f"{_place(ready)} has the {plan.source} form, but {_place(done)} has the {plan.to} form already",
            where="checkpoint",
            fix="give a checkpoint that is in one form; this one was converted in part",
        )
    if strangers and len(strangers) == len(groups):
        weight = strangers[0].weights[0]
        raise _wrong_shape(weight, plan)
    if not groups:
        raise _missing(found, plan)
    return Weights(
        groups=tuple(group for group in groups if group.fit is CheckpointFit.SOURCE),
        strangers=tuple(weight.mention.place for group in strangers for weight in group.weights),
    )


def _groups(holder: TensorDict, plan: WeightPlan, given: Sequence[str]) -> list[Group]:
    keys = holder.tensors
    candidates = dict.fromkeys(
        key.removesuffix(move.name) for move in plan.moves for key in keys if key.endswith(move.name)
    )
    prefixes = [prefix for prefix in candidates if _is_root(prefix, holder, given)]
    groups: list[Group] = []
    for prefix in sorted(prefixes, key=len):
        group = _group(holder, plan, prefix)
        around = next((g.prefix for g in groups if prefix.startswith(g.prefix)), None)
        if group is None or (around is not None and group.fit is CheckpointFit.NEITHER):
            continue
        if around is not None and not given:
            raise PlanError(
                f"{group.weights[0].name!r} may belong to the model at {around!r} or to one of its own",
                where=str(holder.place) or "checkpoint",
                fix=f"say which to convert: --prefix {around!r}, or also --prefix {prefix!r}",
            )
        groups.append(group)
    return groups


def _is_root(prefix: str, holder: TensorDict, given: Sequence[str]) -> bool:
    if given:
        return prefix in given
    if not prefix or is_wrapping(prefix):
        return True
    return prefix.endswith(".") and all(key.startswith(prefix) for key in holder.tensors)


def _group(holder: TensorDict, plan: WeightPlan, prefix: str) -> Group | None:
    """The group; None where only some names are there, of shapes that are not the plan's."""
    weights = [
        Weight(name=prefix + move.name, mention=holder.tensors[prefix + move.name], move=move)
        for move in plan.moves
        if prefix + move.name in holder.tensors
    ]
    fits = [_fit(weight, plan) for weight in weights]
    if all(fit is CheckpointFit.NEITHER for fit in fits):
        fit = CheckpointFit.NEITHER if len(weights) == len(plan.moves) else None
        return fit and Group(holder=holder, prefix=prefix, weights=tuple(weights), fit=fit)
    missing = next((m.name for m in plan.moves if prefix + m.name not in holder.tensors), None)
    if missing is not None:
        raise PlanError(
            f"{prefix + missing!r} is missing, though {weights[0].name!r} is there",
            where=str(holder.place) or "checkpoint",
            fix=_RIGHT_MODEL,
        )
    for weight, fit in zip(weights, fits, strict=True):
        if fit is CheckpointFit.NEITHER:
            raise _wrong_shape(weight, plan)
    if len({*fits}) > 1:
        done = weights[fits.index(CheckpointFit.TARGET)]
        raise PlanError(
            f"it has the {plan.to} form already, the plan's other parameters have not",
            where=str(done.mention.place),
            fix="give a checkpoint that is in one form; this one was converted in part",
        )
    return Group(holder=holder, prefix=prefix, weights=tuple(weights), fit=fits[0])


def _fit(weight: Weight, plan: WeightPlan) -> CheckpointFit:
    if weight.mention.tensor is None:
        raise PlanError(
            "it is a tensor of a kind that has no other form (sparse, quantised or a subclass)",
            where=str(weight.mention.place),
            fix="give a checkpoint of the float model",
        )
    shape = weight.mention.tensor.shape
    if shape == weight.move.shape(plan.source):
        return CheckpointFit.SOURCE
    return CheckpointFit.TARGET if shape == weight.move.shape(plan.to) else CheckpointFit.NEITHER


def _wrong_shape(weight: Weight, plan: WeightPlan) -> PlanError:
    shape = weight.mention.tensor.shape if weight.mention.tensor else None
    return PlanError(
        f"shape {shape}, where the plan takes {weight.move.shape(plan.source)} "
        f"to {weight.move.shape(plan.to)}",
        where=str(weight.mention.place),
        fix=_RIGHT_MODEL,
    )


def _missing(found: CheckpointSurvey, plan: WeightPlan) -> PlanError:
    name = plan.moves[0].name
    for holder in found.dicts:
        for key in holder.tensors:
            if key.endswith("." + name):
                return PlanError(
                    f"{name!r} is only there as {key!r}, under a prefix that is no known wrapper's",
                    where=str(holder.place) or "checkpoint",
                    fix=f"if that is the plan's model, give --prefix {key.removesuffix(name)}",
                )
    count = sum(len(holder.tensors) for holder in found.dicts)
    return PlanError(
        f"the plan's parameter {name!r} is not in it ({count} named tensors)",
        where="checkpoint",
        fix=_RIGHT_MODEL + "; for an optimiser's state alone, give --optimizer-names",
    )


def _place(group: Group) -> str:
    return str(group.weights[0].mention.place)
