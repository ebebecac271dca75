"""certify: good pairs are proved, broken ones are refused, with the layer that says why."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.export import Dim
from torch.nn.modules.module import register_module_forward_pre_hook

from fxexport import Status, Verdict, certify, export_onnx
from fxexport.certificate import Certifier
from fxexport.untrusted.programs import as_module, batches_within
from fxpasses import rewrite
from fxpasses.errors import CheckError, ProviderError
from fxpasses.plan import WeightPlan
from fxpasses.report import Form
from fxpasses.weights.move import WeightMove
from tests.fxexport.pairs import (
    DAMAGES,
    ConvHead,
    Small,
    converted,
    damaged,
    last_head,
    small_pair,
    zoo_model,
)

ZOO = ["efficientnet_b0", "mobilenet_v3_small", "googlenet", "resnet18"]


class Zoo:
    """A default-initialised model and its convolution form, and files of both, each made once."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model, self.folder = zoo_model(name), folder
        self.conv = converted(self.model)
        self.certifier = Certifier(inputs())

    @functools.cached_property
    def linear_file(self) -> Path:
        return export_onnx(self.model, inputs(1), self.folder / "linear.onnx")

    @functools.cached_property
    def conv_file(self) -> Path:
        return export_onnx(self.conv, inputs(1), self.folder / "conv.onnx")


@pytest.fixture(scope="module", params=ZOO)
def zoo(request, tmp_path_factory):
    return Zoo(request.param, tmp_path_factory.mktemp(request.param))


def inputs(samples: int = 8, size: int = 64) -> torch.Tensor:
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_good_pair_of_modules_is_proved(zoo):
    certificate = zoo.certifier.certify(zoo.model, zoo.conv)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert [layer.status for layer in certificate.layers] == [Status.PROVED] * 3 + [Status.HELD] * 2
    assert certificate.providers == ("eager",)


def test_a_good_pair_of_files_is_proved(zoo):
    certificate = certify(zoo.linear_file, zoo.conv_file)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    (record,) = certificate.statistics
    assert record.batches == (1, 2, 5)
    assert record.values == 8000
    assert record.max_ratio is not None
    assert 0 < record.max_ratio <= 1
    assert record.provider == "cpu"


@pytest.mark.parametrize(
    ("zoo", "kind"),
    # a head is a head: the smallest damage is seen behind every backbone, the others behind one
    [*((name, "one_ulp") for name in ZOO), *(("resnet18", kind) for kind in DAMAGES if kind != "one_ulp")],
    indirect=["zoo"],
)
def test_damaged_modules_are_broken(zoo, kind):
    if kind == "no_bias" and not last_head(zoo.conv).bias.any():
        pytest.skip("the bias of this model is zero: dropping it changes nothing")
    certificate = zoo.certifier.certify(zoo.model, damaged(zoo.conv, kind))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.weights.status is Status.FAILED
    assert certificate.reason.startswith("weights: ")
    assert certificate.weights.failures[0].index is not None


def test_damaged_files_are_broken(zoo, tmp_path):
    proto = onnx.load(zoo.conv_file)
    (weight,) = (t for t in proto.graph.initializer if t.dims[:1] == [1000] and len(t.dims) == 4)
    numbers = numpy_helper.to_array(weight).copy()
    numbers.reshape(-1)[5] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    onnx.save(proto, bad := tmp_path / "bad.onnx")
    assert certify(zoo.linear_file, bad).verdict is Verdict.BROKEN
    assert zoo.certifier.certify(zoo.model, bad).verdict is Verdict.BROKEN


def test_a_module_against_a_file(tmp_path):
    model, conv = small_pair()
    path = export_onnx(conv, inputs(1, 9), tmp_path / "conv.onnx")
    certificate = certify(model, path, inputs(8, 9))
    assert certificate.verdict is Verdict.PROVED
    assert certificate.backbone.status is Status.PROVED
    assert "identities turn one into the other" in certificate.reason
    assert certificate.wiring.status is Status.PROVED
    assert certificate.statistics[0].provider == "eager/cpu"


