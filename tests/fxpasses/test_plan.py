"""The weight plan takes state dicts from one form to the other and back."""

from __future__ import annotations

import json

import pytest
import torch

from fxpasses import WeightPlan, rewrite
from fxpasses.errors import PlanError
from zoo import ENTRIES, SPELLINGS, Entry, build
from zoo.compare import difference, tensors

planned = pytest.mark.parametrize(
    "entry", [*(e for e in ENTRIES if e not in SPELLINGS), *SPELLINGS[::9]], ids=lambda entry: entry.name
)


@planned
def test_state_dicts_load_strictly_both_ways(entry: Entry) -> None:
    result = rewrite(
        build(entry), to=entry.other_form, scope=entry.scope, example_inputs=entry.example_inputs()
    )
    other = build(entry)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.25)
    result.module.load_state_dict(result.plan.apply(other.state_dict()), strict=True)
    inputs = entry.inputs(2)
    assert difference(other(*inputs), result.module(*inputs)) <= 1e-12

    fresh = build(entry)
    fresh.load_state_dict(result.plan.invert().apply(result.module.state_dict()), strict=True)
    for name, tensor in tensors(other).items():
        assert torch.equal(tensor, tensors(fresh)[name])


@planned
def test_json_gives_the_plan_back(entry: Entry) -> None:
    plan = rewrite(
        build(entry), to=entry.other_form, scope=entry.scope, example_inputs=entry.example_inputs()
    ).plan
    assert plan.moves
    assert WeightPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.invert() != plan
    assert plan.invert().invert() == plan


def test_apply_gives_views_and_leaves_the_original() -> None:
    model = build("vgg")
    plan = rewrite(model, to="conv").plan
    before = dict(model.state_dict())
    after = plan.apply(before)
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert after[name].untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    assert before["classifier.0.weight"].dim() == 2
    assert after["classifier.0.weight"].shape == (7, 6, 2, 3)


def test_apply_refuses_what_it_was_not_made_for() -> None:
    model = build("dropout_head")
    plan = rewrite(model, to="conv").plan
    state = model.state_dict()
    with pytest.raises(PlanError, match=r"head\.weight: .*missing"):
        plan.apply({name: tensor for name, tensor in state.items() if name != "head.weight"})
    with pytest.raises(PlanError, match=r"already.*invert"):
        plan.apply(plan.apply(state))
    with pytest.raises(PlanError, match=r"shape \(3, 3\)"):
        plan.apply({**state, "head.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize(
    "damage",
    [
        {"schema_version": 99},
        {"moves": [{"name": "head.weight"}]},
        {"to": "nowhere"},
        {
            "moves": [
                {"name": "w", "linear_shape": [2, 3], "conv_shape": [2, 4, 1, 1], "order": "channels_first"}
            ]
        },
    ],
    ids=["version", "moves", "form", "sizes"],
)
def test_damaged_plans_are_refused(damage: dict[str, object]) -> None:
    data = rewrite(build("dropout_head"), to="conv").plan.to_dict()
    with pytest.raises(PlanError):
        WeightPlan.from_dict({**data, **damage})
