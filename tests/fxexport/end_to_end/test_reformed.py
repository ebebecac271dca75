"""Sites that changed form in the middle of a network: good pairs are proved, no single edit is accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from fxexport import Verdict, certify, export_onnx
from fxexport.certificate import Certifier
from fxexport.providers import Session
from fxexport.results import Certificate, Status
from fxpasses import rewrite
from fxpasses.errors import FxHeadError, ProviderError
from tests.fxexport.mutations.families import FAMILIES, build
from tests.fxexport.mutations.places import edits
from tests.fxexport.reformed import KINDS, Net, pair

ACCEPTED = (Verdict.PROVED, Verdict.AGREES)


def example(samples: int = 8) -> torch.Tensor:
    return torch.randn(samples, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """A model in both forms, as modules and as files."""

    model: Net
    other: Net
    files: tuple[Path, Path]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Forms]:
    made: dict[str, Forms] = {}

    def get(name: str) -> Forms:
        if name not in made:
            model, other = pair(name)
            folder = tmp_path_factory.mktemp(name)
            first, second = (
                export_onnx(module, (example(2),), folder / f"{form}.onnx")
                for form, module in (("linear", model), ("conv", other))
            )
            made[name] = Forms(model=model, other=other, files=(first, second))
        return made[name]

    return get


@pytest.mark.parametrize("name", KINDS)
def test_files_in_both_directions_are_accepted(name: str, forms: Callable[[str], Forms]) -> None:
    files = forms(name).files
    for reference, candidate in (files, files[::-1]):
        certificate = certify(reference, candidate, example())
        assert certificate.verdict is Verdict.PROVED, certificate.reason
        assert certificate.wiring.covered.probes > 2 * 8  # more than those of the head


@pytest.mark.parametrize(
    "name", ["tokens", *(pytest.param(n, marks=pytest.mark.slow) for n in KINDS if n != "tokens")]
)
def test_modules_and_files_are_proved(name: str, forms: Callable[[str], Forms]) -> None:
    found = forms(name)
    certifier = Certifier(example())
    for reference, candidate in (
        (found.model, found.other),
        (found.model, found.files[1]),
        (found.files[0], found.other),
    ):
        certificate = certifier.certify(reference, candidate)
        assert certificate.verdict is Verdict.PROVED, certificate.reason
        assert certificate.backbone.status is Status.PROVED
        assert certificate.weights.covered.parameters > 5 * 8 + 5  # more than those of the head


def outputs(proto: onnx.ModelProto) -> list[np.ndarray] | None:
    """What ONNX Runtime gives, or None where it does not run the graph."""
    try:
        session = Session(proto.SerializeToString(), "cpu", {})
        return [session.run((example(n).numpy(),))[0] for n in (1, 8)]
    except ProviderError:
        return None


def damaged(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Edits that change what the graph gives, if only in the last bit of some weight."""
    expected = outputs(proto)
    assert expected is not None
    for name, edited in edits(proto):
        found = outputs(edited)
        is_same = found is not None and all(map(np.array_equal, found, expected))
        if not is_same or name.startswith("one_ulp"):
            yield name, edited


NO_OTHER_FUNCTION = {
    "one_ulp-node_layer_norm-1": "a shift of 0 that is 1e-45 is no shift where the next site has a bias",
    "one_ulp-node_conv1d-1": "it is the bias of a key, which every score of a query gets alike",
}


SAME_FUNCTION = {
    # a shift of 1e-45 is none where the next site adds a bias; a bias of keys is added to every score alike
    "map": {"one_ulp-node_layer_norm-1"},
    "tokens": {
        "one_ulp-node_layer_norm-1",
        "one_ulp-node_layer_norm_1-1",
        "one_ulp-node_linear-0",
        "one_ulp-node_conv1d-1",
    },
    # what is added at every position alike before a softmax over positions
    "windows": {
        "one_ulp-node_linear-0",
        "skipped-node_linear-0",
        "misread-node_softmax-1",
        "one_ulp-node_conv1d-1",
        "without_bias-node_conv1d-0",
    },
}
"""Edits of the models that change numbers and no function, which is seen by reading them."""


def judged(certifier: Certifier, reference: Path, candidate: Path) -> Certificate | None:
    """None where the two cannot be compared, which is an error and no verdict."""
    try:
        return certifier.certify(reference, candidate)
    except FxHeadError:
        return None


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("map", 1),
        ("tokens", 7),
        ("windows", 7),
        ("unfold", 7),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in KINDS if name != "map"),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_no_single_edit_is_proved(
    name: str, step: int, side: int, forms: Callable[[str], Forms], tmp_path: Path
) -> None:
    files, certifier = forms(name).files, Certifier(example())
    verdicts, accepted = [], []
    for number, (kind, proto) in enumerate(damaged(onnx.load(files[side]))):
        if number % step:
            continue
        path = tmp_path / f"{kind}.onnx"
        onnx.save(proto, path)
        found = judged(certifier, files[1 - side], path)
        verdicts.append(None if found is None else found.verdict)
        accepted += [kind] if verdicts[-1] is Verdict.PROVED else []
    assert {*accepted} <= SAME_FUNCTION.get(name, set())
    assert len(verdicts) >= 10 // min(step, 3)
    assert sum(verdict is Verdict.BROKEN for verdict in verdicts) > 0.6 * len(verdicts)


