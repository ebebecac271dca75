"""When two stored constants are one: by value, whatever stores them, and a fold within its own rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import remove_parametrizations

from fxexport import Verdict, certify, export_onnx
from fxexport.language import Derivation, compare, derive, graph_of_onnx, term
from fxexport.language.constants import stored
from fxexport.language.fold_rules import Folded

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3, 1, 2)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)
SCALE, SHIFT, MEAN = (RNG.standard_normal(4).astype(np.float32) for _ in range(3))
VARIANCE = RNG.uniform(0.5, 2, 4).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], stored: dict[str, Array], kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 5, 5])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def sum_with(constant: Array, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """X plus a constant."""
    return model([helper.make_node("Add", ["x", "c"], ["y"])], {"c": constant}, kind)


def derived(left: onnx.ModelProto, right: onnx.ModelProto) -> Derivation:
    """What is derived of two models."""
    return derive(graph_of_onnx(left), graph_of_onnx(right))


C = np.float32([[[1.5]], [[0.0]], [[np.nan]]])


def test_minus_zero_is_zero_and_nan_is_nan() -> None:
    other = C.copy()
    other[1] = -0.0
    assert derived(sum_with(C), sum_with(other)).is_proved


@pytest.mark.parametrize("place", range(3))
def test_one_bit_of_a_stored_constant_counts(place: int) -> None:
    other = C.copy()
    other[place] = np.nextafter(np.float32(0 if place == 2 else other[place, 0, 0]), np.float32(9))
    found = derived(sum_with(C), sum_with(other))
    assert not found.is_proved
    assert found.constants


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (np.float16, TensorProto.FLOAT16),
        (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
        (np.float64, TensorProto.DOUBLE),
        (np.int8, TensorProto.INT8),
        (np.uint64, TensorProto.UINT64),
    ],
)
def test_constants_of_every_type_are_compared(dtype: type, kind: int) -> None:
    first, second = np.array([1, 2, 3], dtype), np.array([1, 2, 4], dtype)
    first, second = (item.reshape(3, 1, 1) for item in (first, second))
    assert derived(sum_with(first, kind), sum_with(first, kind)).is_proved
    assert not derived(sum_with(first, kind), sum_with(second, kind)).is_proved


def test_who_stores_a_constant_does_not_count() -> None:
    plain = sum_with(C)
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(C))
    behind = [
        helper.make_node("Identity", ["d"], ["e"]),
        helper.make_node("Cast", ["e"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["c", "x"], ["y"]),
    ]
    assert derived(plain, model([node, helper.make_node("Add", ["x", "c"], ["y"])], {})).is_proved
    assert derived(plain, model(behind, {"d": C.astype(np.float64)})).is_proved
    assert not derived(plain, model(behind, {"d": C.astype(np.float64) * 2})).is_proved


def sparse(
    values: list[float], places: list[int] | list[list[int]], *, as_node: bool = False
) -> onnx.ModelProto:
    """X times a matrix that is stored sparsely."""
    stored = helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32(values), "w"), numpy_helper.from_array(np.int64(places)), [5, 5]
    )
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    if as_node:
        return model([helper.make_node("Constant", [], ["w"], sparse_value=stored), product], {})
    made = model([product], {})
    made.graph.sparse_initializer.append(stored)
    return made


DENSE = np.zeros((5, 5), np.float32)
DENSE[0, 3], DENSE[1, 0] = 1, 2


@pytest.mark.parametrize("as_node", [False, True])
@pytest.mark.parametrize("places", [[3, 5], [[0, 3], [1, 0]]])
def test_sparse_constants_are_what_they_stand_for(places: list[int] | list[list[int]], as_node: bool) -> None:
    dense = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": DENSE})
    assert derived(sparse([1, 2], places, as_node=as_node), dense).is_proved
    assert derived(sparse([1, 2], [3, 5]), sparse([1, 2], places, as_node=as_node)).is_proved
    assert not derived(sparse([1, 3], places, as_node=as_node), dense).is_proved
    assert not derived(sparse([1, 2], [3, 6]), dense).is_proved


@pytest.mark.parametrize(
    "places",
    [
        [5, 3],
        [3, 3],
        [-20, 5],
        [3, 25],
        [[0, 3], [1, -5]],
        [[0, 3], [0, 5]],
        [[0, 3, 0], [1, 0, 0]],
        [3, 5, 6],
    ],
)
def test_sparse_constants_that_onnx_forbids_are_equal_to_their_twins_only(places: list[int]) -> None:
    dense = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": DENSE})
    found = sparse([1, 2], places)
    assert derived(found, found).is_proved
    for other in (dense, sparse([1, 2], [3, 5]), sparse([1, 2], [4, 5])):
        assert not derived(found, other).is_proved


def folded(weight: Array, bias: Array) -> onnx.ModelProto:
    """A convolution."""
    return model([helper.make_node("Conv", ["x", "w", "b"], ["y"])], {"w": weight, "b": bias})


def with_norm() -> onnx.ModelProto:
    """A convolution and a batch norm."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["z"]),
        helper.make_node("BatchNormalization", ["z", "s", "t", "m", "v"], ["y"]),
    ]
    stored = {"w": W, "b": B, "s": SCALE, "t": SHIFT, "m": MEAN, "v": VARIANCE}
    return model(nodes, stored)