class Two(nn.Module):
    """Two linears with an activation between, over a 3×3 grid."""

    def __init__(self, activation: nn.Module | None = None, form: str = "linear") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 4, 3)
        first, second = nn.Linear(36, 16), nn.Linear(16, 16)
        self.act = nn.ReLU() if activation is None else activation
        is_conv = form == "conv"
        self.first = ConvHead(first, 4, (3, 3)) if is_conv else nn.Sequential(nn.Flatten(), first)
        self.second = ConvHead(second, 16, (1, 1)) if is_conv else second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.act(self.first(torch.tanh(self.features(x)))))


def test_a_grid_and_two_sites_are_proved(tmp_path):
    x = inputs(8, 5)
    assert certify(Two(), Two(form="conv"), x).verdict is Verdict.PROVED
    files = [export_onnx(Two(form=form), x[:1], tmp_path / f"{form}.onnx") for form in ("linear", "conv")]
    certificate = certify(*files)
    assert certificate.verdict is Verdict.PROVED
    assert len(certificate.heads) == 2


def test_a_dropped_activation_is_refused():
    certificate = certify(Two(), Two(nn.Identity(), form="conv"), inputs(8, 5))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.rounding.status is Status.FAILED


def test_a_transposed_square_weight_is_refused():
    broken = Two(form="conv")
    with torch.no_grad():
        broken.second.conv.weight.copy_(broken.second.conv.weight.transpose(0, 1).clone())
    assert certify(Two(), broken, inputs(8, 5)).verdict is Verdict.BROKEN


def test_the_order_of_a_grid_matters():
    broken = Two(form="conv")
    with torch.no_grad():
        weight = broken.first.conv.weight
        weight.copy_(weight.reshape(16, 3, 3, 4).movedim(-1, 1).clone())
    assert certify(Two(), broken, inputs(8, 5)).verdict is Verdict.BROKEN


def test_channels_last_order_is_understood():
    class Last(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.act(self.first(torch.tanh(self.features(x)).permute(0, 2, 3, 1))))

    last, conv = Last(), Two(form="conv")
    with torch.no_grad():
        weight = last.first[1].weight
        conv.first.conv.weight.copy_(weight.view(16, 3, 3, 4).movedim(-1, 1))
    assert certify(last, conv, inputs(8, 5)).verdict is Verdict.PROVED
    with torch.no_grad():
        conv.first.conv.weight.copy_(weight.view(16, 4, 3, 3))
    assert certify(last, conv, inputs(8, 5)).verdict is Verdict.BROKEN


def test_a_changed_backbone_weight_is_refused(tmp_path):
    model, conv = small_pair()
    with torch.no_grad():
        conv.features.weight[0, 0, 0, 0] *= 1.01
    certificate = certify(model, conv, inputs(8, 9))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.backbone.failures[0].index == (0, 0, 0, 0)
    path = export_onnx(conv, inputs(1, 9), tmp_path / "conv.onnx")
    certificate = certify(model, path, inputs(8, 9))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.backbone.failures[0].index == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ("a channel", Verdict.AGREES),
        ("a channel and biases", Verdict.AGREES),
        ("biases", Verdict.BROKEN),
        ("one weight", Verdict.BROKEN),
        ("a channel of the head", Verdict.BROKEN),
        ("a channel, further", Verdict.BROKEN),
    ],
)
def test_weights_that_may_be_two_folds_of_the_same_norm_agree(change, verdict):
    """As two exporters write them: a factor of a channel is rounded otherwise, and nothing says of what."""
    model, _ = small_pair()
    other = copy.deepcopy(model)
    with torch.no_grad():
        if change.startswith("a channel"):
            weight = other.fc.weight if change.endswith("head") else other.features.weight
            weight[1] *= 1 + 2 ** (-18 if change.endswith("further") else -22)
        if change.endswith("biases"):
            other.features.bias[1:] *= 1 + 2**-23
        if change == "one weight":
            other.features.weight[1, 0, 0, 0] *= 1 + 2**-22
    assert certify(model, other, inputs(8, 9)).verdict is verdict


