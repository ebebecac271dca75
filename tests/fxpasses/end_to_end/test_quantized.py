"""Graphs as pt2e quantisation writes them: quantised values, each made float for the operator behind it."""

from __future__ import annotations

import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, fx, nn
from torch.export import Dim

from fxpasses import find_sites, rewrite
from fxpasses.miss_codes import MissCode

OPS = torch.ops.quantized_decomposed
SCALE = 1 / 64
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = head

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        return torch.flatten(self.fc(x if isinstance(self.fc, nn.Conv2d) else torch.flatten(x, 1)), 1)


HEADS = {"linear": lambda: nn.Linear(8, 5), "conv": lambda: nn.Conv2d(8, 5, 1)}


def exported(form: str) -> fx.GraphModule:
    torch.manual_seed(0)
    program = torch.export.export(Net(HEADS[form]()).eval(), (X,), dynamic_shapes=({0: Dim("b")},))
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def head_of(module: fx.GraphModule) -> fx.Node:
    return [node for node in module.graph.nodes if node.name.startswith(("linear", "conv2d"))][-1]


def quantize(module: fx.GraphModule, *, activation: bool = True, weight: bool = True) -> None:
    """Edits the head as ``convert_pt2e`` does: int8 activations by tensor, int8 weights by channel."""
    head, graph = head_of(module), module.graph
    with graph.inserting_before(head):
        if activation:
            args = (SCALE, 0, -128, 127, torch.int8)
            packed = graph.call_function(OPS.quantize_per_tensor.default, (head.args[0], *args))
            head.update_arg(0, graph.call_function(OPS.dequantize_per_tensor.default, (packed, *args)))
        if weight:
            values = module.fc.weight.detach()
            module.register_buffer("scales", torch.full((5,), SCALE))
            module.register_buffer("zeros", torch.zeros(5, dtype=torch.int64))
            module.register_buffer("frozen", (values / SCALE).round().clamp(-128, 127).to(torch.int8))
            tensors = [graph.get_attr(name) for name in ("frozen", "scales", "zeros")]
            args = (*tensors, 0, -128, 127, torch.int8)
            head.update_arg(1, graph.call_function(OPS.dequantize_per_channel.default, args))
    module.recompile()


@pytest.mark.parametrize(("activation", "weight"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("form", "to"), [("linear", "conv"), ("conv", "linear")])
def test_a_quantised_head_stays_as_it_is(form: str, to: str, activation: bool, weight: bool) -> None:
    module = exported(form)
    quantize(module, activation=activation, weight=weight)
    before, expected = module.code, module(X)
    for inputs in (None, X):
        result = rewrite(module, to=to, example_inputs=inputs)
        assert result.report.rewrites == ()
        (miss,) = result.report.misses
        assert (miss.code, miss.fix) == (MissCode.QUANTIZED, "rewrite the float model, then quantise")
        assert torch.equal(result.module(X), expected)
    assert module.code == before


@pytest.mark.parametrize(("form", "to"), [("linear", "conv"), ("conv", "linear")])
def test_what_was_rewritten_first_can_be_quantised(form: str, to: str) -> None:
    original = exported(form)
    module = rewrite(exported(form), to=to, example_inputs=X).module
    assert [site.name for site in find_sites(module, example_inputs=X).sites] == ["fc"]
    for one in (original, module):
        quantize(one)
    # eight exact products of int8 values and two equal scales: a sum in any order differs by rounding only
    bound = 16 * torch.finfo(torch.float32).eps * (8 * 2 * 2 + 1)
    assert (module(X) - original(X)).abs().max() <= bound
    assert original(X).std() > 1e-2
