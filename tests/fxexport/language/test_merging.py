"""Linear maps that people multiply out before they deploy a model, beside those they were made of."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper, parser
from torch import Tensor, nn

from fxexport.language import Derivation, derive, graph_of_module, graph_of_onnx

ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))
MAPS = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A function of an input and of layers, between two that are no linear maps."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.body = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(self, torch.relu(x)))


def layer(made: nn.Module, seed: int = 0) -> nn.Module:
    """The layer with other numbers than those of a new one."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)
        for name, buffer in made.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=draw) + (name == "running_var"))
    return made.eval()


def filled(made: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """The layer with these numbers, rounded."""
    with torch.no_grad():
        made.weight.copy_(weight)  # type: ignore[operator, union-attr]
        if bias is not None:
            made.bias.copy_(bias)  # type: ignore[operator, union-attr]
    return made.eval()


def wide(made: nn.Module) -> nn.Module:
    """A copy in double precision."""
    return copy.deepcopy(made).double()


Pair = tuple[Net, Net, Tensor]


def rows() -> Pair:
    """Two linear layers, and their product."""
    first, second = layer(nn.Linear(6, 8)), layer(nn.Linear(8, 5), 1)
    a, b = wide(first), wide(second)
    merged = filled(nn.Linear(6, 5), b.weight @ a.weight, b.weight @ a.bias + b.bias)  # type: ignore[operator]
    return Net(lambda s, x: s.b(s.a(x)), a=first, b=second), Net(lambda s, x: s.m(x), m=merged), ROWS  # type: ignore[operator]


def adapter(*, wide_product: bool = True) -> Pair:
    """A low-rank adapter beside a linear layer, and the layer with it."""
    base, down, up = (
        layer(nn.Linear(6, 5)),
        layer(nn.Linear(6, 2, bias=False), 1),
        layer(nn.Linear(2, 5, bias=False), 2),
    )
    w, a, b = (wide(m).weight if wide_product else m.weight for m in (base, down, up))
    merged = filled(nn.Linear(6, 5), w + 0.7 * (b @ a), base.bias)  # type: ignore[operator, arg-type]
    apart = Net(lambda s, x: s.w(x) + s.b(s.a(x)) * 0.7, w=base, a=down, b=up)  # type: ignore[operator]
    return apart, Net(lambda s, x: s.m(x), m=merged), ROWS  # type: ignore[operator]


def folded_norm(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with a batch norm behind it, in double precision."""
    c, n = wide(conv), wide(norm)
    scale = n.weight / (n.running_var + n.eps).sqrt()  # type: ignore[operator]
    return c.weight * scale[:, None, None, None], n.bias - n.running_mean * scale  # type: ignore[operator, index]


def branches(stride: int = 1, groups: int = 1, *, at: tuple[int, int] = (1, 1)) -> Pair:
    """Convolutions of three cells and of one, with norms, and a norm alone; and one convolution."""
    big = layer(nn.Conv2d(4, 4, 3, stride, 1, groups=groups, bias=False))
    small = layer(nn.Conv2d(4, 4, 1, stride, groups=groups, bias=False), 1)
    norms = {name: layer(nn.BatchNorm2d(4), seed) for seed, name in enumerate("pqr", 2)}
    one = nn.Conv2d(4, 4, 1, groups=groups, bias=False)
    with torch.no_grad():
        one.weight.copy_(torch.eye(4 // groups).repeat(groups, 1)[:, :, None, None])
    parts = [folded_norm(*pair) for pair in ((big, norms["p"]), (small, norms["q"]), (one, norms["r"]))]
    weight = parts[0][0].detach().clone()
    for cell, _ in parts[1 : 3 if stride == 1 else 2]:
        weight[:, :, at[0], at[1]] += cell[:, :, 0, 0]
    bias = sum(b for _, b in parts[: 3 if stride == 1 else 2])
    merged = filled(nn.Conv2d(4, 4, 3, stride, 1, groups=groups), weight, bias)  # type: ignore[arg-type]

    def apart(s: Net, x: Tensor) -> Tensor:
        found = s.p(s.big(x)) + s.q(s.small(x))  # type: ignore[operator]
        return found + s.r(x) if stride == 1 else found  # type: ignore[operator, no-any-return]

    return Net(apart, big=big, small=small, **norms), Net(lambda s, x: s.m(x), m=merged), MAPS  # type: ignore[operator]


def crossed() -> Pair:
    """Convolutions along rows, along columns and over both, and one."""
    kernels = {"a": (3, 3), "b": (1, 3), "c": (3, 1)}
    convs = {
        name: layer(nn.Conv2d(4, 3, size, padding=(size[0] // 2, size[1] // 2)), seed)
        for seed, (name, size) in enumerate(kernels.items())
    }
    weight = sum(
        F.pad(wide(conv).weight, ((3 - c) // 2, (3 - c) // 2, (3 - r) // 2, (3 - r) // 2))  # type: ignore[arg-type]
        for conv, (r, c) in zip(convs.values(), kernels.values(), strict=True)
    )
    merged = filled(nn.Conv2d(4, 3, 3, padding=1), weight, sum(wide(conv).bias for conv in convs.values()))  # type: ignore[arg-type, misc]
    return Net(lambda s, x: s.a(x) + s.b(x) + s.c(x), **convs), Net(lambda s, x: s.m(x), m=merged), MAPS  # type: ignore[operator]


def fused() -> Pair:
    """Three linear layers of one input, and one whose rows are theirs."""
    parts = {name: layer(nn.Linear(6, 4), seed) for seed, name in enumerate("qkv")}
    weight, bias = (
        torch.cat([getattr(part, name) for part in parts.values()]) for name in ("weight", "bias")
    )
    merged = filled(nn.Linear(6, 12), weight, bias)

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    return (
        Net(lambda s, x: attended(s.q(x), s.k(x), s.v(x)), **parts),  # type: ignore[operator]
        Net(lambda s, x: attended(*s.m(x).chunk(3, -1)), m=merged),  # type: ignore[operator]
        TOKENS,
    )


def scored(where: str, *, bias: bool = False, scale: float = 0.4) -> Pair:
    """Scores of two layers times a number, and of fused rows with a number ``where`` it is then."""
    parts = {name: layer(nn.Linear(6, 4, bias=bias), seed) for seed, name in enumerate("qkv")}
    weight = torch.cat([wide(part).weight for part in parts.values()])  # type: ignore[arg-type]
    shift = torch.cat([wide(part).bias for part in parts.values()]) if bias else None  # type: ignore[arg-type]
    merged = nn.Linear(6, 12, bias=bias)
    if where == "weights":
        factor = torch.tensor([scale] * 4 + [1.0] * 8, dtype=torch.float64)
        weight, shift = weight * factor[:, None], None if shift is None else shift * factor
    filled(merged, weight, shift)

    def fused_rows(s: Net, x: Tensor) -> Tensor:
        q, k, v = s.m(x).chunk(3, -1)  # type: ignore[operator]
        q = q * {"both": abs(scale) ** 0.5, "queries": scale}.get(where, 1.0)
        k = k * {"both": abs(scale) ** 0.5, "keys": scale}.get(where, 1.0)
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    return (
        Net(
            lambda s, x: (s.q(x) @ s.k(x).transpose(-1, -2) * 0.4).softmax(-1) @ s.v(x),  # type: ignore[operator]
            **parts,
        ),
        Net(fused_rows, m=merged),
        TOKENS,
    )


def normed(kind: type[nn.Module] = nn.LayerNorm) -> Pair:
    """A norm with a weight before a linear layer, and one without."""
    norm, site = layer(kind(6)), layer(nn.Linear(6, 5), 1)  # type: ignore[call-arg]
    a, b = wide(norm), wide(site)
    shift = b.weight @ a.bias if kind is nn.LayerNorm else 0.0  # type: ignore[operator]
    merged = filled(nn.Linear(6, 5), b.weight * a.weight, shift + b.bias)  # type: ignore[operator]
    plain = kind(6, elementwise_affine=False, eps=norm.eps)  # type: ignore[call-arg]
    return (
        Net(lambda s, x: s.b(s.a(x)), a=norm, b=site),
        Net(lambda s, x: s.b(s.a(x)), a=plain, b=merged),
        ROWS,
    )  # type: ignore[operator]


def prepared(padding: int = 0) -> Pair:
    """An input less a mean and over a deviation before a convolution, and all of it in its weights."""
    conv = layer(nn.Conv2d(4, 3, 3, padding=padding))
    mean, deviation = torch.tensor([0.4, 0.5, 0.1, 0.2]), torch.tensor([0.2, 0.25, 0.3, 0.7])
    w = wide(conv).weight / deviation.double()[:, None, None]  # type: ignore[operator]
    merged = filled(nn.Conv2d(4, 3, 3, padding=padding), w, wide(conv).bias - w.sum((2, 3)) @ mean.double())  # type: ignore[operator]
    given = mean[:, None, None], deviation[:, None, None]
    return (
        Net(lambda s, x: s.conv((x - given[0]) / given[1]), conv=conv),  # type: ignore[operator]
        Net(lambda s, x: s.m(x), m=merged),  # type: ignore[operator]
        MAPS,
    )


def mixed(*, is_first: bool, bias: bool = False) -> Pair:
    """A convolution of one cell before or behind one of three with padding, and both as one."""
    cell, conv = layer(nn.Conv2d(4, 4, 1, bias=bias or not is_first)), layer(nn.Conv2d(4, 4, 3, 2, 1), 1)
    a, b = wide(cell), wide(conv)
    flat = a.weight[:, :, 0, 0]  # type: ignore[index]
    weight = torch.einsum("ochw,cd->odhw" if is_first else "cdhw,oc->odhw", b.weight, flat)
    shift = b.weight.sum((2, 3)) @ a.bias + b.bias if bias else b.bias  # type: ignore[operator]
    shift = shift if is_first else flat @ b.bias + a.bias  # type: ignore[operator]
    merged = filled(nn.Conv2d(4, 4, 3, 2, 1), weight, shift)  # type: ignore[arg-type]
    layers = {"a": cell, "b": conv} if is_first else {"a": conv, "b": cell}
    return Net(lambda s, x: s.b(s.a(x)), **layers), Net(lambda s, x: s.m(x), m=merged), MAPS  # type: ignore[operator]


def normed_heads() -> Pair:
    """A norm with a weight before fused rows that are cut into heads, and one without."""
    norm, site = layer(nn.LayerNorm(6)), layer(nn.Linear(6, 18), 1)
    a, b = wide(norm), wide(site)
    merged = filled(nn.Linear(6, 18), b.weight * a.weight, b.weight @ a.bias + b.bias)  # type: ignore[operator]

    def attended(s: Net, x: Tensor) -> Tensor:
        rows = s.b(s.a(x)).reshape(2, 3, 3, 2, 3).permute(2, 0, 3, 1, 4)  # type: ignore[operator]
        q, k, v = rows.unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 3, 6)

    plain = nn.LayerNorm(6, elementwise_affine=False)
    return Net(attended, a=norm, b=site), Net(attended, a=plain, b=merged), TOKENS


def residual() -> Pair:
    """A linear layer and what it reads, and a layer of both."""
    site = layer(nn.Linear(6, 6))
    merged = filled(nn.Linear(6, 6), wide(site).weight + torch.eye(6), wide(site).bias)  # type: ignore[operator, arg-type]
    return Net(lambda s, x: x + s.a(x), a=site), Net(lambda s, x: s.a(x), a=merged), ROWS  # type: ignore[operator]


def joined() -> Pair:
    """Two linear layers whose results are joined, and one."""
    a, b = layer(nn.Linear(6, 3)), layer(nn.Linear(6, 4), 1)
    weight, bias = (torch.cat([getattr(item, name) for item in (a, b)]) for name in ("weight", "bias"))
    return (
        Net(lambda s, x: torch.cat([s.a(x), s.b(x)], 1), a=a, b=b),  # type: ignore[operator]
        Net(lambda s, x: s.m(x), m=filled(nn.Linear(6, 7), weight, bias)),  # type: ignore[operator]
        ROWS,
    )


ONE: dict[str, Callable[[], Pair]] = {
    "rows": rows,
    "adapter": adapter,
    "adapter in single precision": lambda: adapter(wide_product=False),
    "branches": branches,
    "branches that step": lambda: branches(2),
    "branches in groups": lambda: branches(groups=2),
    "crossed": crossed,
    "fused": fused,
    **{
        f"scores scaled in the {where}": lambda where=where: scored(where)
        for where in ("both", "keys", "queries", "weights")
    },
    **{
        f"scores of biases scaled in the {where}": lambda where=where: scored(where, bias=True)
        for where in ("both", "weights")
    },
    "layer norm": normed,
    "root mean square norm": lambda: normed(nn.RMSNorm),
    "layer norm before heads": normed_heads,
    "prepared": prepared,
    "mixed before": lambda: mixed(is_first=True),
    "mixed behind": lambda: mixed(is_first=False),
    "residual": residual,
    "joined": joined,
}
OTHERS: dict[str, Callable[[], Pair]] = {
    **{
        f"another factor of the {where}": lambda where=where: scored(where, scale=0.5)
        for where in ("both", "keys", "queries", "weights")
    },
    "another sign of the scores": lambda: scored("queries", scale=-0.4),
    "a sign that two of them lose": lambda: scored("both", scale=-0.5),
    "no factor": lambda: scored("none"),
    "a shift before padding": lambda: prepared(padding=1),
    "a bias before padding": lambda: mixed(is_first=True, bias=True),
    "a kernel of one cell beside the middle": lambda: branches(at=(0, 1)),
    "one beside the middle that steps": lambda: branches(2, at=(1, 2)),
}


def derived(pair: Pair) -> Derivation:
    """The derivation of a pair of modules."""
    *nets, x = pair
    return derive(*(graph_of_module(net.eval(), (x,)) for net in nets))


def apart(pair: Pair) -> float:
    """How far two modules lie apart in double precision."""
    first, second, x = pair
    with torch.no_grad():
        return float((wide(first)(x.double()) - wide(second)(x.double())).abs().max())


@pytest.mark.parametrize("name", ONE)
def test_what_is_multiplied_out_is_what_it_was_made_of(name: str) -> None:
    pair = ONE[name]()
    assert apart(pair) < 1e-5
    found = derived(pair)
    assert found.is_proved
    assert not found.constants
    assert not found.unrelated


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_multiplied_out_otherwise_is_not(name: str) -> None:
    pair = OTHERS[name]()
    assert apart(pair) > 1e-2
    assert not derived(pair).is_proved


@pytest.mark.parametrize("share", [1e-3, -1e-4])
@pytest.mark.parametrize("name", ONE)
def test_a_weight_that_was_changed_is_told(name: str, share: float) -> None:
    pair = ONE[name]()
    with torch.no_grad():
        for parameter in pair[1].parameters():
            parameter.view(-1)[-1] *= 1 + share
    assert not derived(pair).is_proved


def test_a_weight_further_off_than_a_fold_and_no_further_than_its_sums_is_none_of_another_function() -> None:
    pair = rows()
    a, b = (getattr(pair[0], name).weight.double() for name in "ab")
    with torch.no_grad():
        weight = next(pair[1].parameters())
        for units, is_proved in ((1.5, True), (6.5, False), (40.0, False)):
            moved = b @ a + units * 2.0**-24 * (b.abs() @ a.abs())
            weight.copy_(moved)
            found = derived(pair)
            assert found.is_proved == is_proved
            assert bool(found.unrelated) == (units == 40.0)
            assert ("merged" in [item.refolded for item in found.constants]) == (units == 6.5)


def test_a_weight_that_both_multiply_out_is_another_one_by_its_last_digit() -> None:
    net, _, x = rows()
    other = copy.deepcopy(net)
    with torch.no_grad():
        weight = next(other.parameters())
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    found = derived((net, other, x))
    assert not found.is_proved
    assert [item.refolded for item in found.constants] == [None]


def test_a_file_of_what_was_multiplied_out_is_the_module_that_it_was_made_of() -> None:
    first, second, x = branches()
    file = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4,5,5] x) => (float[2,4,5,5] y) {
            r = Relu(x) m = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, weight, bias) y = Tanh(m)
        }"""
    )
    for name, value in second.m.state_dict().items():  # type: ignore[union-attr, operator]
        file.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
    assert derive(graph_of_module(first.eval(), (x,)), graph_of_onnx(file)).is_proved


def sum_of(*weights: Tensor, bias: float | None = None) -> Net:
    """The sum of linear layers over one input; the first of two adds a bias that the second takes away."""
    sites = []
    for weight, sign in zip(weights, (1.0, -1.0, 0.0), strict=False):
        shift = None if bias is None else torch.full((6,), sign * bias)
        sites.append(filled(nn.Linear(6, 6, bias=bias is not None), weight, shift))
    return Net(
        lambda s, x: sum(site(x) for site in s.children()), **{f"l{i}": site for i, site in enumerate(sites)}
    )  # type: ignore[arg-type, misc]


def row_of(*weights: Tensor) -> Net:
    """Linear layers one behind the other."""
    sites = [filled(nn.Linear(w.shape[1], w.shape[0], bias=False), w) for w in weights]
    return Net(
        lambda s, x: nn.Sequential(*s.children())(x), **{f"l{i}": site for i, site in enumerate(sites)}
    )


WHOLE = torch.randint(-8, 9, (6, 6), generator=torch.Generator().manual_seed(3)) + 9.0
HUGE = torch.randint(-8, 9, (6, 6), generator=torch.Generator().manual_seed(4)) * 2.0**14 + 2.0**17
"""Integers, of which every sum and product here is a number of float32."""
FIRST = torch.zeros(6, 6).index_fill(0, torch.tensor([0]), 1.0)
CANCEL: dict[str, tuple[Net, Net]] = {
    "a sum": (sum_of(HUGE, WHOLE - HUGE), sum_of(WHOLE)),
    "one row": (sum_of(WHOLE + HUGE * FIRST, -HUGE * FIRST), sum_of(WHOLE)),
    "one column": (sum_of(WHOLE + HUGE * FIRST.T, -HUGE * FIRST.T), sum_of(WHOLE)),
    "by and by": (sum_of(WHOLE * 2.0**16, WHOLE * (2.0**8 - 2.0**16), WHOLE * (1 - 2.0**8)), sum_of(WHOLE)),
    "shifts": (sum_of(WHOLE, WHOLE, bias=2.0**17), sum_of(WHOLE * 2)),
    "with what is read": (sum_of(torch.eye(6) * 2.0**16, WHOLE - torch.eye(6) * 2.0**16), sum_of(WHOLE)),
    "a row of layers": (
        row_of(torch.cat([HUGE, HUGE - WHOLE]), torch.cat([torch.eye(6), -torch.eye(6)], 1)),
        sum_of(WHOLE),
    ),
}


@pytest.mark.parametrize("name", CANCEL)
def test_what_cancels_is_not_merged(name: str) -> None:
    """Roundings of it are much of what the one module gives, and the other one has none."""
    pair = *CANCEL[name], ROWS
    assert apart(pair) < 1e-6
    assert not derived(pair).is_proved


def test_what_is_summed_over_one_operand_alone_is_no_site() -> None:
    """Which was looked for in the labels of the other one, and ended in an error."""
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 6, 3, generator=draw), torch.randn(6, generator=draw)

    def scaled(factor: float) -> Net:
        return Net(lambda _, x: torch.einsum("tk,okz->to", x + bias, weight) * factor)

    assert not derived((scaled(1.0), scaled(1.5), ROWS)).is_proved
