"""Every question that is asked of a typed op, with the answer for every typed op: no cell is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxpasses.dense.commute import problem_of
from fxpasses.engine.fake_values import refresh
from fxpasses.engine.ranks import Ranks
from fxpasses.engine.undo import Snapshot, Spec
from fxpasses.heads.cancel import decide
from fxpasses.heads.region import PooledValue, scan
from fxpasses.pointwise.frames import Frames
from fxpasses.report import Form
from fxpasses.vocabulary.constants import constant_of
from fxpasses.vocabulary.handlers import same_size
from fxpasses.vocabulary.ops import Op, memory_of, operands
from fxpasses.vocabulary.vocabulary import Vocabulary

# What each op is made of: a map ``m`` of 4 channels and 2×2 positions, and a module ``root`` with layers.
OPS: dict[str, Callable[[fx.Proxy], Any]] = {
    "opaque": lambda m: torch.cumsum(m, 1),
    "shape value": lambda m: m.size(0),
    "adaptive pool": lambda m: F.adaptive_avg_pool2d(m, 1),
    "adaptive max pool": lambda m: F.adaptive_max_pool2d(m, 1),
    "window pool": lambda m: F.avg_pool2d(m, 2),
    "reduce": lambda m: m.mean((2, 3)),
    "reduce keepdim": lambda m: m.mean((2, 3), keepdim=True),
    "flatten": lambda m: torch.flatten(m, 1),
    "unflatten": lambda m: torch.unflatten(m, 1, (4, 1)),
    "view": lambda m: m.view(m.size(0), -1),
    "squeeze": lambda m: torch.squeeze(m, 2),
    "unsqueeze": lambda m: torch.unsqueeze(m, -1),
    "permute": lambda m: m.permute(0, 2, 3, 1),
    "transpose": lambda m: m.transpose(1, 2),
    "index": lambda m: m[..., None],
    "concat": lambda m: torch.cat([m, m], 1),
    "expand": lambda m: m.expand(-1, -1, -1, -1),
    "unfold": lambda m: F.unfold(m, 1),
    "fold": lambda m: F.fold(m, (2, 2), 1),
    "elementwise": lambda m: torch.sigmoid(m),
    "elementwise in place": lambda m: F.relu_(m),
    "sum": lambda m: m + m,
    "product of elements": lambda m: m * m,
    "clone": lambda m: m.clone(),
    "contiguous": lambda m: m.contiguous(),
    "cast": lambda m: m.float(),
    "dropout": lambda m: F.dropout(m, training=False),
    "dropout that trains": lambda m: F.dropout(m),
    "softmax of channels": lambda m: torch.softmax(m, 1),
    "feature norm": lambda m: torch.softmax(m, -1),
    "dropout of channels": lambda m: F.dropout2d(m, training=False),
    "product": lambda m: torch.matmul(m, m),
    "subgraph": lambda m: m.tracer.root_call("inner", m),
    "linear": lambda m: m.tracer.root_call("linear", m),
    "conv": lambda m: m.tracer.root_call("conv", m),
}  # fmt: skip

# One line an op, one column a question. "x" is yes and "." no; "-" where nothing is known, or nothing there.
TABLE = """
op                  |reads|memory|rank|layout        |constant |commutes  |crosses|frame|same-size|undone
opaque              |-    |-     |-   |-             |-        |NONLINEAR |.      |.    |.        |.
shape value         |-    |-     |-   |outside       |-        |NONLINEAR |-      |.    |.        |x
adaptive pool       |x    |-     |4   |(N)(C)()()    |-        |NONLINEAR |.      |.    |.        |x
adaptive max pool   |x    |-     |4   |(N)(C)()()    |-        |NONLINEAR |-      |.    |.        |.
window pool         |x    |-     |4   |-             |-        |NONLINEAR |-      |.    |.        |x
reduce              |x    |-     |2   |(N)(C)        |-        |NONLINEAR |-      |.    |.        |x
reduce keepdim      |x    |-     |4   |(N)(C)()()    |-        |NONLINEAR |-      |.    |.        |x
flatten             |x    |x     |2   |(N)(C01)      |3x16     |x         |x      |.    |.        |x
unflatten           |x    |x     |5   |(N)(C)()(0)(1)|3x4x1x2x2|x         |-      |.    |.        |x
view                |x    |x     |2   |(N)(C01)      |3x16     |x         |x      |.    |.        |x
squeeze             |x    |x     |-   |(N)(C)(0)(1)  |3x4x2x2  |x         |-      |.    |.        |x
unsqueeze           |x    |x     |5   |(N)(C)(0)(1)()|3x4x2x2x1|x         |x      |.    |.        |x
permute             |x    |x     |4   |(N)(0)(1)(C)  |3x2x2x4  |x         |-      |x    |.        |x
transpose           |x    |x     |4   |(N)(0)(C)(1)  |3x2x4x2  |x         |-      |x    |.        |x
index               |x    |x     |5   |(N)(C)(0)(1)()|3x4x2x2x1|x         |x      |.    |.        |x
concat              |x    |-     |4   |-             |-        |NONLINEAR |.      |.    |.        |.
expand              |x    |x     |-   |-             |-        |NONLINEAR |-      |.    |.        |x
unfold              |x    |-     |-   |-             |-        |NONLINEAR |-      |.    |.        |x
fold                |x    |-     |-   |-             |-        |NONLINEAR |-      |.    |.        |x
elementwise         |x    |-     |4   |(N)(C)(0)(1)  |-        |NONLINEAR |x      |x    |x        |.
elementwise in place|x    |x     |4   |(N)(C)(0)(1)  |-        |NONLINEAR |x      |x    |.        |.
sum                 |x    |-     |4   |(N)(C)(0)(1)  |-        |x         |x      |x    |x        |x
product of elements |x    |-     |4   |(N)(C)(0)(1)  |-        |NONLINEAR |x      |x    |x        |x
clone               |x    |-     |4   |(N)(C)(0)(1)  |3x4x2x2  |x         |x      |x    |x        |x
contiguous          |x    |x     |4   |(N)(C)(0)(1)  |3x4x2x2  |x         |x      |x    |x        |x
cast                |x    |x     |4   |(N)(C)(0)(1)  |-        |x         |x      |x    |x        |x
dropout             |x    |x     |4   |(N)(C)(0)(1)  |-        |x         |x      |x    |x        |.
dropout that trains |x    |x     |4   |(N)(C)(0)(1)  |-        |TRAIN_MODE|x      |x    |x        |.
softmax of channels |x    |-     |4   |(N)(C)(0)(1)  |-        |NONLINEAR |.      |.    |.        |.
feature norm        |x    |-     |4   |(N)(C)(0)(1)  |-        |NONLINEAR |.      |.    |.        |.
dropout of channels |x    |x     |4   |(N)(C)(0)(1)  |-        |x         |-      |.    |.        |.
product             |x    |-     |-   |-             |-        |NONLINEAR |-      |.    |.        |x
subgraph            |-    |-     |-   |-             |-        |NONLINEAR |.      |.    |.        |x
linear              |x    |-     |4   |-             |-        |NONLINEAR |-      |.    |.        |x
conv                |x    |-     |4   |(N)(C)()()    |-        |NONLINEAR |-      |.    |.        |x
"""


class _Root(nn.Module):
    """The layers that the ops call, and a parameter with the shape of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.conv = nn.Conv2d(4, 3, 2)
        self.inner = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
        self.p = nn.Parameter(torch.zeros(3, 4, 2, 2))


