"""A program's JSON → the dataclasses that torch makes of it, each value checked on the way.

What may be where is torch's own schema, read from its dataclasses, so that it is the schema of the torch
that will read the result. Which texts may stand in a field is in a table here; a field of text that is not
in it admits none. Keys that torch does not know are refused, unless a later torch wrote the file: then they
are left out, as torch itself would.

Source:
    ``torch/_export/serde/schema.py``.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from torch.return_types import all_return_types

from fxexport.untrusted import names
from fxexport.untrusted.allowed import is_model_name
from fxexport.untrusted.expressions import read_condition, read_guard, read_number, read_size
from fxexport.untrusted.functions import find_function
from fxexport.untrusted.limits import (
    MAX_GUARDS,
    MAX_PROGRAM_DEPTH,
    MAX_PROGRAM_EXPRESSION_NODES,
    MAX_PROGRAM_NODES,
    MAX_PROGRAM_VALUES,
    MAX_TREE_DEPTH,
)
from fxexport.untrusted.names import shown
from fxexport.untrusted.private_names import Union, schema
from fxexport.untrusted.refused import Refused

_MAX_INTEGER = 1 << 63
_FLOATS = ("Infinity", "-Infinity", "NaN")
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None})
_results: list[Any] = all_return_types
_RESULTS = {f"{kind.__module__}.{kind.__qualname__}": kind.n_sequence_fields for kind in _results}
"""How many values ``torch.return_types.max`` and its like have: what ``x.max(1)`` gives."""
_HIGHER_ORDER = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "wrap")
)
_NODE_SOURCE = frozenset({"name", "target", "graph_id", "pass_name", "action", "from_node"})
_STACK_DELIMITER = ";"

TextCheck = Callable[[Any], Any]
"""Gives back the text, perhaps spelled anew, or raises ``Refused``."""


def read_program(data: Any) -> schema.ExportedProgram:
    """The program that JSON data describes.

    Raises:
        Refused: there is anything in it that ``torch.export.save`` does not write for a program of tensors.
    """
    reader = _Reader(is_newer=_is_newer(data))
    program: schema.ExportedProgram = reader.read(schema.ExportedProgram, data)
    return program


def read_payloads(data: Any) -> schema.PayloadConfig:
    """The list of weights or constants that JSON data describes.

    Raises:
        Refused: the same.
    """
    config: schema.PayloadConfig = _Reader(is_newer=False).read(schema.PayloadConfig, data)
    return config


def _is_newer(data: Any) -> bool:
    version = data.get("schema_version") if isinstance(data, dict) else None
    minor = version.get("minor") if isinstance(version, dict) else None
    return type(minor) is int and minor > schema.SCHEMA_VERSION[1]


class _Reader:
    """Reads values by their type, and counts them."""

    def __init__(self, *, is_newer: bool) -> None:
        self._is_newer = is_newer
        self._values = 0
        self._parts = 0
        self._depth = 0

    def read(self, kind: Any, data: Any) -> Any:
        """What ``data`` is as a value of the type ``kind``."""
        self._values += 1
        if self._values > MAX_PROGRAM_VALUES:
            raise Refused(f"has more values than the limit of {MAX_PROGRAM_VALUES:,}")
        if kind in _SCALARS:
            return _SCALARS[kind](data)
        if isinstance(kind, type):
            if issubclass(kind, enum.IntEnum):
                return _enumerated(kind, data)
            self._depth += 1
            if self._depth > MAX_PROGRAM_DEPTH:
                raise Refused(f"is nested deeper than the limit of {MAX_PROGRAM_DEPTH}")
            made = self._object(kind, data)
            self._depth -= 1
            return made
        return self._composed(kind, data)

    def _composed(self, kind: Any, data: Any) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return None if data is None else self.read(inner, data)
        if origin is list and type(data) is list:
            return [self.read(arguments[0], part) for part in data]
        if origin is dict and type(data) is dict:
            return {key: self.read(arguments[1], part) for key, part in data.items()}
        raise Refused(f"has {shown(data)} where a {origin.__name__} belongs")

    def _object(self, kind: type, data: Any) -> Any:
        if type(data) is not dict:
            raise Refused(f"has {shown(data)} where a {kind.__name__} belongs")
        fields = _fields(kind)
        unknown = [key for key in data if key not in fields]
        if unknown and not self._is_newer:
            raise Refused(f"has a {kind.__name__} with a field {shown(unknown[0])}")
        values = {key: self._field(fields[key], value) for key, value in data.items() if key in fields}
        if issubclass(kind, Union):
            if len(data) != 1 or not values:
                raise Refused(f"has a {kind.__name__} that is not one of its kinds")
            return kind.create(**values)
        missing = [field.name for field in fields.values() if field.is_required and field.name not in values]
        if missing:
            raise Refused(f"has a {kind.__name__} without {missing[0]}")
        return _OBJECT_CHECKS.get(kind.__name__, _unchanged)(kind(**values))

    def _field(self, field: _Field, data: Any) -> Any:
        value = self.read(field.kind, data)
        if field.check is None or value is None:
            return value
        checked = field.check(value)
        if isinstance(checked, _Counted):
            self._parts += checked.parts
            if self._parts > MAX_PROGRAM_EXPRESSION_NODES:
                raise Refused(
                    f"has sizes of more than the limit of {MAX_PROGRAM_EXPRESSION_NODES:,} parts together"
                )
            return checked.value
        return checked


@dataclasses.dataclass(frozen=True, slots=True)
class _Counted:
    """A text with expressions in it, and the number of their parts."""

    value: Any
    parts: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    name: str
    kind: Any
    is_required: bool
    check: TextCheck | None


@functools.cache
def _fields(kind: type) -> Mapping[str, _Field]:
    hints = typing.get_type_hints(kind, globalns=vars(schema))
    found: dict[str, _Field] = {}
    for field in dataclasses.fields(kind):
        missing = dataclasses.MISSING
        check = TEXTS.get(f"{kind.__name__}.{field.name}")
        if check is None and _has_text(hints[field.name]):
            check = _no_text
        found[field.name] = _Field(
            name=field.name,
            kind=hints[field.name],
            is_required=field.default is missing and field.default_factory is missing,
            check=check,
        )
    return types.MappingProxyType(found)


def _has_text(kind: Any) -> bool:
    """Whether values of the type have texts of their own, as values or as keys."""
    if kind is str:
        return True
    return not isinstance(kind, type) and any(map(_has_text, typing.get_args(kind)))


# --- single values -------------------------------------------------------------------------------


def _text(data: Any) -> str:
    if type(data) is not str:
        raise Refused(f"has {shown(data)} where a text belongs")
    return data


def _integer(data: Any) -> int:
    if type(data) is not int or not -_MAX_INTEGER <= data < _MAX_INTEGER:
        raise Refused(f"has {shown(data)} where an integer of 64 bits belongs")
    return data


def _float(data: Any) -> float:
    if type(data) not in (int, float) and data not in _FLOATS:
        raise Refused(f"has {shown(data)} where a number belongs")
    try:
        return float(data)
    except OverflowError as error:
        raise Refused("has a number that no float can hold") from error


def _flag(data: Any) -> bool:
    if type(data) is not bool:
        raise Refused(f"has {shown(data)} where true or false belongs")
    return data


_SCALARS: dict[Any, Callable[[Any], Any]] = {str: _text, int: _integer, float: _float, bool: _flag}


def _enumerated(kind: type[enum.IntEnum], data: Any) -> int:
    if type(data) is not int or data not in {*kind}:
        raise Refused(f"has a {kind.__name__} that torch does not know")
    return data  # as torch has it: a plain integer


# --- texts ---------------------------------------------------------------------------------------


def _no_text(value: Any) -> Any:
    if value:
        raise Refused(f"holds what no program of tensors has ({shown(value)})")
    return value


def _unchanged(value: Any) -> Any:
    return value


def _all(check: TextCheck) -> TextCheck:
    return lambda values: [check(value) for value in values]


def _keys(check: TextCheck) -> TextCheck:
    return lambda values: {check(key): value for key, value in values.items()}


def _parameter(value: str) -> str:
    return names.member(value, "a parameter")


def _operator(value: str) -> str:
    if value not in _HIGHER_ORDER and find_function(value) is None:
        raise Refused(f"calls {shown(value)}, which is no computation that is known here")
    return value


def _argument_name(value: str) -> str:
    return names.name(value, "an argument") if value else value


def _call_path(value: str) -> str:
    if value:  # a module that is called again is another entry: fc@1
        names.path(value.replace("@", "_"), "a module")
    return value


def _guards(values: list[str]) -> _Counted:
    if len(values) > MAX_GUARDS:
        raise Refused(f"has {len(values):,} guards, more than the limit of {MAX_GUARDS:,}")
    read = [read_guard(value) for value in values]
    return _Counted([text for text, _ in read], sum(parts for _, parts in read))


def _payload_name(value: str) -> str:
    kind, _, number = value.partition("_")
    if kind not in ("weight", "tensor") or not (number.isascii() and number.isdigit()):
        raise Refused(f"holds an object that is no tensor ({shown(value)})")
    return value


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Refused("has a note that is no JSON") from error


def _metadata(values: dict[str, str]) -> dict[str, str]:
    """Where a node came from: what torch reads of it, and of that what it looks nothing up by."""
    kept: dict[str, str] = {}
    for key, value in values.items():
        if key == "source_fn_stack" and not _names_functions(value):
            continue
        if key in ("custom", "from_node"):
            _require_plain(_json(value), sources=key == "from_node")
        kept[names.name(key, "a note")] = value if key == "from_node" else names.text(value, "a note")
    return kept


def _names_functions(value: str) -> bool:
    """Whether every function in it is one that a graph may call, or a module of torch, or a mere name."""
    for entry in value.split(_STACK_DELIMITER):
        _, _, target = entry.partition(",")
        is_known = target in _HIGHER_ORDER or find_function(target) is not None or is_model_name(target)
        if not is_known and not target.isidentifier():
            return False
    return True


def _require_plain(data: Any, *, sources: bool) -> None:
    pending = [(data, 0)]
    while pending:
        part, depth = pending.pop()
        if depth > MAX_TREE_DEPTH:
            raise Refused(f"has a note nested deeper than the limit of {MAX_TREE_DEPTH}")
        if isinstance(part, dict):
            if sources and not part.keys() <= _NODE_SOURCE:
                raise Refused("has a note with a field that torch does not write")
            pending += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list):
            pending += [(inner, depth + 1) for inner in part]
        elif isinstance(part, str):
            names.text(part, "a note")


def _graph_metadata(values: dict[str, str]) -> dict[str, str]:
    if not values.keys() <= {"custom"}:
        raise Refused("has notes that torch does not write")
    return _metadata(values)


def _tree(value: str) -> str:
    """A description of nested arguments: tuples, lists, torch's results, and dicts with names as keys."""
    described = _json(value)
    if not isinstance(described, list) or len(described) != 2 or described[0] != schema.TREESPEC_VERSION:
        raise Refused("describes its arguments in a way of its own")
    pending = [(described[1], 0)]
    while pending:
        part, depth = pending.pop()
        if depth > MAX_TREE_DEPTH:
            raise Refused(f"has arguments nested deeper than the limit of {MAX_TREE_DEPTH}")
        if not isinstance(part, dict) or part.keys() != {"type", "context", "children_spec"}:
            raise Refused("describes its arguments in a way of its own")
        kind, children = part["type"], part["children_spec"]
        if not (kind is None or isinstance(kind, str)) or kind not in _TREES | _RESULTS.keys():
            raise Refused(f"takes or returns a {shown(kind)}")
        if not isinstance(children, list) or len(children) != _RESULTS.get(kind or "", len(children)):
            raise Refused("describes its arguments in a way of its own")
        _require_context(kind, part["context"], len(children), depth)
        pending += [(child, depth + 1) for child in children]
    return value


