"""Modules that symbolic tracing cannot trace are rewritten by way of torch.export, and the report says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxpasses import InputError, TraceError, find_sites, rewrite
from fxpasses.graph.export_trace import export_program
from fxpasses.graph.quiet import quiet_failure
from fxpasses.private_names import FUNCTORCH
from zoo.untraceable import MODELS, BranchesOnShape, Head, HoldsMuch, image, inputs, leaves, made

TOLERANCE = 1e-12
# what torch.export says of a tensor attribute that is no buffer, and Dynamo of what torch.cond reads
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tensor attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]
every_model = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


@every_model
@pytest.mark.parametrize("example_batch", [1, 2])
def test_rewritten_by_way_of_export(kind: type[nn.Module], example_batch: int) -> None:
    model = made(kind)
    result = rewrite(model, to="conv", example_inputs=inputs(model, example_batch))
    assert result.report.trace.method == "export"
    assert "symbolically" in (result.report.trace.reason or "")
    assert result.report.trace.notes == ()
    wanted = {"fc", "second"} if isinstance(model, HoldsMuch) else {"fc"}
    assert {entry.site.name for entry in result.report.rewrites} == wanted
    for batch in (1, 2, 5):
        given = inputs(model, batch)
        for expected, found in zip(leaves(model(*given)), leaves(result.module(*given)), strict=True):
            assert (expected - found).abs().max() <= TOLERANCE * expected.abs().max()


@every_model
def test_names_storage_and_the_way_back(kind: type[nn.Module]) -> None:
    model = made(kind)
    there = rewrite(model, to="conv", example_inputs=inputs(model, 2))
    assert list(there.module.state_dict()) == list(model.state_dict())
    assert there.module.get_parameter("fc.weight").data_ptr() == model.fc.weight.data_ptr()
    assert tuple(there.module.get_parameter("fc.weight").shape) == (5, 6, 1, 1)
    there.module.load_state_dict(there.plan.apply(model.state_dict()))
    back = rewrite(there.module, to="linear").module
    given = inputs(model, 5)
    for expected, found in zip(leaves(model(*given)), leaves(back(*given)), strict=True):
        assert torch.equal(expected, found)


def test_tied_and_unsaved_tensors_and_a_count_of_calls_survive() -> None:
    model = made(HoldsMuch)
    module = rewrite(model, to="conv", example_inputs=image(2)).module
    assert module.get_parameter("fc.weight") is module.get_parameter("second.weight")
    assert "scale" not in module.state_dict()
    assert dict(module.named_buffers())["scale"].data_ptr() == model.scale.data_ptr()
    before = model.calls.item()
    module(image(5))
    module(image(1))
    assert dict(module.named_buffers())["calls"].item() == before + 2


class Trained(Head):
    """Batch norm in the stem and in the head, and a branch on the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.head_norm = nn.BatchNorm1d(6)
        self.hidden = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x if x.shape[1] == 3 else x[:, :3]))
        return self.fc(torch.relu(self.head_norm(self.hidden(x.mean([2, 3])))))


def test_a_model_in_train_mode_goes_on_training() -> None:
    """Logits, gradients and statistics of a step are those of the model."""
    reference, model = made(Trained, train=True), made(Trained, train=True)
    result = rewrite(model, to="conv", example_inputs=image(4))
    assert (result.report.trace.method, result.report.trace.mode) == ("export", "train")
    assert {entry.site.name for entry in result.report.rewrites} == {"hidden", "fc"}
    assert result.report.misses == ()
    for batch in (3, 6):
        for one in (reference, result.module):
            one.zero_grad()
            (one(image(batch)) * torch.arange(5.0, dtype=torch.float64)).sum().backward()
    theirs, ours = dict(reference.named_parameters()), dict(result.module.named_parameters())
    for name, parameter in theirs.items():
        if not name.startswith("unused"):
            assert parameter.grad is not None
            gradient = ours[name].grad.reshape(parameter.shape)
            assert (gradient - parameter.grad).abs().max() <= TOLERANCE * max(1, parameter.grad.abs().max())
    buffers = dict(result.module.named_buffers())
    for name, buffer in reference.named_buffers():
        assert torch.allclose(buffers[name].to(buffer), buffer, atol=TOLERANCE), name