def fold(precision: type) -> tuple[Array, Array]:
    """The weights of both in one, computed in this precision."""
    w, b, s, t, m, v = (item.astype(precision) for item in (W, B, SCALE, SHIFT, MEAN, VARIANCE))
    factor = s / np.sqrt(v + precision(np.float32(1e-5)))
    return (w * factor[:, None, None, None]).astype(np.float32), ((b - m) * factor + t).astype(np.float32)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_a_fold_is_a_fold_in_whatever_precision(precision: type) -> None:
    found = derived(with_norm(), folded(*fold(precision)))
    assert found.is_proved
    assert len(found.folds) == 2
    assert "fold-of-constants" in found.identities


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("factor", [1.00001, 0.9999])
def test_a_fold_that_is_off_by_more_than_rounding_is_none(part: int, factor: float) -> None:
    weights = list(fold(np.float64))
    weights[part] = weights[part].copy()
    weights[part].reshape(-1)[0] *= np.float32(factor)
    found = derived(with_norm(), folded(*weights))
    assert not found.is_proved
    assert found.constants


def chain(factor: float | None, sixth: str = "HardSwish", weight: Array = W) -> onnx.ModelProto:
    """Three activations that divide by six and a convolution, then times a factor."""
    nodes, value = [], "x"
    stored = {"w": weight, "six": np.float32(6), "three": np.float32(3), "zero": np.float32(0)}
    stored["sixth"] = np.float32(1) / np.float32(6)
    for step in range(3):
        if sixth == "HardSwish":
            nodes.append(helper.make_node("HardSwish", [value], [f"a{step}"]))
        else:
            by = "six" if sixth == "Div" else "sixth"
            nodes += [
                helper.make_node("Add", [value, "three"], [f"p{step}"]),
                helper.make_node("Clip", [f"p{step}", "zero", "six"], [f"c{step}"]),
                helper.make_node("Mul", [value, f"c{step}"], [f"m{step}"]),
                helper.make_node(sixth, [f"m{step}", by], [f"a{step}"]),
            ]
        value = f"a{step}"
    nodes.append(helper.make_node("Conv", [value, "w"], ["z"]))
    if factor is not None:
        stored["factor"] = np.float32(factor)
        nodes.append(helper.make_node("Mul", ["z", "factor"], ["y"]))
    else:
        nodes[-1].output[0] = "y"
    return model(nodes, stored)


@pytest.mark.parametrize("sixth", ["HardSwish", "Div", "Mul"])
@pytest.mark.parametrize("factor", [1 + 2.0**-20, 1 + 2.0**-23, 1 - 2.0**-24, 1.5])
def test_roundings_that_no_fold_made_excuse_nothing(sixth: str, factor: float) -> None:
    assert derived(chain(None, sixth), chain(None, sixth)).is_proved
    for pair in ((None, factor), (factor, None)):
        found = derived(*(chain(item, sixth) for item in pair))
        assert not found.is_proved
        assert found.constants


@pytest.mark.parametrize("first", ["HardSwish", "Div", "Mul"])
@pytest.mark.parametrize("second", ["HardSwish", "Div", "Mul"])
def test_every_spelling_of_a_sixth_is_one(first: str, second: str) -> None:
    assert derived(chain(None, first), chain(None, second)).is_proved
    assert not derived(chain(None, first), chain(1 + 2.0**-18, second)).is_proved


