"""The form ``dense``: what an average commutes with goes before it, and nothing else does."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bench.zoo import build as family
from bench.zoo import calibrate
from fxpasses import InputError, PoolToDense, find_sites, rewrite
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form
from zoo import ENTRIES, SPELLINGS, Entry, build
from zoo.compare import difference, kinds, leaves, storages, tensors, traced, written
from zoo.maps import DENSE, NOT_DENSE, SIDE_BRANCH, WRITTEN_DENSE
from zoo.programs import DIALECTS, export, false_shapes

TOLERANCE = 1e-12
named = {"ids": lambda entry: entry.name}
every_dense = pytest.mark.parametrize("entry", DENSE, **named)
every_refusal = pytest.mark.parametrize("entry", NOT_DENSE, **named)


def turned(entry: Entry, model: Any, to: str, **options: Any) -> Any:
    return rewrite(model, to=to, example_inputs=entry.example_inputs(), **options)


def sizes(entry: Entry) -> list[tuple[Tensor, ...]]:
    """Inputs of the entry's size and of two others."""
    generator = torch.Generator().manual_seed(1)
    channels, *extents = entry.input_shape
    return [
        (torch.randn(batch, channels, *(extent + more for extent in extents), generator=generator).double(),)
        for batch, more in ((2, 0), (1, 3), (3, 6))
    ]


@every_dense
def test_is_the_same_function_at_every_size(entry: Entry) -> None:
    model = build(entry)
    result = turned(entry, model, "dense")
    assert [done.site.name for done in result.report.rewrites] == list(entry.sites)
    assert {str(done.to) for done in result.report.rewrites} == {"dense"}
    assert result.report.misses == ()
    result.module.graph.lint()
    for inputs in sizes(entry):
        assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE


@every_dense
def test_every_site_reads_the_whole_map(entry: Entry) -> None:
    module = turned(entry, build(entry), "dense").module
    seen: dict[str, int] = {}
    for name in entry.sites:
        module.get_submodule(name).register_forward_hook(
            lambda _, given, __, name=name: seen.update({name: given[0][0, 0].numel()})
        )
    inputs = entry.inputs(2)
    module(*inputs)
    assert seen == dict.fromkeys(entry.sites, inputs[0][0, 0].numel())


@every_dense
def test_weights_are_those_of_the_convolution_form(entry: Entry) -> None:
    model = build(entry)
    dense, conv = turned(entry, model, "dense"), turned(entry, model, "conv")
    assert storages(dense.module) == storages(conv.module)
    assert dense.plan == conv.plan
    assert dense.report.copied_bytes == 0
    assert {t.data_ptr() for t in tensors(model).values()} == {
        t.data_ptr() for t in tensors(dense.module).values()
    }
    checkpoint = dense.plan.apply(model.state_dict())
    assert dense.module.load_state_dict(checkpoint).missing_keys == []


@every_dense
@pytest.mark.parametrize("copied", [False, True], ids=["same", "deepcopy"])
def test_back_to_both_forms_exactly(entry: Entry, copied: bool) -> None:
    model = build(entry)
    conv = turned(entry, model, "conv").module
    there = turned(entry, model, "dense").module
    there = copy.deepcopy(there) if copied else there
    linear = turned(entry, there, "linear")
    assert written(turned(entry, there, "conv").module) == written(conv)
    assert written(turned(entry, conv, "dense").module) == written(there)
    assert written(turned(entry, linear.module, "dense").module) == written(there)
    if entry.form == "linear":
        assert written(linear.module) == written(traced(model, "linear"))
        assert copied or storages(linear.module) == storages(model)
    assert [done.site.form for done in linear.report.rewrites] == [Form.DENSE] * len(entry.sites)


@every_dense
def test_a_second_rewrite_does_nothing(entry: Entry) -> None:
    there = turned(entry, build(entry), "dense")
    again = turned(entry, there.module, "dense")
    assert again.report.rewrites == ()
    assert written(again.module) == written(there.module)
    found = find_sites(there.module, example_inputs=entry.example_inputs())
    assert [(site.name, str(site.form)) for site in found.sites] == [(name, "dense") for name in entry.sites]
    assert found.misses == ()


@pytest.mark.parametrize("entry", DENSE[:3], **named)
def test_back_after_saving(entry: Entry) -> None:
    model = build(entry)
    file = io.BytesIO()
    torch.save(turned(entry, model, "dense", outputs=("logits", "map")).module, file)
    file.seek(0)
    back = turned(entry, torch.load(file, weights_only=False), "linear")
    assert [done.site.name for done in back.report.rewrites] == list(entry.sites)
    inputs = entry.inputs(2)
    assert difference(model(*inputs), back.module(*inputs)) <= TOLERANCE


