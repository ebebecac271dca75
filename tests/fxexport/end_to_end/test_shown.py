"""Each verdict has to show something: what differs is broken by an input, whatever the graphs look like."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn
from torch.compiler import is_exporting as is_recorded

from fxexport import Certificate, Status, Verdict, certify
from fxexport.subjects.module_subject import ModuleSubject

Tensor = torch.Tensor


class Net(nn.Module):
    """Two convolutions and a head; ``between`` stands between the two, ``behind`` behind the logits."""

    def __init__(
        self,
        between: Callable[[Tensor], Tensor] | None = None,
        behind: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 10)
        self.between, self.behind = between, behind

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x if self.between is None else self.between(x)
        y = self.fc(self.second(x).mean((2, 3)))
        return y if self.behind is None else self.behind(y)


def images(samples: int = 8) -> Tensor:
    return torch.randn(samples, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def in_place(x: Tensor) -> Tensor:
    y = x - 0.2
    y.relu_()
    return y


DIFFERENT: dict[str, tuple[nn.Module, nn.Module]] = {
    "a statement in place": (Net(lambda x: x - 0.2), Net(in_place)),
    "an argument that a module does not print": (
        Net(nn.AvgPool2d(3, 1, 1)),
        Net(nn.AvgPool2d(3, 1, 1, divisor_override=2)),
    ),
    "classes in another order": (
        Net(behind=lambda y: y.log_softmax(1)),
        Net(behind=lambda y: y.log_softmax(1).view(-1, 2, 5).transpose(1, 2).reshape(-1, 10)),
    ),
    "a factor where the values say": (Net(), Net(lambda x: x * torch.where(x.amin() >= 0, 3.0, 1.0))),
    "from the sixth sample on": (
        Net(),
        Net(lambda x: x * (torch.arange(x.shape[0]) < 5).view(-1, 1, 1, 1)),
    ),
    "beyond every sample": (Net(), Net(lambda x: x.clamp(max=1e4))),
} | {
    f"at other sizes alone: {name}": (Net(), Net(between))
    for name, between in {
        "above": lambda x: x * (2 if x.shape[2] > 20 else 1),
        "above, by arithmetic": lambda x: x * (1 + (x.shape[2] > 100)),
        "equal": lambda x: x if x.shape[2] == 10 else x * 2,
        "odd": lambda x: x * 2 if x.shape[3] % 2 else x,
        "the size as a number": lambda x: x * (x.shape[2] / 10),
        "not more than": lambda x: x * (min(x.shape[2], 40) // 10),
        "not square": lambda x: x * 2 if x.shape[2] > x.shape[3] else x,
        "a large area": lambda x: x * 2 if x.shape[2] * x.shape[3] > 10_000 else x,
        "a larger batch": lambda x: x * (2 if x.shape[0] > 40 else 1),
        "a larger batch, counted": lambda x: x * (2 if len(x) > 40 else 1),
        "many numbers": lambda x: x * (2 if x.numel() > 100_000 else 1),
        "well below": lambda x: x * 2 if x.shape[2] < 9 and x.shape[3] < 5 else x,
        "where nothing is recorded": lambda x: (
            x if is_recorded() or torch._dynamo.is_compiling() or x.shape[2] < 50 else x * 2
        ),
    }.items()
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_broken_and_seen(name: str) -> None:
    reference, candidate = (module.eval() for module in DIFFERENT[name])
    certificate = certify(reference, candidate, images())
    assert certificate.verdict is Verdict.BROKEN, certificate.reason
    assert is_seen(certificate, reference, candidate)


def is_seen(certificate: Certificate, reference: nn.Module, candidate: nn.Module) -> bool:
    """True if the witness shows the difference that it names when it is run again."""
    witness = certificate.witness
    assert witness is not None
    values = []
    for model, inputs in ((reference, witness.reference), (candidate, witness.candidate)):
        with torch.no_grad():
            result = model(*(torch.from_numpy(array) for _, array in inputs))
        values.append(float(result.reshape(len(result), -1)[witness.index]))
    assert witness.expected == pytest.approx(values[0], rel=1e-5)
    assert witness.found == pytest.approx(values[1], rel=1e-5)
    assert str(witness).startswith(f"seen on {witness.made}: {witness.output}, sample {witness.index[0]}, ")
    return abs(values[0] - values[1]) > (witness.bound or 0.0)


SAME: dict[str, tuple[nn.Module, nn.Module]] = {
    "a ReLU twice": (Net(), Net(torch.relu)),
    "a limit that nothing reaches": (Net(), Net(lambda x: x.clamp(min=-3))),
    "a factor and its inverse": (Net(lambda x: x * 1.0), Net(lambda x: x * 0.5 * 2)),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_one_function_is_not_broken(name: str) -> None:
    reference, candidate = (module.eval() for module in SAME[name])
    certificate = certify(reference, candidate, images())
    assert certificate.is_accepted, certificate.reason


def test_a_factor_that_moved_is_no_difference() -> None:
    reference, candidate = Net().eval(), Net().eval()
    with torch.no_grad():
        candidate.first.weight.mul_(2)
        candidate.first.bias.mul_(2)
        candidate.second.weight.mul_(0.5)
    assert certify(reference, candidate, images()).is_accepted
    with torch.no_grad():
        candidate.second.weight.mul_(1.01)
    assert certify(reference, candidate, images()).verdict is Verdict.BROKEN


class Attends(nn.Module):
    """Attention, whose scores are products of two layers, and whose values are a third's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2)
        found = F.scaled_dot_product_attention(self.query(rows), self.key(rows), self.value(rows))
        return self.fc(found.mean(1))


