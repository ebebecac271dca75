"""The passes among torch's own on an exported graph, and as a step of a torch.compile backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.constant_folding import constant_fold
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint

from fxpasses import ConvToLinear, LinearToConv
from zoo import build, entry
from zoo.compare import difference, leaves, written
from zoo.programs import DIALECTS, export, false_shapes, operators

TOLERANCE = 1e-12


class Wasteful(nn.Module):
    """A head whose scale is computed from a constant, with a value that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 5)
        self.register_buffer("rate", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(self.stem(x), 1), 1)
        again = torch.flatten(nn.functional.adaptive_avg_pool2d(self.stem(x), 1), 1)
        torch.relu(pooled)
        return self.fc(pooled * (self.rate * 2 + 1)) + self.fc(again)


class Dead(PassBase):
    """Removes what nobody reads."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        return PassResult(graph_module, graph_module.graph.eliminate_dead_code())


class Fold(PassBase):
    """Computes what depends on constants alone."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        constant_fold(graph_module)
        return PassResult(graph_module, True)


class Shapes(PassBase):
    """Computes the shapes of all values anew."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        FakeTensorProp(graph_module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*self.inputs)
        return PassResult(graph_module, False)


def image(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(autouse=True)
def _compiled_for_this_test_alone() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_among_passes_of_torch_on_an_exported_graph(dialect: str) -> None:
    """Common values merged, constants folded, dead ones removed, shapes computed: in the order asked for."""
    model = Wasteful().double().eval()
    graph = export(model, (image(4),), dialect)
    to_conv, merge, fold, dead, shapes = LinearToConv(), CSEPass(), Fold(), Dead(), Shapes(image(4))
    manager = PassManager(
        passes=[shapes, dead, fold, to_conv, merge],
        constraints=[
            this_before_that_pass_constraint(to_conv, fold),  # it would fold the transposed weight
            this_before_that_pass_constraint(merge, to_conv),
            this_before_that_pass_constraint(fold, dead),
            this_before_that_pass_constraint(dead, shapes),
        ],
        run_checks_after_each_pass=True,
    )
    manager.add_checks(lambda module: module.graph.lint())
    result = manager(graph)
    assert result is not None
    order = manager.passes
    assert [order.index(one) for one in (merge, to_conv, fold, dead, shapes)] == [0, 1, 2, 3, 4]
    found = operators(result.graph_module)
    assert not {"linear", "addmm", "relu"} & set(found)
    assert found.count("conv2d" if dialect == "training" else "convolution") == 3  # one stem
    assert false_shapes(result.graph_module, (image(4),)) == []
    (logits,) = leaves(result.graph_module(image(3)))  # merging loses how the outputs were nested
    assert difference(model(image(3)), logits) <= TOLERANCE


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["mobilenet_v3", "vgg_conv", "layer_norm"])
def test_there_and_back_in_one_manager(name: str, dialect: str) -> None:
    """The same pass may stand in a manager twice."""
    graph = export(build(name), entry(name).inputs(4), dialect)
    before = written(graph)
    passes = [LinearToConv(), ConvToLinear()]
    if entry(name).form == "conv":
        passes.reverse()
    assert PassManager(passes=[*passes, type(passes[0])()])(graph).modified
    assert written(graph) != before
    assert PassManager(passes=passes[1:])(graph).modified
    assert written(graph) == before


def test_example_inputs_of_a_pass_may_be_a_list() -> None:
    graph = fx.symbolic_trace(build("dropout_head"))
    inputs = list(entry("dropout_head").inputs(2))
    assert PassManager(passes=[LinearToConv(example_inputs=inputs), Dead()])(graph).modified


def step(seen: list[str]) -> Callable[..., Any]:
    """A compiler of AOT autograd's graphs with the pass in it."""

    def compiler(graph_module: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        del example_inputs
        LinearToConv()(graph_module)
        graph_module.graph.lint()
        seen.extend(operators(graph_module))
        return make_boxed_func(graph_module.forward)

    return compiler


def trained(model: nn.Module, run: Callable[[Tensor], Tensor], batch: int) -> list[Tensor]:
    """Logits, gradients and statistics of one training step."""
    model.zero_grad()
    torch.manual_seed(batch)
    logits = run(image(batch))
    (logits * torch.arange(5.0, dtype=torch.float64)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return [logits.detach(), *gradients, *(buffer.clone() for buffer in model.buffers())]


def trainable() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(6, 7),
        nn.ReLU(),
        nn.Linear(7, 5),
    ).double()


@pytest.mark.parametrize("way", ["before", "forward"])
def test_training_under_torch_compile(way: str) -> None:
    """Logits, every gradient and the batch norm's statistics, with the pass before AOT autograd or in it."""
    seen: list[str] = []

    def before(graph_module: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        LinearToConv()(graph_module)
        seen.extend("convolution" for node in graph_module.graph.nodes if "conv2d" in str(node.target))
        return aot_autograd(fw_compiler=lambda module, _: make_boxed_func(module.forward))(
            graph_module, example_inputs
        )

    model, reference = trainable(), trainable()
    backend = before if way == "before" else aot_autograd(fw_compiler=step(seen), bw_compiler=_plain)
    compiled = torch.compile(model, backend=backend, dynamic=True)
    for batch in (3, 5):
        expected, found = trained(reference, reference, batch), trained(model, compiled, batch)
        for one, other in zip(expected, found, strict=True):
            assert (one - other).abs().max() <= TOLERANCE * max(one.abs().max(), 1)
    assert seen.count("convolution") >= 3
    assert "addmm" not in seen


def _plain(graph_module: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
    del example_inputs
    return make_boxed_func(graph_module.forward)


def test_a_dynamic_batch_is_compiled_once() -> None:
    seen: list[str] = []
    model = trainable().eval()
    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=step(seen)), dynamic=True)
    with torch.no_grad():
        for batch in (2, 5, 9):
            assert difference(model(image(batch)), compiled(image(batch))) <= TOLERANCE
    assert seen.count("convolution") == 3
