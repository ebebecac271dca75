"""The passes keep torch.fx's convention and run in its PassManager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from fxpasses import ConvToLinear, ConvToUnfold, HeadToFcn, LinearToConv, PoolToDense, UnfoldToConv
from zoo import build, entry
from zoo.compare import affine_calls, difference, written


class Nothing(PassBase):
    """Another pass in the same manager."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Changes nothing."""
        return PassResult(graph_module, False)


@pytest.mark.parametrize(
    ("name", "there", "back"),
    [("mobilenet_v3", LinearToConv, ConvToLinear), ("vgg_conv", ConvToLinear, LinearToConv)],
)
def test_runs_in_place_among_other_passes(name: str, there: type[PassBase], back: type[PassBase]) -> None:
    model = build(name)
    graph = fx.symbolic_trace(model)
    before, code = written(graph), graph.code
    inputs = entry(name).inputs(2)
    expected = model(*inputs)
    result = PassManager(passes=[Nothing(), there(), Nothing()], run_checks_after_each_pass=True)(graph)
    assert result.modified
    assert result.graph_module is graph
    assert graph.code != code
    assert difference(expected, graph(*inputs)) <= 1e-12
    again = PassManager(passes=[there()])(graph)
    assert not again.modified
    assert PassManager(passes=[back()])(graph).modified
    assert written(graph) == before
    assert graph.code == code


@pytest.mark.parametrize(
    "kind", [LinearToConv, ConvToLinear, PoolToDense, HeadToFcn, ConvToUnfold, UnfoldToConv]
)
def test_a_manager_runs_a_pass_as_often_as_it_was_given(kind: Callable[[], PassBase]) -> None:
    """It takes equal passes for one."""
    assert kind() != kind()


def test_a_pass_alone_gives_a_pass_result() -> None:
    graph = fx.symbolic_trace(build("dropout_head"))
    result = LinearToConv(scope="head")(graph)
    assert isinstance(result, PassResult)
    assert result.modified
    assert affine_calls(graph) == (0, 2)


@pytest.mark.parametrize(("scope", "linears"), [("head", 2), ("pooled", 0)])
def test_the_scope_is_the_pass_s_option(scope: str, linears: int) -> None:
    graph = fx.symbolic_trace(build("squeeze_excite"))
    LinearToConv(scope=scope)(graph)
    assert affine_calls(graph)[0] == linears


def test_nothing_to_do_is_not_modified() -> None:
    graph = fx.symbolic_trace(build("class_token"))
    before = written(graph)
    assert not LinearToConv()(graph).modified
    assert written(graph) == before


def test_a_step_of_a_torch_compile_backend() -> None:
    """Under torch.compile the weights are inputs of the graph; the pass views them where they are read."""
    seen: list[tuple[bool, list[str]]] = []

    def backend(graph_module: fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        result = LinearToConv()(graph_module)
        seen.append((result.modified, [getattr(n.target, "__name__", "") for n in graph_module.graph.nodes]))
        return graph_module.forward

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double()
    compiled = torch.compile(model.eval(), backend=backend)
    with torch.no_grad():
        for batch in (2, 5):
            x = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
            assert (compiled(x) - model(x)).abs().max() <= 1e-12
    modified, targets = seen[0]
    assert modified
    assert "linear" not in targets
    assert targets.count("conv2d") == 2
    torch.compiler.reset()


def test_a_compiler_behind_aot_autograd() -> None:
    """The same on the ATen graphs that AOT autograd hands to a compiler."""
    seen: list[set[str]] = []

    def compiler(graph_module: fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        LinearToConv()(graph_module)
        seen.append({str(node.target) for node in graph_module.graph.nodes})
        return make_boxed_func(graph_module.forward)

    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).double().eval()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found = torch.compile(model, backend=aot_autograd(fw_compiler=compiler))(x)
    assert (found - model(x)).abs().max() <= 1e-12
    assert "aten.convolution.default" in seen[0]
    assert "aten.addmm.default" not in seen[0]
    torch.compiler.reset()