class _Tracer(fx.Tracer):
    def root_call(self, path: str, value: fx.Proxy) -> fx.Proxy:
        return self.create_proxy("call_module", path, (value,), {})


@dataclasses.dataclass(frozen=True)
class Case:
    """An op at work in a graph, where it reads ``source``."""

    graph: fx.Graph
    vocabulary: Vocabulary
    source: fx.Node
    node: fx.Node

    @property
    def op(self) -> Op:
        return self.vocabulary.classify(self.node)


def _case(name: str, start: Callable[[fx.Graph], fx.Node]) -> Case:
    root, graph, tracer = _Root(), fx.Graph(), _Tracer()
    tracer.root, tracer.graph = root, graph
    source = start(graph)
    made = OPS[name](fx.Proxy(source, tracer)).node
    graph.output((made, made))
    return Case(graph=graph, vocabulary=Vocabulary(root), source=source, node=made)


def _pooled(graph: fx.Graph) -> fx.Node:
    return graph.call_function(F.adaptive_avg_pool2d, (graph.placeholder("x"), 2))


def case(name: str) -> Case:
    return _case(name, _pooled)


# --- the questions


def reads(name: str) -> str:
    known = case(name)
    return "-" if not operands(known.op) else "x" if set(operands(known.op)) == {known.source} else "?"


