"""Every kind of damage is refused, and the layer that says so is the right one; good pairs are accepted.

By default two small models with every kind; ``-m slow`` runs ten families of torchvision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from fxexport import LayerName, Verdict, export_onnx
from fxexport.certificate import Certifier
from fxpasses import rewrite
from fxpasses.errors import CheckError, ProviderError
from tests.fxexport.mutations.families import FAMILIES, Family, build
from tests.fxexport.mutations.graphs import GRAPH_DAMAGES, damage_graph_structure
from tests.fxexport.mutations.judge import Judge
from tests.fxexport.mutations.modules import MODULE_DAMAGES, damage_structure
from tests.fxexport.mutations.weights import (
    WEIGHT_DAMAGES,
    NotHere,
    damage_graph,
    damage_module,
    site_names,
)

LARGER = tuple(name for name in FAMILIES if name not in ("grid", "twins"))
MODULE_KINDS = {**WEIGHT_DAMAGES, **MODULE_DAMAGES}
GRAPH_KINDS = {**WEIGHT_DAMAGES, **GRAPH_DAMAGES}
NAMES_ONLY = ("output_renamed", "output_missing")
"""Kinds that a module cannot see: its outputs have no names."""
BY_POSITION = "output_renamed"
"""Two files whose outputs have other names are paired by their positions."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A model in every form, with what is asked about damaged copies of it."""

    family: Family
    model: nn.Module
    conv: torch.fx.GraphModule
    files: dict[str, Path]
    certifier: Certifier
    judge: Judge

    def verdict(self, reference: object, candidate: object) -> tuple[Verdict, LayerName | None, str]:
        """Verdict, the first layer that failed, and the reason; what cannot be compared is refused too."""
        try:
            certificate = self.certifier.certify(reference, candidate)
        except (CheckError, ProviderError) as error:  # ONNX Runtime opens no such file
            return Verdict.BROKEN, None, str(error)
        layer = next((item.layer for item in certificate.layers if item.failures), None)
        return certificate.verdict, layer, certificate.reason


def bench_of(name: str, folder: Path, *, is_calibrated: bool) -> Bench:
    family = FAMILIES[name]
    model = build(name, is_calibrated=is_calibrated)
    conv = rewrite(model, to="conv").module
    example = family.example(8)
    files = {
        form: export_onnx(module, tuple(x[:2] for x in example), folder / f"{form}.onnx")
        for form, module in (("linear", model), ("conv", conv))
    }
    judge = Judge(model, onnx.load(files["linear"]), tuple(x[:2] for x in example))
    return Bench(
        family=family, model=model, conv=conv, files=files, certifier=Certifier(example), judge=judge
    )


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Bench]:
    made: dict[tuple[str, bool], Bench] = {}

    def get(name: str, is_calibrated: bool) -> Bench:
        key = (name, is_calibrated)
        if key not in made:
            made.clear()  # the larger families do not fit into memory all at once
            made[key] = bench_of(name, tmp_path_factory.mktemp(name), is_calibrated=is_calibrated)
        return made[key]

    return get


def damaged_modules(bench: Bench) -> Iterator[tuple[str, nn.Module]]:
    for kind in MODULE_KINDS:
        damage = damage_module if kind in WEIGHT_DAMAGES else damage_structure
        try:
            yield kind, damage(bench.conv, kind)
        except (NotHere, KeyError):
            continue


def damaged_graphs(bench: Bench) -> Iterator[tuple[str, onnx.ModelProto]]:
    sites = site_names(bench.conv)
    for form, path in bench.files.items():
        proto = onnx.load(path)
        for kind in GRAPH_KINDS:
            try:
                if kind in GRAPH_DAMAGES:
                    yield f"{kind}.{form}", damage_graph_structure(proto, kind)
                elif form == "conv":
                    yield f"{kind}.{form}", damage_graph(proto, sites, kind)
            except (NotHere, KeyError):
                continue


