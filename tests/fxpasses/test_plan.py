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


MOVE = {"name": "w", "linear_shape": [2, 8], "conv_shape": [2, 2, 2, 2], "order": "channels_first"}


@pytest.mark.parametrize(
    "damage",
    [
        {"schema_version": 99},
        {"moves": [{"name": "head.weight"}]},
        {"to": "nowhere"},
        {"to": "dense"},
        {"moves": [MOVE | {"conv_shape": [2, 4, 1, 1]}]},
        {"moves": [MOVE | {"linear_shape": [16], "conv_shape": [16], "order": "channels_last"}]},
        {"moves": [MOVE | {"linear_shape": [8, 2]}]},
        {"moves": [MOVE | {"name": 3}]},
        {"moves": [MOVE, MOVE | {"conv_shape": [2, 8, 1, 1]}]},
    ],
    ids=["version", "moves", "form", "no-weight-s-form", "sizes", "axes", "rows", "name", "twice"],
)
def test_damaged_plans_are_refused(damage: dict[str, object]) -> None:
    data = rewrite(build("dropout_head"), to="conv").plan.to_dict()
    with pytest.raises(PlanError):
        WeightPlan.from_dict({**data, **damage})


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("named", [True, False], ids=["named", "numbered"])
def test_an_optimizers_state_goes_there_and_back(optimizer: type, named: bool) -> None:
    model = build("dropout_head")
    plan = rewrite(model, to="conv").plan
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    made = optimizer(model.named_parameters() if named else model.parameters(), lr=0.1, **options)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    made.step()
    before = made.state_dict()
    names = None if named else [name for name, _ in model.named_parameters()]
    after = plan.apply_optimizer(before, names)
    number = [name for name, _ in model.named_parameters()].index("head.weight")
    moved = {
        name for name, value in before["state"][number].items() if value is not None and value.dim() == 2
    }
    assert moved
    for name, value in before["state"][number].items():
        new = after["state"][number][name]
        if name in moved:
            assert new.shape == plan.moves[0].conv_shape
            assert new.data_ptr() == value.data_ptr()
        else:
            assert new is value
    assert all(after["state"][n] is before["state"][n] for n in before["state"] if n != number)
    assert after["param_groups"] == before["param_groups"]
    back = plan.invert().apply_optimizer(after, names)
    for name in moved:
        assert torch.equal(back["state"][number][name], before["state"][number][name])


def test_apply_optimizer_refuses_what_it_cannot_know() -> None:
    model = build("dropout_head")
    plan = rewrite(model, to="conv").plan
    names = [name for name, _ in model.named_parameters()]
    state = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).state_dict()
    with pytest.raises(PlanError, match="by number only; give the parameters' names"):
        plan.apply_optimizer(state)
    with pytest.raises(PlanError, match=f"{len(names) - 1} names for {len(names)} parameters"):
        plan.apply_optimizer(state, names[1:])
    with pytest.raises(PlanError, match=r"none of the optimiser's .* names is one of the plan's"):
        plan.apply_optimizer(state, [f"other.{name}" for name in names])
    number = names.index("head.weight")
    for odd in ({"row_var": torch.ones(3, 1)}, {"momentum_buffer": torch.ones(3, 3)}):
        with pytest.raises(PlanError, match=r"optimiser state \d+ \(head.weight\): its state is not shaped"):
            plan.apply_optimizer({**state, "state": {number: odd}}, [f"module.{name}" for name in names])
    with pytest.raises(PlanError, match="its state holds tensors in old_dirs"):
        plan.apply_optimizer({**state, "state": {number: {"old_dirs": [torch.ones(3)]}}}, names)


HEAD = torch.ones(2, 8)
NO_WEIGHTS = [[1.0], "x", HEAD.numpy(), HEAD.to_sparse()]


@pytest.mark.parametrize("value", NO_WEIGHTS, ids=["list", "text", "array", "sparse"])
def test_what_is_no_dense_tensor_is_refused(value: object) -> None:
    plan = WeightPlan.from_dict({"schema_version": 1, "to": "conv", "moves": [MOVE]})
    with pytest.raises(PlanError, match="w: is no dense tensor"):
        plan.apply({"w": value})
    state = {"state": {0: {"moment": value}}, "param_groups": [{"params": [0], "param_names": ["w"]}]}
    if isinstance(value, torch.Tensor):
        with pytest.raises(PlanError, match="'moment' is no dense tensor"):
            plan.apply_optimizer(state)


GROUP = {"params": [0], "param_names": ["w"]}


@pytest.mark.parametrize(
    "state",
    [
        [],
        {},
        {"state": {}},
        {"state": [1], "param_groups": [GROUP]},
        {"state": {0: "x"}, "param_groups": [GROUP]},
    ]
    + [{"state": {}, "param_groups": groups} for groups in ("x", [1], [{}], [{"params": [[1]]}])]
    + [{"state": {}, "param_groups": [GROUP | {"param_names": names}]} for names in (5, "w", [5])],
    ids=str,
)
def test_what_is_no_optimizers_state_is_refused(state: object) -> None:
    plan = WeightPlan.from_dict({"schema_version": 1, "to": "conv", "moves": [MOVE]})
    with pytest.raises(PlanError, match="no state dict of an optimiser"):
        plan.apply_optimizer(state)  # type: ignore[arg-type]


def test_what_is_no_state_dict_or_no_name_is_refused() -> None:
    plan = WeightPlan.from_dict({"schema_version": 1, "to": "conv", "moves": [MOVE]})
    with pytest.raises(PlanError, match="no state dict"):
        plan.apply([])  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="are no texts"):
        plan.apply_optimizer({"state": {}, "param_groups": []}, [5])  # type: ignore[list-item]
    with pytest.raises(PlanError, match="schema version that is of class int"):
        WeightPlan.from_dict({"schema_version": 10**5_000})
