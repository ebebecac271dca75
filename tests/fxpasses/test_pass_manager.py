"""The passes keep torch.fx's convention and run in its PassManager."""

from __future__ import annotations

import pytest
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from fxpasses import ConvToLinear, LinearToConv
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