@pytest.mark.parametrize("factor", [1.0, 1.3, 1 / 3])
def test_a_factor_that_is_folded_rounds_once(factor: float) -> None:
    left, right = chain(factor), chain(None, weight=W * np.float32(factor))
    assert derived(left, right).is_proved
    assert not derived(
        left, chain(None, weight=np.nextafter(np.nextafter(W * np.float32(factor), 9), 9))
    ).is_proved


def times(*factors: float) -> onnx.ModelProto:
    """X times factors, one after the other."""
    nodes = [
        helper.make_node("Mul", [f"v{place}" if place else "x", f"f{place}"], [f"v{place + 1}"])
        for place in range(len(factors))
    ]
    nodes[-1].output[0] = "y"
    return model(nodes, {f"f{place}": np.float32(factor) for place, factor in enumerate(factors)})


def test_products_that_are_exact_round_nothing() -> None:
    many = (2.0, 0.5) * 1000
    assert derived(times(*many, 3.0), times(3.0)).is_proved
    for factor in (3.0003, float(np.nextafter(np.float32(3), np.float32(4)))):
        assert not derived(times(*many, 3.0), times(factor)).is_proved


def test_a_fold_may_be_off_by_a_few_roundings_whatever_it_folds() -> None:
    many = tuple(RNG.uniform(0.9, 1.1, 200).astype(np.float32))
    fold = np.prod(np.float64(many))
    assert derived(times(*many), times(float(fold))).is_proved
    assert not derived(times(*many), times(float(fold * (1 + 2.0**-21)))).is_proved


def joined(kind: str, *constants: Array) -> onnx.ModelProto:
    """X plus constants, which are added or multiplied with each other first."""
    nodes = [
        helper.make_node(kind, [f"s{place}" if place else "c0", f"c{place + 1}"], [f"s{place + 1}"])
        for place in range(len(constants) - 1)
    ]
    last = f"s{len(nodes)}" if nodes else "c0"
    stored = {f"c{place}": item.reshape(-1, 1, 1) for place, item in enumerate(constants)}
    return model([*nodes, helper.make_node("Add", ["x", last], ["y"])], stored)


def test_constants_beside_a_fold_excuse_no_more_of_it() -> None:
    many = tuple(RNG.uniform(0.9, 1.1, (50, 3)).astype(np.float32))
    fold = np.prod(np.float64(many), 0)
    beside = (np.full(3, 2, np.float32), np.full(3, 0.5, np.float32)) * 25
    left = joined("Mul", *many)
    assert derived(left, joined("Mul", np.float32(fold), *beside)).is_proved
    assert not derived(left, joined("Mul", np.float32(fold * (1 + 2.0**-20)), *beside)).is_proved


def test_a_sum_of_channels_is_that_of_another_spelling_within_a_unit() -> None:
    """x·a + b as (x + b/a)·a, folded into what was added before: it was broken, 0.7 units off."""
    drawn = np.random.default_rng(5)
    own, other = (drawn.uniform(-1, 1, (3, 5, 5)).astype(np.float32) for _ in range(2))
    factor = drawn.uniform(1, 2, (3, 5, 5)).astype(np.float32)
    names = ("Mul", ["c", "f"], ["p"]), ("Add", ["p", "b"], ["s"]), ("Add", ["x", "s"], ["y"])
    left = model([helper.make_node(*name) for name in names], {"c": own, "f": factor, "b": other})
    fold = np.float64(own) * factor + other
    nearest = np.float32(fold)
    assert derived(left, sum_with(nearest)).is_proved
    assert derived(sum_with(nearest), left).is_proved  # whichever side was folded
    beyond = np.nextafter(nearest, np.where(nearest > fold, -np.inf, np.inf).astype(np.float32))
    assert derived(left, sum_with(beyond)).is_proved
    assert not derived(left, sum_with(nearest + 3 * np.spacing(nearest))).is_proved


@pytest.mark.parametrize(("found", "is_fold"), [(-np.inf, True), (np.inf, False), (-1e30, False)])
def test_no_rounding_takes_a_number_to_infinity(found: float, is_fold: bool) -> None:
    left = joined("Add", np.float32([-np.inf, 0.1, 0.2]), np.float32([0.1, 0.1, 0.1]))
    right = joined("Add", np.float32([found, 0.2, np.float32(0.2) + np.float32(0.1)]))
    assert derived(left, right).is_proved is is_fold