@every_dense
def test_the_maps_mean_is_the_logits(entry: Entry) -> None:
    model = build(entry)
    result = turned(entry, model, "dense", outputs=("logits", "map"))
    inputs = entry.inputs(2)
    expected = model(*inputs)
    given = result.module(*inputs)
    if isinstance(expected, dict):
        maps = given["map"]
        assert list(given) == [*expected, "map"]
        given = {name: value for name, value in given.items() if name != "map"}
    else:
        given, maps = given
    assert difference(expected, given) <= TOLERANCE
    every = maps if isinstance(maps, tuple) else (maps,)
    assert {scores.shape[2:] for scores in every} == {inputs[0].shape[2:]}
    logits = torch.stack([scores.flatten(2).mean(2) for scores in every]).mean(0)  # heads are averaged
    if entry.name == "dense_softmax_after":
        logits = logits.softmax(1)
    assert difference(leaves(expected)[0].flatten(1), logits) <= TOLERANCE
    back = turned(entry, result.module, "linear")
    if entry.form == "linear":
        assert written(back.module) == written(traced(model, "linear"))
    else:
        assert difference(expected, back.module(*inputs)) <= TOLERANCE


@pytest.mark.parametrize("entry", [DENSE[0], *WRITTEN_DENSE], **named)
def test_a_dense_head_gets_its_map_afterwards(entry: Entry) -> None:
    model = build(entry)
    dense = rewrite(model, to="dense")
    result = rewrite(dense.module, to="dense", outputs=("logits", "map"))
    assert [done.site.name for done in result.report.rewrites] == list(entry.sites)
    inputs = entry.inputs(2)
    logits, scores = result.module(*inputs)
    assert difference(model(*inputs), logits) <= TOLERANCE
    assert difference(logits, scores.mean((2, 3))) <= TOLERANCE
    again = rewrite(result.module, to="dense", outputs=("logits", "map"))
    assert again.report.rewrites == ()
    back = rewrite(result.module, to="conv").module
    assert written(back) == written(rewrite(model, to="conv").module)


def test_two_heads_have_two_maps() -> None:
    result = rewrite(build("two_heads"), to="dense", outputs=("logits", "map"))
    x = torch.randn(2, 3, 5, 4).double()
    given, maps = result.module(x)
    assert len(maps) == 2
    for logits, scores in zip(leaves(given), maps, strict=True):
        assert difference(logits, scores.mean((2, 3))) <= TOLERANCE


@pytest.mark.parametrize("outputs", [("map",), ("logits", "maps"), ()])
def test_unknown_outputs_are_an_error(outputs: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="outputs"):
        rewrite(build("dropout_head"), to="dense", outputs=outputs)


def test_only_the_dense_form_has_a_map() -> None:
    with pytest.raises(InputError, match="has no map"):
        rewrite(build("dropout_head"), to="conv", outputs=("logits", "map"))


# --- as their author wrote them


@pytest.mark.parametrize("entry", WRITTEN_DENSE, **named)
@pytest.mark.parametrize("to", ["conv", "linear"])
def test_a_head_that_was_written_dense_goes_and_comes_back(entry: Entry, to: str) -> None:
    model = build(entry)
    graph = written(rewrite(model, to="dense").module)
    found = find_sites(model)
    assert [(site.name, str(site.form)) for site in found.sites] == [(name, "dense") for name in entry.sites]
    assert found.misses == ()
    there = rewrite(model, to=to)
    assert [done.site.name for done in there.report.rewrites] == list(entry.sites)
    assert {site.form for site in find_sites(there.module).sites} == {Form(to)}
    inputs = entry.inputs(2)
    assert difference(model(*inputs), there.module(*inputs)) <= TOLERANCE
    assert [name for name in kinds(there.module) if name == "Linear"] == (
        ["Linear"] * len(entry.sites) if to == "linear" else []
    )
    back = rewrite(there.module, to="dense")
    assert written(back.module) == graph
    assert storages(back.module) == storages(model)


@pytest.mark.parametrize(
    "bridge", [nn.ReLU(), nn.BatchNorm2d(5).train(), nn.Conv2d(5, 5, 3)], ids=["relu", "train", "3x3"]
)
def test_what_the_pool_cannot_pass_is_no_dense_head(bridge: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), bridge, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = find_sites(model)
    assert found.sites == ()
    assert {miss.code for miss in found.misses} == {MissCode.BEFORE_POOL}
    graph = written(torch.fx.symbolic_trace(model))
    assert written(rewrite(model, to="linear").module) == graph


def test_a_map_that_is_read_elsewhere_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 5, 1)

        def forward(self, x: Tensor) -> Any:
            scores = self.head(x)
            return scores.mean([2, 3]), scores

    found = find_sites(Both())
    assert found.sites == ()
    assert {miss.code for miss in found.misses} <= {MissCode.BEFORE_POOL, MissCode.NOT_POOLED}


