"""The form ``fcn``: at the native size the classifier, on a larger map the classifier of every window."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bench.zoo import build as family
from bench.zoo import calibrate
from bench.zoo import inputs as images_of
from fxpasses import HeadToFcn, find_sites, rewrite
from fxpasses.miss_codes import MissCode
from zoo import ENTRIES, SPELLINGS, Entry, build
from zoo.compare import difference, leaves, storages, traced, written
from zoo.maps import NOT_WINDOWED, SIDE_BRANCH, WINDOWED
from zoo.programs import DIALECTS, export, false_shapes

TOLERANCE = 1e-12
named = {"ids": lambda entry: entry.name}
every_windowed = pytest.mark.parametrize("entry", WINDOWED, **named)


def to_fcn(entry: Entry, model: Any) -> Any:
    return rewrite(model, to="fcn", example_inputs=entry.inputs(2))


def at_native_size(expected: Any, given: Any) -> float:
    """Greatest difference between logits and the same logits as a map of one position."""
    pairs = zip(leaves(expected), leaves(given), strict=True)
    flat = [(logits, scores.flatten(1)) for logits, scores in pairs if set(scores.shape[2:]) <= {1}]
    assert len(flat) == len(leaves(expected))
    return max(difference(logits.flatten(1), scores) for logits, scores in flat)


def window_by_window(model: nn.Module, features: Tensor, native: tuple[int, ...]) -> list[Tensor]:
    """What a head without its stem gives for every window of ``features``, as maps."""
    counts = [whole - window + 1 for whole, window in zip(features.shape[2:], native, strict=True)]
    rows: list[list[Tensor]] = []
    for corner in itertools.product(*(range(count) for count in counts)):
        cut = (slice(first, first + size) for first, size in zip(corner, native, strict=True))
        rows.append([leaf.flatten(1) for leaf in leaves(model(features[(..., *cut)]))])
    return [torch.stack(leaf, -1).unflatten(-1, counts) for leaf in zip(*rows, strict=True)]


@every_windowed
@torch.no_grad()
def test_every_position_is_the_classifier_of_its_window(entry: Entry) -> None:
    model = build(entry)
    result = to_fcn(entry, model)
    assert [done.site.name for done in result.report.rewrites] == list(entry.sites)
    assert result.report.misses == ()
    assert result.report.native_size == entry.input_shape[1:]
    result.module.graph.lint()
    native = entry.input_shape[1:]
    for batch in (1, 2):
        inputs = entry.inputs(batch)
        assert at_native_size(model(*inputs), result.module(*inputs)) <= TOLERANCE
    model.stem = nn.Identity()
    result.module.stem = nn.Sequential(nn.Identity(), nn.Identity())  # its graph calls both by name
    features = torch.randn(2, 6, *(extent + more for extent, more in zip(native, (2, 3, 1), strict=False)))
    features = features.double()
    for expected, scores in zip(
        window_by_window(model, features, native), leaves(result.module(features)), strict=True
    ):
        assert difference(expected, scores) <= TOLERANCE


@every_windowed
def test_too_small_an_input_is_an_error(entry: Entry) -> None:
    result = to_fcn(entry, build(entry))
    channels, *extents = entry.input_shape
    with pytest.raises(RuntimeError, match="size"):
        result.module(torch.randn(1, channels, *(extent - 1 for extent in extents)).double())


@every_windowed
@pytest.mark.parametrize("copied", [False, True], ids=["same", "deepcopy"])
def test_back_to_both_forms_exactly(entry: Entry, copied: bool) -> None:
    model = build(entry)
    examples = entry.example_inputs()
    there = to_fcn(entry, model)
    module = copy.deepcopy(there.module) if copied else there.module
    linear = rewrite(module, to="linear")
    conv = rewrite(module, to="conv")
    assert written(conv.module) == written(rewrite(model, to="conv", example_inputs=examples).module)
    if entry.form == "linear":
        assert written(linear.module) == written(traced(model, "linear"))
        assert copied or storages(linear.module) == storages(model)
    again = to_fcn(entry, there.module)
    assert again.report.rewrites == ()
    assert written(again.module) == written(there.module)
    found = find_sites(there.module)
    assert [(site.name, str(site.form)) for site in found.sites] == [(name, "fcn") for name in entry.sites]
    assert found.misses == ()


def test_from_the_dense_form_and_back() -> None:
    model = build("dropout_head")
    x = torch.randn(2, 3, 5, 4).double()
    dense = rewrite(model, to="dense").module
    there = rewrite(dense, to="fcn", example_inputs=x)
    assert at_native_size(model(x), there.module(x)) <= TOLERANCE
    direct = rewrite(model, to="fcn", example_inputs=x).module
    larger = torch.randn(2, 3, 8, 6).double()
    assert difference(direct(larger), there.module(larger)) <= TOLERANCE
    assert written(rewrite(there.module, to="linear").module) == written(traced(model, "linear"))


@pytest.mark.parametrize("entry", NOT_WINDOWED, **named)
def test_refused_with_the_reason_and_untouched(entry: Entry) -> None:
    model = build(entry)
    graph, places = written(torch.fx.symbolic_trace(model)), storages(model)
    result = to_fcn(entry, model)
    assert result.report.rewrites == ()
    assert result.report.native_size is None
    assert [(miss.name, miss.code) for miss in result.report.misses] == list(entry.misses)
    assert written(result.module) == graph
    assert storages(result.module) == places


def test_without_inputs_the_native_size_is_not_known() -> None:
    found = find_sites(build("dropout_head"), to="fcn")
    assert [miss.code for miss in found.misses] == [MissCode.NATIVE_SIZE]
    assert "example_inputs" in found.misses[0].fix


def test_squeeze_excite_is_no_head() -> None:
    model = build(SIDE_BRANCH)
    x = SIDE_BRANCH.inputs(2)
    result = rewrite(model, to="fcn", scope="pooled", example_inputs=x)
    assert [done.site.name for done in result.report.rewrites] == ["head"]
    assert {miss.code for miss in result.report.misses} == {MissCode.SIDE_BRANCH}
    assert at_native_size(model(*x), result.module(*x)) <= TOLERANCE


_TENSORS = [e for e in ENTRIES if e not in SPELLINGS]


@pytest.mark.parametrize("entry", _TENSORS, **named)
@torch.no_grad()
def test_the_zoo_at_its_native_size(entry: Entry) -> None:
    model = build(entry)
    result = to_fcn(entry, model)
    assert bool(result.report.rewrites) != bool(result.report.misses)
    for batch in entry.batches:
        inputs = entry.inputs(batch)
        for expected, scores in zip(leaves(model(*inputs)), leaves(result.module(*inputs)), strict=True):
            assert difference(expected, scores.reshape(expected.shape)) <= TOLERANCE


@pytest.mark.parametrize("dialect", DIALECTS)
@every_windowed
@torch.no_grad()
def test_aten_graphs(entry: Entry, dialect: str) -> None:
    model = build(entry)
    graph = export(model, entry.inputs(4), dialect)
    result = rewrite(graph, to="fcn")
    assert len(result.report.rewrites) == len(entry.sites)
    assert result.report.native_size == entry.input_shape[1:]
    inputs = entry.inputs(2)
    assert at_native_size(model(*inputs), result.module(*inputs)) <= TOLERANCE
    assert false_shapes(result.module, inputs) == []
    assert written(rewrite(result.module, to=entry.form).module) == written(graph)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["fcn_two", "fcn_layer_norm"])
@torch.no_grad()
def test_programs_at_every_size(name: str, dialect: str) -> None:
    model = build(next(entry for entry in WINDOWED if entry.name == name))
    free = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=2, max=512), 3: Dim("width", min=2, max=512)}
    x = torch.randn(2, 3, 5, 4).double()
    given = torch.export.export(model, (x,), dynamic_shapes=(free,))
    given = given.run_decompositions() if dialect == "core" else given
    result = rewrite(given, to="fcn")
    assert isinstance(result.module, ExportedProgram)
    run = result.module.module()
    assert at_native_size(model(x), run(x)) <= TOLERANCE
    larger = torch.randn(3, 3, 7, 5).double()
    reference = rewrite(model, to="fcn", example_inputs=x).module(larger)
    assert reference.shape == (3, 5, 3, 2)
    assert difference(reference, run(larger)) <= TOLERANCE
    back = rewrite(result.module, to="linear")
    assert [str(node) for node in back.module.graph.nodes] == [str(node) for node in given.graph.nodes]


def test_the_pass_edits_in_place() -> None:
    graph = torch.fx.symbolic_trace(build("dropout_head"))
    x = torch.randn(2, 3, 5, 4).double()
    expected = graph(x)
    assert HeadToFcn(example_inputs=x)(graph).modified
    assert at_native_size(expected, graph(x)) <= TOLERANCE
    assert not HeadToFcn(example_inputs=x)(graph).modified


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))
@torch.no_grad()
def test_random_grids(rows: int, columns: int, down: int, across: int, more: int) -> None:
    head = nn.Linear(4 * rows * columns, 5)
    pool = nn.AdaptiveAvgPool2d((rows, columns))
    model = nn.Sequential(pool, nn.Flatten(), head, nn.Tanh(), nn.Linear(5, 3)).double().eval()
    native = (rows * down, columns * across)
    result = rewrite(model, to="fcn", example_inputs=torch.randn(2, 4, *native).double())
    features = torch.randn(2, 4, native[0] + more, native[1] + 1).double()
    (expected,) = window_by_window(model, features, native)
    assert difference(expected, result.module(features)) <= 1e-11


FAMILIES = ("alexnet", "mobilenet_v3_small", "resnet18")
SLOW = (
    "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mc3_18",
    "mnasnet0_5", "mobilenet_v2", "regnet_y_400mf", "resnext50_32x4d", "s3d", "shufflenet_v2_x0_5", "swin_t",
    "swin3d_t", "vgg11_bn",
)  # fmt: skip
SIZES = {"alexnet": 224, "vgg11_bn": 224, "inception_v3": 96, "maxvit_t": 224}
CLIPS = ("mc3_18", "s3d", "swin3d_t")


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@torch.no_grad()
def test_torchvision(name: str) -> None:
    model = family(name)
    size = SIZES.get(name, 64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    if name in CLIPS:
        x = images_of(name)
    calibrate(model, x)
    result = rewrite(model, to="fcn", example_inputs=x)
    sites = [site.name for site in find_sites(model, example_inputs=x).sites]
    assert [done.site.name for done in result.report.rewrites] == sites
    assert result.report.native_size == x.shape[2:]
    assert at_native_size(model(x), result.module(x)) <= TOLERANCE
    if name not in ("maxvit_t", *CLIPS):  # maxvit's attention takes one size
        assert min(result.module(torch.cat([x, x], -1)).shape[2:]) >= 1


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_torchvision_windows(name: str) -> None:
    """On a wider image every position is what the model's own head gives for that window of the map."""
    model = family(name)
    size = SIZES.get(name, 64)
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 3, size, size + 96, generator=generator, dtype=torch.float64)
    x = wide[..., :size]
    calibrate(model, x)
    maps: list[Tensor] = []
    seen = model.avgpool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    model(x), model(wide)
    seen.remove()
    native, features = maps[0].shape[-1], maps[1]
    scores = rewrite(model, to="fcn", example_inputs=x).module(wide)
    assert scores.shape[2:] == (1, features.shape[-1] - native + 1)
    assert scores.shape[-1] >= 3
    for first in range(scores.shape[-1]):
        window = features[..., first : first + native]
        cut = model.avgpool.register_forward_pre_hook(lambda _, inputs, window=window: (window,))
        assert difference(model(x), scores[..., 0, first]) <= TOLERANCE
        cut.remove()
