"""What is derived about pairs that differ in one hidden thing, and about pairs that are one function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

from fxexport.language import Derivation, Graph, NotRead, compare, derive, graph_of_module, graph_of_onnx
from fxexport.language.compare import FINITE

Middle = Callable[[torch.Tensor], torch.Tensor]
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions around what is tried, and a head."""

    def __init__(self, middle: nn.Module | Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.middle = middle
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.first(x))
        return self.head(self.second(x).mean((2, 3)))


def derived(left: object, right: object) -> Derivation:
    """The derivation for two nets with these middles."""
    nets = [middle if isinstance(middle, Net) else Net(middle).eval() for middle in (left, right)]  # type: ignore[arg-type]
    return derive(*(graph_of_module(net, (X,)) for net in nets))


def in_place(x: torch.Tensor) -> torch.Tensor:
    """A statement whose result nobody reads."""
    x.relu_()
    return x


def read_before(x: torch.Tensor) -> torch.Tensor:
    """A value that is read as it was, and changed behind that."""
    kept = x * 1.5
    x.relu_()
    return kept + x


def seen_through_view(x: torch.Tensor) -> torch.Tensor:
    """A change that a view sees."""
    view = x.flatten(2)
    x.relu_()
    return view.view_as(x)


def through_view(x: torch.Tensor) -> torch.Tensor:
    """A change of a view, twice, of what nobody else sees."""
    return x.flatten(2).permute(0, 2, 1).relu_().clamp_(0.0, 6.0).permute(0, 2, 1).view(x.shape)


def uncast(x: torch.Tensor) -> torch.Tensor:
    """Blocks whose settings change no value, one within the other."""
    with torch.autocast("cpu", enabled=False):
        with torch.no_grad():
            positive = x.relu()
        return positive * 2


def uncast_view(x: torch.Tensor) -> torch.Tensor:
    """A view that such a block gives, and that is written through."""
    with torch.autocast("cpu", enabled=False):
        view = x.view(x.shape)
    view.relu_()
    return x * 2


def cast(x: torch.Tensor) -> torch.Tensor:
    """A block whose products are of another type."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ x).float()


def uncast_in_place(x: torch.Tensor) -> torch.Tensor:
    """A block that changes a value."""
    with torch.autocast("cpu", enabled=False):
        return x.relu().mul_(2)


class Dropout(nn.Module):
    """A user's class of a known name."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5


