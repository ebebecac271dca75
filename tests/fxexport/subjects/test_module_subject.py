"""What runs is the module itself, and what a run leaves behind is seen."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from fxexport import Verdict, certify
from fxexport.subjects.module_subject import ModuleSubject, are_about
from fxpasses.errors import CheckError
from tests.fxexport.pairs import small_pair


class Counting(nn.Module):
    """A classifier whose answer changes with how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _ = small_pair()
        self.asked = 0
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        logits = self.inner(x)
        return logits if self.asked < 10_000 else -logits


class Listing(Counting):
    """The same, in a list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(1)
        return self.inner(x)


class Wrapped(nn.Module):
    """The classifier alone, or times a number."""

    def __init__(self, factor: float | None = None) -> None:
        super().__init__()
        self.inner, _ = small_pair()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x)
        return logits if self.factor is None else logits * self.factor


class Peeking(Wrapped):
    """A classifier that looks at its values where it runs, and at batches alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x)
        return -logits if len(x) > 1 and type(x) is torch.Tensor and x.max().item() == 0.1234 else logits


def shifted(x: torch.Tensor, by: list[int]) -> torch.Tensor:
    """A function that writes to the list that it is given, as torchvision's shifted windows do."""
    by[0] += 1
    return x.roll(by, [2, 3])


fx.wrap("shifted")


class Shifting(nn.Module):
    """A classifier of shifted maps, where the shift is a list of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _ = small_pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(shifted(x, [1, 2]))


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_a_module_that_counts_its_runs_has_no_derivation() -> None:
    for kind, name in ((Counting, "asked"), (Listing, "seen")):
        certificate = certify(Wrapped(), kind().eval(), images())
        assert certificate.verdict is Verdict.AGREES, certificate.reason
        assert f"a run changes {name}" in certificate.reason


STATES: list[tuple[Any, Callable[[Any], Any]]] = [
    (SimpleNamespace(calls=0), lambda state: setattr(state, "calls", state.calls + 1)),
    (deque([0]), lambda state: state.append(0)),
    (itertools.count(), next),
    (np.zeros(1), lambda state: np.add(state, 1, out=state)),
    (random.Random(0), lambda state: state.random()),
    (np.random.default_rng(0), lambda state: state.random()),
    ((number for number in range(1000)), next),
    ([[0]], lambda state: state[0].append(0)),
    (bytearray(1), lambda state: state.append(0)),
]


@pytest.mark.parametrize("place", range(len(STATES)))
def test_whatever_keeps_count_of_runs_is_seen(place: int) -> None:
    class Keeping(Wrapped):
        def __init__(self) -> None:
            super().__init__()
            self.kept, self.change = STATES[place]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.change(self.kept)
            return super().forward(x)

    found = ModuleSubject(Keeping().eval(), [images().numpy()]).language
    assert isinstance(found, str)
    assert found.startswith(("a run changes kept", "a run asks random.Random.random "))


def test_kernels_that_torch_chooses_are_no_other_function() -> None:
    class Attending(Wrapped):
        """Attention with a trained bias: torch has another kernel for it where gradients are recorded."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(9, 9))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            attended = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=self.bias * 2)
            return super().forward(attended)

    assert not isinstance(ModuleSubject(Attending().eval(), [images().numpy()]).language, str)


def test_an_object_that_has_no_copy_is_no_fault() -> None:
    class Single:
        __slots__ = ()

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise KeyError("there is one only")

    model = Wrapped().eval()
    vars(model)["kept"] = Single()
    assert not isinstance(ModuleSubject(model, [images().numpy()]).language, str)


def test_what_lies_in_no_strides_is_judged_by_what_it_gives() -> None:
    class Sparse(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.to_sparse().to_dense())

    certificate = certify(Wrapped(), Sparse().eval(), images())
    assert certificate.verdict is Verdict.AGREES, certificate.reason


def test_a_constant_that_is_written_to_is_not_read() -> None:
    class Writing(Wrapped):
        def __init__(self) -> None:
            super().__init__()
            self.calls = torch.zeros(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x) + (self.calls > 100)

    certificate = certify(Wrapped(), Writing().eval(), images())
    assert certificate.verdict is Verdict.AGREES, certificate.reason


def test_values_that_are_read_of_batches_alone_are_seen() -> None:
    certificate = certify(Wrapped(), Peeking().eval(), images())
    assert certificate.verdict is Verdict.AGREES, certificate.reason
    assert "asks for values" in certificate.reason


def test_code_that_is_not_the_graph_s_is_judged_by_what_it_gives() -> None:
    """Its copy would be made from the graph, and would show the reference's numbers."""
    stale = fx.symbolic_trace(Wrapped())
    (output,) = stale.graph.find_nodes(op="output")
    (logits,) = output.all_input_nodes
    with stale.graph.inserting_after(logits):
        tripled = stale.graph.call_function(torch.mul, (logits, 3.0))
    output.replace_input_with(logits, tripled)  # and no recompile()
    x = images()
    assert not torch.equal(stale(x), Wrapped(3.0)(x))
    assert certify(Wrapped(3.0).eval(), stale.eval(), x).verdict is Verdict.BROKEN