def turned(model: Attends) -> None:
    """Scores of vectors that are turned alike are the same."""
    turn = torch.linalg.qr(torch.arange(144.0).view(12, 12).sin() + torch.eye(12))[0]
    for layer in (model.query, model.key):
        layer.weight.copy_(turn @ layer.weight)
        layer.bias.copy_(turn @ layer.bias)


def shifted(model: Attends) -> None:
    """Shares of a whole add up to it."""
    model.value.bias.add_(1.0)
    model.fc.bias.sub_(model.fc.weight.sum(1))


def tripled(model: Attends) -> None:
    model.value.weight.mul_(3)
    model.value.bias.mul_(3)
    model.fc.weight.div_(3)


@pytest.mark.parametrize("change", [turned, shifted, tripled])
def test_numbers_that_moved_are_no_difference(change: Callable[[Attends], None]) -> None:
    reference, candidate = Attends().eval(), Attends().eval()
    with torch.no_grad():
        change(candidate)
    certificate = certify(reference, candidate, images())
    assert certificate.verdict is Verdict.AGREES, certificate.reason
    with torch.no_grad():
        candidate.fc.weight.mul_(1.001)
    assert certify(reference, candidate, images()).verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float16, 1.01), (torch.float16, 1.02), (torch.bfloat16, 1.1), (torch.bfloat16, 1.2)],
)
def test_a_few_units_of_half_precision_are_no_number_that_moved(dtype: torch.dtype, factor: float) -> None:
    reference, candidate = Net().eval().to(dtype), Net().eval().to(dtype)
    with torch.no_grad():
        candidate.first.bias.mul_(factor)
        candidate.second.bias.mul_(factor)
    assert certify(reference, candidate, images().to(dtype)).verdict is Verdict.BROKEN


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_factor_that_moved_is_none_in_half_precision(dtype: torch.dtype) -> None:
    reference, candidate = Net().eval().to(dtype), Net().eval().to(dtype)
    with torch.no_grad():
        candidate.first.weight.mul_(3)
        candidate.first.bias.mul_(3)
        candidate.second.weight.div_(3)
    assert certify(reference, candidate, images().to(dtype)).is_accepted


class Added(nn.Module):
    """Branches that are added to a sum, one after another, as in residual nets that end in no activation."""

    def __init__(self, stem: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc, self.stem = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), stem
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.first(x))
        for branch in self.branches:
            x = x + branch(x)
        return self.fc(x.mean((2, 3)))


def test_where_two_models_part_first_is_told() -> None:
    """Summands were paired in any order, so that failures named branches that have nothing in common."""
    pair = Added(torch.relu).eval(), Added(torch.tanh).eval()
    failures = certify(*pair, images()).backbone.failures
    assert [failure.what for failure in failures] == [
        "no identity relates aten.relu.default to aten.tanh.default 'tanh' in its place"
    ]


