"""The zoo as ``torch.export`` writes it, before and after decomposition: the same sites, the same rewrite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from fxpasses import find_sites, rewrite
from fxpasses.miss_codes import MissCode
from zoo import ENTRIES, REFUSALS, SPELLINGS, Entry, build
from zoo.compare import difference, facts, storages, tensors, written
from zoo.programs import (
    COMPOSITE,
    CONVS,
    DIALECTS,
    LINEARS,
    batch_of,
    export,
    exported,
    false_shapes,
    foreign,
    is_fixed,
    operators,
    weights_of,
)

TOLERANCE = 1e-12
SAMPLE = 12  # of the spellings in the default run; the slow run has all


def _pairs() -> list[Any]:
    """Every entry in every dialect; by default each entry in one of them, and a sample of the spellings."""
    pairs = []
    for group in ([e for e in ENTRIES if e not in SPELLINGS], list(SPELLINGS)):
        step = SAMPLE if group[0] in SPELLINGS else 1
        for index, entry in enumerate(group):
            for position, dialect in enumerate(DIALECTS):
                is_default = index % step == 0 and (index // step) % len(DIALECTS) == position
                marks = () if is_default else (pytest.mark.slow,)
                pairs.append(pytest.param(entry, dialect, marks=marks, id=f"{entry.name}-{dialect}-float64"))
    return pairs


every_head = pytest.mark.parametrize(("entry", "dialect"), _pairs())


def turned(entry: Entry, module: nn.Module, to: str) -> Any:
    return rewrite(module, to=to, scope=entry.scope)


@every_head
def test_a_head_in_aten(entry: Entry, dialect: str) -> None:
    """All that holds of one exported graph, in one test, because exporting takes most of the time."""
    model, graph = exported(entry, dialect)
    before, places = written(graph), storages(graph)
    check_sites(entry, model, graph)
    there = turned(entry, graph, entry.other_form)
    assert there.report.misses == ()
    check_equal(entry, model, there.module)
    check_dialect(entry, dialect, graph, there)
    assert false_shapes(there.module, entry.inputs(3)) == []
    check_weights(entry, graph, there)
    check_way_back(entry, graph, there)
    assert written(graph) == before
    assert storages(graph) == places


def check_sites(entry: Entry, model: nn.Module, graph: fx.GraphModule) -> None:
    """The same sites, by their parameters' names and places in memory."""
    ours, theirs = weights_of(graph, entry.scope), weights_of(model, entry.scope, entry.example_inputs())
    if entry.name == "head_called_by_both_names":  # a program knows by which name each call came
        assert ours.items() >= theirs.items()
        assert set(ours.values()) == set(theirs.values())
        return
    assert ours == theirs


def check_equal(entry: Entry, model: nn.Module, module: nn.Module) -> None:
    for batch in entry.batches:
        inputs = entry.inputs(batch)
        assert difference(model(*inputs), module(*inputs)) <= TOLERANCE


def check_dialect(entry: Entry, dialect: str, graph: fx.GraphModule, there: Any) -> None:
    """As many nodes are the other op as the report says, and nothing foreign comes in."""
    there.module.graph.lint()
    assert foreign(there.module) <= foreign(graph)
    before, after = operators(graph), operators(there.module)
    step = len(there.report.rewrites) * (1 if entry.other_form == "conv" else -1)
    for names, sign in ((LINEARS, -1), (CONVS, 1)):
        changed = sum(op in names[dialect] for op in after) - sum(op in names[dialect] for op in before)
        assert changed == sign * step
    if dialect == "core":
        assert not COMPOSITE & set(after)
    for node in there.module.graph.nodes:
        if node.op == "call_function":
            assert node.meta.get("stack_trace") or node.name in {old.name for old in graph.graph.nodes}


def check_weights(entry: Entry, graph: fx.GraphModule, there: Any) -> None:
    """The same names over the same storage, the moved ones in the plan's shape."""
    assert facts(there.module) == facts(graph)
    moves = {move.name: move for move in there.plan.moves}
    for name, old in tensors(graph).items():
        new = tensors(there.module)[name]
        assert entry.copies or new.untyped_storage().data_ptr() == old.untyped_storage().data_ptr()
        if name in moves:
            assert tuple(new.shape) == moves[name].shape(there.plan.to)
    assert moves


def check_way_back(entry: Entry, graph: fx.GraphModule, there: Any) -> None:
    back = turned(entry, there.module, entry.form)
    assert written(back.module) == written(graph)
    assert entry.copies or storages(back.module) == storages(graph)
    assert facts(back.module) == facts(graph)
    assert back.plan.moves == there.plan.moves
    inputs = entry.inputs(2)
    assert false_shapes(back.module, inputs) == []
    assert difference(graph(*inputs), back.module(*inputs)) == 0


STATIC = (
    "dropout_head",
    "mobilenet_v3",
    "vgg",
    "layer_norm",
    "conv_batch_norm",
    "vgg_conv",
    "squeeze_excite",
    "features_beside",
    "channels_last_flatten",
    "mean_1d",
    "conv_3d_grid",
    "token_mean",
    "view_product_on_a_grid",
)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.name in STATIC], ids=lambda entry: entry.name)
def test_exported_with_static_shapes(entry: Entry, dialect: str) -> None:
    model, graph = exported(entry, dialect, static=True)
    check_sites(entry, model, graph)
    there = turned(entry, graph, entry.other_form)
    inputs = entry.inputs(batch_of(entry), seed=1)
    assert difference(model(*inputs), there.module(*inputs)) <= TOLERANCE
    check_dialect(entry, dialect, graph, there)
    assert false_shapes(there.module, inputs) == []
    back = turned(entry, there.module, entry.form)
    assert written(back.module) == written(graph)
    assert storages(back.module) == storages(graph)


