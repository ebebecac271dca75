"""Scope ``all``: Linears on maps, tokens and vectors, 1×1 convolutions on whole maps, and their permutes."""

from __future__ import annotations

import copy
import functools
import io
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear as Subclass

from fxpasses import InputError, LinearToConv, MissCode, Scope, find_sites, rewrite
from fxpasses.graph.trace import trace
from zoo.compare import difference, facts, storages, tensors, written
from zoo.everywhere import WHOLE, Net, Whole

every = pytest.mark.parametrize("entry", WHOLE, ids=lambda entry: entry.name)
_DECOMPOSED = ("convnext_block", "mixer", "windows", "bottleneck", "vectors")  # the others in the slow run
exported = pytest.mark.parametrize(
    ("entry", "core"),
    [
        pytest.param(
            entry,
            core,
            id=f"{entry.name}-{'core' if core else 'training'}",
            marks=[pytest.mark.slow] if core and entry.name not in _DECOMPOSED else [],
        )
        for entry in WHOLE
        if entry.exports
        for core in (False, True)
    ],
)

_PERMUTES = ("permute", "transpose", "swapaxes", "t")


def permutes(graph: fx.Graph) -> int:
    """How many nodes reorder axes of values that depend on the input."""
    names = [
        getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        for node in graph.nodes
        if node.op in ("call_function", "call_method") and not _reads_weight(node)
    ]
    return sum(name in _PERMUTES for name in names)


def _reads_weight(node: fx.Node) -> bool:
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    return source is not None and source.op == "placeholder" and source.name.startswith("p_")


def original(model: nn.Module) -> list[tuple[Any, ...]]:
    return written(trace(model).close())


def all_of(model: Any, to: str, inputs: Tensor | None = None) -> Any:
    return rewrite(model, to=to, scope="all", example_inputs=inputs)


@every
def test_sites_kernels_and_permutes(entry: Whole) -> None:
    model = entry.build()
    found = find_sites(model, scope="all", example_inputs=entry.input(2))
    sites = {site.name: site.kernel_size for site in found.sites}
    assert tuple(sites) == entry.sites
    assert tuple(sites.values()) == entry.kernels
    assert {str(site.form) for site in found.sites} == {entry.form}
    assert tuple((miss.name, miss.code) for miss in found.misses) == entry.misses
    there = all_of(model, entry.to, entry.input(2))
    assert [done.site for done in there.report.rewrites] == list(found.sites) or len(sites) > len(entry.sites)
    assert {done.site.name for done in there.report.rewrites} == {*entry.sites}
    assert (permutes(trace(model).graph), permutes(there.module.graph)) == entry.permutes
    assert {str(site.form) for site in find_sites(there.module, "all", entry.input(2)).sites} == {entry.to}
    assert find_sites(model, scope="pooled").sites == tuple(
        s for s in found.sites if s.scope is not Scope.ALL
    )


@every
def test_same_function_over_the_same_storage(entry: Whole) -> None:
    model = entry.build()
    there = all_of(model, entry.to, entry.input(2))
    for batch in (1, 3):
        assert difference(model(entry.input(batch)), there.module(entry.input(batch))) <= 1e-12
    assert there.report.copied_bytes == 0
    assert [*there.module.state_dict()] == [*model.state_dict()]
    for name, tensor in tensors(model).items():
        assert tensors(there.module)[name].data_ptr() == tensor.data_ptr()
    moved = {move.name: move for move in there.plan.moves}
    for name, state in there.plan.apply(model.state_dict()).items():
        assert state.shape == there.module.state_dict()[name].shape
        assert (name in moved) is (state.shape != model.state_dict()[name].shape)


@every
@pytest.mark.parametrize("with_inputs", [True, False], ids=["inputs", "no_inputs"])
def test_back_is_the_same_graph(entry: Whole, with_inputs: bool) -> None:
    model, inputs = entry.build(), entry.input(2) if with_inputs else None
    there = all_of(model, entry.to, inputs)
    if not with_inputs and entry.needs_inputs:
        assert {miss.code for miss in there.report.misses} >= {MissCode.UNKNOWN_LAYOUT}
        assert all(
            "example_inputs" in m.fix for m in there.report.misses if m.code == MissCode.UNKNOWN_LAYOUT
        )
    else:
        assert {done.site.name for done in there.report.rewrites} >= {*entry.sites} - {"out"}
    assert difference(model(entry.input(3)), there.module(entry.input(3))) <= 1e-12
    back = all_of(there.module, entry.form, inputs)
    assert written(back.module) == original(model)
    assert storages(back.module) == storages(model)
    assert facts(back.module) == facts(model)
    assert back.plan.moves == there.plan.moves
    assert written(all_of(back.module, entry.to, inputs).module) == written(there.module)


