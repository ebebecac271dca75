"""A program's JSON is read by torch's own schema, every text in it by a table, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
import typing
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch._export.serde import schema
from torch._export.serde.serialize import _dataclass_to_dict, _dict_to_dataclass

from fxexport.untrusted import program_schema
from fxexport.untrusted.program_schema import TEXTS, read_payloads, read_program
from fxexport.untrusted.refused import Refused
from hostile import program

Json = Any
EVIL = 'x"); y = 1\r#'
PROSE = ("stack_trace", "nn_module_stack", "torch_fn", "as_string", "torch_version")
"""What only people read, or torch.fx writes as a literal."""


@functools.cache
def _member(end: str) -> Json:
    with zipfile.ZipFile(io.BytesIO(program())) as archive:
        return json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(end))))


def model() -> Json:
    return copy.deepcopy(_member("models/model.json"))


def payloads() -> Json:
    return copy.deepcopy(_member("model_weights_config.json"))


def places(data: Json) -> Iterator[tuple[Any, Any]]:
    """Every container in the data with each of its keys."""
    pending = [data]
    while pending:
        part = pending.pop()
        if isinstance(part, dict | list):
            for key in part if isinstance(part, dict) else range(len(part)):
                yield part, key
                pending.append(part[key])


def test_what_torch_wrote_is_read_as_torch_reads_it() -> None:
    assert read_program(model()) == _dict_to_dataclass(schema.ExportedProgram, model())
    assert read_payloads(payloads()) == _dict_to_dataclass(schema.PayloadConfig, payloads())


@pytest.mark.parametrize("value", [None, True, 3.5, 'x"); y = 1\r#', [], {}, {"a": 1}, 1 << 70, "__class__"])
def test_no_value_is_believed(value: Json) -> None:
    """Each value of a program in turn is another one: it is refused, or is what it was or harmless."""
    count = sum(1 for _ in places(model()))
    refused = 0
    for index in range(0, count, 7):
        data = model()
        part, key = next(place for number, place in enumerate(places(data)) if number == index)
        part[key] = value
        try:
            read = read_program(data)
        except Refused:
            refused += 1
        else:
            kept = json.dumps(_dataclass_to_dict(read), default=str)
            assert json.dumps(value) not in kept or value not in (EVIL, "__class__") or key in PROSE, key
    assert refused > 0.6 * count / 7


@pytest.mark.parametrize("value", [[], {}, 0, False])
def test_what_is_empty_is_no_text(value: Json) -> None:
    """Tables take an empty text as no name; what else is empty would be handed to torch."""
    data = model()
    data["graph_module"]["module_call_graph"][0]["fqn"] = value
    with pytest.raises(Refused, match="where a text belongs"):
        read_program(data)


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2}', "[1]", "[1, 2, 3]", "7", "[9, null]"])
def test_a_tree_of_another_kind_is_refused(text: str) -> None:
    data = model()
    data["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = text
    with pytest.raises(Refused, match="a way of its own"):
        read_program(data)


@pytest.mark.parametrize("both", [{"as_int": 1, "as_float": 1.0}, {}])
def test_a_choice_has_one_of_its_kinds(both: Json) -> None:
    data = model()
    data["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = both
    with pytest.raises(Refused, match="is not one of its kinds"):
        read_program(data)


def test_an_unknown_field_is_refused_wherever_it_stands() -> None:
    count = sum(isinstance(part[key], dict) for part, key in places(model()))
    for index in range(0, count, 3):
        data = model()
        objects = [part[key] for part, key in places(data) if isinstance(part[key], dict)]
        objects[index]["evil"] = {"x": 1}
        with pytest.raises(Refused):
            read_program(data)
    assert count > 100


def test_a_later_torch_s_fields_are_left_out_as_torch_does() -> None:
    data = model()
    data["schema_version"]["minor"] += 100
    data["evil"] = "x"
    assert not hasattr(read_program(data), "evil")


def test_every_text_of_the_schema_is_in_the_table_or_refused() -> None:
    """A later torch's new field of text admits nothing before somebody says what may be in it."""
    seen: set[str] = set()
    pending: list[Any] = [schema.ExportedProgram, schema.PayloadConfig]
    done: set[Any] = set()
    while pending:
        kind = pending.pop()
        if kind in done or not dataclasses.is_dataclass(kind):
            pending += [part for part in typing.get_args(kind) if part not in done]
            continue
        done.add(kind)
        for name, field in program_schema._fields(kind).items():  # type: ignore[arg-type]
            pending.append(field.kind)
            if program_schema._has_text(field.kind):
                assert field.check is not None, f"{kind}.{name}"
                seen.add(f"{kind.__name__}.{name}")  # type: ignore[union-attr]
    refused = seen - TEXTS.keys()
    assert refused == {
        "CustomObjArgument.name", "CustomObjArgument.class_fqn", "InputToCustomObjSpec.custom_obj_name",
        "NamedTupleDef.field_names", "GraphModule.treespec_namedtuple_fields", "Graph.custom_obj_values",
    }  # fmt: skip


