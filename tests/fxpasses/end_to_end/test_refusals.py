"""What must be refused is refused with its own code, and its graph comes back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from fxpasses import find_sites, rewrite
from fxpasses.miss_codes import MissCode
from zoo import ENTRIES, REFUSALS, Entry, build
from zoo.compare import difference, storages, written
from zoo.maps import NOT_DENSE, NOT_WINDOWED

every_refusal = pytest.mark.parametrize("entry", REFUSALS, ids=lambda entry: entry.name)
# RANK needs a map of rank four, which no pool makes; the unknown extents are in test_zoo.py, the size that
# nothing says in test_fcn.py, train mode in test_dense.py, what torch.export alone writes in
# test_situations.py, what only scope all has in test_everywhere.py
ELSEWHERE = {
    MissCode.RANK,
    MissCode.UNKNOWN_EXTENT,
    MissCode.NATIVE_SIZE,
    MissCode.TRAIN_MODE,
    MissCode.SUBGRAPH,
    MissCode.STRIDE,
    MissCode.OPAQUE_CALL,
}
OF_MAPS = {code for entry in (*NOT_DENSE, *NOT_WINDOWED) for _, code in entry.misses} | {MissCode.SIDE_BRANCH}


def inputs_of(entry: Entry) -> tuple[torch.Tensor, ...] | None:
    return entry.inputs(max(entry.batches)) if entry.runs else None


def test_every_code_has_a_model() -> None:
    assert {code for entry in REFUSALS for _, code in entry.misses} | OF_MAPS == set(MissCode) - ELSEWHERE


@every_refusal
@pytest.mark.parametrize("with_inputs", [False, True], ids=["no_inputs", "inputs"])
def test_refused_with_the_reason(entry: Entry, with_inputs: bool) -> None:
    found = find_sites(build(entry), example_inputs=inputs_of(entry) if with_inputs else None)
    assert found.sites == ()
    assert tuple((miss.name, miss.code) for miss in found.misses) == entry.misses
    for miss in found.misses:
        assert str(miss.form) == entry.form
        assert miss.reason
        assert miss.fix
        assert str(miss) == (
            f"skipped {miss.name!r} ({miss.node + (f', {miss.source}' if miss.source else '')}): "
            f"{miss.code}, {miss.reason}; {miss.fix}"
        )
        assert not miss.reason.endswith(".")
        assert not miss.fix.endswith(".")


@every_refusal
def test_a_refused_graph_is_untouched(entry: Entry) -> None:
    model = build(entry)
    graph = written(fx.symbolic_trace(model))
    places = storages(model) if entry.runs else {}
    result = rewrite(model, to=entry.other_form, scope="pooled")
    assert result.report.rewrites == ()
    assert result.plan.moves == ()
    assert written(result.module) == graph
    assert {(miss.name, miss.code) for miss in result.report.misses} >= set(entry.misses)
    if entry.runs:
        assert storages(result.module) == places
        inputs = entry.inputs(max(entry.batches))
        assert difference(model(*inputs), result.module(*inputs)) == 0


@every_refusal
def test_the_miss_names_its_node_and_line(entry: Entry) -> None:
    model = build(entry)
    graph = fx.symbolic_trace(model).graph
    for miss in find_sites(model).misses:
        assert miss.node in {node.name for node in graph.nodes}
        if miss.source:
            assert ".py:" in miss.source


def test_one_refused_head_leaves_the_other_its_rewrite() -> None:
    model = build("two_heads")
    model.a.register_forward_hook(lambda *_: None)
    result = rewrite(model, to="conv")
    assert [done.site.name for done in result.report.rewrites] == ["b"]
    assert [(miss.name, miss.code) for miss in result.report.misses] == [("a", MissCode.HOOKED)]
    inputs = next(one for one in ENTRIES if one.name == "two_heads").inputs(2)
    assert difference(model(*inputs), result.module(*inputs)) <= 1e-12


def test_one_of_two_tied_heads_cannot_go_alone() -> None:
    """Tied weights stay tied, so both heads keep their form when one of them must."""
    model = build("tied_heads")
    model.a.register_forward_hook(lambda *_: None)
    result = rewrite(model, to="conv")
    assert result.report.rewrites == ()
    assert {miss.name: miss.code for miss in result.report.misses} == {
        "a": MissCode.HOOKED,
        "b": MissCode.TIED_WEIGHT,
    }
    assert result.module.a.weight is result.module.b.weight


def test_a_hooked_module_still_calls_its_hook() -> None:
    model = build("forward_hook")
    calls: list[int] = []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    result = rewrite(model, to="conv")
    calls.clear()
    result.module(torch.randn(2, 3, 5, 4, dtype=torch.float64))
    assert calls == [1]


class _Average(nn.Module):
    """As onnx2torch has its pools: a module of its own, which its graphs call and do not show."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_a_module_that_a_given_graph_does_not_show_is_named() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), _Average(), nn.Linear(8, 5)).eval()

    class Leaves(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, _Average) or super().is_leaf_module(module, name)

    graph = fx.GraphModule(layers, Leaves().trace(layers))
    (miss,) = find_sites(graph).misses
    assert (miss.code, "a _Average that the graph calls" in miss.reason) == (MissCode.UNKNOWN_LAYOUT, True)
    program = torch.export.export(graph, (torch.randn(2, 3, 8, 8),))  # what the miss says to give
    assert len(find_sites(program).sites) == 1