def test_hooks_and_edited_code_are_seen() -> None:
    reference, hooked = Net().eval(), Net().eval()
    hooked.register_forward_hook(
        lambda module, inputs, output: output * 0 if inputs[0].max() > 50 else output
    )
    certificate = certify(reference, hooked, images())
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.witness is not None
    assert "times 2^" in certificate.witness.made or "everywhere" in certificate.witness.made
    graph = torch.fx.symbolic_trace(reference)
    relu = next(node for node in graph.graph.nodes if node.target == "relu")
    with graph.graph.inserting_after(relu):
        tripled = graph.graph.call_function(torch.mul, (relu, 3.0))
    relu.replace_all_uses_with(tripled, delete_user_cb=lambda user: user is not tripled)
    graph.recompile()
    tripled.replace_all_uses_with(relu)
    graph.graph.erase_node(tripled)  # the graph is right again, the code is not
    assert certify(reference, graph, images()).verdict is Verdict.BROKEN


class Scaled(nn.Module):
    """A head whose weights are a factor smaller than the features that it reads are larger."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc, self.factor = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), factor
        self.fc.weight.data.div_(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)) * self.factor)


def test_channels_in_another_order_are_no_difference() -> None:
    reference, candidate = Net().eval(), Net().eval()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        candidate.first.weight.copy_(reference.first.weight[order])
        candidate.first.bias.copy_(reference.first.bias[order])
        candidate.second.weight.copy_(reference.second.weight[:, order])
    certificate = certify(reference, candidate, images())
    assert certificate.is_accepted, certificate.reason
    with torch.no_grad():
        candidate.second.weight.copy_(reference.second.weight[:, order.flip(0)])
    assert certify(reference, candidate, images()).verdict is Verdict.BROKEN


class Twice(nn.Module):
    """Two layers behind the pool, of which the first gives a factor more and the second takes it away."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.first, self.second = nn.Conv2d(3, 6, 3), nn.Linear(6, 7), nn.Linear(7, 5)
        with torch.no_grad():
            self.first.weight.mul_(factor)
            self.first.bias.mul_(factor)
            self.second.weight.div_(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.body(x).mean((2, 3))).relu())


def test_a_factor_that_moved_between_layers_of_a_head_is_no_difference() -> None:
    reference, candidate = Twice(1.0).eval(), Twice(4.0).eval()
    assert certify(reference, candidate, images()).is_accepted
    with torch.no_grad():
        candidate.second.weight.mul_(1.001)
    assert certify(reference, candidate, images()).verdict is Verdict.BROKEN


