"""Numbers of an optimiser are given names only where that is certain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from checkpoints import MOVE, Net, leaves, load, save, save_plan
from fxhead.convert.optimizer_order import NamedState, find_moves
from fxpasses import Form, WeightMove, WeightPlan
from fxpasses.errors import PlanError
from fxpasses.weights.optimizer_state import ParameterState

Run = Callable[..., Any]

SQUARE = WeightMove(name="fc.weight", linear_shape=(8, 8), conv_shape=(8, 8, 1, 1))
SQUARE_PLAN = WeightPlan(to=Form.CONV, moves=(SQUARE,))
SHAPES = ((8, 8), (8,), (3, 8))


def entry(key: int, shape: tuple[int, ...] | None) -> ParameterState:
    return ParameterState(key=key, shapes={} if shape is None else {"exp_avg": shape})


@st.composite
def optimizers(draw: st.DrawFn) -> tuple[list[NamedState], list[list[str]], set[str]]:
    """A model, which of its parameters each group has, in the model's order, and which of them have state."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=7))
    moved = draw(st.sets(st.integers(0, len(shapes) - 1)))
    model = [
        NamedState(name=f"p{n}", shape=shape, move=SQUARE if n in moved and shape == (8, 8) else None)
        for n, shape in enumerate(shapes)
    ]
    group_of = [draw(st.sampled_from([None, 0, 1])) for _ in model]
    groups = [[named.name for named, g in zip(model, group_of, strict=True) if g == k] for k in (0, 1)]
    stateless = draw(st.sets(st.sampled_from([named.name for named in model]), max_size=2))
    return model, groups, stateless


@given(optimizers())
def test_a_name_is_right_or_refused(case: tuple[list[NamedState], list[list[str]], set[str]]) -> None:
    model, groups, stateless = case
    by_name = {named.name: named for named in model}
    numbers = {name: n for n, name in enumerate(name for group in groups for name in group)}
    states = [
        [entry(numbers[name], None if name in stateless else by_name[name].shape) for name in group]
        for group in groups
    ]
    truth = {
        numbers[name] for group in groups for name in group if by_name[name].move and name not in stateless
    }
    alike = {named.move is not None for named in model if named.shape == (8, 8)}
    try:
        found = {*find_moves(states, [model], (), "optimizer")}
    except PlanError:
        assert len(alike) == 2, "nothing was ambiguous"
        return
    assert found == truth


def test_a_whole_model_in_one_group_is_never_ambiguous() -> None:
    """As ``SGD(model.parameters())``: every parameter, with buffers in between that the optimiser lacks."""
    model = [NamedState(name=f"hidden.{n}", shape=(8, 8), move=None) for n in range(4)]
    model += [
        NamedState(name="bn.weight", shape=(8,), move=None),
        NamedState(name="bn.running", shape=(8,), move=None),
    ]
    model += [
        NamedState(name="fc.weight", shape=(8, 8), move=SQUARE),
        NamedState(name="fc.bias", shape=(8,), move=None),
    ]
    states = [entry(n, shape) for n, shape in enumerate([(8, 8)] * 4 + [(8,), (8, 8), (8,)])]
    assert {*find_moves([states], [model], (), "o")} == {5}
    with pytest.raises(PlanError, match=r"o/state/0: .*several parameters.*--optimizer-names"):
        find_moves([[entry(0, (8, 8)), entry(1, (8,))]], [model], (), "o")
    with pytest.raises(PlanError, match="not in the order of the model"):
        find_moves([[entry(n, (8, 8)) for n in range(6)]], [model], (), "o")
    with pytest.raises(PlanError, match=r"the shape \(4, 4\), which no tensor of the model has"):
        find_moves([[entry(0, (4, 4))]], [model], (), "o")


