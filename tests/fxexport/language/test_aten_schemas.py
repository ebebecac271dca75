"""Every operator of the ATen core set: where changing one argument leaves the term, it leaves the result.

The calls are made from the schemas, and torch itself says what they give: an operator or an argument that a
later torch adds is tried too.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fxexport.language.aten import dtype_name, interpreted
from fxexport.language.aten_operators import OPERATORS
from fxexport.language.graph import NotRead
from fxexport.language.layout import plain
from fxexport.language.term import Terms, Value


def core_operators() -> dict[str, Any]:
    """The overloads that torch tags as its core set, and all that have a rule, by name."""
    found = {}
    # torch lists only what was asked for by then, and what its core decompositions name
    for name in sorted({*dir(torch.ops.aten), *(name.split(".")[1] for name in OPERATORS)}):
        packet = getattr(torch.ops.aten, name)
        if isinstance(packet, torch._ops.OpOverloadPacket):
            for overload in packet.overloads():
                target = getattr(packet, overload)
                if torch.Tag.core in target.tags or str(target) in OPERATORS:
                    found[str(target)] = target
    return found


CORE = core_operators()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers of either sign."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TENSORS = {
    "map": random(2, 4, 6, 6) + 0.1,
    "matrix": random(4, 4, seed=1),
    "batch of matrices": random(4, 4, 4, seed=2),
    "vector": random(4, seed=3).abs() + 0.5,
    "kernel": random(4, 4, 3, 3, seed=4),
    "indices": torch.tensor([[0, 1], [1, 0]]),
    "flags": random(2, 4, 6, 6, seed=5) > 0,
    "sequence": random(2, 4, 8, seed=6),
    "volume": random(1, 2, 4, 4, 4, seed=7),
}
PLACES = torch.tensor([1, 0, 0])
# first values are what a call starts from; None is tried where the schema permits it
VALUES: dict[str, list[Any]] = {
    "number": [1, 2, 0.5, 3],
    "float": [0.5, 1e-5, 0.1, 0.25],
    "int": [1, 2, 0, 3, -1],
    "SymInt": [1, 2, 0, 3, -1],
    "bool": [False, True],
    "str": ["none", "tanh", "mean", "constant", "reflect"],
    "List[int]": [
        [1, 1],
        [2, 2],
        [1, 1, 1],  # too short a list is read beyond its end by pools of three axes
        [1],
        [2],
        [0],
        [1, 2],
        [0, 1],
        [3, 3],
        [0, 0],
        [0, 2, 1, 3],
        [0, 1, 3, 2],
        [1, 0, 1, 0],
    ],
    "List[float]": [[2.0, 2.0], [1.5, 2.0]],
    "List[bool]": [[True, True, True]],
    "List[Optional[Tensor]]": [
        [PLACES],
        [None, PLACES],
        [PLACES + 1],
        [None, None, PLACES],
        [PLACES.flip(0)],
    ],
    "dtype": [torch.float32, torch.float64],
}


# these are numbers to a schema, and no number may stand for them
BY_NAME: dict[str, list[Any]] = {
    "reduce": ["sum", "prod", "amax", "amin", "mean"],
    "dtype": [None, torch.float32, torch.float64],
    "layout": [None, torch.strided],
    "device": [None, torch.device("cpu")],
    "pin_memory": [None, False],
    "memory_format": [None, torch.contiguous_format],
}
SHAPES = [[2, 144], [4, 72], [288], [2, 4, 6, 6], [1, 2, 4, 6, 6]]
"""Shapes of the map, for arguments that are one."""


def values_of(kind: str, name: str = "") -> list[Any]:
    """Values to try for an argument of this type."""
    if name in BY_NAME:
        return BY_NAME[name]
    if name in ("size", "shape") and kind == "List[int]":
        return SHAPES
    optional = kind.startswith("Optional[")
    inner = kind.removeprefix("Optional[").removesuffix("]") if optional else kind
    if inner == "List[int" or (optional and inner.startswith("List[")):
        inner = inner if inner.endswith("]") else inner + "]"
    if inner == "Tensor" and name == "index":
        return [PLACES]
    if inner == "Tensor":
        return [*([None] if optional else []), *TENSORS.values()]
    if inner == "List[Tensor]":
        return [[TENSORS["map"], TENSORS["map"] * 2], [TENSORS["map"]]]
    found = VALUES.get(inner.replace("SymInt", "int"), [])
    return [*found, None] if optional else found


def run(target: Any, arguments: dict[str, Any]) -> Any:
    """What torch gives, or None where the call means nothing."""
    names = [argument.name for argument in target._schema.arguments]
    positional = [n for n in names if not next(a for a in target._schema.arguments if a.name == n).kwarg_only]
    try:
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        return target(
            *(arguments[n] for n in positional), **{n: arguments[n] for n in names if n not in positional}
        )
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None


_NORM = {"weight": TENSORS["vector"], "bias": TENSORS["vector"]}
_STATISTICS = {"running_mean": TENSORS["vector"], "running_var": TENSORS["vector"]}


def recurrent(gates: int, states: int) -> dict[str, Any]:
    """The arguments of a layer of five cells over steps of four numbers, as many as samples."""
    state = random(1, 3, 5, seed=14)
    return {
        "input": random(3, 3, 4, seed=10),
        "hx": [state, state * 2] if states > 1 else state,
        "params": [random(gates * 5, *more, seed=11 + k) for k, more in enumerate(((4,), (5,), (), ()))],
        **{"has_biases": True, "num_layers": 1, "dropout": 0.0},
        **dict.fromkeys(("train", "bidirectional", "batch_first"), False),
    }


STARTS: dict[str, dict[str, Any]] = {
    "aten.gru.input": recurrent(3, 1),
    "aten.lstm.input": recurrent(4, 2),
    "aten._adaptive_avg_pool3d.default": {"self": TENSORS["volume"], "output_size": [1, 1, 1]},
    "aten._native_batch_norm_legit_no_training.default": {**_NORM, **_STATISTICS},
    "aten.batch_norm.default": {**_NORM, **_STATISTICS, "training": False},
    "aten.clamp.default": {"min": -0.5},
    "aten.clamp.Tensor": {"min": TENSORS["map"]},
    "aten.grid_sampler.default": {"input": TENSORS["map"], "grid": random(2, 3, 3, 2, seed=9)},
    "aten.conv_transpose3d.input": {"input": TENSORS["volume"], "weight": random(2, 2, 2, 2, 2, seed=8)},
    "aten.instance_norm.default": {**_NORM, **dict.fromkeys(_STATISTICS), "use_input_stats": True},
}
"""Arguments without which a call means nothing."""


def start_of(target: Any) -> dict[str, Any] | None:
    """Arguments with which the operator runs, or None where none was found."""
    base = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    base |= STARTS.get(str(target), {})
    required = [a for a in target._schema.arguments if a.name not in base]
    choices = [values_of(str(a.type), a.name)[:9] for a in required]
    for tried in itertools.islice(itertools.product(*reversed(choices)), 800):
        arguments = dict(zip([a.name for a in reversed(required)], tried, strict=True))
        ordered = {a.name: {**base, **arguments}[a.name] for a in target._schema.arguments}
        found = run(target, ordered)
        if isinstance(found, torch.Tensor) or (isinstance(found, tuple | list) and found):
            return ordered
    return None


def variants(target: Any, start: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """For each argument the calls that differ in it alone."""
    for argument in target._schema.arguments:
        if str(argument.type) in ("Tensor", "List[Tensor]"):
            continue
        tried = [start[argument.name], *values_of(str(argument.type), argument.name)]
        different = [item for place, item in enumerate(tried) if not any(item is o for o in tried[:place])]
        yield argument.name, [{**start, argument.name: item} for item in different]


def value_of(terms: Terms, item: Any, known: dict[int, Value]) -> Any:
    """A tensor as an input of a graph; parameters and statistics as constants."""
    if isinstance(item, list | tuple):
        return [value_of(terms, part, known) for part in item]
    if not isinstance(item, torch.Tensor):
        return item
    if id(item) not in known:
        if item.dim() == 1 or item is TENSORS["kernel"]:
            known[id(item)] = terms.constant(item.numpy())
        else:
            shape = tuple(item.shape)
            term = terms.term("input", (len(known),), (), dtype_name(item.dtype), shape, is_closed=False)
            known[id(item)] = Value(term=term, known_layout=plain(shape))
    return known[id(item)]


def terms_of(terms: Terms, target: Any, arguments: dict[str, Any], known: dict[int, Value]) -> Any:
    """The first result of a call as a term and its layout, or None where it is read as nothing."""
    result = run(target, arguments)
    if result is None:
        return None
    values = {name: value_of(terms, item, known) for name, item in arguments.items()}
    try:
        found = interpreted(terms, target, values, result)
    except NotRead:
        return None
    first = found[0] if isinstance(found, list | tuple) else found
    number = result[0] if isinstance(result, list | tuple) else result
    return (first.term, first.known_layout), number


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether results are the same up to rounding."""
    return (
        first.shape == second.shape
        and first.dtype == second.dtype
        and torch.allclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True)
    )