def test_a_sum_for_a_mean_is_refused():
    model, _ = small_pair()
    wrong = Small(lambda x: x.sum((2, 3)))
    wrong.load_state_dict(model.state_dict())
    assert certify(model, wrong, inputs(8, 9)).verdict is Verdict.BROKEN


def test_equal_nan_is_no_evidence():
    model, conv = small_pair()
    x = inputs(8, 9)
    x[3] = torch.nan
    certificate = certify(model, conv, x)
    assert certificate.verdict is Verdict.INCONCLUSIVE
    assert "no evidence" in certificate.reason
    assert certificate.statistics[0].non_finite == 5
    json.dumps(certificate.to_dict(), allow_nan=False)


def test_nan_in_one_model_is_a_failure():
    model, conv = small_pair()
    with torch.no_grad():
        conv.fc.conv.bias[1] = torch.nan
    certificate = certify(model, conv, inputs(8, 9))
    assert certificate.verdict is Verdict.BROKEN
    json.dumps(certificate.to_dict(), allow_nan=False)


def test_comparing_nothing_is_an_error(tmp_path):
    model, conv = small_pair()
    with pytest.raises(CheckError, match="shape of their inputs"):
        certify(model, conv)
    with pytest.raises(CheckError, match="no samples"):
        certify(model, conv, torch.zeros(0, 3, 9, 9))
    with pytest.raises(CheckError, match="no provider"):
        certify(model, conv, inputs(1, 9), providers=())
    with pytest.raises(CheckError, match="no such file"):
        certify(tmp_path / "missing.onnx", conv)
    with pytest.raises(CheckError, match=r"neither a module nor an \.onnx file"):
        certify(model, tmp_path / "model.pt", inputs(1, 9))


def renamed(path, target, more=False):
    """A copy of a file with another name for its output, and perhaps one output more."""
    proto = onnx.load(path)
    proto.graph.output[0].name = "scores"
    proto.graph.node[-1].output[0] = "scores"
    if more:
        proto.graph.output.append(helper.make_empty_tensor_value_info(proto.graph.node[0].output[0]))
    onnx.save(proto, target)
    return target


def test_outputs_of_other_names_are_paired_by_position(tmp_path):
    model, conv = small_pair()
    good = export_onnx(model, inputs(1, 9), tmp_path / "good.onnx")
    other = renamed(export_onnx(conv, inputs(1, 9), tmp_path / "conv.onnx"), tmp_path / "other.onnx")
    certificate = certify(good, other)
    assert certificate.is_accepted
    assert "outputs are paired by their positions: 'logits' with 'scores'" in certificate.scope


def test_another_number_of_outputs_is_an_error(tmp_path):
    model, _ = small_pair()
    good = export_onnx(model, inputs(1, 9), tmp_path / "good.onnx")
    with pytest.raises(CheckError, match="output 'logits' is missing"):
        certify(good, renamed(good, tmp_path / "other.onnx", more=True))


def test_a_file_of_one_batch_is_certified_at_that_batch(tmp_path):
    model, conv = small_pair()
    good = export_onnx(model, inputs(1, 9), tmp_path / "good.onnx")
    fixed = export_onnx(conv, inputs(2, 9), tmp_path / "fixed.onnx", dynamic_batch=False)
    for reference in (good, model):
        certificate = certify(reference, fixed, inputs(8, 9))
        assert certificate.is_accepted, certificate.reason
        assert certificate.statistics[0].batches == (2,)
        assert "the candidate takes batches of 2 alone" in certificate.scope
    three = export_onnx(conv, inputs(3, 9), tmp_path / "three.onnx", dynamic_batch=False)
    with pytest.raises(CheckError, match="no batch size in common"):
        certify(three, fixed)


