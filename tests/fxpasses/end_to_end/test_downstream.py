"""What runs after a rewrite takes its programs: verifiers, compilers, exporters, quantisers, unflatten."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from fxpasses import rewrite

TOLERANCE = 1e-12


class Neck(nn.Module):
    """A flatten, dropout and a Linear: the head as a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()
        self.hidden = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(self.drop(torch.flatten(x, 1)))


class Net(nn.Module):
    """A head that stands in two modules, and a function between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.neck = Neck()
        self.out = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.hardswish(self.neck(self.pool(self.stem(x)))))


def image(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


def made() -> nn.Module:
    torch.manual_seed(0)
    return Net().double().eval()


@functools.cache
def exported(kind: str, **options: Any) -> ExportedProgram:
    if kind == "core":
        return exported("training", **options).run_decompositions()
    shapes = {"x": {0: Dim("batch", min=1, max=64)}}
    return torch.export.export(made(), (image(2),), dynamic_shapes=shapes, **options)


@functools.cache
def turned(kind: str, form: str, **options: Any) -> ExportedProgram:
    """The program in its convolution form, or there and back again."""
    program = rewrite(exported(kind, **options), to="conv").module
    return program if form == "conv" else rewrite(program, to="linear").module


def assert_same(run: Any, batches: tuple[int, ...] = (1, 5)) -> None:
    model = made()
    for batch in batches:
        expected = model(image(batch))
        assert (run(image(batch)) - expected).abs().max() <= TOLERANCE * expected.abs().max()


# what torch.export.unflatten itself does
pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
every_program = pytest.mark.parametrize(
    ("kind", "form"), [(kind, form) for kind in ("training", "core") for form in ("conv", "linear")]
)


@pytest.fixture(autouse=True)
def _compiled_for_this_test_alone() -> Iterator[None]:
    yield
    torch.compiler.reset()


@every_program
@pytest.mark.parametrize("strict", [False, True])
def test_metadata_is_as_torch_writes_it(kind: str, form: str, strict: bool) -> None:
    """Every node has what torch's own nodes have, but a size, which torch itself leaves without."""
    before, after = exported(kind, strict=strict), turned(kind, form, strict=strict)
    after.validate() if hasattr(after, "validate") else after._validate()
    wanted = {"val", "stack_trace", "nn_module_stack", "torch_fn"}
    for node in before.graph.nodes:
        if node.op == "call_function" and "sym_size" not in node.name:
            assert wanted <= set(node.meta), node.name
    if strict and form == "conv":  # a node that the way back made again has no function of Python's
        wanted |= {"source_fn_stack"}
    for node in after.graph.nodes:
        if node.op == "call_function" and "sym_size" not in node.name:
            assert wanted <= set(node.meta), node.name


def layers(program: ExportedProgram) -> dict[str, str]:
    """What a quantiser sees: the class of every layer with weights, by its path in the module tree."""
    found = {}
    for node in program.graph.nodes:
        if any(name in str(node.target) for name in ("conv", "linear", "addmm")):
            path, kind = list(node.meta["nn_module_stack"].values())[-1]
            found[path] = kind.rpartition(".")[2]
    return found


@every_program
def test_a_quantiser_finds_the_layers_by_their_class(kind: str, form: str) -> None:
    head = "Conv2d" if form == "conv" else "Linear"
    assert layers(turned(kind, form)) == {"stem": "Conv2d", "neck.hidden": head, "out": head}


@pytest.mark.parametrize("form", ["conv", "linear"])
def test_a_partitioner_finds_the_functions(form: str) -> None:
    program = turned("training", form, strict=True)
    functions = {node.name: node.meta["source_fn_stack"][-1][1] for node in sites(program)}
    assert set(functions.values()) == {nn.Conv2d if form == "conv" else nn.Linear}
    assert {node.meta["torch_fn"][1].rpartition(".")[2] for node in sites(program)} == {
        "conv2d" if form == "conv" else "linear"
    }


def sites(program: ExportedProgram) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.name in ("linear", "linear_1")]


@every_program
@pytest.mark.parametrize("preserved", [(), ("neck",), ("neck", "out"), ("pool",)])
def test_unflatten(kind: str, form: str, preserved: tuple[str, ...]) -> None:
    """The module tree comes back with the layers at their paths, also behind preserved signatures."""
    module = torch.export.unflatten(turned(kind, form, preserve_module_call_signature=preserved))
    assert_same(module)
    assert {name for name, _ in module.named_parameters()} == dict(made().named_parameters()).keys()
    called = {str(node.target) for node in module.out.graph.nodes if node.op == "call_function"}
    assert not any(
        name in target for target in called for name in ("aten.flatten", "aten.view")
    )  # a view is no part of a layer


@pytest.mark.parametrize("preserved", ["neck.drop", "neck.hidden"])
def test_unflatten_where_the_value_that_crosses_is_another(preserved: str) -> None:
    program = turned("training", "conv", preserve_module_call_signature=(preserved,))
    assert_same(torch.export.unflatten(program))


@every_program
def test_decomposed_again_and_exported_again(kind: str, form: str) -> None:
    program = turned(kind, form)
    assert_same(program.run_decompositions().module())
    shapes = {"x": {0: Dim("batch", min=1, max=64)}}
    again = torch.export.export(program.module(), (image(2),), dynamic_shapes=shapes)
    assert_same(again.run_decompositions().module())


@every_program
def test_saved_and_loaded(kind: str, form: str) -> None:
    file = io.BytesIO()
    torch.export.save(turned(kind, form), file)
    file.seek(0)
    assert_same(torch.export.load(file).module())


@pytest.mark.parametrize("kind", ["training", "core"])
def test_compiled(kind: str) -> None:
    with torch.no_grad():
        assert_same(torch.compile(turned(kind, "conv").module(), backend="aot_eager", dynamic=True))


@every_program
def test_shapes_computed_anew_are_those_that_the_nodes_have(kind: str, form: str) -> None:
    module = turned(kind, form).module()
    said = {node.name: node.meta.get("val") for node in module.graph.nodes}
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(image(5))
    for node in module.graph.nodes:
        if isinstance(node.meta.get("val"), Tensor) and node.op == "call_function":
            shape = [extent if isinstance(extent, int) else 5 for extent in said[node.name].shape]
            assert list(node.meta["val"].shape) == shape, node.name


@every_program
def test_retraced_by_fx(kind: str, form: str) -> None:
    """A pass that rebuilds the graph with Transformer."""
    assert_same(fx.Transformer(turned(kind, form).module()).transform())