def normalised(x: Tensor) -> Tensor:
    return x / x.amax(dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize("factor", [2.0, 3.0, 1.0001])
def test_a_factor_that_is_taken_away_again_is_no_difference(factor: float) -> None:
    assert certify(Scaled(1.0).eval(), Scaled(factor).eval(), images()).verdict is Verdict.PROVED
    pair = Net(lambda x: normalised(x.abs() + 0.1)), Net(lambda x: normalised((x.abs() + 0.1) * factor))
    assert certify(*(module.eval() for module in pair), images()).is_accepted


def test_what_asks_whether_gradients_are_recorded_is_no_graph() -> None:
    reference, candidate = Net().eval(), Net(lambda x: x * 2 if torch.is_grad_enabled() else x).eval()
    certificate = certify(reference, candidate, images())
    assert certificate.verdict is Verdict.AGREES
    assert "gradients" in certificate.reason


@pytest.mark.parametrize(
    "asked",
    [lambda x: x.shape[2] > 20, lambda x: x.shape[2] > 50 and x.shape[2] % 2 == 0],
    ids=["once", "twice"],
)
def test_what_lies_past_the_end_of_a_range_is_not_proved(asked: Callable[[Tensor], bool]) -> None:
    candidate = Net(lambda x: x * (2 if asked(x) else 1)).eval()
    for reference in (copy.deepcopy(candidate), Net().eval()):
        assert certify(reference, candidate, images()).verdict is not Verdict.PROVED


@pytest.mark.parametrize(
    "asked",
    [lambda x: int(x.shape[2]) > 100, lambda x: len(range(x.shape[2])) > 100],
    ids=["a number", "a range"],
)
def test_sizes_that_torch_fixes_are_not_proved_for_others(asked: Callable[[Tensor], bool]) -> None:
    reference, candidate = (Net(lambda x: x * (2 if asked(x) else 1)).eval() for _ in range(2))
    certificate = certify(reference, candidate, images())
    assert certificate.verdict is Verdict.AGREES, certificate.reason
    assert "at other extents, at which both run" in certificate.reason


def test_a_pool_over_its_own_extents_is_a_mean_at_all_sizes() -> None:
    mean = Net(lambda x: x * x.mean((2, 3), keepdim=True)).eval()
    pool = Net(lambda x: x * F.avg_pool2d(x, x.shape[2:])).eval()
    certificate = certify(mean, pool, images())
    assert certificate.verdict is Verdict.PROVED
    assert "x axis 2: every extent from 6 to 16384" in certificate.scope
    turned = Net(lambda x: x * F.avg_pool2d(x, (x.shape[3], x.shape[2]))).eval()
    assert certify(mean, turned, images()).verdict is not Verdict.PROVED


def test_sizes_that_cannot_be_recorded_are_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModuleSubject, "language_at_all_sizes", "torch.export refuses")
    reference, candidate = Net().eval(), Net().eval()
    certificate = certify(reference, candidate, images())
    assert certificate.verdict is Verdict.AGREES
    assert "at other sizes, at which both run: torch.export refuses" in certificate.reason
    assert "on 1 further input too" in certificate.reason  # where it is proved, nothing is tried
    larger = Net(lambda x: x * (2 if x.shape[2] > 12 else 1)).eval()
    assert certify(reference, larger, images()).verdict is Verdict.BROKEN
    monkeypatch.setattr(ModuleSubject, "runs_at_other_sizes", False)
    assert certify(reference, candidate, images()).verdict is Verdict.PROVED


def test_wrappers_are_looked_through() -> None:
    model, other = Net().eval(), Net().eval()
    for wrapped in (nn.DataParallel(other), torch.compile(other), torch.optim.swa_utils.AveragedModel(other)):
        certificate = certify(model, wrapped, images())
        assert certificate.is_accepted
        assert certificate.candidate == "Net"


def test_what_a_module_compiled_of_itself_is_looked_through() -> None:
    model, other = Net().eval(), Net().eval()
    other.compile(backend=_refuse)
    assert certify(model, other, images()).verdict is Verdict.PROVED
    assert other._compiled_call_impl is not None


def _refuse(*_: object) -> object:
    raise RuntimeError("it is compiled")


class Remembering(Net):
    """Computes a table once for each size."""

    @functools.lru_cache(maxsize=8)  # noqa: B019 - as people write it
    def table(self, rows: int, columns: int) -> Tensor:
        return torch.linspace(0, 1, rows)[:, None] * torch.linspace(0, 1, columns)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc((x * self.table(*x.shape[2:])).relu().mean((2, 3)))


def test_what_functions_remember_of_a_trace_is_forgotten() -> None:
    model, other = Remembering().eval(), Remembering().eval()
    assert certify(model, other, images()).verdict in (Verdict.AGREES, Verdict.PROVED)
    assert type(model(images())) is Tensor


class Tabled(nn.Module):
    """Multiplies by a table that its code computed, and by a number in double precision."""

    def __init__(self, table: Tensor, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc, self.table = nn.Conv2d(3, 6, 3), nn.Linear(6, 10), [table]
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        x = (self.first(x) * self.table[0]).relu()
        return self.fc((x.double() * self.factor).float().mean((2, 3)))


@pytest.mark.parametrize(("share", "verdict"), [(2.0**-24, "agrees"), (1e-4, "broken")])
def test_a_table_that_an_exporter_computed_otherwise_is_no_other_weight(share: float, verdict: str) -> None:
    table = torch.linspace(1, 2, 100).view(10, 10)
    for table_of_other, factor in ((table * (1 + 3 * share), 1.1), (table, 1.1 * (1 + share / 200))):
        models = Tabled(table, 1.1).eval(), Tabled(table_of_other, factor).eval()
        assert certify(*models, images()).verdict == verdict


def test_a_conjugate_constant_is_read() -> None:
    angles = torch.polar(torch.ones(4), torch.arange(4.0))
    turned = [
        Net(
            lambda x, z=z: torch.view_as_real(
                torch.view_as_complex(x[..., :8].unflatten(3, (4, 2))) * z
            ).flatten(3)
        )
        for z in (angles, angles.conj())
    ]
    assert certify(*(net.eval() for net in turned), images()).verdict is Verdict.BROKEN


def test_a_pool_of_bfloat16_is_probed() -> None:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1), *head).bfloat16().eval()
    certificate = certify(model, copy.deepcopy(model), images().bfloat16())
    assert certificate.verdict is Verdict.PROVED