@every
def test_back_after_a_copy_that_was_saved(entry: Whole) -> None:
    """A saved GraphModule is traced anew, and goes back by the algebra or by its record."""
    model = entry.build()
    there = copy.deepcopy(all_of(model, entry.to, entry.input(2)).module)
    assert written(all_of(there, entry.form, entry.input(2)).module) == original(model)
    file = io.BytesIO()
    torch.save(there, file)
    file.seek(0)
    back = all_of(torch.load(file, weights_only=False), entry.form, entry.input(2))
    assert {done.site.name for done in back.report.rewrites} == {*entry.sites}
    assert difference(model(entry.input(3)), back.module(entry.input(3))) <= 1e-12


@every
def test_back_by_the_algebra_has_no_more_permutes(entry: Whole) -> None:
    """Without the record: the same function, and no permute that a record would have saved."""
    model = entry.build()
    there = all_of(model, entry.to, entry.input(2)).module
    there.meta.clear()
    vars(there).pop("_fxhead_undo")
    back = all_of(there, entry.form, entry.input(2))
    assert difference(model(entry.input(3)), back.module(entry.input(3))) <= 1e-12
    # rows, columns and channels need three orders, of which one frame has two
    apart = 3 if entry.name == "permutator" else 0
    assert permutes(back.module.graph) <= max(entry.permutes) + apart


@functools.cache
def exported_program(entry: Whole, *, core: bool) -> ExportedProgram:
    if core:
        return exported_program(entry, core=False).run_decompositions()
    return export(entry.build(), (entry.input(2),), dynamic_shapes=({0: Dim("batch", min=1)},))


def lines(program: ExportedProgram) -> list[tuple[str, ...]]:
    return [
        (node.name, str(node.target), repr(node.args), repr(node.kwargs), str(shapes_of(node)))
        for node in program.graph.nodes
    ]