@pytest.mark.parametrize("found", [0.003, 0.05, 0.0])
def test_a_large_element_hides_no_other_that_loses_its_digits(found: float) -> None:
    large = np.float32([0, 1e7, 0])
    left = joined("Add", np.float32([1e4, 0.003, 1]), large, -large)
    assert not derived(left, joined("Add", np.float32([1e4, found, 1]))).is_proved


def chained(base: dict[str, Array], steps: int, *, is_joined: bool) -> onnx.ModelProto:
    """X times a constant that nobody evaluates: ``erf`` of ``erf``, and the larger one of each two."""
    nodes = [helper.make_node("Mul", ["a", "b"], ["v0"])] if "a" in base else []
    for step in range(steps):
        value, result = f"v{step}", f"v{step + 1}"
        nodes.append(helper.make_node("Erf", [value], ["s" + value if is_joined else result]))
        if is_joined:
            nodes.append(helper.make_node("Max", [value, "s" + value], [result]))
    return model([*nodes, helper.make_node("Mul", ["x", f"v{steps}"], ["y"])], base)


@pytest.mark.parametrize(("steps", "is_joined"), [(1_500, False), (100, True)])
def test_constants_that_nobody_evaluates_are_walked_once_and_without_recursion(
    steps: int, is_joined: bool
) -> None:
    a, b = np.float32([1.1, 1.2, 1.3, 1.4, 1.5]), np.float32([0.3, 0.7, 0.9, 0.1, 0.2])
    left = chained({"a": a, "b": b}, steps, is_joined=is_joined)
    assert derived(left, chained({"v0": a * b}, steps, is_joined=is_joined)).is_proved
    assert not derived(left, chained({"v0": a * b * 2}, steps, is_joined=is_joined)).is_proved


TABLE, FIRST, SECOND = (RNG.standard_normal(shape).astype(np.float32) for shape in ((9, 2), (2, 64), (64, 3)))
PLACES = RNG.integers(0, 9, 25)


def with_bias(stored: dict[str, Array], names: tuple[str, ...]) -> onnx.ModelProto:
    """What is added to every map: a small network of constants, as position biases are, or what it gave."""
    steps = {
        "first": helper.make_node("MatMul", ["table", "f"], ["first"]),
        "relu": helper.make_node("Relu", ["first"], ["relu"]),
        "second": helper.make_node("MatMul", ["relu", "s"], ["second"]),
        "moved": helper.make_node("Transpose", ["second"], ["moved"], perm=[1, 0]),
        "taken": helper.make_node("Gather", ["moved", "places"], ["taken"], axis=1),
        "bias": helper.make_node("Sigmoid", ["taken"], ["bias"]),
    }
    nodes = [steps[name] for name in names]
    nodes += [
        helper.make_node("Reshape", ["bias", "shape"], ["map"]),
        helper.make_node("Add", ["x", "map"], ["y"]),
    ]
    return model(nodes, {**stored, "places": PLACES, "shape": np.int64([3, 5, 5])})


def given(precision: type) -> dict[str, Array]:
    """What each step of the network gives, computed in this precision."""
    table, first, second = (item.astype(precision) for item in (TABLE, FIRST, SECOND))
    found = {"first": table @ first}
    found["relu"] = np.maximum(found["first"], 0)
    found["second"] = found["relu"] @ second
    found["moved"] = found["second"].T
    found["taken"] = np.ascontiguousarray(found["moved"][:, PLACES])
    found["bias"] = (1 / (1 + np.exp(-found["taken"]))).astype(precision)
    return {name: np.float32(item) for name, item in found.items()}


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("last", ["first", "relu", "second", "taken", "bias"])
def test_a_network_of_constants_is_a_fold_wherever_it_was_cut(last: str, precision: type) -> None:
    names = ("first", "relu", "second", "moved", "taken", "bias")
    left = with_bias({"table": TABLE, "f": FIRST, "s": SECOND}, names)
    rest = names[names.index(last) + 1 :]
    result = given(precision)[last]
    assert derived(left, with_bias({last: result, "s": SECOND}, rest)).is_proved
    for damaged in (result * np.float32(1 + 2.0**-16), result[::-1], np.roll(result, 1, axis=-1)):
        assert not derived(left, with_bias({last: damaged, "s": SECOND}, rest)).is_proved