# --- refusals


@every_refusal
def test_refused_with_the_reason_and_untouched(entry: Entry) -> None:
    model = build(entry)
    graph, places = written(torch.fx.symbolic_trace(model)), storages(model)
    result = turned(entry, model, "dense")
    assert result.report.rewrites == ()
    assert [(miss.name, miss.code) for miss in result.report.misses] == list(entry.misses)
    assert written(result.module) == graph
    assert storages(result.module) == places
    found = find_sites(model, to="dense", example_inputs=entry.example_inputs())
    assert found.sites == ()
    assert [(miss.name, miss.code) for miss in found.misses] == list(entry.misses)


def test_the_reason_points_to_the_next_form() -> None:
    misses = rewrite(build("mobilenet_v3"), to="dense").report.misses
    assert {miss.code for miss in misses} == {MissCode.NONLINEAR}
    assert all("'fcn'" in miss.fix for miss in misses)


@pytest.mark.parametrize("name", ["dropout_head", "batch_norm_1d"])
def test_train_mode_is_refused(name: str) -> None:
    result = rewrite(build(name, train=True), to="dense")
    assert [miss.code for miss in result.report.misses] == [MissCode.TRAIN_MODE]
    assert rewrite(build(name), to="dense").report.rewrites


def test_squeeze_excite_is_no_head() -> None:
    model = build(SIDE_BRANCH)
    result = rewrite(model, to="dense", scope="pooled")
    assert [done.site.name for done in result.report.rewrites] == ["head"]
    assert {(miss.name, miss.code) for miss in result.report.misses} == {
        ("fc1", MissCode.SIDE_BRANCH),
        ("fc2", MissCode.SIDE_BRANCH),
    }
    inputs = SIDE_BRANCH.inputs(2)
    assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE


def test_a_hooked_head_stays() -> None:
    model = build("dropout_head")
    model.head.register_forward_hook(lambda *_: None)
    result = rewrite(model, to="dense")
    assert [miss.code for miss in result.report.misses] == [MissCode.HOOKED]


# --- the whole zoo, against what an average commutes with


def is_affine(model: nn.Module, features: Tensor) -> bool:
    """Whether a head gives for a map what it gives for its positions on average."""
    model.stem = nn.Identity()
    spatial = tuple(range(2, features.ndim))
    points = features.flatten(2).movedim(2, 0)
    each = [model(point.reshape(*point.shape, *(1,) * len(spatial))) for point in points]
    whole = leaves(model(features))
    return all(
        torch.allclose(logits, torch.stack([leaves(one)[index] for one in each]).mean(0))
        for index, logits in enumerate(whole)
    )


_FROM_ONE = [e for e in (*ENTRIES, *NOT_DENSE) if e not in SPELLINGS and len(e.input_shapes) == 1]


@pytest.mark.parametrize("entry", _FROM_ONE, **named)
def test_the_zoo_is_dense_or_not_for_a_true_reason(entry: Entry) -> None:
    model = build(entry)
    result = turned(entry, model, "dense")
    for batch in entry.batches:
        inputs = entry.inputs(batch)
        assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE
    codes = {miss.code for miss in result.report.misses}
    assert bool(result.report.rewrites) != bool(codes)
    if codes == {MissCode.NONLINEAR} and hasattr(model, "stem"):
        rank = len(entry.input_shape) - 1
        features = torch.randn(2, 6, *(3, 4, 2)[:rank], generator=torch.Generator().manual_seed(0)).double()
        assert not is_affine(model, features)


# --- ATen


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("entry", DENSE, **named)
def test_aten_graphs(entry: Entry, dialect: str) -> None:
    model = build(entry)
    graph = export(model, entry.inputs(4), dialect)
    result = rewrite(graph, to="dense")
    assert len(result.report.rewrites) == len(entry.sites)
    inputs = entry.inputs(2)
    assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE
    assert false_shapes(result.module, inputs) == []
    assert written(rewrite(result.module, to=entry.form).module) == written(graph)