def wrong(
    bench: Bench, reference: object, candidate: object, kind: str, is_hidden: Callable[[], bool]
) -> str | None:
    """What is wrong with the certificate of a damaged pair, or None."""
    verdict, layer, reason = bench.verdict(reference, candidate)
    wanted = {**MODULE_KINDS, **GRAPH_KINDS}[kind.partition(".")[0]][1]
    if verdict is Verdict.AGREES and is_hidden():
        return None
    if verdict is not Verdict.BROKEN:
        return f"{kind}: {verdict}, {reason}"
    return None if layer is None or layer in wanted else f"{kind}: {layer} failed, not {set(wanted)}"


def check_good_pairs(bench: Bench) -> None:
    linear, conv = bench.files.values()
    for pair in ((bench.model, bench.conv), (linear, conv), (bench.model, conv), (linear, bench.conv)):
        verdict, _, reason = bench.verdict(*pair)
        assert verdict in (Verdict.PROVED, Verdict.AGREES), reason


def check_modules(bench: Bench) -> int:
    found = [
        wrong(bench, bench.model, module, kind, partial(bench.judge.is_hidden_module, module))
        for kind, module in damaged_modules(bench)
        if not bench.judge.is_same_module(module)
    ]
    assert not any(found), "\n".join(filter(None, found))
    return len(found)


def check_files(bench: Bench, folder: Path) -> int:
    found = []
    for kind, proto in damaged_graphs(bench):
        if is_same(bench.judge, proto) or kind.startswith(BY_POSITION):
            continue
        path = folder / f"{kind}.onnx"
        onnx.save(proto, path)
        is_hidden = partial(bench.judge.is_hidden_graph, proto)
        found.append(wrong(bench, bench.files["linear"], path, kind, is_hidden))
        if not kind.startswith(NAMES_ONLY):
            found.append(wrong(bench, bench.model, path, kind, is_hidden))
    assert not any(found), "\n".join(filter(None, found))
    return len(found)


def is_same(judge: Judge, proto: onnx.ModelProto) -> bool:
    """False too for a graph that does not run at this batch."""
    try:
        return judge.is_same_graph(proto)
    except (RuntimeError, ValueError, KeyError, TypeError):
        return False


@pytest.mark.parametrize(("name", "is_calibrated"), [("grid", False), ("twins", True)])
class TestSmallModels:
    def test_good_pairs(self, name: str, is_calibrated: bool, benches) -> None:
        check_good_pairs(benches(name, is_calibrated))

    def test_damaged_modules(self, name: str, is_calibrated: bool, benches) -> None:
        assert check_modules(benches(name, is_calibrated)) >= 30

    def test_damaged_files(self, name: str, is_calibrated: bool, benches, tmp_path: Path) -> None:
        assert check_files(benches(name, is_calibrated), tmp_path) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("is_calibrated", [False, True], ids=["default", "calibrated"])
@pytest.mark.parametrize("name", LARGER)
class TestFamilies:
    def test_good_pairs(self, name: str, is_calibrated: bool, benches) -> None:
        check_good_pairs(benches(name, is_calibrated))

    def test_damaged_modules(self, name: str, is_calibrated: bool, benches) -> None:
        assert check_modules(benches(name, is_calibrated)) >= 25

    def test_damaged_files(self, name: str, is_calibrated: bool, benches, tmp_path: Path) -> None:
        assert check_files(benches(name, is_calibrated), tmp_path) >= 50


def test_a_bias_of_zeros_may_be_dropped(benches, tmp_path: Path) -> None:
    """No damage at all, and the judge says so."""
    bench = benches("grid", False)
    model, zero = bench.model, damage_module(bench.conv, "zero_bias")
    with torch.no_grad():
        model.classifier[3].bias.zero_()
    try:
        assert Judge(model, onnx.load(bench.files["linear"]), bench.family.example(2)).is_same_module(zero)
        assert Certifier(bench.family.example(8)).certify(model, zero).verdict is Verdict.PROVED
        zero.get_submodule("classifier.3").bias = None
        zero.recompile()
        assert Certifier(bench.family.example(8)).certify(model, zero).verdict is Verdict.PROVED
    finally:
        benches("twins", False)  # this bench's model was changed