def _deep(data: Json) -> None:
    argument: Json = {"as_int": 1}
    for _ in range(200):
        argument = {"as_string_to_argument": {"k": argument}}
    data["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = argument


def _large_symbol(data: Json) -> None:
    data["range_constraints"]["u99999999999"] = {"min_val": 0, "max_val": 9}


def _deep_tree(data: Json) -> None:
    tree: Json = {"type": None, "context": None, "children_spec": []}
    for _ in range(100):
        tree = {"type": "builtins.tuple", "context": "null", "children_spec": [tree]}
    data["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])


@pytest.mark.parametrize(("kind", "children"), [("max", 3), ("max", 0), ("nothing", 2), ("__all__", 2)])
def test_results_of_torch_have_their_number_of_values(kind: str, children: int) -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    tree = {"type": f"torch.return_types.{kind}", "context": "null", "children_spec": [leaf] * children}
    data = model()
    data["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])
    with pytest.raises(Refused, match=r"takes or returns|a way of its own"):
        read_program(data)


def _long_note(data: Json) -> None:
    data["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = "x" * 1_000_000


def _deep_note(data: Json) -> None:
    note = "[" * 100 + "]" * 100
    data["graph_module"]["graph"]["nodes"][0]["metadata"]["custom"] = note


@pytest.mark.parametrize("edit", [_deep, _large_symbol, _deep_tree, _long_note, _deep_note])
def test_what_is_beyond_a_limit_is_refused(edit: Callable[[Json], None]) -> None:
    data = model()
    edit(data)
    with pytest.raises(Refused, match=r"limit|no arithmetic"):
        read_program(data)


def test_values_and_sizes_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_schema, "MAX_PROGRAM_VALUES", 100)
    with pytest.raises(Refused, match="more values than the limit of 100"):
        read_program(model())
    monkeypatch.undo()
    monkeypatch.setattr(program_schema, "MAX_PROGRAM_EXPRESSION_NODES", 10)
    with pytest.raises(Refused, match="more than the limit of 10 parts together"):
        read_program(model())


def test_nodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_schema, "MAX_PROGRAM_NODES", 1)
    with pytest.raises(Refused, match="more nodes than the limit of 1"):
        read_program(model())


def test_functions_in_notes_are_only_kept_where_nothing_foreign_is_looked_up() -> None:
    data = model()
    first, second, third = data["graph_module"]["graph"]["nodes"][:3]
    first["metadata"]["source_fn_stack"] = "conv,torch.nn.modules.conv.Conv2d;relu,relu"
    second["metadata"]["source_fn_stack"] = "x,torch.hub.load"
    third["metadata"]["source_fn_stack"] = "x,torch.ops.evil.load"
    notes = [node.metadata for node in read_program(data).graph_module.graph.nodes]
    assert ["source_fn_stack" in note for note in notes[:3]] == [True, False, False]