def memory(name: str) -> str:
    known = case(name)
    return {known.source: "x", None: "-"}[memory_of(known.op)]


def rank(name: str) -> str:
    known = case(name)
    axes = Ranks.of(known.graph, known.vocabulary, None).axes[known.node]
    return "-" if axes is None else str(axes)


def layout(name: str) -> str:
    known = case(name)
    value = scan(known.graph, known.vocabulary).values.get(known.node)
    if value is None:
        return "outside"
    if value.layout is None:
        return str(value.problem.code) if value.problem else "-"
    return "".join("(" + "".join(map(str, axis)) + ")" for axis in value.layout.axes)


def constant(name: str) -> str:
    known = _case(name, lambda graph: graph.get_attr("p"))
    found = constant_of(known.node, known.vocabulary)
    return "-" if found is None else "x".join(map(str, found.view.shape))


def commutes(name: str) -> str:
    known = case(name)
    values = scan(known.graph, known.vocabulary).values
    value = values.get(known.node) or PooledValue(
        node=known.node, op=known.op, layout=None, pool=known.source
    )
    problem = problem_of(value, values, frozenset(), known.vocabulary)
    return "x" if problem is None else str(problem.code)


def _flat(graph: fx.Graph) -> fx.Node:
    return graph.call_function(torch.flatten, (_pooled(graph), 1))


def crosses(name: str) -> str:
    """Whether the op of a flat value can be had on the map; "-" for what takes no flat value."""
    known = _case(name, _flat)
    if _outcome(known, torch.zeros(3, 16)) is None:
        return "-"
    region = scan(known.graph, known.vocabulary)
    moves = decide(region, known.vocabulary, frozenset(), Form.CONV)
    return "x" if known.node in moves.free else "."


def frame(name: str) -> str:
    """Whether the op's value is held in one order with the map that it reads."""
    known = case(name)
    ranks = Ranks.of(known.graph, known.vocabulary, None)
    frames = Frames(ranks, known.vocabulary, {})
    frames.run()
    return "x" if known.node in frames._joined else "."


def same_sizes(name: str) -> str:
    known = case(name)
    return "x" if same_size(known.node, known.source) else "."


def undone(name: str) -> str:
    """Whether an edit that erases the op's node can be taken back."""
    return "x" if Spec.of(Snapshot.of(case(name).node)).is_whole else "."


QUESTIONS = {
    "reads": reads,
    "memory": memory,
    "rank": rank,
    "layout": layout,
    "constant": constant,
    "commutes": commutes,
    "crosses": crosses,
    "frame": frame,
    "same-size": same_sizes,
    "undone": undone,
}


def answers() -> dict[str, dict[str, str]]:
    head, *lines = ([cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines())
    return {name: dict(zip(head[1:], cells, strict=True)) for name, *cells in lines}


def test_no_typed_op_and_no_question_is_missing() -> None:
    assert {type(case(name).op) for name in OPS} == {*get_args(Op)}
    assert [*answers()] == [*OPS]
    assert all([*row] == [*QUESTIONS] for row in answers().values())


@pytest.mark.parametrize("name", OPS)
def test_each_question_has_its_answer(name: str) -> None:
    assert {question: ask(name) for question, ask in QUESTIONS.items()} == answers()[name]


@pytest.mark.parametrize("name", OPS)
def test_the_value_after_a_change_of_rank_is_what_running_gives(name: str) -> None:
    """The map was flat, and has its axes back; the op's fake value follows."""
    known = case(name)
    values = [torch.zeros(3, 4), torch.zeros(3, 4, 1, 1)]
    outcomes = [_outcome(known, value) for value in values]
    if any(outcome is None for outcome in outcomes) or known.node.op != "call_function":
        return
    mode = FakeTensorMode()
    before, after = (mode.from_tensor(outcome) for outcome in outcomes)
    known.source.meta["val"] = mode.from_tensor(values[1])
    known.node.meta["val"] = before
    refresh(known.node, known.vocabulary.classify)
    assert known.node.meta["val"].shape == after.shape


def _outcome(known: Case, value: torch.Tensor) -> torch.Tensor | None:
    """What the op makes of a value, None where it takes no such value or gives no tensor."""
    try:
        run = fx.Interpreter(known.vocabulary.root, graph=known.graph).run
        given = run(torch.zeros(3, 4, 2, 2), initial_env={known.source: value})[0]
    except (RuntimeError, IndexError, UserWarning):
        return None
    return given if isinstance(given, torch.Tensor) else None
