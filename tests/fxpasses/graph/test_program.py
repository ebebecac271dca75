"""Programs of torch.export: the same kind out, the same inputs and names, the weights real parameters."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fxpasses import InputError, find_sites, rewrite

BATCHES = (1, 2, 5)
TOLERANCE = 1e-12


class TwoLinears(nn.Module):
    """A stem with batch norm, a head of two Linears, dropout and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout()
        self.hidden = nn.Linear(6, 7)
        self.head = nn.Linear(7, 5, bias=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.pool(self.stem(x)), 1)
        return self.head(F.hardswish(self.hidden(self.drop(x))))


class Grid(nn.Module):
    """A 2×3 grid flattened into a Linear, features given beside the logits in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = F.adaptive_avg_pool2d(self.stem(x), (2, 3)).flatten(1)
        return {"logits": self.head(features), "features": features}


class Held(nn.Module):
    """Tied heads, a non-persistent buffer, a tensor constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(3, 5)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0, dtype=torch.float64), persistent=False)
        self.register_buffer("shift", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean([2, 3]) * self.scale + self.shift
        return self.first(x) + self.second(x) * torch.tensor(3.0, dtype=torch.float64)


class ConvHead(nn.Module):
    """The convolution form as its author wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.stem(x), 1)).flatten(1)


MODELS = {"two_linears": TwoLinears, "grid": Grid, "held": Held, "conv_head": ConvHead}
OTHER = {"two_linears": "conv", "grid": "conv", "held": "conv", "conv_head": "linear"}
HEADS = {
    "two_linears": ("hidden", "head"),
    "grid": ("head",),
    "held": ("first", "second"),
    "conv_head": ("head",),
}
every_program = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in MODELS for kind in ("training", "core")]
)


def image(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


def exported(model: nn.Module, kind: str = "training", *, static: int | None = None) -> ExportedProgram:
    shapes = None if static else {"x": {0: Dim("batch", min=1)}}
    program = torch.export.export(model, (image(static or 2),), dynamic_shapes=shapes)
    return program if kind == "training" else program.run_decompositions()


def tensors(value: Any) -> list[Tensor]:
    return list(value.values()) if isinstance(value, dict) else [value]


def assert_equal(model: Any, other: Any, batch: int) -> None:
    for expected, found in zip(tensors(model(image(batch))), tensors(other(image(batch))), strict=True):
        assert (expected - found).abs().max() <= TOLERANCE * expected.abs().max()


def nodes(program: ExportedProgram) -> list[tuple[Any, ...]]:
    return [(n.op, n.name, n.target, str(n.args), str(n.kwargs)) for n in program.graph.nodes]


def targets(program: ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@every_program
def test_a_program_comes_back_as_a_program(name: str, kind: str) -> None:
    model = made(name)
    program = exported(model, kind)
    before = nodes(program)
    result = rewrite(program, to=OTHER[name])
    new = result.module
    assert isinstance(new, ExportedProgram)
    assert tuple(entry.site.name for entry in result.report.rewrites) == HEADS[name]
    assert result.report.trace.method == "given"
    assert nodes(program) == before
    for batch in BATCHES:
        assert_equal(model, new.module(), batch)
    assert new.call_spec == program.call_spec
    assert new.range_constraints == program.range_constraints
    assert new.graph_signature.user_inputs == program.graph_signature.user_inputs
    assert new.graph_signature.parameters == program.graph_signature.parameters
    assert new.graph_signature.buffers == program.graph_signature.buffers


@every_program
def test_weights_are_parameters_over_the_old_storage(name: str, kind: str) -> None:
    program = exported(made(name), kind)
    result = rewrite(program, to=OTHER[name])
    new = result.module.state_dict
    assert list(new) == list(program.state_dict)
    shapes = {move.name: move.shape(result.plan.to) for move in result.plan.moves}
    assert {f"{site}.weight" for site in HEADS[name]} <= set(shapes)
    for key, old in program.state_dict.items():
        assert type(new[key]) is type(old)
        assert new[key].untyped_storage().data_ptr() == old.untyped_storage().data_ptr()
        assert tuple(new[key].shape) == shapes.get(key, tuple(old.shape))
    placeholders = {node.name: node for node in result.module.graph.nodes if node.op == "placeholder"}
    for node_name, key in result.module.graph_signature.inputs_to_parameters.items():
        assert placeholders[node_name].meta["val"].shape == new[key].shape
        assert not any("view" in str(user.target) for user in placeholders[node_name].users)


@every_program
def test_back_is_the_same_program(name: str, kind: str) -> None:
    program = exported(made(name), kind)
    back = rewrite(
        rewrite(program, to=OTHER[name]).module, to="conv" if OTHER[name] == "linear" else "linear"
    )
    assert nodes(back.module) == nodes(program)
    assert back.module.graph_signature == program.graph_signature
    for key, old in program.state_dict.items():
        assert torch.equal(back.module.state_dict[key], old)
        assert back.module.state_dict[key].data_ptr() == old.data_ptr()


@every_program
def test_what_follows_takes_the_rewritten_program(name: str, kind: str) -> None:
    """Saved and loaded, decomposed once more, exported again, rewritten back after loading."""
    model = made(name)
    new = rewrite(exported(model, kind), to=OTHER[name]).module
    file = io.BytesIO()
    torch.export.save(new, file)
    file.seek(0)
    loaded = torch.export.load(file)
    again = torch.export.export(new.module(), (image(2),), dynamic_shapes={"x": {0: Dim("batch", min=1)}})
    back = rewrite(loaded, to="conv" if OTHER[name] == "linear" else "linear").module
    for follower in (loaded, new.run_decompositions(), again, back):
        for batch in BATCHES:
            assert_equal(model, follower.module(), batch)


@every_program
def test_the_dialect_stays(name: str, kind: str) -> None:
    found = targets(rewrite(exported(made(name), kind), to=OTHER[name]).module)
    assert all(target.startswith(("aten.", "<built-in function getitem")) for target in found)
    expected = {
        ("training", "conv"): "aten.conv2d.default",
        ("core", "conv"): "aten.convolution.default",
        ("training", "linear"): "aten.linear.default",
        ("core", "linear"): "aten.addmm.default",
    }
    assert expected[kind, OTHER[name]] in found
    if kind == "core":
        assert not found & {"aten.linear.default", "aten.conv2d.default", "aten.flatten.using_ints"}


@every_program
def test_every_value_is_what_running_gives(name: str, kind: str) -> None:
    new = rewrite(exported(made(name), kind), to=OTHER[name]).module
    module = new.module()

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and "val" in n.meta:
                expected = [extent if isinstance(extent, int) else 5 for extent in n.meta["val"].shape]
                assert list(value.shape) == expected, n.name
            return value

    Recorder(module).run(image(5))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["training", "core"])
@pytest.mark.parametrize("name", MODELS)
def test_static_shapes(name: str, kind: str, batch: int) -> None:
    model = made(name)
    result = rewrite(exported(model, kind, static=batch), to=OTHER[name])
    assert len(result.report.rewrites) == len(HEADS[name])
    assert_equal(model, result.module.module(), batch)


def test_a_mutated_buffer_stays_mutated() -> None:
    """Batch norm in train mode writes its statistics; the program says so in its signature."""
    model = made("two_linears").train()
    model.drop.p = 0.0
    program = exported(model)
    new = rewrite(program, to="conv").module
    assert new.graph_signature.buffers_to_mutate == program.graph_signature.buffers_to_mutate
    ours, theirs = new.module(), program.module()
    assert_equal(theirs, ours, 5)
    running = dict(ours.named_buffers())["stem.1.running_mean"]
    assert torch.allclose(running, dict(theirs.named_buffers())["stem.1.running_mean"])
    assert running.abs().max() > 0


def test_the_callers_program_gets_no_guards() -> None:
    """Computing shapes for the new nodes must not narrow the batch that the program takes."""
    program = exported(made("two_linears"), "core")
    rewrite(program, to="conv")
    module = program.module()
    assert_equal(made("two_linears"), module, 40)


def test_tied_parameters_stay_tied() -> None:
    new = rewrite(exported(made("held")), to="conv").module
    assert new.state_dict["first.weight"] is new.state_dict["second.weight"]


def test_sites_of_a_program() -> None:
    found = find_sites(exported(made("two_linears"), "core"))
    assert [(site.name, site.kernel_size) for site in found.sites] == [("hidden", (1, 1)), ("head", (1, 1))]
    assert found.sites[0].source is not None
    assert found.sites[0].source.startswith("test_program.py:")


def test_a_program_without_a_pool_comes_back_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double()
    program = torch.export.export(model, (image(2),))
    result = rewrite(program, to="conv")
    assert [str(miss.code) for miss in result.report.misses] == ["NOT_POOLED"]
    assert nodes(result.module) == nodes(program)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_a_script_module_is_refused_clearly() -> None:
    with pytest.raises(InputError, match="TorchScript"):
        rewrite(torch.jit.trace(made("two_linears").float(), image(2).float()), to="conv")