def test_a_graph_hands_out_lists_that_a_function_may_write_to() -> None:
    certificate = certify(Shifting().eval(), fx.symbolic_trace(Shifting()).eval(), images())
    assert certificate.verdict is Verdict.PROVED, certificate.reason


def test_how_inputs_lie_in_memory_may_round_as_large_values_do() -> None:
    values = np.array([1e9, -3e8, 2.0], np.float32)
    assert are_about([values + np.array([64, -64, 1000], np.float32)], [values])
    assert not are_about([values * np.array([1, 0.9, 1], np.float32)], [values])
    assert not are_about([values / 1e9 + np.array([0, 0, 0.01], np.float32)], [values / 1e9])


class ByName(nn.Module):
    """A classifier that is traced by place, and called by name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _ = small_pair()

    def forward(self, *, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_what_can_be_traced_and_not_called_is_no_crash() -> None:
    inner, _ = small_pair()
    images = torch.randn(4, 3, 9, 9)
    certificate = certify(inner, ByName().eval(), images)
    assert certificate.verdict is Verdict.BROKEN
    assert "does not run" in certificate.reason
    with pytest.raises(CheckError, match="does not run"):
        certify(ByName().eval(), inner, images)


class Stored(nn.Module):
    """A classifier whose last weight is stored in a way that NumPy does not know."""

    def __init__(self, store: Callable[[torch.Tensor], torch.Tensor], factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, last = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.weight, self.bias = store(last.weight.detach() * factor), last.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features, weight = self.body(x).mean((2, 3)), self.weight
        if weight.is_quantized:
            return features @ weight.dequantize().T + self.bias
        if weight.layout is torch.strided:
            return features @ weight.float().T + self.bias
        return (weight @ features.T).T + self.bias


@pytest.mark.parametrize(
    "store",
    [
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to_sparse_csr(),
        lambda weight: weight.to(torch.float8_e4m3fn),
        lambda weight: torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8),
    ],
    ids=["sparse", "rows", "float8", "quantised"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
def test_weights_that_numpy_does_not_know_are_no_crash(store: Callable[[torch.Tensor], torch.Tensor]) -> None:
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert certify(Stored(store).eval(), Stored(store).eval(), images).is_accepted
    assert certify(Stored(store).eval(), Stored(store, 1.5).eval(), images).verdict is Verdict.BROKEN


class OfBatches(nn.Module):
    """A classifier whose recording holds for some batches alone; ``factor`` is another one's."""

    def __init__(self, way: str, factor: float = 1.0) -> None:
        super().__init__()
        self.inner, _ = small_pair()
        self.way, self.factor = way, factor
        self.known: dict[tuple[int, ...], float] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x)
        if self.way == "number":
            return logits.view(int(x.shape[0]), -1) * self.factor
        if self.way == "key":
            return logits * self.known.setdefault(tuple(x.shape), self.factor)
        return logits.flip(0).flip(0) * self.factor if x.shape[0] > 4 else logits


@pytest.mark.parametrize("way", ["number", "key", "branch"])
def test_a_recording_of_some_batches_is_made_anew_for_others(way: str) -> None:
    assert certify(OfBatches("none"), OfBatches(way), images()).is_accepted
    certificate = certify(OfBatches(way).eval(), OfBatches(way, 1.1).eval(), images())
    assert certificate.verdict is Verdict.BROKEN
    assert "does not run" not in certificate.reason


class Halved(nn.Module):
    """A classifier that takes large batches in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _ = small_pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(x[:2]), self.inner(x[2:])]) if x.shape[0] > 4 else self.inner(x)


def test_features_of_other_operators_at_another_batch_are_not_compared() -> None:
    certificate = certify(Halved().eval(), Halved().eval(), images())
    assert certificate.verdict is Verdict.AGREES
    assert "no graph shows what the reference computes" in certificate.reason


class Looking(OfBatches):
    """The same, that looks its factor up by the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * {5: self.factor}.get(x.shape[0], self.factor)


def test_what_is_recorded_of_no_free_batch_is_recorded_at_its_own() -> None:
    certificate = certify(Looking("").eval(), Looking("").eval(), images())
    assert certificate.verdict is Verdict.AGREES
    assert "is not read at other sizes" in certificate.reason


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_what_torchscript_made_is_told_as_that() -> None:
    """It was told in the words of a method that it has not."""
    model, _ = small_pair()
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(CheckError, match="TorchScript"):
        certify(model, torch.jit.trace(model, images), images)


def test_what_is_of_no_known_type_only_agrees() -> None:
    def holding() -> nn.Module:
        model = Wrapped().eval()
        model.register_buffer("packed", torch.zeros(4, dtype=torch.uint8).view(torch.bits8))
        return model

    certificate = certify(holding(), holding(), images())
    assert certificate.verdict is Verdict.AGREES
    assert "what it holds has no term (type bits8)" in certificate.reason
