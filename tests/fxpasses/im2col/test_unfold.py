"""The form ``unfold``: a convolution as a matrix product of its patches, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.fx.passes.infra.pass_manager import PassManager

from fxpasses import ConvToUnfold, UnfoldToConv, find_sites, rewrite
from fxpasses.errors import InputError
from fxpasses.graph.shapes import run_on_fakes
from fxpasses.im2col.memory import _Liveness
from fxpasses.miss_codes import MissCode
from zoo.compare import difference, facts, kinds, storages, tensors, traced, written
from zoo.programs import DIALECTS, false_shapes, operators

TOLERANCE = 1e-12
# torch itself says that it pads an even kernel apart
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
MODES = ("zeros", "reflect", "replicate", "circular")


def relative(expected: Tensor, actual: Tensor) -> float:
    """Greatest difference over the greatest value; for one convolution, whose samples may be alike."""
    assert expected.shape == actual.shape
    expected, actual = expected.detach(), actual.detach()
    return float((expected - actual).abs().max() / expected.abs().max().clamp_min(1e-300))


class Net(nn.Module):
    """Convolutions of several kinds, one after the other and side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.even = nn.Conv2d(6, 6, (2, 4), padding="same", dilation=(1, 2))
        self.mirror = nn.Conv2d(6, 4, (3, 1), padding=(2, 0), padding_mode="reflect")
        self.point = nn.Conv2d(6, 4, 1, stride=(2, 1))
        self.weight = nn.Parameter(torch.randn(5, 4, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.randn(5))
        self.head = nn.Linear(9, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.relu_(self.norm(self.stem(x)))
        x = x + self.even(x)
        a, b = self.mirror(x), self.point(x)
        a = F.conv2d(a, self.weight, self.bias, padding="same")
        b = b.view(b.size(0), -1)[:, :4]
        return self.head(torch.cat([a.mean((2, 3)), b], 1))


SITES = ["stem", "even", "mirror", "point", "weight"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().double().eval()


def images(batch: int = 2, height: int = 12, width: int = 9) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch)).double()


# --- the algebra


@st.composite
def _convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, tuple[int, int], list[tuple[int, int]]]:
    """A convolution, its patches' reach, and sizes of maps that it takes: the smallest one first."""
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    kernel, dilation, stride = pair(1, 4), pair(1, 3), pair(1, 3)
    mode = draw(st.sampled_from(MODES))
    padding: Any = draw(st.sampled_from(["same", "valid", "numbers"]))
    if padding == "same":
        stride = (1, 1)
    elif padding == "numbers":
        padding = pair(0, 3)
    convolution = nn.Conv2d(
        draw(st.integers(1, 3)), draw(st.integers(1, 3)), kernel, stride, padding, dilation,
        bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip
    reach = [step * (extent - 1) + 1 for step, extent in zip(dilation, kernel, strict=True)]
    pads = {"same": [whole - 1 for whole in reach], "valid": [0, 0]}.get(str(padding), None)
    pads = [2 * extent for extent in padding] if pads is None else pads
    least = [max(1, whole - more) for whole, more in zip(reach, pads, strict=True)]
    if mode in ("reflect", "circular"):  # these need as much map as they repeat
        least = [max(extent, (more + 1) // 2 + 1) for extent, more in zip(least, pads, strict=True)]
    larger = [tuple(extent + draw(st.integers(0, 5)) for extent in least) for _ in range(2)]
    return convolution, (reach[0], reach[1]), [tuple(least), *larger]  # type: ignore[list-item]


@settings(max_examples=120, deadline=None)
@given(_convolutions(), st.booleans())
def test_any_convolution_is_a_product_of_its_patches(
    drawn: tuple[nn.Conv2d, tuple[int, int], list[tuple[int, int]]], batched: bool
) -> None:
    convolution, _, sizes = drawn
    model = nn.Sequential(convolution.double())
    result = rewrite(model, to="unfold")
    assert [type(module) for module in result.module.children()] == [nn.Linear]
    assert result.report.copied_bytes == 0
    for extents in sizes:
        lead = (2,) if batched else ()
        x = torch.randn(*lead, convolution.in_channels, *extents).double()
        expected = model(x)
        actual = result.module(x)
        assert actual.is_contiguous()
        assert relative(expected, actual) <= TOLERANCE
    back = rewrite(result.module, to="conv")
    assert written(back.module) == written(fx.symbolic_trace(model))
    assert storages(back.module) == storages(model)
    assert torch.equal(back.module(x), model(x))
    del result.module.meta["_fxhead_undo"], result.module._fxhead_undo
    algebra = rewrite(result.module, to="conv", scope="unfolded")
    assert len(algebra.report.rewrites) == 1
    assert {"Conv2d", "pad"} >= set(kinds(algebra.module))
    assert relative(model(x), algebra.module(x)) <= TOLERANCE


# --- whole models


def test_every_convolution_of_a_model_and_back_exactly() -> None:
    model = net()
    there = rewrite(model, to="unfold")
    assert [entry.site.name for entry in there.report.rewrites] == SITES
    assert there.report.misses == ()
    assert not {"Conv2d", "conv2d"} & {*kinds(there.module)}
    for batch, height, width in ((2, 12, 9), (1, 11, 16)):
        x = images(batch, height, width)
        assert difference(model(x), there.module(x)) <= TOLERANCE
    assert facts(there.module) == facts(model)
    assert there.module.stem.weight.data_ptr() == model.stem.weight.data_ptr()
    for module in (there.module, copy.deepcopy(there.module)):
        back = rewrite(module, to="conv", scope="unfolded")
        assert written(back.module) == written(traced(model, "linear"))
        assert difference(model(x), back.module(x)) == 0
    assert storages(rewrite(there.module, to="conv", scope="unfolded").module) == storages(model)
    both = rewrite(there.module, to="conv").module
    assert kinds(both) == kinds(rewrite(model, to="conv").module)
    again = rewrite(there.module, to="unfold")
    assert again.report.rewrites == ()
    assert written(again.module) == written(there.module)


def test_one_changed_site_goes_back_by_the_algebra_and_the_others_exactly() -> None:
    model = net()
    there = rewrite(model, to="unfold").module
    node = next(n for n in there.graph.nodes if n.target == "even").args[0]
    node.args = (node.args[0], 2, 1)  # the same transpose in other words
    there.recompile()
    back = rewrite(there, to="conv", scope="unfolded").module
    names = [line[1] for line in written(back)]
    assert [line for line in written(traced(model, "linear")) if line[1] not in ("even", "add")] == [
        line for line in written(back) if line[1] not in ("even", "add", "pad")
    ]
    assert names.count("even") == 1
    assert difference(model(images()), back(images())) <= TOLERANCE


def test_the_plan_takes_checkpoints_there_and_back() -> None:
    model = net()
    there = rewrite(model, to="unfold")
    state = there.plan.apply(model.state_dict())
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in there.module.state_dict().items()
    }
    there.module.load_state_dict(state)
    assert rewrite(there.module, to="conv", scope="unfolded").plan == there.plan.invert()
    back = there.plan.invert().apply(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_training_is_the_same() -> None:
    model = net().train()
    there = rewrite(model, to="unfold").module
    for module in (model, there):
        module.zero_grad()
        module(images()).square().sum().backward()
        module.grads = [tensor.grad.flatten() for tensor in tensors(module).values() if tensor.requires_grad]
    assert all(relative(a, b) <= 1e-10 for a, b in zip(model.grads, there.grads, strict=True))


def test_passes_run_in_a_manager() -> None:
    graph = fx.symbolic_trace(net())
    before = written(graph)
    assert PassManager(passes=[ConvToUnfold()])(graph).modified
    assert not ConvToUnfold()(graph).modified
    assert PassManager(passes=[UnfoldToConv()])(graph).modified
    assert written(graph) == before
    assert not UnfoldToConv()(graph).modified


# --- programs


def _program(model: nn.Module, dialect: str, *, any_size: bool) -> Any:
    sizes = {0: Dim("batch", min=1)} | ({2: Dim("h", min=8), 3: Dim("w", min=8)} if any_size else {})
    program = torch.export.export(model, (images(4, 12, 16),), dynamic_shapes=(sizes,))
    return program.run_decompositions() if dialect == "core" else program


class Maps(nn.Module):
    """Convolutions whose sizes stay open in a program."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.even = nn.Conv2d(4, 4, (2, 4), padding="same", bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.even(torch.relu(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize("any_size", [False, True], ids=["fixed", "any_size"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_programs(dialect: str, any_size: bool) -> None:
    model = Maps().double().eval()
    program = _program(model, dialect, any_size=any_size)
    there = rewrite(program, to="unfold")
    assert [entry.site.name for entry in there.report.rewrites] == ["stem", "even"]
    assert "im2col" in operators(there.module.graph_module)
    assert not {"conv2d", "convolution"} & {*operators(there.module.graph_module)}
    module = there.module.module()
    sizes = ((3, 12, 16), (1, 12, 16), (2, 9, 21)) if any_size else ((3, 12, 16), (1, 12, 16))
    for size in sizes:
        assert difference(model(images(*size)), module(images(*size))) <= TOLERANCE
    assert false_shapes(module, (images(3, 12, 16),)) == []
    again = torch.export.export(module, (images(4, 12, 16),))
    assert difference(model(images(4, 12, 16)), again.module()(images(4, 12, 16))) <= TOLERANCE
    back = rewrite(there.module, to="conv", scope="unfolded")
    assert written(back.module.graph_module) == written(program.graph_module)
    assert back.module.state_dict["stem.weight"].shape == (4, 3, 3, 3)
    del there.module.graph_module.meta["_fxhead_undo"], there.module.graph_module._fxhead_undo
    algebra = rewrite(there.module, to="conv", scope="unfolded")
    assert [entry.site.name for entry in algebra.report.rewrites] == ["stem", "even"]
    assert difference(model(images()), algebra.module.module()(images())) <= TOLERANCE if any_size else True


def test_a_program_can_be_unflattened() -> None:
    model = Maps().double().eval()
    program = rewrite(_program(model, "training", any_size=False), to="unfold").module
    module = torch.export.unflatten(program)
    assert difference(model(images(2, 12, 16)), module(images(2, 12, 16))) <= TOLERANCE


# --- by hand

ROWS, C, K = 5, 3, (3, 2)


class ByHand(nn.Module):
    """A convolution of stride (2, 1) and padding (1, 0) that somebody wrote as a product."""

    def __init__(
        self, product: Callable[[Any, Tensor], Tensor], *, flat: bool = False, **layers: Any
    ) -> None:
        super().__init__()
        weight = torch.randn(ROWS, C, *K)
        self.w = nn.Parameter(weight.flatten(1) if flat else weight)
        self.b = nn.Parameter(torch.randn(ROWS))
        self.product = product
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        return self.product(self, x).relu()

    def expected(self, x: Tensor) -> Tensor:
        """What the convolution gives."""
        layer = getattr(self, "layer", None)
        weight, bias = (self.w, self.b) if layer is None else (layer.weight, layer.bias)
        return F.conv2d(x, weight.view(ROWS, C, *K), bias, (2, 1), (1, 0)).relu()


def _columns(x: Tensor) -> Tensor:
    return F.unfold(x, K, padding=(1, 0), stride=(2, 1))


def _sizes(x: Tensor) -> tuple[int, int]:
    return (x.shape[2] + 2 * 1 - 1 * (K[0] - 1) - 1) // 2 + 1, x.size(3) - 1


BY_HAND: dict[str, Callable[[], ByHand]] = {
    "matmul": lambda: ByHand(
        lambda m, x: (m.w.view(ROWS, -1) @ _columns(x) + m.b[:, None]).view(x.size(0), ROWS, *_sizes(x))
    ),
    "flat_weight": lambda: ByHand(
        lambda m, x: (torch.matmul(m.w, _columns(x)) + m.b.view(1, -1, 1)).view(-1, ROWS, *_sizes(x)),
        flat=True,
    ),
    "linear": lambda: ByHand(
        lambda m, x: (
            F.linear(_columns(x).transpose(1, 2), m.w.reshape(m.w.size(0), -1), m.b)
            .transpose(1, 2)
            .reshape(x.shape[0], ROWS, *_sizes(x))
        )
    ),
    "linear_and_bias": lambda: ByHand(
        lambda m, x: (
            (F.linear(_columns(x).permute(0, 2, 1).contiguous(), m.w) + m.b)
            .permute(0, 2, 1)
            .unflatten(2, _sizes(x))
        ),
        flat=True,
    ),
    "einsum": lambda: ByHand(
        lambda m, x: (
            torch.einsum("ok,nkl->nol", m.w.flatten(1), _columns(x))
            .add(m.b.unsqueeze(-1))
            .unflatten(-1, (-1, x.size(-1) - 1))
        )
    ),
    "einsum_last": lambda: ByHand(
        lambda m, x: (
            (torch.einsum("nkl,ok->nlo", _columns(x), m.w.flatten(1)) + m.b)
            .view(x.shape[0], *_sizes(x), ROWS)
            .permute(0, 3, 1, 2)
        )
    ),
    "fold": lambda: ByHand(
        lambda m, x: F.fold(m.w.view(ROWS, -1).matmul(_columns(x)) + m.b[None, :, None], _sizes(x), (1, 1))
    ),
    "transposed_weight": lambda: ByHand(
        lambda m, x: (
            (_columns(x).transpose(-1, -2) @ m.w.view(ROWS, -1).t() + m.b)
            .transpose(-1, -2)
            .unflatten(-1, _sizes(x))
        )
    ),
    "modules": lambda: ByHand(
        lambda m, x: m.layer(m.columns(x).transpose(1, 2)).transpose(1, 2).unflatten(-1, _sizes(x)),
        layer=nn.Linear(C * K[0] * K[1], ROWS),
        columns=nn.Unfold(K, padding=(1, 0), stride=(2, 1)),
    ),
    "in_place_bias": lambda: ByHand(lambda m, x: _with_iadd(m, x)),
}


def _with_iadd(m: Any, x: Tensor) -> Tensor:
    out = m.w.view(ROWS, -1) @ _columns(x)
    out += m.b[:, None]
    return out.unflatten(-1, _sizes(x))


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("way", ["symbolic", *DIALECTS])
def test_a_product_by_hand_becomes_a_convolution(name: str, way: str) -> None:
    torch.manual_seed(1)
    model = BY_HAND[name]().double().eval()
    x = images(3, 7, 6)
    subject: Any = model
    if way != "symbolic":
        subject = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch", min=1)},))
        subject = subject.run_decompositions() if way == "core" else subject
    result = rewrite(subject, to="conv")
    if way == "core":  # unfold and the product are taken apart there, so nothing is left to recognise
        assert result.report.rewrites == ()
        return
    assert len(result.report.rewrites) == 1, result.report.misses
    graph = result.module if way == "symbolic" else result.module.graph_module
    ops = kinds(graph) if way == "symbolic" else operators(graph)
    assert not {"unfold", "Unfold", "im2col", "matmul", "einsum", "fold", "col2im"} & {*ops}, ops
    assert len({"Conv2d", "conv2d"} & {*ops}) == 1
    run = graph if way == "symbolic" else result.module.module()
    for batch, height in ((3, 7), (2, 9 if way == "symbolic" else 7)):
        x = images(batch, height, 6)
        assert relative(model.expected(x), model(x)) <= TOLERANCE
        assert relative(model.expected(x), run(x)) <= TOLERANCE
    back = rewrite(result.module, to="unfold")
    given = fx.symbolic_trace(model) if way == "symbolic" else subject.graph_module
    returned = back.module if way == "symbolic" else back.module.graph_module
    assert written(returned) == written(given)


# --- refusals


def _refused(product: Callable[[Any, Tensor], Tensor]) -> ByHand:
    return ByHand(product).double().eval()


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], MissCode]] = {
    "swapped": (
        lambda m, x: (m.w.view(ROWS, -1) @ _columns(x)).view(x.size(0), ROWS, *_sizes(x)[::-1]),
        MissCode.UNKNOWN_LAYOUT,
    ),
    "other_size": (
        lambda m, x: (m.w.view(ROWS, -1) @ _columns(x)).unflatten(-1, (-1, x.size(2))),
        MissCode.UNKNOWN_LAYOUT,
    ),
    "numbers": (
        lambda m, x: (m.w.view(ROWS, -1) @ _columns(x)).unflatten(-1, (4, 5)),
        MissCode.UNKNOWN_EXTENT,
    ),
    "baked_batch": (
        lambda m, x: (m.w.view(ROWS, -1) @ _columns(x)).view(2, ROWS, *_sizes(x)),
        MissCode.BAKED_BATCH,
    ),
    "read_twice": (
        lambda m, x: (y := m.w.view(ROWS, -1) @ _columns(x)).unflatten(-1, _sizes(x)) + y.mean(),
        MissCode.UNKNOWN_LAYOUT,
    ),
    "other_view": (
        lambda m, x: (m.w.transpose(2, 3).reshape(ROWS, -1) @ _columns(x)).unflatten(-1, _sizes(x)),
        MissCode.UNKNOWN_LAYOUT,
    ),
    "computed_weight": (
        lambda m, x: (
            F.linear(_columns(x).transpose(1, 2), m.w.flatten(1).abs())
            .transpose(1, 2)
            .unflatten(-1, _sizes(x))
        ),
        MissCode.COMPUTED_WEIGHT,
    ),
    "written": (
        lambda m, x: (m.w.view(ROWS, -1) @ _then_cleared(y := x + 0)).unflatten(-1, _sizes(y)),
        MissCode.IN_PLACE_ALIAS,
    ),
}


def _then_cleared(x: Tensor) -> Tensor:
    columns = _columns(x)
    x.relu_()
    return columns


@pytest.mark.parametrize("name", REFUSED)
def test_a_product_that_is_no_convolution_stays(name: str) -> None:
    product, code = REFUSED[name]
    model = _refused(product)
    result = rewrite(model, to="conv", scope="unfolded")
    assert [miss.code for miss in result.report.misses] == [code], result.report.misses
    assert result.report.rewrites == ()
    assert written(result.module) == written(fx.symbolic_trace(model))


def test_example_inputs_settle_sizes_that_are_numbers() -> None:
    model = _refused(REFUSED["numbers"][0])
    assert len(rewrite(model, to="conv", example_inputs=images(2, 7, 6)).report.rewrites) == 1
    wrong = ByHand(lambda m, x: (m.w.view(ROWS, -1) @ _columns(x)).unflatten(-1, (5, 4))).double()
    missed = rewrite(wrong, to="conv", scope="unfolded", example_inputs=images(2, 7, 6)).report.misses
    assert [miss.code for miss in missed] == [MissCode.UNKNOWN_LAYOUT]


def test_attention_over_patches_is_no_candidate() -> None:
    model = ByHand(lambda m, x: (_columns(x).transpose(1, 2) @ _columns(x)).relu())
    report = rewrite(model, to="conv", scope="unfolded").report
    assert report.rewrites == report.misses == ()


def _odd(change: Callable[[nn.Conv2d], object]) -> nn.Module:
    convolution = nn.Conv2d(3, 4, 3)
    return nn.Sequential(change(convolution) or convolution)  # type: ignore[arg-type]


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ConvTranspose2d(3, 3, 3))
    model[1].weight = model[0].weight
    return model


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], list[MissCode]]] = {
    "groups": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), [MissCode.GROUPS]),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), [MissCode.TRANSPOSED]),
    "rank": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 1)), [MissCode.RANK] * 2),
    "hooked": (lambda: _odd(lambda c: c.register_forward_hook(lambda *_: None) and None), [MissCode.HOOKED]),
    "parametrised": (
        lambda: _odd(lambda c: nn.utils.parametrizations.weight_norm(c)),
        [MissCode.PARAMETRIZED],
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), [MissCode.UNINITIALIZED]),
    "subclass": (
        lambda: nn.Sequential(torch.ao.nn.qat.Conv2d(3, 4, 3, qconfig=torch.ao.quantization.default_qconfig)),
        [MissCode.SUBCLASS],
    ),
    "tied": (_tied, [MissCode.TIED_WEIGHT, MissCode.TRANSPOSED]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_that_cannot_stays(name: str) -> None:
    make, codes = CONVOLUTIONS[name]
    model = make()
    result = rewrite(model, to="unfold")
    assert result.report.rewrites == ()
    assert [miss.code for miss in result.report.misses] == codes
    assert written(result.module) == written(traced(model, "unfold"))
    assert all(miss.fix and miss.reason for miss in result.report.misses)
    assert [miss.code for miss in find_sites(model, to="unfold").misses] == codes


def test_a_shared_convolution_is_a_shared_linear() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared).double()
    there = rewrite(model, to="unfold")
    assert len(there.report.rewrites) == 2
    x = images()
    assert relative(model(x), there.module(x)) <= TOLERANCE
    back = rewrite(there.module, to="conv")
    assert written(back.module) == written(traced(model, "linear"))
    assert storages(back.module) == storages(model)


def test_sites_are_listed_in_both_forms() -> None:
    model = net()
    found = find_sites(model, to="unfold")
    assert [(site.name, str(site.form)) for site in found.sites] == [(name, "conv") for name in SITES]
    there = rewrite(model, to="unfold").module
    for to in ("unfold", "conv"):
        found = find_sites(there, scope="unfolded", to=to)
        assert [(site.name, str(site.form)) for site in found.sites] == [(name, "unfold") for name in SITES]
    assert [site.name for site in find_sites(there, to="conv").sites] == [*SITES, *_heads(there)]


def _heads(module: fx.GraphModule) -> list[str]:
    return [site.name for site in find_sites(module).sites]


def test_the_scope_is_for_convolutions_only() -> None:
    with pytest.raises(InputError, match="use to='conv' or 'unfold'"):
        rewrite(net(), to="linear", scope="unfolded")


# --- memory


class _Columns(fx.Interpreter):
    """Runs a graph and keeps the bytes of what unfold gives."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.sizes: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        """One node."""
        result = super().run_node(n)
        if n.target in (F.unfold, torch.ops.aten.im2col.default):
            self.sizes.append(result.numel() * result.element_size())
        return result


@pytest.mark.parametrize("size", [(1, 12, 9), (4, 9, 14)])
@pytest.mark.parametrize("way", ["symbolic", "export"])
def test_the_report_says_what_the_columns_take(size: tuple[int, int, int], way: str) -> None:
    model = Maps().double().eval()
    x = images(*size)
    found = find_sites(model, to="unfold", example_inputs=x, way=way).memory
    result = rewrite(model, to="unfold", example_inputs=x, way=way)
    memory = result.report.memory
    assert memory is not None
    assert found == memory
    if way == "symbolic":
        assert memory.input_shapes == (tuple(x.shape),)
        columns = _Columns(result.module)
        columns.run(x)
        assert [site.columns_bytes for site in memory.sites] == columns.sizes
        liveness = _Liveness(result.module, result.module.graph)
        run_on_fakes(liveness, result.module.graph, result.module, {}, (x,))
        held = max(liveness.alive.values())
        assert memory.peak_bytes is not None
        assert held <= memory.peak_bytes <= held + max(columns.sizes) + x.numel() * 8
        assert memory.peak_before_bytes is not None
        assert memory.peak_before_bytes < held
    assert [site.name for site in memory.sites] == ["stem", "even"]
    assert memory.to_dict()["sites"][1]["factor"] == memory.sites[1].factor


def test_without_a_size_the_factor_of_a_large_map_is_known() -> None:
    memory = rewrite(Maps(), to="unfold").report.memory
    assert memory is not None
    assert [site.per_pixel for site in memory.sites] == [9 / 4, 8.0]
    assert [site.factor for site in memory.sites] == [9 / 4, 8.0]
    assert memory.peak_bytes is memory.input_shapes is None


def test_a_program_tells_the_sizes_that_it_was_exported_with() -> None:
    memory = find_sites(_program(Maps().double(), "core", any_size=True), to="unfold").memory
    assert memory is not None
    assert memory.input_shapes == ((4, 3, 12, 16),)
    assert memory.sites[0].columns_bytes == 4 * 27 * 6 * 8 * 8