class Scanned(nn.Module):
    """A recurrent layer over the rows of a map."""

    def __init__(self, *, draws: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scan, self.draws = nn.GRU(24, 6, num_layers=2, dropout=0.5, batch_first=True), draws

    def train(self, mode: bool = True) -> Scanned:
        """Leaves the recurrent layer in the mode that it was made for."""
        super().train(mode)
        self.scan.train(self.draws)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.scan(x.permute(0, 2, 1, 3).flatten(2))[0]
        return rows.reshape(-1, 4, 3, 3)


IDENTITY = nn.Identity()
ROW, SQUARE = torch.arange(1.0, 7.0), torch.arange(36.0).view(6, 6).sin()
EACH = torch.arange(144.0).view(2, 2, 6, 6).cos()
POOL, DOUBLING = nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(2, 1, divisor_override=2)
DIFFERENT = {
    "a factor of nothing": (lambda x: (x * 0 + 1) * x.sigmoid(), lambda x: (x * 0 + 2) * x.sigmoid()),
    "roots of what may be negative": (lambda x: x * x.exp(), lambda x: x.sqrt() * x.sqrt() * x.exp()),
    "a factor of what is summed over": (lambda x: (x.exp() * ROW) @ x, lambda x: (x.exp() @ x) * ROW),
    "a summand in a sum of products": (lambda x: (x.exp() * 2 + 1) @ x, lambda x: (x.exp() @ x) * 2),
    "a factor along the rows of a site": (lambda x: x * ROW, lambda x: x * ROW.flip(0)),
    "maxima before a site": (
        lambda x: x * (x @ SQUARE).amax(2, keepdim=True),
        lambda x: x * (x.amax(2, keepdim=True) @ SQUARE),
    ),
    "weights of each map before a mean": (
        lambda x: x * (x.unflatten(1, (2, 2)) @ EACH).mean(3, keepdim=True).flatten(1, 2),
        lambda x: x * (x.unflatten(1, (2, 2)).transpose(1, 2) @ EACH).mean(3, keepdim=True).flatten(1, 2),
    ),
    "a summand before padding": (lambda x: POOL(x.exp() * 2 + 1), lambda x: POOL(x.exp()) * 2 + 1),
    "a summand before another divisor": (
        lambda x: DOUBLING(x.exp() * 2 + 1),
        lambda x: DOUBLING(x.exp()) * 2 + 1,
    ),
    "in-place statement": (IDENTITY, in_place),
    "in place, read before": (lambda x: x * 1.5 + x, read_before),
    "in place, seen through a view": (IDENTITY, seen_through_view),
    "in place, through a view alone": (nn.ReLU(), through_view),
    "divisor": (nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, divisor_override=2)),
    "padding counted": (nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    "ceiling": (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "corners": (
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    ),
    "slope": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "softmax axis": (nn.Softmax(1), nn.Softmax(2)),
    "user's dropout": (nn.Dropout(), Dropout()),
    "transposed map": (IDENTITY, lambda x: x.transpose(2, 3)),
    "nearly one": (IDENTITY, lambda x: x / 2.00002 * 2),
    "a number by one unit": (lambda x: x.tanh() * 1.5, lambda x: x.tanh() * 1.50000012),
    "a stored number by one unit": (
        lambda x: x.tanh() * torch.tensor(1.5),
        lambda x: x.tanh() * torch.tensor(1.50000012),
    ),
    "acts from the sixth sample on": (
        IDENTITY,
        lambda x: x * (torch.arange(x.shape[0]) < 5).view(-1, 1, 1, 1),
    ),
    "never smaller": (lambda x: x.relu(), lambda x: x.relu() * torch.where(x.amin() >= 0, 3.0, 1.0)),
    "overflows between": (IDENTITY, lambda x: x * 1e30 * 1e-30),
    "cancels between": (IDENTITY, lambda x: x + 1e8 - 1e8),
    "random": (lambda x: x + torch.rand_like(x), lambda x: x + torch.rand_like(x)),
    "random in a recurrent layer": (Scanned(draws=True), Scanned(draws=True)),
    "half precision": (IDENTITY, lambda x: x.half().float()),
    "integers between": (IDENTITY, lambda x: x.int().float()),
    "the square of a root": (IDENTITY, lambda x: x.sqrt() ** 2),
    "weights scaled out of range": (
        IDENTITY,
        lambda x: x * torch.full((4, 1, 1), 1e30) * torch.full((4, 1, 1), 1e-30),
    ),
    "stride along the other axis": (
        lambda x: (
            nn.functional.conv2d(x[..., :2, :2], torch.ones(4, 4, 1, 1), stride=(2, 1))
            .mean(3, keepdim=True)
            .expand(-1, -1, 3, 3)
        ),
        lambda x: (
            nn.functional.conv2d(x[..., :2, :2], torch.ones(4, 4, 1, 1), stride=(1, 2))
            .mean(2, keepdim=True)
            .expand(-1, -1, 3, 3)
        ),
    ),
    "transposed by T": (lambda x: x.mT, IDENTITY),
    "flipped": (lambda x: x.flip(3), IDENTITY),
    "flipped along another axis": (lambda x: x.flip(3), lambda x: x.flip(2)),
    "the largest of four windows": (
        lambda x: x - nn.AdaptiveMaxPool2d(2)(x).repeat(1, 1, 3, 3),
        lambda x: x - nn.AdaptiveMaxPool2d(1)(x),
    ),
    "what nothing evaluates, shifted": (
        lambda x: x + torch.ones(6, 6).cumsum(1),
        lambda x: x + (torch.full((6,), 1e-6) + torch.ones(6, 6).cumsum(1)),
    ),
    "what nothing evaluates, scaled": (
        lambda x: x + torch.ones(6, 6).cumsum(1),
        lambda x: x + torch.ones(6, 6).cumsum(1) * torch.full((6,), 1.000001),
    ),
    "halves lost": (lambda x: x, lambda x: (x.int() // 2 * 2).float()),
}


def test_a_change_of_a_view_that_nobody_else_sees_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is not made functional for it, which takes as long as all else together."""
    monkeypatch.delattr(torch.export.ExportedProgram, "run_decompositions")
    assert derived(nn.ReLU6(), through_view).is_proved
    with pytest.raises(AttributeError, match="run_decompositions"):
        derived(nn.ReLU(), seen_through_view)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_not_proved(name: str) -> None:
    left, right = DIFFERENT[name]
    found = derived(left, right)
    assert not found.is_proved
    assert found.problem is None
    assert found.unrelated or found.constants


SAME = {
    "a module and itself": (nn.Hardswish(), nn.Hardswish()),
    "in place": (nn.ReLU(), nn.ReLU(inplace=True)),
    "in place as a statement": (nn.ReLU(), in_place),
    "in place, read before": (lambda x: x * 1.5 + x.relu(), read_before),
    "in place, seen through a view": (nn.ReLU(), seen_through_view),
    "in place, through a view alone": (nn.ReLU6(), through_view),
    "twice": (nn.ReLU(), nn.Sequential(nn.ReLU(), nn.ReLU())),
    "nested clamps": (nn.ReLU6(), nn.Sequential(nn.ReLU(), nn.Hardtanh(-1.0, 6.0))),
    "hard swish": (nn.Hardswish(), lambda x: x * nn.functional.relu6(x + 3) / 6),
    "hard sigmoid": (nn.Hardsigmoid(), lambda x: nn.functional.relu6(x + 3) / 6),
    "silu": (nn.SiLU(), lambda x: torch.sigmoid(x) * x),
    "gelu": (nn.GELU(), lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    "softmax": (
        nn.Softmax(1),
        lambda x: (e := torch.exp(x - x.amax(1, keepdim=True))) / e.sum(1, keepdim=True),
    ),
    "a view and back": (IDENTITY, lambda x: x.flatten(1).unflatten(1, x.shape[1:])),
    "a permute past a relu": (nn.ReLU(), lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2)),
    "a recurrent layer that draws nothing": (Scanned(draws=False), Scanned(draws=False)),
    "no-ops": (
        IDENTITY,
        lambda x: nn.functional.dropout(x.float().contiguous().clone(), training=False) * 1.0,
    ),
    "transposes": (
        lambda x: x.flatten(0, 2).T.T.mT.mT.unflatten(0, x.shape[:3]),
        lambda x: x.permute(0, 1, 3, 2).mT,
    ),
    "the largest of a map": (
        lambda x: x - nn.AdaptiveMaxPool2d(1)(x),
        lambda x: x - x.amax((2, 3), keepdim=True),
    ),
    "a mean before weights of each map": (
        lambda x: x * (x.unflatten(1, (2, 2)) @ EACH).mean(3, keepdim=True).flatten(1, 2),
        lambda x: x * (x.unflatten(1, (2, 2)).mean(3, keepdim=True) @ EACH).flatten(1, 2),
    ),
    "a flip of both axes": (lambda x: x.flip((2, 3)), lambda x: x.flip(-2).flip(-1)),
    "autocast that is off": (lambda x: x.relu() * 2, uncast),
    "a write through what a block gives": (lambda x: x.relu() * 2, uncast_view),
    "no-ops of what nothing evaluates": (
        lambda x: x + torch.ones(6, 6).cumsum(1),
        lambda x: x + (torch.zeros(6) + torch.ones(6, 6).cumsum(1)) * torch.ones(6),
    ),
    "halved and doubled": (IDENTITY, lambda x: x * 0.5 * 2),
    "branches": (lambda x: x.sin() + x.cos(), lambda x: x.cos() + x.sin()),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_is_proved(name: str) -> None:
    left, right = SAME[name]
    found = derived(left, right)
    assert (found.is_proved, found.unrelated, found.constants) == (True, (), ())


@pytest.mark.parametrize(
    ("block", "pure", "problem"),
    [
        (cast, lambda x: x @ x, "wrap_with_autocast is no tensor operator"),
        (uncast_in_place, lambda x: x.relu() * 2, "wrap_with_autocast changes a value in place"),
    ],
)
def test_other_blocks_are_not_read(block: Middle, pure: Middle, problem: str) -> None:
    found = derived(block, pure)
    assert (found.is_proved, found.problem) == (False, problem)


def test_a_tensor_that_torch_func_left_in_a_recording_is_not_read() -> None:
    def steepest(x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda inner: inner.square().sum())(x)

    found = derived(steepest, steepest)
    assert not found.is_proved
    assert str(found.problem).startswith("a tensor without elements of its own")


def test_a_graph_that_is_not_what_runs_is_seen_as_what_runs() -> None:
    net = Net(nn.ReLU()).eval()
    stale = torch.fx.symbolic_trace(net)
    (relu,) = (node for node in stale.graph.nodes if node.target == "middle")
    relu.replace_all_uses_with(relu.args[0])
    stale.graph.erase_node(relu)
    assert derive(graph_of_module(net, (X,)), graph_of_module(stale, (X,))).is_proved
    stale.recompile()
    assert not derive(graph_of_module(net, (X,)), graph_of_module(stale, (X,))).is_proved


def hooked() -> Net:
    """A net whose whole is hooked."""
    net = Net(nn.ReLU()).eval()
    net.register_forward_hook(lambda module, args, result: result * 3)
    return net


def own_forward() -> Net:
    """A net with a part whose instance has a forward of its own."""
    net = Net(nn.ReLU()).eval()
    inner = net.first.forward
    net.first.forward = lambda x: 3 * inner(x)  # type: ignore[method-assign]
    return net


def whole_forward() -> Net:
    """A net whose instance has a forward of its own."""
    net = Net(nn.ReLU()).eval()
    inner = net.forward
    net.forward = lambda x: 3 * inner(x)  # type: ignore[method-assign]
    return net


class Called(Net):
    """A net that is more than its forward."""

    def __call__(self, *args: torch.Tensor) -> torch.Tensor:
        return super().__call__(*args) * 3


def part_hooked() -> Net:
    """A net with a hooked part."""
    net = Net(nn.ReLU()).eval()
    net.first.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    return net


@pytest.mark.parametrize(
    "make", [hooked, own_forward, whole_forward, part_hooked, lambda: Called(nn.ReLU()).eval()]
)
def test_what_runs_beside_forward_is_seen_or_refused(make: Callable[[], Net]) -> None:
    net = make()
    left = graph_of_module(Net(nn.ReLU()).eval(), (X,))
    assert not torch.allclose(net(X), Net(nn.ReLU()).eval()(X))
    try:
        right = graph_of_module(net, (X,))
    except NotRead:
        return
    assert not derive(left, right).is_proved


@pytest.mark.parametrize(
    "is_taken",
    [
        lambda n: n <= 5,
        lambda n: n % 2 == 0,
        lambda n: n != 7,
        lambda n: n == 2,
        lambda n: n * n < 50,
    ],
)
def test_a_branch_on_the_batch_is_not_taken_for_all_batches(is_taken: Callable[[int], bool]) -> None:
    plain, branched = Net(IDENTITY).eval(), Net(lambda x: x if is_taken(x.shape[0]) else x * 2).eval()
    found = derive(graph_of_module(plain, (X,)), graph_of_module(branched, (X,)))
    assert found.is_proved
    least, _, most = (
        found.sizes[0].removeprefix("x axis 0: ").removeprefix("every extent from ").partition(" to ")
    )
    assert all(is_taken(batch) for batch in range(int(least), int(most or least) + 1))
    assert any(not is_taken(dims[0][0] or 0) for dims in (*found.outside, *found.fixed))


def test_what_is_proved_of_a_batch_of_one_is_recorded_at_one() -> None:
    net = Net(lambda x: x if x.shape[0] == 1 else x * 2).eval()
    at = graph_of_module(net, (X,)).at
    assert at is not None
    fixed = at([(1, *X.shape[1:])])
    assert fixed.inputs[0].dims[0] == 1
    assert derive(graph_of_module(Net(IDENTITY).eval(), (X,)), fixed).is_proved
    assert not derive(graph_of_module(Net(lambda x: x * 2).eval(), (X,)), fixed).is_proved
    assert not derive(graph_of_module(Net(IDENTITY).eval(), (X,)), graph_of_module(net, (X,))).is_proved


# --- constants that one side has written out, or folded


class Normed(nn.Module):
    """Sites with norms whose numbers are one each, as at the start of training, around a gate of a scalar."""

    def __init__(self, *, is_folded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3)
        norms = nn.BatchNorm2d(4, eps=1e-3).eval(), nn.BatchNorm2d(6, eps=1e-3).eval()
        self.norms = nn.ModuleList([nn.Identity(), nn.Identity()] if is_folded else norms)
        if is_folded:
            for site, norm in zip((self.first, self.second), norms, strict=True):
                fused = torch.nn.utils.fuse_conv_bn_eval(site.eval(), norm)
                site.weight, site.bias = fused.weight, fused.bias
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.nn.functional.hardsigmoid(x)  # a sixth, which stays outside of the sites
        x = torch.relu(self.norms[0](self.first(x)))
        return self.head(self.norms[1](self.second(x)).mean((2, 3)))


def test_norms_of_equal_numbers_are_folded_like_any_other() -> None:
    """Scales that are all alike are scales of channels, and shifts that come to zero are none."""
    graphs = [graph_of_module(Normed(is_folded=is_folded).eval(), (X,)) for is_folded in (False, True)]
    found = derive(*graphs)
    assert found.is_proved, found
    assert found.folds


class Shifted(nn.Module):
    """A head with a bias of one number."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.bias = nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) @ self.weight.T + self.bias


@pytest.mark.parametrize(("last", "is_proved"), [(0.25, True), (0.5, False)])
def test_a_number_is_the_same_written_out_for_each_class(last: float, is_proved: bool) -> None:
    written = torch.tensor([0.25, 0.25, 0.25, 0.25, last])
    graphs = [graph_of_module(Shifted(bias).eval(), (X,)) for bias in (torch.tensor([0.25]), written)]
    assert derive(*graphs).is_proved is is_proved


class Telling(nn.Module):
    """What a model gives beside a table that it stores."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Buffer(table)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu(), self.table


@pytest.mark.parametrize(
    ("table", "is_proved"),
    [
        (torch.ones(3), True),
        (torch.ones(1), False),
        (torch.ones(1, 3), False),
        (torch.ones(3).double(), False),
    ],
)
def test_a_table_that_is_given_has_its_shape_and_type(table: torch.Tensor, is_proved: bool) -> None:
    graphs = [graph_of_module(Telling(item), (X,)) for item in (torch.ones(3), table)]
    assert derive(*graphs).is_proved is is_proved


class Multiplied(MobileNetV3):
    """A MobileNetV3 of one block whose features are multiplied, and behind which more may stand."""

    def __init__(self, *factors: float, ending: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        super().__init__([InvertedResidualConfig(16, 3, 16, 16, True, "RE", 1, 1, 1.0)], 24, num_classes=5)
        self.factors, self.ending = factors, ending or nn.Identity()
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        for factor in self.factors:
            x = x * factor
        return self.ending(self.classifier(self.avgpool(x).flatten(1)))


def differing(left: nn.Module, right: nn.Module) -> Derivation:
    """The derivation for two networks of small images."""
    return derive(*(graph_of_module(net, (torch.ones(2, 3, 16, 16),)) for net in (left, right)))


def test_a_factor_that_one_side_has_is_told_as_such() -> None:
    """No operator related the two, as identities take it through an activation: so they only agreed."""
    factor = 1 + 2.0**-20
    one, other = Multiplied(), Multiplied(factor)
    for pair, names in (((one, other), ("", "mul")), ((other, one), ("mul", ""))):
        found = differing(*pair)
        assert (found.is_proved, found.unrelated) == (False, ())
        (told,) = found.constants
        assert tuple(name.rstrip("_0123456789") for name in (told.left, told.right)) == names
        assert (told.difference.expected, told.difference.found) in ((1.0, factor), (factor, 1.0))
    assert differing(other, Multiplied(factor)).is_proved


def test_a_graph_that_is_none_with_another_number_only_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    read, times = compare._Proof._read, []

    def once(self: object, side: int, *args: object) -> object:
        times.append(side)
        if len(times) > 2:
            raise NotRead("no graph")
        return read(self, side, *args)

    monkeypatch.setattr(compare._Proof, "_read", once)
    found = differing(Multiplied(), Multiplied(1 + 2.0**-20))
    assert len(times) > 2
    assert (found.is_proved, found.problem) == (False, None)
    assert found.unrelated


def test_what_differs_in_operators_too_is_not_told_as_a_factor() -> None:
    assert differing(Multiplied(), Multiplied(1 + 2.0**-20, ending=nn.Tanhshrink())).unrelated


def test_the_axes_of_all_inputs_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand inputs took a minute: those of all were looked at for each."""
    named, one = [], compare._names
    monkeypatch.setattr(compare, "_names", lambda *args: named.append(args) or one(*args))

    class Total(nn.Module):
        def forward(self, *parts: torch.Tensor) -> torch.Tensor:
            return torch.stack(parts).sum(0)

    read = graph_of_module(Total(), (X,) * 4)
    assert derive(read, read).is_proved
    assert len(named) == 1


def test_where_nan_may_go_another_way_the_scope_says_so() -> None:
    """Adding in another order meets other infinities; code that is one meets the same."""

    class Sum(nn.Module):
        def __init__(self, *, is_split: bool) -> None:
            super().__init__()
            self.is_split = is_split

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 * 0.5 if self.is_split else x

    graphs = [graph_of_module(Sum(is_split=is_split), (torch.randn(2, 3),)) for is_split in (False, True)]
    assert FINITE in derive(*graphs).scope
    assert FINITE not in derive(graphs[0], graphs[0]).scope


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [
        ("y = Relu(x)", "z = Constant <value_float = 0.0> () y = Clip(x, z)", np.inf),
        ("y = Relu(x)", "z = Constant <value_float = 0.0> () h = Relu(x) y = Clip(h, z)", np.inf),
        ("y = Clip(x)", "y = Identity(x)", np.inf),
        ("h = Constant <value_float = 0.5> () y = Pow(x, h)", "y = Sqrt(x)", -np.inf),
        ("y = GlobalMaxPool(x)", "y = ReduceMax <axes = [2, 3]> (x)", -np.inf),
    ],
)
def test_other_operators_of_one_function_may_go_other_ways_at_infinity(
    first: str, second: str, number: float
) -> None:
    texts = (f"g (float[1,1,2,2] x) => (float[m,n,o,p] y) {{ {text} }}" for text in (first, second))
    models = [parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}') for text in texts]
    sessions = [onnxruntime.InferenceSession(model.SerializeToString()) for model in models]
    results = [session.run(None, {"x": np.full((1, 1, 2, 2), number, np.float32)})[0] for session in sessions]
    assert not np.array_equal(*results, equal_nan=True)
    derived = derive(*map(graph_of_onnx, models))
    assert derived.is_proved
    assert FINITE in derived.scope


def small(inputs: str, body: str, outputs: str = "float[N, 4] y") -> Graph:
    """A file with these inputs and nodes."""
    text = f'<ir_version: 10, opset_import: ["": 21]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return graph_of_onnx(parser.parse_model(text))


def test_factors_pair_with_their_own_powers() -> None:
    left, right, turned = (
        small("float[N, 4] x", f"a = Erf(x) b = Sin(x) c = Mul({first}) y = Mul(c, {second})")
        for first, second in (("a, a", "b"), ("b, b", "a"), ("b, a", "a"))
    )
    assert derive(left, turned).is_proved
    assert not derive(left, right).is_proved


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("double[N, 4] x", "input x is float32"),
        ("float[N, 4, 1] x", "input x is float32"),
        ("float[N, 5] x", "axis 1 of input x is 4 on one side and 5"),
        ("float[N, 4] x, float[N, 4] z", "1 inputs beside 2"),
    ],
)
def test_inputs_are_of_one_kind(other: str, says: str) -> None:
    body = "c = Cast<to = 1>(x) y = Relu(c)"
    found = derive(small("float[N, 4] x", body), small(other, body))
    assert not found.is_proved
    assert says in (found.problem or "")


def test_outputs_and_inputs_go_in_the_pairs_that_are_given() -> None:
    given, made = "float[N, 4] x, float[N, 4] z", "float[N, 4] y, float[N, 4] w"
    first = small(given, "y = Relu(x) w = Sin(z)", made)
    turned = small(given, "y = Sin(x) w = Relu(z)", made)
    across = ((0, 1), (1, 0))
    assert derive(first, turned, outputs=across, inputs=across).is_proved
    for outputs, inputs in ((None, None), (across, None), (None, across), (((0, 1), (1, 1)), across)):
        assert not derive(first, turned, outputs=outputs, inputs=inputs).is_proved
    assert not derive(first, turned, outputs=across, inputs=((0, 1),)).is_proved