def baked(path, target):
    """A copy of a file that declares a free batch, and reshapes to a batch of 1."""
    proto = onnx.load(path)
    flatten = next(node for node in proto.graph.node if node.op_type == "Gemm")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "baked"))
    proto.graph.node.insert(
        len(proto.graph.node) - 1, helper.make_node("Reshape", [flatten.input[0], "baked"], ["one"])
    )
    flatten.input[0] = "one"
    onnx.save(proto, target)
    return target


def test_a_batch_that_a_file_hides_is_seen(tmp_path):
    model, _ = small_pair()
    good = export_onnx(model, inputs(1, 9), tmp_path / "good.onnx")
    one = baked(good, tmp_path / "one.onnx")
    certificate = certify(good, one)
    assert certificate.verdict is Verdict.BROKEN
    assert "does not run at batch 2" in certificate.reason
    certificate = certify(one, one)
    assert certificate.is_accepted, certificate.reason
    assert "the reference runs on batches of 1 alone, whatever it declares" in certificate.scope


def test_an_unknown_provider_is_an_error(tmp_path):
    model, _ = small_pair()
    good = export_onnx(model, inputs(1, 9), tmp_path / "good.onnx")
    with pytest.raises(ProviderError, match="did you mean 'cpu'"):
        certify(good, good, providers=("cup",))
    with pytest.raises(ProviderError, match="did you mean 'cpu'"):
        certify(model, model, inputs(1, 9), providers=("cup",))


@pytest.fixture(scope="module")
def pooled():
    """A model with squeeze-excite, the same with all its sites as Linear, and a certifier of both."""
    model = zoo_model("mobilenet_v3_small")
    return model, rewrite(model, to="linear", scope="pooled").module, Certifier(inputs())


def test_side_branches_are_proved(pooled):
    model, other, certifier = pooled
    certificate = certifier.certify(model, other)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert len(certificate.heads) == 20


def test_one_weight_of_a_side_branch_is_broken(pooled):
    model, other, certifier = pooled
    bad = copy.deepcopy(other)
    with torch.no_grad():
        bad.get_parameter("features.4.block.2.fc1.weight").view(-1)[3] *= 1.01
    certificate = certifier.certify(model, bad)
    assert certificate.verdict is Verdict.BROKEN
    # which layer sees it first depends on how the processor rounds; that it is named does not
    failures = (*certificate.backbone.failures, *certificate.wiring.failures)
    assert failures[0].name == "features.4.block.2.fc1.weight"
    assert "'features.4.block.2.fc1.weight'[" in certificate.reason


@pytest.mark.parametrize("zoo", ["efficientnet_b0"], indirect=True)
def test_stochastic_depth_is_no_difference(zoo):
    certificate = zoo.certifier.certify(zoo.model, rewrite(zoo.model, to="conv").module)
    assert certificate.verdict is Verdict.PROVED


@pytest.mark.parametrize("is_decomposed", [False, True])
def test_graphs_of_aten_operators(is_decomposed):
    model, conv = small_pair()
    x = inputs(8, 9)
    graphs = []
    for module in (model, conv):
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(module, (x[:2],), dynamic_shapes=(batch,))
        graphs.append((program.run_decompositions() if is_decomposed else program).module())
    certificate = certify(*graphs, x)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert certify(model, graphs[1], x).is_accepted
    with torch.no_grad():
        dict(graphs[1].named_parameters())["fc.conv.weight"].view(-1)[1] *= 1.01
    assert certify(*graphs, x).verdict is Verdict.BROKEN


def plan(conv_shape: tuple[int, ...]) -> WeightPlan:
    move = WeightMove(name="fc.weight", linear_shape=(5, 8), conv_shape=conv_shape)
    return WeightPlan(to=Form.CONV, moves=(move,))