def program(model: nn.Module, dialect: str) -> ExportedProgram:
    """A program that takes any batch, height and width."""
    free = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=2, max=512), 3: Dim("width", min=2, max=512)}
    made = torch.export.export(model, (torch.randn(2, 3, 5, 4).double(),), dynamic_shapes=(free,))
    return made.run_decompositions() if dialect == "core" else made


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["dropout_head", "batch_norm_1d"])
def test_programs_with_a_map_at_every_size(name: str, dialect: str) -> None:
    model = build(name)
    given = program(model, dialect)
    result = rewrite(given, to="dense", outputs=("logits", "map"))
    assert isinstance(result.module, ExportedProgram)
    run = result.module.module()
    for shape in ((2, 3, 5, 4), (1, 3, 9, 8), (3, 3, 2, 12)):
        x = torch.randn(*shape).double()
        logits, scores = run(x)
        assert difference(model(x), logits) <= TOLERANCE
        assert difference(logits, scores.mean((2, 3))) <= TOLERANCE
    back = rewrite(result.module, to="linear")
    assert back.module.graph_signature == given.graph_signature
    assert [str(node) for node in back.module.graph.nodes] == [str(node) for node in given.graph.nodes]
    x = torch.randn(3, 3, 7, 4).double()
    assert difference(given.module()(x), back.module.module()(x)) == 0
    file = io.BytesIO()
    torch.export.save(result.module, file)
    file.seek(0)
    assert difference(run(x), torch.export.load(file).module()(x)) == 0


# --- the pass, properties, families


def test_the_pass_edits_in_place() -> None:
    model = build("dropout_head")
    graph = torch.fx.symbolic_trace(model)
    assert PoolToDense(outputs=("logits", "map"))(graph).modified
    x = torch.randn(2, 3, 5, 4).double()
    logits, scores = graph(x)
    assert difference(model(x), logits) <= TOLERANCE
    assert difference(logits, scores.mean((2, 3))) <= TOLERANCE
    assert not PoolToDense()(graph).modified


STEPS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.3),
    "identity": nn.Identity,
    "norm": lambda: nn.BatchNorm2d(4),
    "site": lambda: nn.Conv2d(4, 4, 1),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
    st.lists(st.sampled_from(sorted(STEPS)), max_size=3),
)
def test_random_heads(before: list[str], below: list[str]) -> None:
    steps = [STEPS[name]() for name in (*before, "site", *below)]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), *steps, nn.Flatten()).double().eval()
    result = rewrite(model, to="dense")
    x = torch.randn(3, 4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    assert difference(model(x), result.module(x)) <= 1e-9
    names = [*before, "site", *below]
    last = max(index for index, name in enumerate(names) if name == "site")
    can = not {"relu", "tanh"} & {*names[:last]}
    assert bool(result.report.rewrites) == can
    assert written(rewrite(result.module, to="conv").module) == written(rewrite(model, to="conv").module)


FAMILIES = ("efficientnet_b0", "mnasnet0_5", "resnet18", "shufflenet_v2_x0_5")
SLOW = (
    "densenet121", "efficientnet_v2_s", "googlenet", "inception_v3", "mc3_18", "mobilenet_v2", "r2plus1d_18",
    "regnet_x_400mf", "regnet_y_400mf", "resnext50_32x4d", "s3d", "swin_t", "swin_v2_t", "swin3d_t",
    "wide_resnet50_2",
)  # fmt: skip
REFUSED = {
    "alexnet": MissCode.POOL_GRID,
    "vgg11": MissCode.POOL_GRID,
    "mobilenet_v3_small": MissCode.NONLINEAR,
    "convnext_tiny": MissCode.NONLINEAR,
    "maxvit_t": MissCode.NONLINEAR,
    "squeezenet1_1": MissCode.BEFORE_POOL,
    "vit_b_16": MissCode.NOT_POOLED,
}
# clips, or more pixels than the others need
SHAPES = {
    "mc3_18": [(3, 4, 64, 64), (3, 8, 64, 96), (3, 4, 96, 64)],
    "r2plus1d_18": [(3, 4, 64, 64), (3, 8, 64, 96), (3, 4, 96, 64)],
    "swin3d_t": [(3, 4, 64, 64), (3, 8, 64, 64), (3, 4, 96, 64)],
    "s3d": [(3, 16, 224, 224), (3, 24, 224, 224)],
    "inception_v3": [(3, 96, 96), (3, 128, 96), (3, 160, 160)],
}


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@torch.no_grad()
def test_torchvision(name: str) -> None:
    model = family(name)
    shapes = SHAPES.get(name, [(3, 64, 64), (3, 96, 64), (3, 128, 160)])
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    calibrate(model, images[0])
    result = rewrite(model, to="dense", outputs=("logits", "map"), example_inputs=images[0])
    assert result.report.rewrites
    for x in images:
        logits, scores = result.module(x)
        assert difference(model(x), logits) <= TOLERANCE
        if name != "s3d":  # its pool leaves several positions where the clip is longer
            assert difference(logits, scores.flatten(2).mean(2)) <= TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_torchvision_refusals(name: str) -> None:
    found = find_sites(family(name, "meta", torch.float32), to="dense")
    assert found.sites == ()
    assert {miss.code for miss in found.misses} == {REFUSED[name]}