class _Doubled(nn.DataParallel):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(*inputs)


def test_what_only_looks_like_a_wrapper_is_none() -> None:
    """A child of the name that torch.compile gives its own, and a wrapper's class that does more."""
    model = Net().eval()
    behind = nn.Sequential(OrderedDict(_orig_mod=model, more=nn.Softmax(1))).eval()
    for other in (behind, _Doubled(model)):
        assert certify(model, other, images()).verdict is Verdict.BROKEN


def file(
    path: Path,
    tail: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    batch: object = "N",
    out: str = "y",
) -> Path:
    """A convolution and ``tail`` behind its activation ``a``."""
    kernel = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("Relu", ["c"], ["a"]), *tail]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [batch, 3, 10, 10])],
        [value(out, TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(array, name) for name, array in {**weights, "k": kernel}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def head(result: str = "y", weight: str = "w") -> list[onnx.NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", weight, "b"], [result], transB=1),
    ]


RNG = np.random.default_rng(3)
W, B = RNG.standard_normal((5, 8)).astype(np.float32), RNG.standard_normal(5).astype(np.float32)


@pytest.mark.parametrize("batch", [-1, 0, "N"])
def test_a_free_batch_is_declared_in_many_ways(batch: object, tmp_path: Path) -> None:
    left = file(tmp_path / "a.onnx", head(), {"w": W, "b": B}, batch)
    right = file(tmp_path / "b.onnx", head(), {"w": W, "b": B})
    certificate = certify(left, right)
    assert certificate.is_accepted, certificate.reason
    assert certificate.statistics[0].batches == (1, 2, 5)


def test_the_default_domain_by_its_name(tmp_path: Path) -> None:
    left = file(tmp_path / "a.onnx", head(), {"w": W, "b": B})
    proto = onnx.load(left)
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    proto.opset_import[0].domain = "ai.onnx"
    onnx.save(proto, tmp_path / "b.onnx")
    assert certify(left, tmp_path / "b.onnx").is_accepted


def test_a_batch_norm_folded_into_the_head_is_told_from_a_wrong_one(tmp_path: Path) -> None:
    scale, shift, mean, variance = (abs(RNG.standard_normal(5)).astype(np.float32) for _ in range(4))
    norm = helper.make_node("BatchNormalization", ["g", "s", "t", "m", "v"], ["y"])
    held = {"w": W, "b": B, "s": scale, "t": shift, "m": mean, "v": variance}
    left = file(tmp_path / "a.onnx", [*head("g"), norm], held)
    factor = (scale / np.sqrt(variance + 1e-5)).astype(np.float32)
    folded = {"w": W * factor[:, None], "b": (B - mean) * factor + shift}
    assert certify(left, file(tmp_path / "b.onnx", head(), folded)).is_accepted
    folded["w"] = folded["w"] * np.float32(1.001)
    assert certify(left, file(tmp_path / "c.onnx", head(), folded)).verdict is Verdict.BROKEN


def test_a_mean_over_channels_last_is_the_pool(tmp_path: Path) -> None:
    left = file(tmp_path / "a.onnx", head(), {"w": W, "b": B})
    last = [
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["t"], ["f"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    assert certify(left, file(tmp_path / "b.onnx", last, {"w": W, "b": B})).is_accepted


def test_weights_that_are_not_read_are_run_all_the_same(tmp_path: Path) -> None:
    """Sparse initialisers: what nobody looks into is no reason to call two files one."""
    files = []
    for name, factor in (("a", 1.0), ("b", 3.0)):
        proto = onnx.load(file(tmp_path / f"{name}.onnx", head(weight="sparse"), {"b": B}))
        values = numpy_helper.from_array((W[W > 0] * factor).astype(np.float32), "sparse")
        indices = numpy_helper.from_array(np.flatnonzero(W > 0).astype(np.int64), "")
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5, 8]))
        onnx.save(proto, tmp_path / f"{name}.onnx")
        files.append(tmp_path / f"{name}.onnx")
    assert certify(*files).verdict is Verdict.BROKEN


def test_a_factor_of_a_file_without_a_head_that_is_known_is_seen() -> None:
    weights = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    files = [
        parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> g (float[N,6] x) => (float[N,3] y) '
            f"{{ y = Gemm <alpha = {alpha}> (x, w) }}"
        )
        for alpha in (1.0001, 1.0)
    ]
    for file in files:
        file.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    x = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    assert certify(*files, x).verdict is Verdict.BROKEN


