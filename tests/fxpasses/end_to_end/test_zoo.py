"""Every head of the zoo is found and rewritten, equals the original, and keeps its weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import fx, nn

from fxpasses import find_sites, rewrite
from fxpasses.miss_codes import MissCode
from zoo import ENTRIES, REFUSALS, Entry, build
from zoo.compare import affine_calls, difference, facts, kinds, leaves, storages, tensors, traced, written

TOLERANCE = 1e-12
UNKNOWN = {MissCode.UNKNOWN_EXTENT, MissCode.UNKNOWN_LAYOUT}
ROUNDED_AWAY = {"argmax"}  # outputs that a small change of the weights may leave as they are

every_head = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-float64")


def to_other_form(entry: Entry, model: nn.Module) -> Any:
    return rewrite(model, to=entry.other_form, scope=entry.scope, example_inputs=entry.example_inputs())


@functools.cache
def built(entry: Entry) -> nn.Module:
    """A model of the zoo; tests must not change it."""
    return build(entry)


@functools.cache
def rewritten(entry: Entry) -> tuple[nn.Module, Any]:
    """A model of the zoo and its rewrite; tests must not change either, or take it back."""
    return built(entry), to_other_form(entry, built(entry))


@functools.cache
def as_traced(entry: Entry) -> fx.GraphModule:
    """The model's graph; tests must not change it."""
    return traced(built(entry), entry.form)


def site_names(sites: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(site.name for site in sites))


@pytest.mark.parametrize("entry", [e for e in (*ENTRIES, *REFUSALS) if e.runs], ids=lambda entry: entry.name)
def test_zoo_outputs_carry_signal(entry: Entry) -> None:
    batch = max(entry.batches)
    for output in leaves(built(entry)(*entry.inputs(batch))):
        if output.is_floating_point() and len(output) == batch > 1:
            assert output.std() > 1e-2
            assert (output - output[0]).abs().max() > 1e-3


@pytest.mark.parametrize("entry", [e for e in (*ENTRIES, *REFUSALS) if e.runs], ids=lambda entry: entry.name)
def test_the_graph_is_that_of_symbolic_trace(entry: Entry) -> None:
    model = built(entry)
    graph = written(as_traced(entry))
    if entry.name.startswith("functional_dropout"):
        # symbolic_trace answers self.training for good; the module that asks it is kept instead
        assert graph != written(fx.symbolic_trace(model))
    else:
        assert graph == written(fx.symbolic_trace(model))


@every_head
def test_finds_the_sites(entry: Entry) -> None:
    model = built(entry)
    found = find_sites(model, scope=entry.scope, example_inputs=entry.example_inputs())
    assert site_names(found.sites) == entry.all_sites
    assert found.misses == ()
    assert {str(site.form) for site in found.sites} == {entry.form}
    assert {site.kernel_size for site in found.sites} == set(entry.kernels)
    names = tensors(model)
    for site in found.sites:
        weight = names[site.weight]
        assert weight.shape[0] == site.out_features
        assert weight[0].numel() == site.in_features
        assert (site.bias is None) or tuple(names[site.bias].shape) == (site.out_features,)
    if entry.scope != "head":
        found = find_sites(model, scope="head", example_inputs=entry.example_inputs())
    assert site_names(found.sites) == entry.sites


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.needs_inputs], ids=lambda entry: entry.name)
def test_without_inputs_a_site_is_right_or_a_miss(entry: Entry) -> None:
    model = built(entry)
    result = rewrite(model, to=entry.other_form, scope=entry.scope)
    assert result.report.rewrites or {miss.code for miss in result.report.misses} <= UNKNOWN
    for miss in result.report.misses:
        assert "input" in miss.fix
    inputs = entry.inputs(2)
    assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE


@every_head
def test_rewritten_equals_the_original(entry: Entry) -> None:
    model, result = rewritten(entry)
    assert site_names(tuple(r.site for r in result.report.rewrites)) == entry.all_sites
    for batch in entry.batches:
        inputs = entry.inputs(batch)
        assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE


@every_head
def test_a_damaged_head_would_be_seen(entry: Entry) -> None:
    if entry.name in ROUNDED_AWAY:
        pytest.skip("its output does not show a small change")
    model, result = rewritten(entry)
    inputs = entry.inputs(max(entry.batches))
    expected = model(*inputs)  # before the damage, as the weights are shared
    for name in {r.site.weight for r in result.report.rewrites}:
        weight = tensors(result.module)[name]
        right = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(right.roll(1, dims=1))
        seen = difference(expected, result.module(*inputs))
        with torch.no_grad():
            weight.copy_(right)
        assert seen > 1e6 * TOLERANCE


@every_head
def test_the_op_is_really_the_other(entry: Entry) -> None:
    _, result = rewritten(entry)
    before = affine_calls(as_traced(entry))
    after = affine_calls(result.module)
    count = len(result.report.rewrites)
    assert count == (entry.calls or len(entry.all_sites))
    step = count if entry.other_form == "conv" else -count
    assert after == (before[0] - step, before[1] + step)


