"""certify in every floating type, on strict and default targets; nothing is held that was not compared."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import fxexport.certificate
from fxexport import Mode, Status, Verdict, certify, export_onnx
from fxexport.providers import Session, is_defaults
from fxexport.subjects.onnx_subject import OnnxSubject
from fxpasses import rewrite
from fxpasses.errors import ProviderError
from tests.fxexport.pairs import ConvHead, damaged, small_pair

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def images(dtype: torch.dtype = torch.float32, samples: int = 8, size: int = 9) -> torch.Tensor:
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def pair(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    model, conv = small_pair()
    return model.to(dtype), conv.to(dtype)


def exported(modules, folder, dtype=torch.float32):
    return [export_onnx(m, images(dtype, 2), folder / f"{i}.onnx") for i, m in enumerate(modules)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both forms of a small model."""
    return exported(small_pair(), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def unbounded_files(tmp_path_factory):
    """Both forms of a model that ends in an operator without a bound."""
    model = Joined(Odd()).eval()
    conv = rewrite(model, to="conv", example_inputs=images()).module
    return exported([model, conv], tmp_path_factory.mktemp("unbounded"))


def with_weights(path, target, conv):
    """A copy of a file in which the head has the weights of ``conv``."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("fc."):
            value = conv.state_dict()[tensor.name].numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.reshape(tuple(tensor.dims)), tensor.name))
    onnx.save(proto, target)
    return target


@pytest.mark.parametrize("name", HALF)
def test_modules_in_half_precision_are_proved(name):
    certificate = certify(*pair(HALF[name]), images(HALF[name]))
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert certificate.wiring.status is Status.PROVED
    assert certificate.statistics[0].precision == name


def test_files_in_fp16_are_proved(tmp_path):
    modules = pair(torch.float16)
    files = exported(modules, tmp_path, torch.float16)
    certificate = certify(*files)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    certificate = certify(modules[0], files[1], images(torch.float16))
    assert certificate.is_accepted, certificate.reason
    assert certificate.statistics[0].max_ratio < 1


def test_a_file_in_bf16_needs_a_provider_that_has_kernels(tmp_path):
    files = exported(pair(torch.bfloat16), tmp_path, torch.bfloat16)
    with pytest.raises(ProviderError, match="has no kernel for a node of these types"):
        certify(*files)


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("kind", ["reversed", "swapped", "copied_row", "one_weight", "no_bias"])
def test_damage_in_half_precision_is_broken(name, kind):
    model, conv = small_pair()
    bad = damaged(conv, kind)
    if kind == "one_weight":
        with torch.no_grad():
            bad.fc.conv.weight.view(-1)[5] *= 1.05
    certificate = certify(model.to(HALF[name]), bad.to(HALF[name]), images(HALF[name]))
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.reason.startswith("weights: ")


class Deep(nn.Module):
    """Two sites with an activation between."""

    def __init__(self, activation: nn.Module, form: str = "linear") -> None:
        super().__init__()
        torch.manual_seed(0)
        first, second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.features = nn.Conv2d(3, 8, 3)
        self.first = ConvHead(first, 8, (1, 1)) if form == "conv" else first
        self.second = ConvHead(second, 16, (1, 1)) if form == "conv" else second
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.activation(self.first(self.features(x).mean((2, 3)))))


DEEP = [(nn.Hardswish, "fp32"), (nn.SiLU, "fp32"), (nn.GELU, "fp32"), (nn.ReLU, "fp16"), (nn.SiLU, "fp16")]


@pytest.mark.parametrize(("activation", "name"), DEEP)
def test_several_layers_of_a_module_and_a_file_are_bounded(activation, name, tmp_path):
    dtype = HALF.get(name, torch.float32)
    model = Deep(activation()).eval().to(dtype)
    path = export_onnx(Deep(activation(), "conv").eval().to(dtype), images(dtype, 2), tmp_path / "a.onnx")
    certificate = certify(model, path, images(dtype))
    assert certificate.is_accepted, certificate.reason
    assert 0 < certificate.statistics[0].max_ratio < 1


def test_sums_in_half_precision_do_not_excuse_a_dropped_activation():
    good, bad = Deep(nn.ReLU()).half().eval(), Deep(nn.Identity(), "conv").half().eval()
    certificate = certify(good, bad, images(torch.float16))
    assert not certificate.is_accepted, certificate.reason


class Joined(nn.Module):
    """Mean and maximum of the map, joined, as timm's ``catavgmax`` and fastai's heads have it."""

    def __init__(self, tail: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(16, 5)
        self.tail = nn.Identity() if tail is None else tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return self.tail(self.fc(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)))


class JoinedPools(Joined):
    """The same by pooling modules, on maps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        pools = nn.functional.adaptive_avg_pool2d(x, 1), nn.functional.adaptive_max_pool2d(x, 1)
        return self.tail(self.fc(torch.flatten(torch.cat(pools, dim=1), 1)))


@pytest.mark.parametrize("kind", [Joined, JoinedPools])
def test_joined_pools_of_a_module_and_a_file_are_bounded(kind, tmp_path):
    model = kind().eval()
    conv = rewrite(model, to="conv", example_inputs=images()).module
    assert certify(model, conv, images()).verdict is Verdict.PROVED
    if kind is JoinedPools and torch.__version__ < (2, 12):
        pytest.skip("this torch cannot export an adaptive max pool")
    path = export_onnx(conv, images(samples=2), tmp_path / "conv.onnx")
    certificate = certify(model, path, images())
    assert certificate.is_accepted, certificate.reason
    assert certificate.wiring.status is Status.PROVED
    assert 0 < certificate.statistics[0].max_ratio < 1


def test_joined_pools_in_the_wrong_order_are_refused(tmp_path):
    class Swapped(Joined):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.features(x)
            return self.tail(self.fc(torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1)))

    path = export_onnx(Swapped().eval(), images(samples=2), tmp_path / "swapped.onnx")
    assert not certify(Joined().eval(), path, images()).is_accepted
    assert not certify(Joined().eval(), Swapped().eval(), images()).is_accepted


