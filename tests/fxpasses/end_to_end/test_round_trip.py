"""To the other form and back is the same graph, node for node, over the same storage."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from fxpasses import find_sites, rewrite
from zoo import ENTRIES, SPELLINGS, Entry, build
from zoo.compare import difference, facts, storages, tensors, traced, written

every_head = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-float64")
not_only_spelled = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry not in SPELLINGS], ids=lambda entry: f"{entry.name}-float64"
)


def turned(entry: Entry, model: nn.Module, to: str) -> Any:
    return rewrite(model, to=to, scope=entry.scope, example_inputs=entry.example_inputs())


@every_head
def test_back_and_there_again_is_the_same_graph(entry: Entry) -> None:
    model = build(entry)
    there = turned(entry, model, entry.other_form)
    back = turned(entry, there.module, entry.form)
    assert written(back.module) == written(traced(model, entry.form))
    assert back.plan.moves == there.plan.moves
    assert len(back.report.rewrites) == len(there.report.rewrites) > 0
    if not entry.copies:
        assert storages(back.module) == storages(model)
    assert facts(back.module) == facts(model)
    inputs = entry.inputs(2)
    assert difference(model(*inputs), back.module(*inputs)) == 0
    again = turned(entry, back.module, entry.other_form)
    assert written(again.module) == written(there.module)
    if not entry.copies:
        assert storages(again.module) == storages(there.module)


@not_only_spelled
def test_back_after_a_deep_copy(entry: Entry) -> None:
    model = build(entry)
    there = copy.deepcopy(turned(entry, model, entry.other_form).module)
    assert not {place[0] for place in storages(there).values()} & {p[0] for p in storages(model).values()}
    back = turned(entry, there, entry.form)
    assert written(back.module) == written(traced(model, entry.form))
    kept = tensors(there)
    assert len({id(t) for t in tensors(model).values()}) == len({id(t) for t in kept.values()})
    for name in kept:  # a GraphModule's deep copy drops the second name of a module
        assert torch.equal(tensors(model)[name], tensors(back.module)[name])


@pytest.mark.parametrize("name", ["dropout_head", "mobilenet_v3", "mlp_batch_norm", "channels_last_flatten"])
def test_back_after_saving(name: str) -> None:
    """A saved GraphModule is traced anew when it is loaded."""
    entry = next(one for one in ENTRIES if one.name == name)
    model = build(entry)
    file = io.BytesIO()
    torch.save(turned(entry, model, entry.other_form).module, file)
    file.seek(0)
    back = turned(entry, torch.load(file, weights_only=False), entry.form)
    assert [site.site.name for site in back.report.rewrites] == list(entry.sites)
    inputs = entry.inputs(2)
    assert difference(model(*inputs), back.module(*inputs)) <= 1e-12


def test_annotations_that_only_the_module_understands_are_left_out() -> None:
    """They would be evaluated where the saved GraphModule is loaded, which has other imports."""

    class Annotated(nn.Sequential):
        def forward(self, input: SomeTypeThatOnlyThisModuleKnows) -> Any:  # type: ignore[name-defined]  # noqa: F821
            return super().forward(input)

    model = Annotated(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    result = rewrite(model, to="conv")
    assert {node.type for node in result.module.graph.nodes} == {None}
    file = io.BytesIO()
    torch.save(result.module, file)
    file.seek(0)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(torch.load(file, weights_only=False)(x), result.module(x))


def test_a_source_is_a_line_of_the_model_and_never_of_its_caller() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.mean((2, 3)))

    (own,) = find_sites(Head()).sites
    assert own.source == f"test_round_trip.py:{Head.forward.__code__.co_firstlineno + 1}"
    (bare,) = find_sites(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))).sites
    assert bare.source is None
