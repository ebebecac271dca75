"""A model's code while it is traced: ``len(x)`` leaves the batch free, and nothing stays in the model."""

from __future__ import annotations

import copy
from collections import deque

import pytest
import torch
from torch import nn

from fxpasses import rewrite
from fxpasses.errors import TraceError
from fxpasses.graph.export_trace import export_module
from fxpasses.graph.trace import trace
from fxpasses.graph.tracing import tracing

Tensor = torch.Tensor


def rows(x: Tensor) -> Tensor:
    return x.view(len(x), -1)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.sizes = [1, 2, 3]

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(rows(x.mean((2, 3)))) * len(self.sizes)
        return scores


def samples(batch: int) -> Tensor:
    return torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_symbolic_and_exported_graphs_take_any_batch() -> None:
    model = Counting().eval()
    graphs = [
        trace(model).close(),
        export_module(model, (samples(2),), "").close(),
        rewrite(copy.deepcopy(model), "conv").module,
    ]
    for batch in (1, 2, 5):
        for graph in graphs:
            assert torch.allclose(graph(samples(batch)), model(samples(batch)), atol=1e-6)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_code_is_left_as_it_was(is_stopped: bool) -> None:
    try:
        with tracing(Counting()):
            assert "len" in globals()
            assert len([1, 2]) == 2
            if is_stopped:
                raise RuntimeError
    except RuntimeError:
        pass
    assert "len" not in globals()


def test_a_len_of_the_models_own_is_kept() -> None:
    space: dict[str, object] = {"nn": nn, "__name__": "elsewhere"}
    exec(
        "class Own(nn.Module):\n"
        "    def forward(self, x):\n        return x * len(x)\n"
        "def len(x):\n    return 7\n",
        space,
    )
    model = space["Own"]()  # type: ignore[operator]
    assert torch.equal(trace(model).close()(samples(2)), 7 * samples(2))


class Keeping(nn.Module):
    """Keeps what it computes from its weights, as attention biases are kept, and what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 4))
        self.fc = nn.Linear(3, 4)
        self.cache: dict[str, dict[str, Tensor]] = {"by device": {}}
        self.seen: tuple[list[Tensor], deque[Tensor], set[Tensor]] = ([], deque(maxlen=2), set())
        self.last: Tensor | None = None
        self.beside = [nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        found = self.cache["by device"]
        if "bias" not in found:
            found["bias"] = self.table[[0, 2, 1]].sum(0)
        scores: Tensor = self.fc(x.mean((2, 3))) + found["bias"]
        if self.last is None:
            self.last = scores * 2
        self.seen[0].append(scores)
        self.seen[1].append(scores)
        self.seen[2].add(scores)
        self.beside[0].last = scores  # type: ignore[assignment]
        self.made = scores
        return scores + self.last


def kept(model: Keeping) -> tuple[object, ...]:
    return set(vars(model)), model.cache, model.seen, model.last, set(vars(model.beside[0]))


def test_nothing_of_a_trace_stays_in_the_model() -> None:
    model = Keeping().eval()
    before = copy.deepcopy(kept(model))
    graphs = [rewrite(model, "conv").module for _ in range(2)]
    assert kept(model) == before
    x, fresh = samples(3), copy.deepcopy(model)
    expected = fresh(x)
    for graph in graphs:
        assert torch.allclose(graph(x), expected, atol=1e-6)
    assert torch.equal(model(x), expected)


class Deciding(Keeping):
    """The same, by the values that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores if x.sum() > 0 else -scores


def test_nor_does_anything_of_one_that_is_refused() -> None:
    model = Deciding().eval()
    before = copy.deepcopy(kept(model))
    with pytest.raises(TraceError, match="data-dependent"):
        export_module(model, (samples(2),), "")
    assert kept(model) == before


def test_a_model_that_keeps_tensors_is_exported_as_its_first_run() -> None:
    model = Keeping().eval()
    graph = export_module(model, (samples(2),), "").close()
    x, fresh = samples(3), copy.deepcopy(model)
    assert torch.allclose(graph(x), fresh(x), atol=1e-6)
    assert "forward" not in vars(model)


def test_what_an_object_holds_is_put_back_too() -> None:
    class Box:
        seen: tuple[Tensor, ...] = ()

    class Boxing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.box = Box()

        def forward(self, x: Tensor) -> Tensor:
            self.box.seen = (*self.box.seen, x)
            return x

    model = Boxing()
    trace(model)
    assert not vars(model.box)


class Growing(nn.Module):
    """Registers in its first run what it has none of."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "shift"):
            self.register_buffer("shift", torch.ones(3))
        if self.weight is None:
            self.weight = nn.Parameter(torch.ones(3))
        return self.fc(x.mean((2, 3)) * self.weight + self.shift)  # type: ignore[no-any-return]


class GrowingHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fc is None:
            self.fc = nn.Linear(3, 4)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Growing, GrowingHead])
def test_what_a_model_registers_stays(make: type[nn.Module]) -> None:
    model = make().eval()
    result = rewrite(model, "conv", example_inputs=(samples(2),))
    assert [entry.site.name for entry in result.report.rewrites] == ["fc"]
    assert [*result.module.state_dict()] == [*model.state_dict()]
    assert torch.allclose(result.module(samples(3)), model(samples(3)), atol=1e-6)


def test_long_containers_are_left_alone() -> None:
    model = Keeping().eval()
    model.data = [0] * 1001  # type: ignore[assignment]
    with tracing(model):
        model.data.append(1)  # type: ignore[operator]
    assert len(model.data) == 1002  # type: ignore[arg-type]


CACHE: dict[int, Tensor] = {}
TABLE: Tensor | None = None


class Caching(nn.Module):
    """Keeps what it computes beside itself: in its file, its class and a default."""

    cache: dict[int, Tensor] = {}  # noqa: RUF012 - it is that of all of them
    table: Tensor | None = None

    def forward(self, x: Tensor, kept: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006 - that is the point
        global TABLE
        found = torch.arange(x.shape[1]) + 1.0
        for places in (CACHE, self.cache, kept):
            found = places.setdefault(0, found)
        TABLE = type(self).table = found
        return x * found.view(-1, 1, 1)


def test_what_a_trace_keeps_beside_the_model_is_forgotten() -> None:
    model = Caching().eval()
    export_module(model, (samples(2),), "")
    trace(model)
    assert not CACHE
    assert not model.cache
    assert TABLE is None
    assert model.table is None
    assert type(model(samples(2))) is Tensor
    with tracing(model):
        CACHE.clear()
    assert list(CACHE) == [0]
    CACHE.clear()


class Making(dict[str, int]):
    """A dictionary that cannot be read as a whole, as transformers' one of activations."""

    def __getitem__(self, key: str) -> int:
        raise RuntimeError


MAKING = Making(a=1)


def test_a_dictionary_with_code_of_its_own_is_not_read() -> None:
    with tracing(Counting()):
        assert len(MAKING) == 1