def test_a_softmax_behind_the_head_is_bounded(tmp_path):
    model = Joined(nn.Softmax(dim=1)).eval()
    path = export_onnx(model, images(samples=2), tmp_path / "probabilities.onnx")
    certificate = certify(model, path, images())
    assert certificate.is_accepted, certificate.reason
    (record,) = certificate.statistics
    assert record.max_ratio is not None
    assert record.max_bound < 1e-3


class Odd(nn.Module):
    """An operator that has no bound."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, 1)


def test_an_output_without_a_bound_is_named(unbounded_files):
    certificate = certify(*unbounded_files)
    assert certificate.rounding.covered.logits == 0
    assert certificate.statistics[0].max_bound is None
    if certificate.is_accepted:
        assert "but for 'logits' without one" in certificate.reason


def test_a_candidate_without_bounded_outputs_is_tapped_itself(unbounded_files, monkeypatch):
    observed = []
    real = OnnxSubject.observe
    monkeypatch.setattr(
        OnnxSubject,
        "observe",
        lambda self, *rest: observed.append(self.name) or real(self, *rest),
    )
    certify(*unbounded_files)
    assert set(observed) == {"0.onnx", "1.onnx"}


def test_overflow_in_fp16_is_no_evidence():
    model, conv = pair(torch.float16)
    with torch.no_grad():
        for head in (model.fc, conv.fc.conv):
            head.bias[2] = 65000.0
            head.weight[2] = 0.0
            head.weight.view(5, 8)[2] = 60000.0
    certificate = certify(model, conv, images(torch.float16) * 100)
    assert certificate.verdict is Verdict.INCONCLUSIVE, certificate.reason
    assert "no evidence" in certificate.reason


def test_infinities_before_the_last_site_are_no_evidence():
    model = Deep(nn.ReLU6()).eval()
    with torch.no_grad():
        model.first.weight.fill_(3e38)
    conv = copy.deepcopy(model)
    conv.first, conv.second = ConvHead(model.first, 8, (1, 1)), ConvHead(model.second, 16, (1, 1))
    certificate = certify(model, conv, images().abs() * 100)
    assert not certificate.is_accepted
    assert "no evidence" in certificate.reason


def test_weights_of_all_sizes_in_one_head():
    model, conv = small_pair()
    with torch.no_grad():
        sizes = torch.logspace(-37, 18, 40).view(5, 8)
        model.fc.weight.mul_(sizes)
        conv.fc.conv.weight.copy_(model.fc.weight.view(5, 8, 1, 1))
    certificate = certify(model, conv, images())
    assert certificate.verdict is Verdict.PROVED, certificate.reason


def test_a_run_that_does_not_repeat_is_reported(monkeypatch, files):
    assert all(target.is_repeatable for target in certify(*files).targets)
    real = Session.run
    calls = []

    def shaky(self, inputs):
        calls.append(self)
        last = np.float32(1 + len(calls) % 2 * 2.0**-23)
        return tuple(output * last for output in real(self, inputs))

    monkeypatch.setattr(Session, "run", shaky)
    monkeypatch.setattr(OnnxSubject, "run_site", lambda self, site, *rest, **options: rest[0])
    (target,) = certify(*files).targets
    assert target.is_repeatable is False


def tf32_model(model: bytes) -> bytes:
    """The model with both operands of every product cut to TF32's 11 digits (Veltkamp's splitting)."""
    proto = onnx.load_model_from_string(model)
    proto.graph.initializer.append(helper.make_tensor("split", onnx.TensorProto.FLOAT, [], [2.0**13 + 1]))
    nodes = []
    for index, node in enumerate(proto.graph.node):
        for position in (0, 1) if node.op_type in ("Conv", "Gemm", "MatMul") else ():
            name, stem = node.input[position], f"tf32_{index}_{position}"
            nodes += [
                helper.make_node("Mul", [name, "split"], [f"{stem}_c"]),
                helper.make_node("Sub", [f"{stem}_c", name], [f"{stem}_d"]),
                helper.make_node("Sub", [f"{stem}_c", f"{stem}_d"], [stem]),
            ]
            node.input[position] = stem
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto.SerializeToString()


class Simulated(Session):
    """The CPU standing in for CUDA: TF32 with its defaults, and strict too where ``loose`` says so."""

    loose = False

    def __init__(self, model, target, weights=None, **options):
        is_loose = is_defaults(target) or (self.loose and target != "cpu")
        super().__init__(tf32_model(model) if is_loose else model, "cpu", weights, **options)


@pytest.fixture
def cuda(monkeypatch):
    kind = type("Cuda", (Simulated,), {})
    monkeypatch.setattr(fxexport.subjects.onnx_subject, "Session", kind)
    monkeypatch.setattr(fxexport.certificate, "require_provider", lambda name: name)
    return kind


def test_strict_and_default_sessions_are_both_seen(cuda, files):
    certificate = certify(*files, providers=("cuda",))
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    strict, own = certificate.targets
    assert (strict.provider, strict.mode, strict.verdict) == ("cuda", Mode.STRICT, Verdict.PROVED)
    assert (own.provider, own.mode, own.verdict) == ("cuda", Mode.DEFAULTS, Verdict.PROVED)
    assert own.wiring.status is Status.HELD
    assert "within tf32 rounding" in own.wiring.reason
    assert {(r.provider, r.precision) for r in certificate.statistics} == {
        ("cuda", "fp32"),
        ("cuda:defaults", "tf32"),
    }


def test_a_provider_that_rounds_though_it_was_asked_not_to(cuda, files):
    cuda.loose = True
    certificate = certify(*files, providers=("cpu", "cuda"))
    assert certificate.is_accepted, certificate.reason
    verdicts = [target.verdict for target in certificate.targets]
    assert verdicts == [Verdict.PROVED, Verdict.PROVED, Verdict.PROVED]
    model, _ = small_pair()
    certificate = certify(model, files[1], images(), providers=("cuda",))
    assert certificate.is_accepted, certificate.reason


def test_tf32_is_no_excuse_for_a_damaged_head(cuda, files, tmp_path):
    cuda.loose = True
    _, conv = small_pair()
    for kind in ("reversed", "swapped", "one_weight", "bfloat16"):
        bad = with_weights(files[1], tmp_path / "bad.onnx", damaged(conv, kind))
        assert certify(files[0], bad, providers=("cuda",)).verdict is Verdict.BROKEN


def test_tf32_is_no_excuse_on_a_cpu(monkeypatch, files):
    class Loose(Simulated):
        def __init__(self, model, target, weights=None, *, name=None):
            Session.__init__(self, tf32_model(model), "cpu", weights, name=name)

    monkeypatch.setattr(fxexport.subjects.onnx_subject, "Session", Loose)
    assert certify(*files).verdict is Verdict.BROKEN


def test_a_large_site_says_how_sure_it_is(monkeypatch):
    import fxexport.proof.wiring.probe_site

    monkeypatch.setattr(fxexport.proof.wiring.probe_site, "_EXHAUSTIVE_LIMIT", 0)
    certificate = certify(*small_pair(), images())
    assert certificate.verdict is Verdict.PROVED
    assert "passes with probability below" in certificate.wiring.reason


def test_the_certificate_has_a_row_for_each_target(files):
    certificate = certify(*files)
    (target,) = certificate.targets
    assert target.provider == "cpu"
    assert target.mode is Mode.STRICT
    assert target.verdict is certificate.verdict
    assert target.rounding.covered == certificate.rounding.covered
    plain = certificate.to_dict()["targets"][0]
    assert plain["mode"] == "strict"
    assert plain["wiring"]["status"] == "proved"
    assert plain["is_repeatable"] is True