@pytest.mark.parametrize("kind", ["one_ulp", "turned", "exchanged_weights", "without_bias"])
def test_a_wrong_weight_is_named(kind: str, forms: Callable[[str], Forms], tmp_path: Path) -> None:
    linear, conv = forms("map").files
    certifier, count = Certifier(example()), 0
    for name, proto in damaged(onnx.load(conv)):
        node = next((node for node in proto.graph.node if node.name and f"-{node.name}-" in name), None)
        is_site = node is not None and node.op_type == "Conv" and not _has_groups(node)
        if not name.startswith(kind) or not is_site:
            continue
        onnx.save(proto, tmp_path / f"{name}.onnx")
        certificate = certifier.certify(linear, tmp_path / f"{name}.onnx")
        assert certificate.verdict is Verdict.BROKEN
        assert certificate.backbone.status is Status.FAILED, certificate.reason
        assert kind == "without_bias" or "another number" in certificate.reason
        count += 1
    assert count >= 2


def _has_groups(node: onnx.NodeProto) -> bool:
    return any(item.name == "group" and item.i != 1 for item in node.attribute)


def test_a_broken_branch_that_rounding_hides_is_not_proved(
    forms: Callable[[str], Forms], tmp_path: Path
) -> None:
    """With a scale of 1e-7 a lost activation changes the outputs by less than rounding does."""
    model, other = pair("map")
    with torch.no_grad():
        model.block.scale.mul_(1e-7)
        other.block.scale.mul_(1e-7)
    linear = export_onnx(model, (example(2),), tmp_path / "linear.onnx")
    good = export_onnx(other, (example(2),), tmp_path / "conv.onnx")
    assert certify(linear, good, example()).verdict is Verdict.PROVED
    found = {
        name: certify(linear, _saved(proto, tmp_path / f"{name}.onnx"), example()).verdict
        for name, proto in edits(onnx.load(good))
        if name.startswith(("attributes-node_gelu", "skipped-node_gelu", "permuted"))
    }
    assert len(found) >= 3
    assert Verdict.PROVED not in found.values()
    gelu = _saved(
        next(proto for name, proto in edits(onnx.load(good)) if name.startswith("attributes-node_gelu")),
        tmp_path / "gelu.onnx",
    )
    assert certify(model, gelu, example()).verdict is not Verdict.PROVED


def _saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


def test_sites_that_pair_up_by_no_form_say_what_is_lacking(
    forms: Callable[[str], Forms], tmp_path: Path
) -> None:
    """A good pair whose operators cannot be told to be the same is no failure."""
    linear, conv = forms("map").files
    proto = onnx.load(conv)
    node = next(node for node in proto.graph.node if node.op_type == "Gelu")
    node.op_type = "Identity"
    del node.attribute[:]
    certificate = certify(linear, _saved(proto, tmp_path / "identity.onnx"), example())
    assert "no identity relates" in certificate.reason
    assert certificate.verdict is Verdict.BROKEN  # the outputs lie far apart


def test_the_sites_are_named_by_their_parameters(forms: Callable[[str], Forms]) -> None:
    linear, conv = forms("map").files
    names = {"fc.weight", "block.first.weight", "block.second.weight"}
    assert set(certify(linear, conv, example()).heads) == names
    assert set(certify(conv, linear, example()).heads) == names


class Normed(nn.Module):
    """A 1×1 convolution and its batch norm, which the exporter folds into it."""

    def __init__(self) -> None:
        super().__init__()
        self.site, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.site(x)))


class NormedAsLinear(Normed):
    """The same with a Linear, from which the exporter keeps the batch norm apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        site = functional.linear(x.permute(0, 2, 3, 1), self.site.weight.flatten(1), self.site.bias)
        return torch.relu(self.norm(site.permute(0, 3, 1, 2)))


def test_a_folded_batch_norm_is_the_same_up_to_rounding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(Normed()).eval()
    conv = export_onnx(model, (example(2),), tmp_path / "conv.onnx", fold_norms=True)
    model.block.__class__ = NormedAsLinear
    linear = export_onnx(model, (example(2),), tmp_path / "linear.onnx")
    kinds = [node.op_type for node in onnx.load(conv).graph.node]
    assert "BatchNormalization" not in kinds
    certifier = Certifier(example())
    for files in ((conv, linear), (linear, conv)):
        certificate = certifier.certify(*files)
        assert certificate.verdict is Verdict.PROVED, certificate.reason
        assert "folded" in certificate.reason
    for scale in (1.001, 1 + 1e-5):
        for position in (1, 2, 3, 4):
            proto = onnx.load(linear)
            norm = next(node for node in proto.graph.node if node.op_type == "BatchNormalization")
            stored = next(t for t in proto.graph.initializer if t.name == norm.input[position])
            array = numpy_helper.to_array(stored) * np.float32(scale)
            assert position == 2 or array.any()
            if not array.any():
                continue
            stored.CopyFrom(numpy_helper.from_array(array, stored.name))
            path = _saved(proto, tmp_path / f"{position}-{scale}.onnx")
            assert certifier.certify(conv, path).verdict is not Verdict.PROVED


def test_a_module_beside_the_file_of_its_rewritten_side_branches(tmp_path: Path) -> None:
    """The sites are those of the file that the module exports to: none of its own nodes has their names."""
    model, samples = build("mobilenet_v3", is_calibrated=True), FAMILIES["mobilenet_v3"].example(8)
    other = rewrite(model, to="linear", scope="pooled").module
    path = export_onnx(other, tuple(x[:2] for x in samples), tmp_path / "linear.onnx")
    certificate = certify(model, path, samples)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert certificate.wiring.status is Status.PROVED
    assert len(certificate.heads) > 2