def shapes_of(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


@exported
def test_programs(entry: Whole, core: bool) -> None:
    model, program = entry.build(), exported_program(entry, core=core)
    there = all_of(program, entry.to)
    batched = entry.batched if core else ()
    assert {done.site.name for done in there.report.rewrites} == {*entry.sites} - {*batched}
    assert {miss.code for miss in there.report.misses} == ({MissCode.MATRIX_PRODUCT} if batched else set())
    for batch in (1, 2, 5):
        expected = model(entry.input(batch))
        assert difference(expected, there.module.module()(entry.input(batch))) <= 1e-12
    before, after = permutes(program.graph), permutes(there.module.graph)
    assert after - before <= entry.permutes[1] - entry.permutes[0] + 2 * len(batched)
    back = all_of(there.module, entry.form)
    assert lines(back.module) == lines(program)
    if core:
        assert "aten.reshape.default" not in {str(node.target) for node in there.module.graph.nodes}
    for node in there.module.graph.nodes:  # what a node says of itself is what it computes
        if isinstance(node.target, torch._ops.OpOverload):
            assert node.meta["val"] is not None


@pytest.mark.parametrize("core", [False, True], ids=["training", "core"])
@pytest.mark.parametrize(
    "entry", [entry for entry in WHOLE if entry.name in _DECOMPOSED], ids=lambda entry: entry.name
)
def test_programs_back_by_the_algebra(entry: Whole, core: bool) -> None:
    model, there = entry.build(), all_of(exported_program(entry, core=core), entry.to).module
    there.graph_module.meta.clear()
    vars(there.graph_module).pop("_fxhead_undo", None)
    back = all_of(there, entry.form).module
    assert {str(site.form) for site in find_sites(back, "all").sites} <= {entry.form}
    assert difference(model(entry.input(3)), back.module()(entry.input(3))) <= 1e-12


# --- the thread that fxhead grew from ----------------------------------------------------------------


def test_the_threads_own_example() -> None:
    """A 1×1 convolution of a 2×3×24×24 map to 6 channels is a Linear on the permuted map."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 6, 1), torch.randn(2, 3, 24, 24)
    linear = nn.Linear(3, 6)  # as its author would have written it
    with torch.no_grad():
        linear.weight.copy_(conv.weight.view(6, 3))
        linear.bias.copy_(conv.bias)
    by_hand = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    result = rewrite(nn.Sequential(conv), to="linear", scope="all").module
    assert isinstance(result.get_submodule("0"), nn.Linear)
    assert torch.equal(result(x), by_hand)
    # γ_n · (|W|·|x| + |b|) on each side, n the terms of a sum; Higham, Accuracy and Stability, §3.1
    magnitude = F.conv2d(x.double().abs(), conv.weight.double().abs(), conv.bias.double().abs())
    terms = 4 * torch.finfo(torch.float32).eps / 2
    assert ((result(x) - conv(x)).abs() <= 2 * terms / (1 - terms) * magnitude).all()
    one_hot = torch.zeros(2, 3, 24, 24)
    one_hot.scatter_(1, torch.randint(3, (2, 1, 24, 24)), 1.0)
    assert torch.equal(result(one_hot), conv(one_hot))


# --- what is refused ---------------------------------------------------------------------------------


def test_convolutions_that_are_no_linear_of_each_position() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 4, 1, padding=1),
        nn.ConvTranspose2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, dilation=3),
    )  # fmt: skip
    found = find_sites(model, scope="all")
    assert [site.name for site in found.sites] == ["5"]
    codes = {miss.name: miss.code for miss in found.misses}
    assert codes == {"0": "STRIDE", "1": "GROUPS", "2": "PADDING", "3": "TRANSPOSED"}


def test_layers_that_cannot_change() -> None:
    hooked = nn.Linear(6, 6)
    hooked.register_forward_hook(lambda *args: None)
    tied = nn.Linear(6, 5, bias=False)
    embedding = nn.Embedding(5, 6)
    tied.weight = embedding.weight

    def call(m: Any, x: Tensor) -> Tensor:
        tokens = m.ranks(m.doubling(m.hooked(x))) + m.table(x[:, :, 0].long() % 5)
        return m.tied(tokens + m.ranks(x.unsqueeze(1))[:, 0])

    model = Net(
        call, hooked=hooked, doubling=Subclass(6, 6), ranks=nn.Linear(6, 6), tied=tied, table=embedding
    )
    x = torch.randn(2, 3, 6)
    result = all_of(model, "conv", x)
    codes = {miss.name: miss.code for miss in result.report.misses}
    assert codes == {
        "hooked": "HOOKED",
        "doubling": "SUBCLASS",
        "ranks": "SHARED_MODULE",  # on tokens and on a map: no kernel fits both
        "tied": "TIED_WEIGHT",
    }
    assert not result.report.rewrites
    assert torch.equal(result.module(x), model(x))


def test_a_layer_of_the_head_and_of_a_map_is_shared() -> None:
    """Head and map are edited one after the other, so that a layer of both would have two forms between."""
    model = Net(lambda m, x: m.fc(m.fc(x.permute(0, 2, 3, 1)).mean((1, 2))), fc=nn.Linear(6, 6))
    x = torch.randn(2, 6, 4, 4)
    result = all_of(model, "conv", x)
    assert not result.report.rewrites
    assert {miss.code for miss in result.report.misses} == {MissCode.SHARED_MODULE}
    assert torch.equal(result.module(x), model(x))


def test_axes_that_no_convolution_has() -> None:
    model = nn.Linear(3, 4)
    for shape in ((3,), (2, 1, 1, 1, 1, 3)):
        (miss,) = find_sites(nn.Sequential(model), "all", torch.randn(shape)).misses
        assert miss.code == MissCode.RANK
    unbatched = nn.Sequential(nn.Conv2d(3, 4, 1))
    (miss,) = find_sites(unbatched, "all", torch.randn(3, 5, 5)).misses
    assert miss.code == MissCode.RANK
    (site,) = find_sites(nn.Sequential(model), "all", torch.randn(7, 3)).sites  # [T, C] is a batch of vectors
    assert site.kernel_size == (1, 1)


def test_a_product_with_a_parameter_and_a_function_that_is_not_entered() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + not_entered(x, self.fc.weight) + (x @ x.transpose(1, 2)).mean()

    x = torch.randn(2, 3, 3)
    misses = find_sites(Product(), "all", x).misses
    assert {(miss.name, miss.code) for miss in misses} == {
        ("matmul", MissCode.MATRIX_PRODUCT),
        ("fc", MissCode.OPAQUE_CALL),
    }


@fx.wrap
def not_entered(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def test_forms_of_heads_take_no_scope_all() -> None:
    for form in ("dense", "fcn"):
        with pytest.raises(InputError, match="scope 'head'"):
            rewrite(nn.Conv2d(3, 4, 1), to=form, scope="all")


# --- what moves, and what does not -------------------------------------------------------------------


def test_a_hooked_activation_sees_what_it_saw() -> None:
    seen: list[torch.Size] = []
    model = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    x = torch.randn(2, 5, 6)
    result = all_of(model, "conv", x)
    result.module(x)
    assert {*seen} == {(2, 5, 9)}  # also where shapes are propagated
    assert permutes(result.module.graph) == 4


def test_nothing_moves_without_a_cancellation() -> None:
    """Dropout behind the last convolution stays where it is; the permute before it is one for all readers."""
    model = Net(
        lambda m, x: (m.drop(m.a(F.layer_norm(x, (6,)))) + x, m.b(x)),
        drop=nn.Dropout(), a=nn.Linear(6, 6), b=nn.Linear(6, 4),
    ).double().eval()  # fmt: skip
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    there = all_of(model, "conv", x).module
    order = [getattr(n.target, "__name__", n.target) for n in there.graph.nodes if n.op.startswith("call")]
    assert order == ["permute", "layer_norm", "permute", "a", "permute", "drop", "add", "b", "permute"]
    assert [torch.allclose(p, q) for p, q in zip(there(x), model(x), strict=True)] == [True, True]


def test_in_place_ops_write_where_they_wrote() -> None:
    def call(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = m.a(x)
        z = F.relu(y, inplace=True)
        return y, z.add_(m.b(z)).mul_(2)

    model = Net(call, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 6, 1)).double()
    x = torch.randn(2, 3, 5, 4).double()
    there = all_of(model, "linear", x).module
    assert difference(model(x), there(x)) <= 1e-12


def test_views_take_what_permutes_leave() -> None:
    model = Net(
        lambda m, x: F.relu(m.a(x)).view(x.shape[0], 2, 3, 4, 5).view(-1, 120) * 2, a=nn.Conv2d(3, 6, 1)
    ).double()
    x = torch.randn(2, 3, 4, 5).double()
    there = all_of(model, "linear", x)
    assert difference(model(x), there.module(x)) <= 1e-12
    assert written(all_of(there.module, "conv", x).module) == original(model)


def test_one_block_that_was_edited_goes_back_by_the_algebra_and_the_others_exactly() -> None:
    entry = next(entry for entry in WHOLE if entry.name == "windows")
    model = entry.build()
    there = all_of(model, "conv", entry.input(2)).module
    last = next(node for node in there.graph.nodes if node.target == "last")
    with there.graph.inserting_after(last):
        extra = there.graph.call_function(torch.neg, (last,))
    last.replace_all_uses_with(extra, delete_user_cb=lambda user: user is not extra)
    there.recompile()
    back = all_of(there, "linear", entry.input(2))
    assert {done.site.name for done in back.report.rewrites} == {*entry.sites}
    assert difference(-model(entry.input(3)), back.module(entry.input(3))) <= 1e-12


def test_scopes_can_be_mixed() -> None:
    entry = next(entry for entry in WHOLE if entry.name == "pyramid")
    model = entry.build()
    head = rewrite(model, to="linear", scope="head", example_inputs=entry.input(2))
    both = all_of(head.module, "linear", entry.input(2))
    assert {done.site.name for done in both.report.rewrites} == {*entry.sites} - {"head"}
    back = all_of(both.module, "conv", entry.input(2))
    assert written(back.module) == original(model)


def test_as_a_pass() -> None:
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).double())
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    expected = module(x)
    assert LinearToConv(scope="all", example_inputs=x)(module).modified
    assert isinstance(module.get_submodule("0"), nn.Conv1d)
    assert torch.allclose(module(x), expected)