def test_masks_of_other_numbers_are_no_difference() -> None:
    files = [
        parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y) '
            f"{{ c = Constant <value_floats = [0.0, 0.0, {mask}]> () m = Add (x, c) y = Softmax (m) }}"
        )
        for mask in (-1e9, -1e30, -1.0)
    ]
    x = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    found = certify(*files[:2], x)
    assert found.verdict is not Verdict.PROVED
    assert "the constant is another" not in found.reason
    assert certify(*files[1:], x).verdict is Verdict.BROKEN


def test_one_unit_in_the_last_place_is_no_fold_where_nothing_is_folded() -> None:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(6, 5))
    model(images())  # the batch norm gets statistics
    other = copy.deepcopy(model.eval())
    assert certify(model, other, images()).verdict is Verdict.PROVED
    with torch.no_grad():
        weight = other[0].weight.view(-1)
        weight[4] = torch.nextafter(weight[4], torch.tensor(9.0))
    assert certify(model, other, images()).verdict is Verdict.BROKEN
    with torch.no_grad():
        other[0].weight.copy_(torch.nextafter(model[0].weight, torch.tensor(9.0)))
    assert certify(model, other, images()).verdict is not Verdict.PROVED


def quietly(x: Tensor, is_large: Callable[[], bool]) -> Tensor:
    """The same by how many cells values make."""
    try:
        return x * 2 if is_large() else x
    except RuntimeError:
        return x


def quiet_question(x: Tensor) -> Tensor:
    """Asks, and hides that it was refused."""
    try:
        return x * 2 if float(x.max()) > 30 else x
    except RuntimeError:
        return x


@pytest.mark.parametrize(
    "between",
    [
        quiet_question,
        lambda x: x * 2 if type(x) is Tensor and x.max() > 30 else x,
        lambda x: x * 2 if type(x.shape[0]) is int and max(x.flatten().tolist()) > 30 else x,
        lambda x: quietly(x, lambda: x[x > 30].numel() > 0),
        lambda x: quietly(x, lambda: len(torch.nonzero(x > 30)) > 0),
        lambda x: quietly(x, lambda: len(torch.bincount((x > 30).flatten().long())) > 1),
        lambda x: quietly(x, lambda: len(torch.repeat_interleave((x[0, 0, 0] > 30).long())) > 0),
    ],
)
def test_code_that_asks_for_values_is_not_taken_for_its_recording(
    between: Callable[[Tensor], Tensor],
) -> None:
    subject = ModuleSubject(Net(between).eval(), [images().numpy()])
    assert isinstance(subject.language, str)
    assert "asks for values" in subject.language
    assert not isinstance(ModuleSubject(Net().eval(), [images().numpy()]).language, str)


def limited(x: Tensor) -> Tensor:
    """The same up to 30, without a word about it."""
    return torch.where(x > 30, 0.0, x)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: limited(x) if type(x) is Tensor else x,
        lambda x: limited(x) if torch.is_grad_enabled() else x,
        lambda x: x if x.is_contiguous() else limited(x),
        lambda x: limited(x) if not hasattr(x, "fake_mode") else x,
    ],
)
def test_what_a_run_does_and_its_recording_does_not_is_seen(between: Callable[[Tensor], Tensor]) -> None:
    language = ModuleSubject(Net(between).eval(), [images().numpy()]).language
    assert isinstance(language, str)
    assert "calls other functions" in language


def test_a_module_that_minds_how_its_input_lies_in_memory_is_not_taken_for_its_recording() -> None:
    class Minding(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if x.is_contiguous() else 2)

    subject = ModuleSubject(Minding().eval(), [images().numpy()])
    assert subject.language == "it gives other values of inputs that lie otherwise in memory"