@every_head
def test_adds_no_view(entry: Entry) -> None:
    _, result = rewritten(entry)
    result.module.graph.lint()
    assert len(result.module.graph.nodes) <= len(as_traced(entry).graph.nodes) + entry.added_nodes


@every_head
def test_weights_are_views_under_their_old_names(entry: Entry) -> None:
    model, result = rewritten(entry)
    assert facts(result.module) == facts(model)
    moves = {move.name: move for move in result.plan.moves}
    for name, old in tensors(model).items():
        new = tensors(result.module)[name]
        if not entry.copies:
            assert new.untyped_storage().data_ptr() == old.untyped_storage().data_ptr()
        if name in moves:
            assert tuple(new.shape) == moves[name].shape(result.plan.to)
            assert torch.equal(new, moves[name].convert(old, result.plan.to))
        else:
            assert new is old
    assert (result.report.copied_bytes > 0) == entry.copies
    assert {r.site.weight for r in result.report.rewrites} <= set(moves)


@every_head
def test_parameters_keep_order_and_ties(entry: Entry) -> None:
    model, result = rewritten(entry)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in result.module.named_parameters()] == names
    assert [name for name, _ in result.module.named_buffers()] == [name for name, _ in model.named_buffers()]


@every_head
def test_the_callers_model_is_not_touched(entry: Entry) -> None:
    model = build(entry).train()
    model.stem.eval() if hasattr(model, "stem") else None
    modes = {name: module.training for name, module in model.named_modules()}
    graph = written(traced(model, entry.form))
    places, objects = storages(model), {name: id(t) for name, t in tensors(model).items()}
    result = to_other_form(entry, model)
    result.module.eval()
    result.module.train()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert written(traced(model, entry.form)) == graph
    assert storages(model) == places
    assert {name: id(t) for name, t in tensors(model).items()} == objects


@every_head
def test_a_second_rewrite_does_nothing(entry: Entry) -> None:
    _, result = rewritten(entry)
    again = rewrite(
        result.module, to=entry.other_form, scope=entry.scope, example_inputs=entry.example_inputs()
    )
    assert again.report.rewrites == ()
    assert again.plan.moves == ()
    assert written(again.module) == written(result.module)
    assert storages(again.module) == storages(result.module)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "name", ["dropout_head", "adaptive_3d", "conv_dropout", "tied_heads", "channels_last_flatten"]
)
def test_whole_numbers_agree_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model = build(name, dtype)
    generator = torch.Generator().manual_seed(3)
    head = [module for path, module in model.named_modules() if path in ("head", "a", "b")]
    for module in head:
        shape = module.weight.shape
        module.weight.data = torch.randint(-2, 3, shape, generator=generator).to(dtype)
        module.bias.data = torch.randint(-2, 3, module.bias.shape, generator=generator).to(dtype)
    model.stem = nn.Identity()
    rank = 3 if name == "adaptive_3d" else 2
    features = torch.randint(-2, 3, (5, head[0].weight.shape[1], *[1] * rank), generator=generator)
    if name == "channels_last_flatten":
        features = torch.randint(-2, 3, (5, 6, 2, 3), generator=generator)
    result = rewrite(
        model, to="linear" if name == "conv_dropout" else "conv", example_inputs=features.to(dtype)
    )
    assert result.report.rewrites
    assert {t.dtype for t in tensors(result.module).values()} == {dtype}
    expected = model(features.to(dtype))
    assert expected.std() > 1
    assert torch.equal(expected, result.module(features.to(dtype)))


# after the stem
GRAPHS = {
    "dropout_head": ["AdaptiveAvgPool2d", "Dropout", "Conv2d", "Flatten"],
    "mobilenet_v3": [
        "AdaptiveAvgPool2d",
        "Conv2d",
        "Hardswish",
        "Dropout",
        "Conv2d",
        "Flatten",
    ],
    "convnext": [
        "AdaptiveAvgPool2d",
        "permute",
        "layer_norm",
        "permute",
        "Conv2d",
        "Flatten",
    ],
    "mean_list-Linear": ["mean", "Conv2d", "flatten"],
    "AdaptiveAvgPool2d-Flatten-Linear": ["AdaptiveAvgPool2d", "Conv2d", "Flatten"],
    "conv_relu_after": ["AdaptiveAvgPool2d", "Flatten", "Linear", "ReLU"],
    "layer_norm": [
        "AdaptiveAvgPool2d",
        "Flatten",
        "LayerNorm",
        "unflatten",
        "Conv2d",
        "flatten",
    ],
    "batch_norm_1d": ["AdaptiveAvgPool2d", "BatchNorm2d", "Conv2d", "Flatten"],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_canonical_graphs(name: str) -> None:
    entry = next(one for one in ENTRIES if one.name == name)
    assert kinds(to_other_form(entry, build(entry)).module)[2:] == GRAPHS[name]