def test_the_static_heads_are_in_the_zoo() -> None:
    assert {entry.name for entry in ENTRIES} >= set(STATIC)


# --- refusals -------------------------------------------------------------------------------------

# a program has none of these: what it computes is written out, and can be rewritten
GONE = {MissCode.HOOKED, MissCode.SUBCLASS, MissCode.BAKED_BATCH}
# and these it says in another way
RENAMED = {
    MissCode.PARAMETRIZED: MissCode.COMPUTED_WEIGHT,
    MissCode.SHARED_MODULE: MissCode.TIED_WEIGHT,
}
# decompositions make them functional, or plain matrix products
DECOMPOSED = {
    "in_place_module_on_a_view",
    "in_place_on_a_view",
    "pooled_channels_last",
}
# a product with a transposed parameter is a Linear where the graph says which tensor is a parameter's
LINEAR_AFTER_ALL = {"transposed_matrix_product"}
NOT_EXPORTED = {"flatten_0", "flatten_default", "view_minus_one_only", "weight_subclass"}
EXPORTED = [entry for entry in REFUSALS if entry.runs and entry.name not in NOT_EXPORTED]


def refusal_codes(entry: Entry) -> list[MissCode]:
    return [RENAMED.get(code, code) for _, code in entry.misses]


def is_refused(entry: Entry, dialect: str) -> bool:
    gone = {code for _, code in entry.misses} & GONE
    is_known = entry.name in LINEAR_AFTER_ALL or (dialect == "core" and entry.name in DECOMPOSED)
    return not gone and not is_known


# the old weight_norm and pruning set their weight in a hook, which export says and does
@pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("entry", EXPORTED, ids=lambda entry: entry.name)
def test_a_refusal_in_aten(entry: Entry, dialect: str) -> None:
    model, graph = exported(entry, dialect)
    result = rewrite(graph, to=entry.other_form)
    batch = batch_of(entry) if is_fixed(entry) else 3
    inputs = entry.inputs(batch)
    assert difference(model(*inputs), result.module(*inputs)) <= TOLERANCE
    if not is_refused(entry, dialect):
        assert result.report.rewrites
        assert false_shapes(result.module, inputs) == []
        return
    assert result.report.rewrites == ()
    assert written(result.module) == written(graph)
    assert storages(result.module) == storages(graph)
    codes = [miss.code for miss in find_sites(graph).misses]
    if entry.name == "shared_with_tokens" and dialect == "core":  # the tokens are multiplied by a bmm
        assert codes == [MissCode.TIED_WEIGHT, MissCode.MATRIX_PRODUCT]
    else:
        assert codes == refusal_codes(entry)


def test_the_refusals_named_here_are_in_the_zoo() -> None:
    assert {entry.name for entry in REFUSALS} >= NOT_EXPORTED | DECOMPOSED | LINEAR_AFTER_ALL


# --- beside the zoo -------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_damaged_head_would_be_seen(dialect: str) -> None:
    entry = next(one for one in ENTRIES if one.name == "mobilenet_v3")
    model = build(entry)
    there = rewrite(export(model, entry.inputs(3), dialect), to="conv")
    weight = tensors(there.module)["classifier.3.weight"]
    inputs = entry.inputs(2)
    expected = model(*inputs)
    with torch.no_grad():
        weight.copy_(weight.roll(1, dims=1))  # the caller's own weight too, so that it is last
    assert difference(expected, there.module(*inputs)) > 1e6 * TOLERANCE


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["dropout_head", "conv_dropout_2d", "mlp_batch_norm"])
def test_exported_in_train_mode(name: str, dialect: str) -> None:
    """Dropout and batch norm that train stay what they are, under the same seed."""
    entry = next(one for one in ENTRIES if one.name == name)
    model = build(entry, train=True)
    graph = export(model, entry.inputs(4), "training" if dialect == "training" else "core")
    there = rewrite(graph, to=entry.other_form)
    assert there.report.rewrites
    inputs = entry.inputs(5)
    state = {key: value.clone() for key, value in graph.state_dict().items()}
    torch.manual_seed(0)
    expected = graph(*inputs)
    norms = {key: value for key, value in state.items() if "running" in key or "num_batches" in key}
    graph.load_state_dict(norms, strict=False)
    torch.manual_seed(0)
    assert difference(expected, there.module(*inputs)) <= TOLERANCE


@pytest.mark.parametrize("name", ["dropout_head", "vgg", "conv_layer_norm", "features_beside"])
def test_a_rewritten_program_can_be_exported_again(name: str) -> None:
    entry = next(one for one in ENTRIES if one.name == name)
    model, graph = exported(entry, "training")
    there = rewrite(graph, to=entry.other_form)
    again = export(there.module, entry.inputs(4), "core")
    inputs = entry.inputs(3)
    assert difference(model(*inputs), again(*inputs)) <= TOLERANCE
    assert not COMPOSITE & set(operators(again))
    found = find_sites(again, scope=entry.scope)
    assert {str(site.form) for site in found.sites} == {entry.other_form}
    assert len(found.sites) == len(there.report.rewrites)
