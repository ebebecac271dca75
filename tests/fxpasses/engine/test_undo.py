"""What is written down of a node makes the same node again, and stands while nothing was changed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from fxpasses import rewrite
from fxpasses.engine.undo import Nodes, Record, Snapshot, Spec, find, load, stands
from fxpasses.report import Form

NODES = ("a", "b")
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3),
    st.sampled_from(NODES).map(lambda name: {"node": name}), st.just(...),
    st.sampled_from((torch.float32, torch.int64)),
    st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers(1, 3)),
)  # fmt: skip
arguments = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("xy", min_size=1), inner, max_size=2)
    ),
    max_leaves=6,
)


def with_nodes(value: Any, nodes: dict[str, fx.Node]) -> Any:
    """``{"node": name}`` replaced by the node, anywhere in nested arguments."""
    if isinstance(value, dict) and value.keys() == {"node"}:
        return nodes[value["node"]]
    if isinstance(value, dict):
        return {key: with_nodes(part, nodes) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_nodes(part, nodes) for part in value)
    return value


@given(args=st.lists(arguments, max_size=3), kwargs=st.dictionaries(st.text("kw", min_size=1), arguments))
def test_a_node_is_made_again_from_plain_data(args: list[Any], kwargs: dict[str, Any]) -> None:
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name) for name in NODES}
    args = with_nodes(tuple(args), nodes)
    kwargs = {name: with_nodes(value, nodes) for name, value in kwargs.items()}
    node = graph.call_function(torch.flatten, args, kwargs)
    spec = pickle.loads(pickle.dumps(Spec.of(Snapshot.of(node))))
    assert spec.is_whole
    assert spec.is_like(node)
    node.target, node.args, node.kwargs = F.linear, (nodes["a"],), {}
    assert not spec.is_like(node)
    spec.write_to(node, nodes)
    assert (node.target, node.args, node.kwargs) == (torch.flatten, args, kwargs)


@pytest.mark.parametrize(
    ("target", "args"),
    [(torch.fft.fft, ()), (torch.flatten, (torch.device("cpu"),)), (torch.clone, (torch.contiguous_format,))],
)
def test_what_cannot_be_written_is_not_whole(target: Any, args: tuple[Any, ...]) -> None:
    graph = fx.Graph()
    node = graph.call_function(target, (graph.placeholder("a"), *args))
    assert not Spec.of(Snapshot.of(node)).is_whole


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.norm(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)))


def rewritten() -> tuple[fx.GraphModule, Record]:
    module = rewrite(Net().eval(), to="conv").module
    (record,) = load(module)
    return module, record


def named(module: fx.GraphModule) -> Nodes:
    return Nodes(module.graph.nodes)


def test_a_record_is_plain_data_and_says_what_was_edited() -> None:
    module, record = rewritten()
    assert Record.from_data(record.to_data()) == record
    assert (record.origin, record.to, record.sites) == (Form.LINEAR, Form.CONV, ("fc",))
    assert record.batch_norms == {"norm": 1}
    assert stands(record, named(module))
    known = {frozenset(record.sites): [record]}
    assert find(known, ["fc"], named(module), Form.LINEAR) is record
    assert find(known, ["fc"], named(module), Form.CONV) is None
    assert find(known, ["fc", "other"], named(module), Form.LINEAR) is None


def _read_what_was_inserted(module: fx.GraphModule, record: Record) -> None:
    node = named(module)[record.inserted[0]]
    with module.graph.inserting_after(node):
        module.graph.call_function(torch.sum, (node,))


def _rename_a_site(module: fx.GraphModule, record: Record) -> None:
    named(module)["fc"].name = "another"


def _change_an_argument(module: fx.GraphModule, record: Record) -> None:
    node = named(module)[record.inserted[0]]
    node.args = (node.args[0], 2)


def _change_a_reader(module: fx.GraphModule, record: Record) -> None:
    reader = record.readers[0]
    nodes = named(module)
    nodes[reader.name].replace_input_with(nodes[reader.after], nodes["x"])


def _use_a_name_that_was_erased(module: fx.GraphModule, record: Record) -> None:
    left = {spec.name for spec in record.after}
    erased = next(spec.name for spec in record.before if spec.name not in left)
    named(module)["x"].name = erased


def _take_an_anchor_away(module: fx.GraphModule, record: Record) -> None:
    anchor = next(spec.previous for spec in record.before if spec.previous)
    named(module)[anchor].name = "another"


@pytest.mark.parametrize(
    "change",
    [
        _read_what_was_inserted, _rename_a_site, _change_an_argument, _change_a_reader,
        _use_a_name_that_was_erased, _take_an_anchor_away,
    ],
    ids=lambda change: change.__name__.strip("_"),
)  # fmt: skip
def test_a_record_does_not_stand_once_something_was_changed(
    change: Callable[[fx.GraphModule, Record], None],
) -> None:
    module, record = rewritten()
    change(module, record)
    assert not stands(record, named(module))
