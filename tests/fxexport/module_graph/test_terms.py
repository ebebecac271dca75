"""One reader for both dialects: what a module's graph and an ONNX file are as terms."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fxexport.module_graph.of_file import file_terms
from fxexport.onnx_dialect.extents import shapes_in
from fxexport.onnx_graph.shapes import with_shapes
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.terms.pool_first import is_dense
from fxexport.terms.term import HeadTerm, TermGraph, affine_of, find_head, postorder
from onnx_files import classifier, weights

W, B = weights(5, 8), weights(5)
FLAT = "p = GlobalAveragePool(r) f = Flatten(p) "
GEMM = "y = Gemm<transB=1>(f, w, b)"


def terms_of(body: str, **constants: Any) -> TermGraph:
    """The terms of a classifier's file, for a batch that no model has."""
    shaped = with_shapes(classifier(body, {"w": W, "b": B, **constants}, opset=13))
    return file_terms(shaped, {}, shapes_in(shaped.graph))


def shown(term: HeadTerm) -> str:
    """The head from an output to what it reads, operator by operator."""
    if term.node in ("r", "relu") or not term.operands:
        return "r"
    name = term.function or (term.kind if term.kind in ("affine", "pool") else term.signature)
    return f"{name}({', '.join(shown(operand) for operand in term.operands if operand.operands)})"


def head(body: str, **constants: Any) -> str:
    """The head of a file, as text."""
    (term,) = terms_of(body, **constants)
    text = shown(term)
    return text.replace("relu(Conv(vc)())", "r")


FILES: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemm": (FLAT + GEMM, {}, "affine(pool(r))"),
    "a row as bias": (FLAT + "y = Gemm<transB=1>(f, w, row)", {"row": B.reshape(1, 5)}, "affine(pool(r))"),
    "a product and a sum": (
        FLAT + "g = Gemm<transB=1>(f, w) y = Add(row, g)",
        {"row": B.reshape(1, 5)},
        "affine(pool(r))",
    ),
    "beta of zero": (FLAT + "y = Gemm<transB=1, beta=0.0>(f, w, b)", {}, "affine(pool(r))"),
    "factors": (FLAT + "y = Gemm<transB=1, alpha=0.5>(f, w, b)", {}, "Gemm(vcc)(pool(r))"),
    "swapped twice": (
        FLAT + "t = Transpose<perm=[1,0]>(f) y = Gemm<transA=1, transB=1>(t, w, b)",
        {},
        "affine(pool(r))",
    ),
    "axis by axis": (
        "a = ReduceMean<axes=[3], keepdims=0>(r) f = ReduceMean<axes=[2], keepdims=0>(a) " + GEMM,
        {},
        "affine(pool(r))",
    ),
    "one axis alone": (
        "a = ReduceMean<axes=[3], keepdims=0>(r) f = ReduceMax<axes=[2], keepdims=0>(a) " + GEMM,
        {},
        "affine(maximum(ReduceMean(v)(r)))",
    ),
    "silu": (FLAT + "g = Gemm<transB=1>(f, w, b) s = Sigmoid(g) y = Mul(s, g)", {}, "silu(affine(pool(r)))"),
    "relu6": (
        FLAT + "g = Gemm<transB=1>(f, w, b) y = Clip(g, low, high)",
        {"low": np.float32(0), "high": np.float32(6)},
        "relu6(affine(pool(r)))",
    ),
    "other limits": (
        FLAT + "g = Gemm<transB=1>(f, w, b) y = Clip(g, low, high)",
        {"low": np.float32(0), "high": np.float32(5)},
        "Clip(vcc)(affine(pool(r)))",
    ),
    "parts": (
        FLAT + "g = Gemm<transB=1>(f, w, b) c, d = Split<axis=1>(g, sizes) y = Concat<axis=1>(d, c)",
        {"sizes": np.array([2, 3])},
        "concat(Split(vc)[1](affine(pool(r))), Split(vc)(affine(pool(r))))",
    ),
    "a cast to its own type": (FLAT + "c = Cast<to=1>(f) y = Gemm<transB=1>(c, w, b)", {}, "affine(pool(r))"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_files_head(name: str) -> None:
    body, constants, wanted = FILES[name]
    assert head(body, **constants) == wanted


def test_a_value_that_only_the_graph_has_is_not_tapped() -> None:
    """A Gemm with factors is several nodes of the graph, and one of the file."""
    graph = terms_of(FLAT + "y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w, b)")
    (term,) = graph
    assert term.value == "y"
    assert [operand.value for operand in term.operands] == ["p", "w", "b"]
    assert not find_head(graph).sites


def test_a_weight_that_is_stored_transposed_is_the_same_matrix() -> None:
    graphs = (
        terms_of(FLAT + "y = Gemm<transB=1>(f, w, b)"),
        terms_of(FLAT + "y = Gemm(f, wt, b)", wt=W.T.copy()),
    )
    first, second = (affine_of(find_head(graph).sites[0]) for graph in graphs)
    assert np.array_equal(first.weight, second.weight)
    assert (first.is_transposed, second.is_transposed) == (False, True)
    assert (first.weight_name, second.weight_name) == ("w", "wt")


class Gated(nn.Module):
    """A head behind the same two layers, with an activation spelled out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(self.stem(x).relu().mean(3).mean(2))
        return y * y.sigmoid()


def test_a_module_is_read_alike() -> None:
    subject = ModuleSubject(Gated().eval(), (np.ones((2, 3, 6, 6), np.float32),))
    (term,) = subject.graph
    assert shown(term) == "silu(affine(pool(r)))"


class Inverse(Gated):
    """A number divided by what a site gives at every place, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, 5, 1)
        self.register_buffer("number", torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.number / self.head(self.stem(x).sigmoid())).mean((2, 3))


