"""A rewritten model trains as the original does: gradients, steps, dropout masks, modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxpasses import rewrite
from zoo import ENTRIES, SPELLINGS, Entry, build
from zoo.compare import difference, leaves, tensors

STEPS = 5
TOLERANCE = 1e-9
trained = pytest.mark.parametrize(
    "entry",
    [
        entry
        for entry in (*(e for e in ENTRIES if e not in SPELLINGS), *SPELLINGS[::7])
        # its train mode has another head, its output no gradient
        if entry.name not in ("auxiliary_in_train", "argmax")
    ],
    ids=lambda entry: f"{entry.name}-float64",
)
functional = pytest.mark.parametrize("name", ["functional_dropout", "functional_dropout_before_view"])


def loss_of(outputs: object) -> Tensor:
    # towards a fixed target: the square of a normalised output alone has no gradient
    losses = [
        (leaf - torch.linspace(-1, 1, leaf.numel(), dtype=leaf.dtype).view_as(leaf)).square().mean()
        for leaf in leaves(outputs)
        if leaf.requires_grad
    ]
    return torch.stack(losses).sum()


def train(model: nn.Module, entry: Entry) -> list[float]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.02, momentum=0.9)
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = loss_of(model(*entry.inputs(entry.train_batch, seed=step)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@trained
def test_training_steps_equal_those_of_the_original(entry: Entry) -> None:
    model = build(entry, train=True)
    before = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    result = rewrite(
        build(entry, train=True),
        to=entry.other_form,
        scope=entry.scope,
        example_inputs=entry.example_inputs(),
    )
    assert result.report.rewrites
    assert result.module.training
    expected, actual = train(model, entry), train(result.module, entry)
    assert max(abs(a - b) / abs(a) for a, b in zip(expected, actual, strict=True)) <= TOLERANCE
    back = result.plan.invert().apply(result.module.state_dict())
    moved = set()
    for name, tensor in tensors(model).items():
        if tensor.is_floating_point():
            scale = tensor.abs().max().clamp(min=1e-3)
            assert (tensor - back[name]).abs().max() <= TOLERANCE * scale
            if not torch.equal(tensor, before[name]):
                moved.add(name)
        else:
            assert torch.equal(tensor, back[name])
    weights = {done.site.weight for done in result.report.rewrites}
    assert {name for name in weights if tensors(model)[name].requires_grad} <= moved


@trained
def test_gradients_reach_the_same_parameters(entry: Entry) -> None:
    model = build(entry, train=True)
    result = rewrite(
        build(entry, train=True),
        to=entry.other_form,
        scope=entry.scope,
        example_inputs=entry.example_inputs(),
    )
    for module in (model, result.module):
        torch.manual_seed(0)
        loss_of(module(*entry.inputs(entry.train_batch))).backward()
    graded = [name for name, weight in model.named_parameters() if weight.grad is not None]
    assert graded == [name for name, weight in result.module.named_parameters() if weight.grad is not None]
    assert graded


@functional
@pytest.mark.parametrize("traced_in_train", [True, False], ids=["traced_in_train", "traced_in_eval"])
def test_functional_dropout_follows_the_mode(name: str, traced_in_train: bool) -> None:
    """Tracing writes the flag down as a constant; the result must read its own."""
    entry = next(one for one in ENTRIES if one.name == name)
    model = build(entry, train=traced_in_train)
    result = rewrite(build(entry, train=traced_in_train), to="conv")
    inputs = entry.inputs(4)
    for mode in (False, True, False):
        model.train(mode)
        result.module.train(mode)
        torch.manual_seed(0)
        expected = model(*inputs)
        torch.manual_seed(0)
        assert difference(expected, result.module(*inputs)) <= 1e-12
    torch.manual_seed(1)
    assert torch.equal(result.module(*inputs), result.module(*inputs))
    result.module.train()
    assert not torch.equal(result.module(*inputs), result.module(*inputs))


@pytest.mark.parametrize("train_mode", [True, False], ids=["train", "eval"])
def test_the_auxiliary_head_is_there_in_train_mode(train_mode: bool) -> None:
    entry = next(one for one in ENTRIES if one.name == "auxiliary_in_train")
    model = build(entry, train=train_mode)
    result = rewrite(model, to="conv")
    assert [done.site.name for done in result.report.rewrites] == (["fc", "aux"] if train_mode else ["fc"])
    assert result.report.trace.mode == ("train" if train_mode else "eval")
    assert list(result.module.state_dict()) == list(model.state_dict())
    inputs = entry.inputs(3)
    assert difference(model(*inputs), result.module(*inputs)) <= 1e-12


def test_the_modes_of_submodules_are_kept() -> None:
    model = build("fastai", train=True)
    model.head[1].eval()
    result = rewrite(model, to="conv")
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in result.module.named_modules():
        assert module.training == modes.get(name, True)


def test_an_optimizer_of_the_original_still_trains_the_result() -> None:
    """The weight is a view of the caller's storage, so a step on one shows in the other."""
    entry = next(one for one in ENTRIES if one.name == "dropout_head")
    model = build(entry)
    result = rewrite(model, to="conv")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model(*entry.inputs(4))).backward()
    optimizer.step()
    inputs = entry.inputs(2)
    assert difference(model(*inputs), result.module(*inputs)) <= 1e-12