def test_a_plan_is_checked_by_name():
    model, conv = small_pair()

    class Named(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(self.fc(torch.relu(self.features(x)).mean((2, 3), keepdim=True)), 1)

    named = Named(lambda x: x)
    named.fc = conv.fc.conv
    named.features = conv.features
    x = inputs(8, 9)
    certificate = certify(model, named.eval(), x, plan=plan((5, 8, 1, 1)))
    assert certificate.verdict is Verdict.PROVED
    certificate = certify(model, conv, x, plan=plan((5, 8, 1, 1)))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.weights.failures[0].name == "fc.weight"


def test_the_same_certificate_twice(tmp_path):
    model, conv = small_pair()
    files = [export_onnx(m, inputs(1, 9), tmp_path / f"{i}.onnx") for i, m in enumerate((model, conv))]
    assert certify(*files) == certify(*files)
    assert certify(*files).to_dict()["schema_version"] == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        certify(*files).seed = 1


def test_no_head_and_the_same_graph(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert certify(net, net, inputs(2, 9)).verdict is Verdict.PROVED
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6())
    other.load_state_dict(net.state_dict())
    certificate = certify(net, other, inputs(2, 9))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.backbone.failures[0].name == "1"


def test_training_flags_come_back():
    model, conv = small_pair()
    model.train()
    conv.features.train()
    certify(model, conv, inputs(2, 9))
    assert model.training
    assert model.fc.training
    assert conv.features.training
    assert not conv.training


def swap_initializers(path, target, first, second):
    """Exchanges the contents of two initialisers of the same shape."""
    proto = onnx.load(path)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    a, b = (numpy_helper.to_array(stored[name]).copy() for name in (first, second))
    stored[first].CopyFrom(numpy_helper.from_array(b, first))
    stored[second].CopyFrom(numpy_helper.from_array(a, second))
    onnx.save(proto, target)


def test_a_swapped_pair_of_heads_is_refused(tmp_path):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = x.mean((2, 3))
            return self.a(pooled), self.b(pooled)

    good = export_onnx(Heads(), inputs(1, 9), tmp_path / "good.onnx")
    swap_initializers(good, tmp_path / "bad.onnx", "a.weight", "b.weight")
    assert certify(good, good).verdict is Verdict.PROVED
    assert certify(good, tmp_path / "bad.onnx").verdict is Verdict.BROKEN


def test_flips_are_listed_with_their_margins():
    model, conv = small_pair()
    with torch.no_grad():
        conv.fc.conv.bias[torch.arange(5)] += torch.tensor([3.0, -3.0, 3.0, -3.0, 0.0])
    certificate = certify(model, conv, inputs(8, 9))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.flips
    assert all(flip.margin >= 0 for flip in certificate.flips)
    assert np.isclose(certificate.statistics[0].top1_agreement, 1 - len(certificate.flips) / 8)


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        (Dim("batch", min=1), (1, 2, 5)),
        (Dim("batch", min=1, max=4), (1, 2, 3)),
        (Dim("batch", min=3, max=4), (3, 4)),
        (2 * Dim("half", min=1, max=9), (4, 6, 8)),
    ],
    ids=["any", "to four", "three or four", "even"],
)
def test_batches_are_those_that_a_program_takes(batch: object, sizes: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    program = torch.export.export(model.eval(), (torch.randn(4, 3, 6, 6),), dynamic_shapes=({0: batch},))
    assert batches_within(as_module(program), (1, 2, 5)) == sizes
    found = certify(program, rewrite(program, to="conv").module, torch.randn(8, 3, 6, 6))
    assert found.verdict is Verdict.PROVED
    assert found.statistics[0].batches == sizes


def test_no_module_runs_twice_on_the_same_samples_but_to_see_whether_it_repeats():
    pair = [Small(lambda x: x.mean((2, 3))).eval() for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    ran = mock.Mock(return_value=None)
    with register_module_forward_pre_hook(ran):
        assert certify(pair[0], pair[1], inputs()).verdict is Verdict.PROVED
    given = [x for call in ran.call_args_list if isinstance(call.args[0], nn.Conv2d) for x in call.args[1]]
    rows = [len(x) for x in given if type(x) is torch.Tensor and x.shape[2:] == (64, 64)]
    # each: 2 for shapes in its graph, 2 that are read, 2 with gradients, 2 in another layout, 1 alone; the
    # reference's graph the batches of 1, 2 and 5, and it itself those of 1 and 2; the candidate, of which no
    # graph runs, those three and its smallest once more
    assert Counter(rows) == {1: 6, 2: 11, 5: 2}


def test_a_module_does_not_run_again_beside_its_files(tmp_path):
    model = Small(lambda x: x.mean((2, 3))).eval()
    file = export_onnx(model, inputs(1), tmp_path / "a.onnx")
    certifier, ran = Certifier(inputs(), providers=("cpu",)), mock.Mock(return_value=None)
    assert certifier.certify(model, model).verdict is Verdict.PROVED
    with register_module_forward_pre_hook(ran):
        assert certifier.certify(model, file).verdict is Verdict.PROVED
    given = [x for call in ran.call_args_list if isinstance(call.args[0], nn.Conv2d) for x in call.args[1]]
    assert [x for x in given if type(x) is torch.Tensor and x.shape[2:] == (64, 64)] == []


def test_a_site_that_cannot_take_what_it_is_given_is_none():
    """Sizes are free in the file, so that nothing but a run, and the samples, tell that they do not fit."""
    bodies = "p = GlobalAveragePool (x) f = Flatten (p)", "f = Flatten (x)"
    files = []
    for body in bodies:
        text = f"g (float[n,4,h,w] x) => (float[n,5] y) {{ {body} y = Gemm <transB = 1> (f, v) }}"
        files.append(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'))
        files[-1].graph.initializer.append(numpy_helper.from_array(np.ones((5, 4), np.float32), "v"))
    certificate = certify(*files, torch.randn(8, 4, 5, 7))
    assert certificate.verdict is Verdict.BROKEN
    assert "does not run" in certificate.reason


class Written(Small):
    """What the head reads, or what it gives, is written to through a view after it was computed."""

    def __init__(self, *, is_result: bool) -> None:
        super().__init__(lambda x: x.mean((2, 3)))
        self.is_result = is_result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.relu(self.features(x))
        if not self.is_result:
            found.view(x.size(0), -1).mul_(3)
        logits = self.fc(self.pool(found))
        if self.is_result:
            logits.view(-1).mul_(3)
        return logits


@pytest.mark.parametrize("is_result", [False, True])
def test_what_is_written_to_after_it_was_computed_is_not_what_was_computed(is_result):
    """Such a model was broken beside itself: what its convolution gave was taken for what the head reads."""
    model = Written(is_result=is_result).eval()
    certificate = certify(model, copy.deepcopy(model), inputs(size=9))
    assert certificate.verdict is Verdict.PROVED, certificate.reason


class Narrow(Small):
    """A model that refuses other types in a way of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise KeyError(x.dtype)
        return super().forward(x)


def test_a_model_that_refuses_float64_is_judged_without_it():
    """It was an internal error where the two differ, which is where float64 is asked."""
    model = Narrow(lambda x: x.mean((2, 3))).eval()
    other = copy.deepcopy(model)
    other.features.weight.data *= 1.5
    assert certify(model, other, inputs(size=9)).verdict is Verdict.BROKEN


class Beside(nn.Module):
    """A classifier that gives something else beside its scores."""

    def __init__(self, more: object) -> None:
        super().__init__()
        self.fc, self.more = nn.Linear(4, 3), more

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, object]:
        return self.fc(x), self.more


def test_what_is_no_tensor_is_said_not_to_be_compared() -> None:
    torch.manual_seed(0)
    first, second = Beside(None).eval(), Beside(None).eval()
    second.load_state_dict(first.state_dict())
    certificate = certify(first, second, (torch.randn(4, 4),))
    assert "what the reference gives beside tensors is not compared: output_1" in certificate.scope
    second.more = torch.zeros(4, 1)
    with pytest.raises(CheckError, match="as many outputs"):
        certify(first, second, (torch.randn(4, 4),))