def _require_context(kind: str | None, context: Any, children: int, depth: int) -> None:
    keys = _json(context) if isinstance(context, str) else context
    if kind in ("builtins.dict", "collections.OrderedDict"):
        if not isinstance(keys, list) or len(keys) != children:
            raise Refused("describes a dict of arguments without its keys")
        for key in keys:
            if type(key) is not int:
                # the second of (args, kwargs) becomes the names of a function's arguments
                (names.variable if depth == 1 else names.name)(key, "an argument")
    elif keys is not None:
        raise Refused("describes its arguments in a way of its own")


TEXTS: dict[str, TextCheck] = {
    "Device.type": lambda value: names.name(value, "a device"),
    "SymExpr.expr_str": _unchanged,  # a size or a condition, by what it stands in
    "SymIntArgument.as_name": names.variable,
    "SymFloatArgument.as_name": names.variable,
    "SymBoolArgument.as_name": names.variable,
    "TensorArgument.name": names.variable,
    "TokenArgument.name": names.variable,
    "GraphArgument.name": names.variable,
    "Argument.as_string": names.text,
    "Argument.as_strings": _all(names.text),
    "Argument.as_operator": _operator,
    "Argument.as_string_to_argument": _keys(names.name),
    "NamedArgument.name": _argument_name,
    "Node.target": _operator,
    "Node.name": names.variable,
    "Node.metadata": _metadata,
    "Graph.tensor_values": _keys(names.variable),
    "Graph.sym_int_values": _keys(names.variable),
    "Graph.sym_bool_values": _keys(names.variable),
    "Graph.sym_float_values": _keys(names.variable),
    "ConstantValue.as_string": names.word,
    "InputToConstantInputSpec.name": names.variable,
    "InputToParameterSpec.parameter_name": _parameter,
    "InputToBufferSpec.buffer_name": _parameter,
    "InputToTensorConstantSpec.tensor_constant_name": _parameter,
    "BufferMutationSpec.buffer_name": _parameter,
    "ParameterMutationSpec.parameter_name": _parameter,
    "GradientToParameterSpec.parameter_name": _parameter,
    "GradientToUserInputSpec.user_input_name": names.variable,
    "UserInputMutationSpec.user_input_name": names.variable,
    "ModuleCallSignature.in_spec": _tree,
    "ModuleCallSignature.out_spec": _tree,
    "ModuleCallSignature.forward_arg_names": _all(names.variable),
    "ModuleCallEntry.fqn": _call_path,
    "GraphModule.metadata": _graph_metadata,
    "ExportedProgram.opset_version": _keys(names.name),
    "ExportedProgram.range_constraints": lambda values: _Counted(values, sum(map(read_size, values))),
    "ExportedProgram.verifiers": _all(_argument_name),
    "ExportedProgram.torch_version": names.text,
    "ExportedProgram.guards_code": _guards,
    "PayloadMeta.path_name": _payload_name,
    "PayloadConfig.config": _keys(_parameter),
    "SymInt.as_expr": lambda expression: _Counted(expression, read_size(expression.expr_str)),
    "SymFloat.as_expr": lambda expression: _Counted(expression, read_number(expression.expr_str)),
    "SymBool.as_expr": lambda expression: _Counted(expression, read_condition(expression.expr_str)),
}
"""Which texts may stand in a field; one that is not here admits none."""


# --- whole objects -------------------------------------------------------------------------------


def _checked_node(node: Any) -> Any:
    if node.target in _HIGHER_ORDER:
        for argument in node.inputs:  # these become keywords in source text
            if argument.name:
                names.variable(argument.name, "an argument")
    return node


def _checked_graph(graph: Any) -> Any:
    if len(graph.nodes) > MAX_PROGRAM_NODES:
        raise Refused(f"has more nodes than the limit of {MAX_PROGRAM_NODES:,}")
    for argument in graph.inputs:  # torch writes these into the text of a guard
        if argument.type == "as_string":
            names.word(argument.value, "an input")
    return graph


_OBJECT_CHECKS: dict[str, Callable[[Any], Any]] = {"Node": _checked_node, "Graph": _checked_graph}