def test_constants_are_compared_in_blocks_and_never_with_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of two gigabytes at once took another half, and both forms of a model hold theirs once."""
    monkeypatch.setattr(term, "_BLOCK", 8)
    first = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    first[2, 3, 4], first[0, 0, 0] = np.nan, -0.0
    second = np.asfortranarray(np.where(first == 0, 0, first).astype(np.float32))
    assert term.is_same(first, second)
    assert term.is_same(first[0, 0, 0], second[0, 0, 0])
    second[2, 0, 0] += 1
    assert not term.is_same(first, second)
    assert not term.is_same(first, second.T)
    assert not term.is_same(first[:, :, 0], first[:, :, 1])
    monkeypatch.setattr(term, "_is_same", None)
    assert term.is_same(first[1:], first[1:])


K = np.float32([[1.5, 0.25, 2.0, 0.75, 1.125], [0.5, 3.0, 1.75, 0.3, 0.7], [1, 2, 3, 4, 5]])
TENTH = np.float32(0.1)
SIX, E = np.concatenate([K, -K]), np.float32([0.3, 1.3, 2.5, -0.7, 3.1])


def slice_of(*numbers: int) -> list[Array]:
    """Start, end, axis and step of a slice."""
    return [np.int64([number]) for number in numbers]


FOLDS: dict[str, tuple[str, Array, list[Array], Callable[[Array], Array]]] = {
    "sum": ("ReduceSum", K, [np.int64([0])], lambda k: k.sum(0, keepdims=True)),
    "mean": ("ReduceMean", K, [np.int64([0])], lambda k: k.mean(0, keepdims=True)),
    "max": ("ReduceMax", K, [np.int64([0])], lambda k: k.max(0, keepdims=True)),
    "min": ("ReduceMin", K, [np.int64([0])], lambda k: k.min(0, keepdims=True)),
    "powers": ("Pow", K, [E], lambda k: k**E),
    "inverse": ("Pow", K, [np.float32(-1)], lambda k: k**-1.0),
    "joined": ("Concat", K[:1], [K[1:]], lambda k: np.concatenate([k, K[1:]])),
    "gathered": ("Gather", SIX, [np.int64([1, 0, 4])], lambda k: k[[1, 0, 4]]),
    "steps": ("Slice", SIX, slice_of(0, 6, 0, 2), lambda k: k[::2]),
    "backwards": ("Slice", K, slice_of(-1, -(2**40), 0, -1), lambda k: k[::-1]),
    "cut anew": ("Reshape", K.reshape(5, 3), [np.int64([3, 5])], lambda k: k.reshape(3, 5)),
    "sine": ("Sin", K, [], np.sin),
    "cosine": ("Cos", K, [], np.cos),
}


def added(name: str, result: Array | None) -> onnx.ModelProto:
    """X plus what an operator makes of constants that are computed, or plus this."""
    operator, read, more, _ = FOLDS[name]
    attributes = {"axis": 0} if operator in ("Concat", "Gather") else {}
    names = [f"c{place}" for place in range(len(more))]
    nodes = [
        helper.make_node("Mul", ["k", "tenth"], ["read"]),
        helper.make_node(operator, ["read", *names], ["result"], **attributes),
    ]
    stored = {"k": read, "tenth": TENTH, **dict(zip(names, more, strict=True))}
    ends = [
        helper.make_node("Unsqueeze", ["result", "one"], ["cells"]),
        helper.make_node("Add", ["x", "cells"], ["y"]),
    ]
    kept = (nodes, stored) if result is None else ([], {"result": result})
    return model([*kept[0], *ends], {**kept[1], "one": np.int64([1])})


@pytest.mark.parametrize("name", FOLDS)
def test_what_a_fold_computes_is_what_the_operator_gives(name: str) -> None:
    _, read, _, function = FOLDS[name]
    result = np.float32(function(read * TENTH))
    left = added(name, None)
    assert derived(left, added(name, result)).is_proved
    for damaged in (np.float32(result * (1 + 2.0**-15)), np.roll(result, 1, axis=-1)):
        assert not derived(left, added(name, damaged)).is_proved


def test_a_factor_without_end_is_not_one() -> None:
    nodes = [helper.make_node("ReduceMean", ["c"], ["m"]), helper.make_node("Mul", ["x", "m"], ["y"])]
    same = model([helper.make_node("Identity", ["x"], ["y"])], {})
    assert not derived(model(nodes, {"c": np.float32([1, np.inf])}), same).is_proved


def test_what_is_divided_by_itself_is_not_without_end_where_its_inverse_is() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["c"], ["s"]),
        helper.make_node("Div", ["s", "s"], ["d"]),
        helper.make_node("Mul", ["x", "d"], ["y"]),
    ]
    stored = model([helper.make_node("Mul", ["x", "c"], ["y"])], {"c": np.float32(np.inf)})
    assert not derived(model(nodes, {"c": np.float32([3e-42, 4e-42])}), stored).is_proved


def test_an_exponent_may_be_no_number() -> None:
    power = [helper.make_node("Pow", ["x", "c"], ["y"])]
    found = [derived(*(model(power, {"c": np.float32(e)}) for e in (two, 2))) for two in (2, np.nan)]
    assert [item.is_proved for item in found] == [True, False]


@pytest.mark.parametrize(("factor", "is_fold"), [(1 + 2.0**-23, True), (1 + 2.0**-15, False)])
def test_libraries_round_where_a_result_would_be_exact(factor: float, is_fold: bool) -> None:
    little = np.float32([[[1e-20]], [[3e-20]], [[7e-20]]])
    nodes = [helper.make_node("Tanh", ["c"], ["t"]), helper.make_node("Add", ["x", "t"], ["y"])]
    assert derived(model(nodes, {"c": little}), sum_with(little * np.float32(factor))).is_proved == is_fold


def test_two_folds_that_one_rounding_makes_the_same_are_two() -> None:
    """What is computed on both sides is no fold of either: a norm's small number counts, however small."""
    stored = {"s": SCALE[:3], "t": SHIFT[:3], "m": MEAN[:3], "v": VARIANCE[:3]}
    first, second = (
        model([helper.make_node("BatchNormalization", ["x", *stored], ["y"], epsilon=epsilon)], stored)
        for epsilon in (1e-5, 1.0001e-5)
    )
    assert derived(first, first).is_proved
    assert not derived(first, second).is_proved