class Rest(Head):
    """Takes any number of inputs and of options, as a wrapper does."""

    def forward(self, x: Tensor, *rest: Tensor, **options: Any) -> Tensor:
        for other in rest:
            x = x + other
        return self.logits(x)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_batch_of_a_model_that_takes_the_rest_is_dynamic(count: int) -> None:
    result = rewrite(made(Rest), to="conv", example_inputs=(image(2),) * count, way="export")
    assert result.report.trace.notes == ()
    inputs = (image(5),) * count
    assert torch.allclose(result.module(*inputs), made(Rest)(*inputs))


def test_without_example_inputs_the_error_says_so() -> None:
    with pytest.raises(TraceError, match="example_inputs"):
        rewrite(made(BranchesOnShape), to="conv")


def test_export_without_example_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="example inputs"):
        rewrite(made(BranchesOnShape), to="conv", way="export")


def test_symbolic_alone_does_not_fall_back() -> None:
    model = made(BranchesOnShape)
    with pytest.raises(TraceError, match="symbolically"):
        rewrite(model, to="conv", way="symbolic", example_inputs=inputs(model, 2))


def test_an_unknown_way_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'export'"):
        rewrite(made(BranchesOnShape), to="conv", way="exprot")


def test_export_can_be_asked_for() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).double().eval()
    found = find_sites(model, example_inputs=image(2), way="export")
    assert found.trace.method == "export"
    assert found.trace.reason == "asked for"
    assert [site.name for site in found.sites] == ["2"]


def test_a_model_that_fixes_its_batch_says_so() -> None:
    class Fixed(Head):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[0] == 2
            return self.logits(x)

    model = made(Fixed)
    result = rewrite(model, to="conv", example_inputs=image(2))
    assert "batch" in result.report.trace.notes[0]
    assert (result.module(image(2)) - model(image(2))).abs().max() <= TOLERANCE


def test_control_flow_on_data_is_an_error_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    class OnData(Head):
        def forward(self, x: Tensor) -> Tensor:
            return self.logits(x + 1 if x.sum() > 0 else x)

    with pytest.raises(TraceError, match="data-dependent"):
        rewrite(made(OnData), to="conv", example_inputs=image(2))
    assert capfd.readouterr() == ("", "")


class KeyedBySize(Head):
    """Keeps something for each size of its input, which no free extent can be."""

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.logits(x) * {tuple(x.shape): 1.0}[tuple(x.shape)]


@pytest.mark.parametrize("example_batch", [1, 3])
def test_what_takes_no_free_batch_is_recorded_at_that_of_the_example(example_batch: int) -> None:
    model = made(KeyedBySize)
    result = rewrite(model, to="conv", example_inputs=(image(example_batch),))
    assert result.report.trace.notes == ("torch.export fixed the batch size: the graph does not take others",)
    given = image(example_batch)
    assert (result.module(given) - model(given)).abs().max() <= TOLERANCE


class OfEachSample(Head):
    """Has its own layers for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return torch.vmap(lambda row: self.fc(row.mean((1, 2))))(self.stem(x))


def test_what_is_done_for_each_sample_is_a_graph_of_the_batch() -> None:
    model = made(OfEachSample)
    program, _ = export_program(model, (image(2),), "")
    assert not [node for node in program.graph.nodes if "vmap" in str(node.target)]
    assert (program.module()(image(5)) - model(image(5))).abs().max() <= TOLERANCE


def test_what_fails_for_each_sample_leaves_nothing_begun() -> None:
    def failing() -> None:
        FUNCTORCH._vmap_increment_nesting(2, "error")
        torch.randn(1)

    with pytest.raises(RuntimeError, match="randomness"), quiet_failure():
        failing()
    torch.randn(1)


class Guarded(nn.Module):
    """A part that computes in full precision, which torch.export keeps as a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.conv(x).relu() * 2
        return self.fc(self.first(x.mean((2, 3))).relu())


def test_what_torch_keeps_as_a_graph_of_its_own_runs_where_shapes_are_asked_for() -> None:
    model, x = Guarded().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for to in ("fcn", "conv"):
        result = rewrite(model, to=to, example_inputs=x, way="export")
        assert len(result.report.rewrites) == 2
        found = result.module(x).reshape(2, 5)
        assert (found - model(x)).abs().max() <= TOLERANCE