class Scaled(Inverse):
    """The site's values times a number, averaged, which is the average times it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.head(self.stem(x).sigmoid()) * self.number).mean((2, 3))


@pytest.mark.parametrize("kind", [Inverse, Scaled])
def test_a_number_is_crossed_where_it_multiplies(kind: type[Gated]) -> None:
    subject = ModuleSubject(kind().eval(), (np.ones((2, 3, 6, 6), np.float32),))
    assert is_dense(subject.graph) is (kind is Scaled)


G, T = torch.tensor([2.0, 3.0, 4.0, 5.0, 6.0]), torch.tensor(4.0)
SCALINGS: dict[str, tuple[Callable[..., torch.Tensor], tuple[Any, Any] | None]] = {
    "a number": (lambda y, g, t: y * 30.0, (30.0, 0.0)),
    "a quotient": (lambda y, g, t: y / t, (0.25, 0.0)),
    "of each channel": (lambda y, g, t: y * g, (G, 0.0)),
    "a difference": (lambda y, g, t: 1 - y, (-1.0, 1.0)),
    "with a factor": (lambda y, g, t: torch.add(y, g, alpha=0.5), (1.0, G * 0.5)),
    "of a computed number": (lambda y, g, t: t.sqrt() * y, (2.0, 0.0)),
    "of a number that no two libraries compute alike": (lambda y, g, t: y * (g.log() * 30).exp(), None),
    "of what a difference leaves": (lambda y, g, t: y * (g * 1.0000119 - g * 1.0000001), None),
    "of a view": (lambda y, g, t: y + g.reshape(1, 5), (1.0, G)),
    "a sign": (lambda y, g, t: -y, (-1.0, 0.0)),
    "a square": (lambda y, g, t: y * y, None),
    "a reciprocal": (lambda y, g, t: 3.0 / y, None),
    "rounded": (lambda y, g, t: torch.div(y, 3.0, rounding_mode="floor"), None),
    "of each sample": (lambda y, g, t: y * torch.tensor([[1.0], [2.0]]), None),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_what_scales_is_known_by_what_it_makes_of_zero_and_one(name: str) -> None:
    class Head(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return SCALINGS[name][0](super().forward(x.mean((2, 3))), self.g, self.t)

    head = Head(3, 5).eval()
    head.g, head.t = nn.Parameter(G), nn.Parameter(T)
    (term,) = ModuleSubject(head, (np.ones((2, 3, 6, 6), np.float32),)).graph
    due = SCALINGS[name][1]
    assert (term.scaling is None) == (due is None)
    if term.scaling is not None and due is not None:
        np.testing.assert_allclose(term.scaling.factor, np.broadcast_to(due[0], 5))
        np.testing.assert_allclose(term.scaling.shift, np.broadcast_to(due[1], 5))


def test_what_a_node_writes_to_is_no_parameter() -> None:
    class Head(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table.add_(super().forward(x.mean((2, 3))))

    head = Head(3, 5, bias=False, dtype=torch.float64).eval()
    head.register_buffer("table", torch.zeros(1, 5, dtype=torch.float64))
    assert ModuleSubject(head, (np.zeros((1, 3, 6, 6)),)).graph
    assert not head.table.any()


def test_products_of_what_they_read_twice_take_no_longer() -> None:
    class Head(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x.mean((2, 3)))
            for _ in range(40):
                y = y * y.sigmoid()
            return y * 2.0

    (term,) = ModuleSubject(Head(3, 5).eval(), (np.ones((2, 3, 6, 6), np.float32),)).graph
    assert term.scaling is not None


class Tabled(nn.Module):
    """Adds to its features what a layer makes of a table."""

    def __init__(self, *places: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(*places, 4))
        self.layer, self.fc = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.layer(self.table).reshape(-1, 8).mean(0)
        return self.fc(x.mean((2, 3)) + bias)  # type: ignore[no-any-return]


@pytest.mark.parametrize("places", [(), (3,), (1, 3, 3)])
def test_a_layer_of_a_constant_is_no_site_at_many_places(places):
    graph = ModuleSubject(Tabled(*places).eval(), [np.ones((2, 8, 3, 3), np.float32)]).graph
    terms = postorder(graph[:1], stop=lambda _: False)
    assert [term.pointwise for term in terms if term.node == "layer"] == [None]


def test_the_order_of_a_large_map_takes_no_memory() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(r) y = Transpose<perm=[0,3,1,2]>(t)"
    shaped = with_shapes(classifier(body, {}, dims="N,3,800,800", result="float[N,8,800,800] y"))
    shapes = shapes_in(shaped.graph)
    tracemalloc.start()
    (term,) = file_terms(shaped, {}, shapes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (shown(term), peak < 2**22) == ("Transpose(v)(Transpose(v)(r))", True)