def test_a_constant_of_another_type_or_sign_is_another_to_what_nobody_interprets() -> None:
    def asked(constant: Array) -> onnx.ModelProto:
        file = model([helper.make_node("Own", ["x", "c"], ["y"], domain="own")], {"c": constant})
        file.opset_import.append(helper.make_opsetid("own", 1))
        return file

    zero = np.zeros(3, np.float32)
    assert derived(asked(zero), asked(zero)).is_proved
    assert not derived(asked(zero), asked(-zero)).is_proved
    assert not derived(asked(zero), asked(zero.astype(np.float64))).is_proved


def test_a_product_past_the_end_of_the_type_is_no_fold() -> None:
    """Float64 takes it back; whoever folds in 32 bits does not."""
    names = (("c", "t", "a"), ("a", "h", "b"))
    nodes = [helper.make_node("Mul", [first, second], [name]) for first, second, name in names]
    stored: dict[str, Array] = {
        "c": np.full((3, 1, 1), 3e38, np.float32),
        "t": np.float32([10.0]),
        "h": np.float32([0.01]),
    }
    whole = model([*nodes, helper.make_node("Add", ["x", "b"], ["y"])], stored)
    assert not derived(whole, sum_with(np.full((3, 1, 1), 3e37, np.float32))).is_proved


def test_a_choice_among_what_is_computed_is_no_constant() -> None:
    """In 32 bits 0.1 · 10 is 1, and not more."""
    nodes = [
        helper.make_node("Mul", ["a", "t"], ["m"]),
        helper.make_node("Greater", ["m", "o"], ["g"]),
        helper.make_node("Where", ["g", "p", "q"], ["w"]),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    p, q = np.float32([[[1.5]], [[2.5]], [[3.5]]]), np.float32([[[0.5]], [[0.25]], [[0.75]]])
    stored: dict[str, Array] = {
        "a": np.full((3, 1, 1), 0.1, np.float32),
        "t": np.float32([10.0]),
        "o": np.float32([1.0]),
        "p": p,
        "q": q,
    }
    assert not any(derived(model(nodes, stored), sum_with(chosen)).is_proved for chosen in (p, q))


def test_cells_of_what_repeats_are_computed_without_it() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("Expand", ["m", "s"], ["e"]),
        helper.make_node("Gather", ["e", "i"], ["g"], axis=1),
        helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    stored: dict[str, Array] = {
        "a": RNG.standard_normal((5, 1)).astype(np.float32),
        "b": RNG.standard_normal((5, 1)).astype(np.float32),
        "s": np.array([5, 5]),
        "i": np.array([2, 0, 1, 4, 3]),
    }
    assert derived(model(nodes, stored), model(nodes, stored)).is_proved


@pytest.mark.parametrize(("apart", "is_fold"), [(1.0, True), (1 + 2.0**-21, False)])
def test_what_is_stored_may_be_one_of_the_numbers_that_it_folds(apart: float, is_fold: bool) -> None:
    """The exact product of these is 0.75 units in the last place of 1.5 above it: two roundings give 1.5."""
    weight = np.float32([1.5, 0.5, 0.25])
    factors = np.full(3, 1 + 2.0**-23, np.float32), np.full(3, 1 - 2.0**-24, np.float32)
    left, right = joined("Mul", weight, *factors), joined("Mul", np.float32(weight * apart))
    assert derived(left, right).is_proved is is_fold


PARAMETRISED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": lambda layer: parametrizations.weight_norm(layer),
    "weight norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "of outputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "spectral norm": lambda layer: parametrizations.spectral_norm(layer),
}