@pytest.mark.parametrize("name", [name for name in CORE if name in OPERATORS])
def test_where_an_argument_leaves_the_term_it_leaves_the_result(name: str) -> None:
    target = CORE[name]
    start = start_of(target)
    assert start is not None or name in NOT_RUN
    if start is None:
        return
    terms = Terms()
    known: dict[int, Value] = {}
    for argument, calls in variants(target, start):
        found = [item for call in calls if (item := terms_of(terms, target, call, known)) is not None]
        for (left, a), (right, b) in itertools.combinations(found, 2):
            assert left != right or equal(a, b), (argument, start)


NOT_RUN = {
    "aten.lift_fresh.default",
    "aten.lift_fresh_copy.default",
    "aten.to.device",
}
"""Operators with a rule that plain arguments cannot call."""


@pytest.mark.parametrize("name", [name for name in CORE if name not in OPERATORS])
def test_changing_an_argument_of_an_operator_without_rule_changes_the_term(name: str) -> None:
    target = CORE[name]
    terms = Terms()
    known: dict[int, Value] = {}
    start = {a.name: (values_of(str(a.type), a.name) or [None])[-1] for a in target._schema.arguments}
    for argument, calls in variants(target, start):
        keys = []
        for call in calls:
            values = {key: value_of(terms, item, known) for key, item in call.items()}
            keys.append(interpreted(terms, target, values, TENSORS["map"]).term)
        is_random = torch.Tag.nondeterministic_seeded in target.tags
        assert len(set(keys)) == len(calls) or is_random, argument