class Deep(nn.Module):
    """A head with the same shape as other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.bn = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 8)


def stepped(model: nn.Module, groups: Any, optimizer: Any = torch.optim.AdamW) -> Any:
    """An optimiser after one step."""
    made = optimizer(groups)
    for group in made.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
    made.step()
    return made


def decay_groups(model: nn.Module) -> Any:
    from timm.optim import param_groups_weight_decay

    return param_groups_weight_decay(model, weight_decay=0.05)


def frozen(model: nn.Module) -> Any:
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("second", "fc"))
    return model.parameters()


GROUPS: dict[str, Callable[[nn.Module], Any]] = {
    "all": lambda model: model.parameters(),
    "weight decay, as in timm": decay_groups,
    "frozen": frozen,
    "named": lambda model: model.named_parameters(),
    "last two only": lambda model: [*model.second.parameters(), *model.fc.parameters()],
}


@pytest.mark.parametrize("grouping", GROUPS)
def test_heads_that_are_shaped_like_other_weights(run: Run, folder: Path, grouping: str) -> None:
    model = Deep()
    optimizer = stepped(model, GROUPS[grouping](model))
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save(content, "run.pt")
    save_plan(SQUARE_PLAN)
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt")
    if grouping == "last two only":
        # two squares of three, without the buffers that would tell which: the user has to say
        assert done.code == 2
        assert "--optimizer-names" in done.err
        assert not Path("out.pt").exists()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    Path("names.txt").write_text("\n".join(order))
    told = run(
        "convert-weights", "run.pt", "--plan", "plan.json", "-o", "told.pt", "--optimizer-names", "names.txt"
    )
    assert told.code == 0, told.err
    for path in ["told.pt", *(["out.pt"] if done.code == 0 else [])]:
        state = load(path)["optimizer"]["state"]
        shaped = {order[n] for n, values in state.items() if values["exp_avg"].dim() == 4}
        assert shaped == {"fc.weight"}


@pytest.mark.parametrize("grouping", ["all", "weight decay, as in timm", "head first"])
def test_any_order_will_do_where_the_shape_says_it(run: Run, folder: Path, grouping: str) -> None:
    model = Net()
    groups = [{"params": [*model.fc.parameters()][::-1]}, {"params": [*model.conv.parameters()]}]
    optimizer = stepped(model, GROUPS[grouping](model) if grouping in GROUPS else groups)
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt")
    assert done.code == 0, done.err
    state = load("out.pt")["optimizer"]["state"]
    assert [v["exp_avg"].shape for v in state.values() if v["exp_avg"].dim() == 4] == [
        shape
        for shape in (
            [(5, 8, 1, 1), (8, 3, 3, 3)] if grouping == "head first" else [(8, 3, 3, 3), (5, 8, 1, 1)]
        )
    ]


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.Adafactor, lambda p: torch.optim.SGD(p, lr=0.1)],
    ids=["factored", "stateless"],
)
def test_state_without_an_equal_is_refused_and_no_state_is_fine(
    run: Run, folder: Path, optimizer: Any
) -> None:
    model = Net()
    made = stepped(model, model.parameters(), optimizer)
    save({"model": model.state_dict(), "optimizer": made.state_dict()}, "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt")
    if optimizer is torch.optim.Adafactor:
        assert done.code == 2
        assert "optimizer/state/0: its tensors are not all shaped like its parameter" in done.err
        names = "\n".join(name for name, _ in model.named_parameters())
        Path("names.txt").write_text(names)
        done = run(
            "convert-weights", "run.pt", "--plan", "plan.json", "-o", "o.pt", "--optimizer-names", "names.txt"
        )
        assert done.code == 2
        assert "optimiser state 4 (fc.weight): its state is not shaped like the parameter" in done.err
        assert not Path("out.pt").exists()
    else:
        assert done.code == 0
        assert dict(leaves(load("out.pt")["optimizer"])) == dict(leaves(made.state_dict()))


def test_an_optimizer_alone_needs_names(run: Run, folder: Path) -> None:
    model = Net()
    save(stepped(model, model.parameters()).state_dict(), "optimizer.bin")
    save_plan()
    command = ("convert-weights", "optimizer.bin", "--plan", "plan.json", "-o", "out.bin")
    done = run(*command)
    assert done.code == 2
    assert "has no state dict to go by" in done.err
    Path("names.json").write_text(
        str([f"module.{name}" for name, _ in model.named_parameters()]).replace("'", '"')
    )
    assert run(*command, "--optimizer-names", "names.json").code == 0
    assert load("out.bin")["state"][4]["exp_avg"].shape == (5, 8, 1, 1)
    Path("names.json").write_text("fc.weight")
    wrong = run(*command, "--optimizer-names", "names.json", "--force")
    assert (wrong.code, "1 names, but the checkpoint's optimisers have [6]" in wrong.err) == (2, True)
    Path("names.json").write_text(" ".join("abcdef"))
    wrong = run(*command, "--optimizer-names", "names.json", "--force")
    assert (wrong.code, "is one of the plan's (fc.weight)" in wrong.err) == (2, True)


def test_two_optimizers_for_one_weight_are_refused(run: Run, folder: Path) -> None:
    """One of them may be that of a loss with weights of the same shape, which the file does not have."""
    model = Net()
    states = {name: stepped(model, model.parameters()).state_dict() for name in ("optimizer", "centers")}
    save({"model": model.state_dict(), **states}, "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json")
    assert done.code == 2
    assert "optimizer and centers both have a state shaped like 'fc.weight'" in done.err


def test_states_by_name(run: Run, folder: Path) -> None:
    model = Net()
    optimizer = stepped(model, model.parameters()).state_dict()
    names = [f"module.{name}" for name, _ in model.named_parameters()]
    by_name = {
        "state": dict(zip(names, optimizer["state"].values(), strict=True)),
        "param_groups": [{**optimizer["param_groups"][0], "params": names}],
    }
    save({"optim": by_name, "model": model.state_dict()}, "run.pt")
    save_plan()
    assert run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt").code == 0
    state = load("out.pt")["optim"]["state"]
    assert state["module.fc.weight"]["exp_avg"].shape == MOVE.conv_shape
    assert state["module.conv.weight"]["exp_avg"].shape == (8, 3, 3, 3)