def parametrised(kind: str, factor: float = 1.0) -> nn.Module:
    """A classifier whose convolution and head compute their weights; ``factor`` damages what they are of."""
    torch.manual_seed(0)
    layers = [PARAMETRISED[kind](layer) for layer in (nn.Conv2d(3, 8, 3), nn.Linear(8, 5))]
    with torch.no_grad():
        for weight in layers[0].parametrizations.weight.parameters():  # type: ignore[union-attr]
            weight.view(-1)[0] *= factor
    return nn.Sequential(layers[0], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), layers[1]).eval()


@pytest.mark.parametrize("kind", PARAMETRISED)
def test_weights_that_code_computes_are_those_that_an_exporter_folds(kind: str, tmp_path: Path) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    file = export_onnx(parametrised(kind), images, tmp_path / "a.onnx")
    found = certify(parametrised(kind), file, images)
    assert found.verdict is Verdict.PROVED, found.reason
    assert certify(parametrised(kind, 1.01), file, images).verdict is Verdict.BROKEN


def normed(*, is_computed: bool, factor: float = 1.0) -> nn.Module:
    """A convolution with a norm behind it, whose weights are computed, or stored as they come to be."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight, 0.5 * factor, 2 * factor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    conv = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    if not is_computed:
        remove_parametrizations(conv, "weight")
    return nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def test_weights_that_code_computes_take_a_norm_as_stored_ones_do() -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    computed = normed(is_computed=True)
    for factor, verdict in ((1.0, Verdict.PROVED), (1.01, Verdict.BROKEN)):
        stored = normed(is_computed=False, factor=factor)
        assert certify(computed, stored, images).verdict is verdict
        assert certify(stored, computed, images).verdict is verdict


def gated(alpha: float | None) -> onnx.ModelProto:
    """A hard sigmoid of a hard swish, which is spelled by another hard sigmoid where its factor is given."""
    own = [helper.make_node("HardSwish", ["x"], ["h"])]
    spelled = [
        helper.make_node("HardSigmoid", ["x"], ["s"], alpha=alpha),
        helper.make_node("Mul", ["x", "s"], ["h"]),
    ]
    gate = helper.make_node("HardSigmoid", ["h"], ["y"], alpha=float(np.float32(1 / 6)))
    return model([*(own if alpha is None else spelled), gate], {})


@pytest.mark.parametrize(("alpha", "is_fold"), [(1 / 6, True), (0.1667, False)])
def test_a_definition_s_number_is_one_that_stands_beside_it_too(alpha: float, is_fold: bool) -> None:
    """Both sides hold that number as it is stored: the one once, the other a second time."""
    for pair in ((gated(None), gated(alpha)), (gated(alpha), gated(None))):
        assert derived(*pair).is_proved == is_fold


def test_what_is_in_the_way_is_named_where_each_constant_stands_for_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fold that is not granted, and would be the same with the one number in the place of the other."""
    apart = compare._apart

    def of_others(left: Folded, right: Folded, first: term.Term, second: term.Term) -> float | None:
        return apart(left, right, first, second) if stored(second).keys() - stored(first) else None

    monkeypatch.setattr(compare, "_apart", of_others)
    monkeypatch.setattr(compare._Proof, "_merged", lambda *_: None)
    found = derived(gated(None), gated(1 / 6))
    assert not found.is_proved
    assert found.unrelated