def test_a_module_that_counts_its_calls_behind_a_private_name_is_not_taken_for_its_recording() -> None:
    class Counting(Net):
        def __init__(self, *, is_cache: bool) -> None:
            super().__init__()
            self._calls, self._is_cache = 0, is_cache

        def forward(self, x: Tensor) -> Tensor:
            self._calls = 1 if self._is_cache else self._calls + 1
            return super().forward(x) * (1 if self._calls < 5000 else 2)

    counting, caching = (
        ModuleSubject(Counting(is_cache=is_cache).eval(), [images().numpy()]).language
        for is_cache in (False, True)
    )
    assert counting == "a run changes _calls, which no graph shows"
    assert not isinstance(caching, str)


def test_inputs_that_stand_in_another_order_are_paired_by_name_and_the_certificate_says_so() -> None:
    class Fusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(4, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.fc(a) - 2 * self.fc(b)

    class Exchanged(Fusing):
        def forward(self, b: Tensor, a: Tensor) -> Tensor:
            return super().forward(a, b)

    rows = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    found = certify(Fusing().eval(), Exchanged().eval(), tuple(rows))
    assert found.verdict is Verdict.PROVED
    assert "inputs are paired by their names, though they stand in another order: b, a" in found.scope


def test_inputs_of_one_name_in_other_places_are_told() -> None:
    head = '<ir_version: 9, opset_import: ["": 18]> g'
    texts = (
        f"{head} (float[n,4] {a}, float[n,4] {b}) => (float[n,4] y) {{ y = Sub ({a}, {b}) }}"
        for a, b in ("pq", "qr")
    )
    files = map(parser.parse_model, texts)
    found = certify(*files, (torch.randn(4, 4), torch.randn(4, 4)))
    assert found.verdict is Verdict.PROVED
    told = (
        "inputs are paired by their positions, in which their names do not agree: 'p' with 'q', 'q' with 'r'"
    )
    assert told in found.scope


@pytest.mark.parametrize("before", ["a = Softmax (g)", "a = Relu (g)", "a = Sigmoid (g)"])
def test_an_identity_behind_a_function_scales_nothing(before: str) -> None:
    """A softmax was taken for what the Identity behind it makes of zero and one: broken, beside itself."""
    file = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> n (float[N,6] x) => (float[N,3] y) '
        f"{{ g = Gemm (x, w) {before} y = Identity (a) }}"
    )
    weights = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    file.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    x = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    found = certify(file, file, x)
    assert (found.verdict, found.rounding.status) == (Verdict.PROVED, Status.HELD)


@pytest.mark.parametrize("end", ["y = Add (a, d)", "s = Add (a, d) {site}"])
def test_open_extents_that_are_added_are_those_of_both(end: str) -> None:
    """Nothing tells that they are equal; the sum has its rank all the same, and is what its operands are."""
    files = [
        parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> n (float[N,3,h,w] x) => (float[N,3,H,W] y) '
            "{ c = Conv <strides = [2, 2], pads = [0, 0, 1, 1]> (x, wide) d = Resize (c, , twice) "
            f"{site('x', 'a')} {end.format(site=site('s', 'y'))} }}"
        )
        for site in (lambda x, y: f"{y} = Conv ({x}, k)", _through_tokens)
    ]
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 3)).astype(np.float32)
    shared = {"wide": rng.standard_normal((3, 3, 3, 3)).astype(np.float32)}
    shared["twice"] = np.array([1, 1, 2, 2], np.float32)
    for file, weight in zip(files, (weights[..., None, None], weights.T), strict=True):
        for name, array in {"k": np.ascontiguousarray(weight), **shared}.items():
            file.graph.initializer.append(numpy_helper.from_array(array, name))
    x = rng.standard_normal((8, 3, 6, 8)).astype(np.float32)
    assert certify(*files, x).verdict is Verdict.PROVED


def _through_tokens(x: str, y: str) -> str:
    back = f"{y} = Transpose <perm = [0, 3, 1, 2]> ({y}m)"
    return f"{y}p = Transpose <perm = [0, 2, 3, 1]> ({x}) {y}m = MatMul ({y}p, k) {back}"
