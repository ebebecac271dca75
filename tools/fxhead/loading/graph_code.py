"""The source text of a saved GraphModule → its graph, by reading it; none of it is run.

torch.fx saves a GraphModule as Python source and executes that on loading. What the code generator of
torch.fx writes is a small language: one statement a node, over ``self``'s modules, functions by their full
names and methods. This file reads exactly that language, and builds the nodes that it stands for. Whatever
else is in the text is an error.

Source:
    ``torch.fx.graph.CodeGen``.
"""

from __future__ import annotations

import ast
import dataclasses
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from fxexport.untrusted import names
from fxexport.untrusted.arithmetic import require_small_numbers
from fxexport.untrusted.functions import find_function, is_attribute, is_method
from fxexport.untrusted.limits import MAX_CODE, MAX_CODE_NESTING
from fxexport.untrusted.pickles import unwarned
from fxexport.untrusted.refused import Refused
from fxhead.private_names import tree_flatten_spec
from fxpasses.private_names import pytree

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_FLATTEN, _UNFLATTEN = "fx_pytree.tree_flatten_spec", "pytree.tree_unflatten"
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv",
    ast.Mod: "mod", ast.Pow: "pow", ast.MatMult: "matmul", ast.LShift: "lshift", ast.RShift: "rshift",
    ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"}
_CONSTANTS: dict[str, Any] = {"inf": float("inf"), "nan": float("nan"), "NoneType": type(None)}


class CodeError(Refused):
    """The text is not what torch.fx writes, or calls what a graph in a file may not call."""


def read_graph(
    code: str,
    imports: str,
    root: nn.Module,
    specs: Mapping[str, Any],
    find_tuple: Callable[[str], type | None] = lambda name: None,
) -> Graph:
    """The graph that the text stands for, over the modules of ``root``.

    Args:
        code: ``def forward(self, …)`` as the code generator wrote it.
        imports: the lines of import before it, which give functions their names.
        root: the tree whose modules, parameters and buffers the text may name.
        specs: descriptions of nested arguments, by attribute of ``self``.
        find_tuple: the class of named tuples of a full name, if the graph may make one.

    Raises:
        CodeError: there is anything else in it.
    """
    if len(code) + len(imports) > MAX_CODE:
        raise CodeError(f"its source text is longer than the limit of {MAX_CODE:,} characters")
    try:
        with unwarned():
            tree, imported = ast.parse(code), ast.parse(imports)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CodeError("its source text is no Python") from error
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise CodeError("its source text is more than one function")
    reader = _Reader(root, specs, _imported(imported), find_tuple)
    try:
        return reader.read(tree.body[0])
    except RecursionError as error:
        raise CodeError("its source text is nested too deeply") from error


def _imported(tree: ast.Module) -> dict[str, str]:
    """What each name stands for, in full. Nothing is imported: the names are looked up in tables."""
    names: dict[str, str] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            for alias in statement.names:
                names[alias.asname or alias.name] = f"{statement.module}.{alias.name}"
        elif ast.unparse(statement) != "NoneType = type(None)":
            raise CodeError(f"its imports hold {ast.unparse(statement)[:80]!r}")
    return names


@dataclasses.dataclass(slots=True)
class _Reader:
    """Statements in, nodes out."""

    root: nn.Module
    specs: Mapping[str, Any]
    imported: Mapping[str, str]
    find_tuple: Callable[[str], type | None]
    graph: Graph = dataclasses.field(default_factory=Graph)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    pending: tuple[Any, tuple[Any, ...]] | None = None
    depth: int = 0

    def read(self, function: ast.FunctionDef) -> Graph:
        if function.name != "forward" or function.decorator_list or function.args.posonlyargs:
            raise CodeError("its function is no plain 'forward'")
        self.placeholders(function.args)
        *statements, last = function.body
        for statement in statements:
            self.statement(statement)
        if not isinstance(last, ast.Return) or last.value is None or self.pending is not None:
            raise CodeError("its function does not end in a return")
        self.graph.output(self.result(last.value), type_expr=_type(function.returns))
        require_small_numbers(self.graph)
        return self.graph

    def placeholders(self, arguments: ast.arguments) -> None:
        named = [argument.arg for argument in arguments.args]
        if not named or named[0] != "self" or arguments.kwonlyargs or arguments.kw_defaults:
            raise CodeError("its function has arguments that torch.fx does not write")
        defaults = [
            ast.literal_eval(default) if _is_literal(default) else _REFUSED for default in arguments.defaults
        ]
        if any(default is _REFUSED for default in defaults):
            raise CodeError("its function has a default that is computed")
        first = len(named) - len(defaults)
        for index, name in enumerate(named[1:], start=1):
            default = () if index < first else (defaults[index - first],)
            self.node(name, "placeholder", name, default, {}).type = _type(arguments.args[index].annotation)
        for star, argument in (("*", arguments.vararg), ("**", arguments.kwarg)):
            if argument is not None:
                self.node(argument.arg, "placeholder", star + argument.arg, (), {})

    def node(self, name: str, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        names.variable(name)
        for keyword in kwargs:
            names.variable(keyword, "an argument")
        made = self.graph.create_node(kind, target, args, kwargs, name=name)
        if made.name != name:  # a name that a new graph would avoid, like ``input``
            made.name = name
        self.values[name] = made
        return made

    def statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            # ``x += y; iadd = x``: the next statement names the node
            symbol = "i" + _BINARY[type(statement.op)].rstrip("_")
            read = ast.Name(statement.target.id, ast.Load())
            self.pending = (getattr(operator, symbol), (self.value(read), self.value(statement.value)))
        elif isinstance(statement, ast.Assign) and _is_release(statement):
            for name in map(ast.unparse, statement.targets):
                self.values.pop(name, None)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self.assign_to(statement.target, statement.value)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self.assign_to(statement.targets[0], statement.value)
        else:
            raise CodeError(f"its source text has {ast.unparse(statement)[:80]!r}")

    def assign_to(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.assign(target.id, value)
            return
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        if len(names) != len(parts):
            raise CodeError(f"its source text assigns to {ast.unparse(target)[:80]!r}")
        self.unpack(names, value)

    def assign(self, name: str, value: ast.expr) -> None:
        if self.pending is not None:
            (function, args), self.pending = self.pending, None
            self.node(name, "call_function", function, args, {})
        elif isinstance(value, ast.Name) and value.id in self.values:
            self.values[name] = self.values[value.id]
        elif isinstance(value, ast.Call):
            self.call(name, value)
        elif isinstance(value, ast.BinOp) and type(value.op) in _BINARY:
            self.apply(name, _BINARY[type(value.op)], value.left, value.right)
        elif isinstance(value, ast.Compare) and len(value.ops) == 1 and type(value.ops[0]) in _COMPARE:
            self.apply(name, _COMPARE[type(value.ops[0])], value.left, value.comparators[0])
        elif isinstance(value, ast.UnaryOp) and type(value.op) in _UNARY:
            self.apply(name, _UNARY[type(value.op)], value.operand)
        elif isinstance(value, ast.Subscript):
            self.apply(name, "getitem", value.value, value.slice)
        elif (path := self.path(value)) is not None:
            self.require_attribute(path)
            self.node(name, "get_attr", path, (), {})
        elif isinstance(value, ast.Attribute) and self.is_value(value.value):
            self.getattr(name, value.value, value.attr)
        else:
            raise CodeError(f"its source text has {ast.unparse(value)[:80]!r}")

    def apply(self, name: str, symbol: str, *operands: ast.expr) -> None:
        args = tuple(self.value(operand) for operand in operands)
        self.node(name, "call_function", getattr(operator, symbol), args, {})

    def getattr(self, name: str, owner: ast.expr, attribute: str) -> None:
        if not is_attribute(attribute):
            raise CodeError(f"it reads the attribute {attribute!r}, which no graph needs")
        self.node(name, "call_function", getattr, (self.value(owner), attribute), {})

    def call(self, name: str, call: ast.Call) -> None:
        path = self.path(call.func)
        if path is not None:
            self.require_module(path)
            self.node(name, "call_module", path, *self.arguments(call))
            return
        full = self.full_name(call.func)
        if full is not None:
            function = find_function(full) or self.find_tuple(full)
            if function is None:
                raise CodeError(_UNKNOWN_CALL.format(full))
            self.node(name, "call_function", function, *self.arguments(call))
            return
        if isinstance(call.func, ast.Attribute) and self.is_value(call.func.value):
            if not is_method(call.func.attr):
                raise CodeError(f"it calls the method {call.func.attr!r}, which is no computation known here")
            args, kwargs = self.arguments(call)
            self.node(name, "call_method", call.func.attr, (self.value(call.func.value), *args), kwargs)
            return
        raise CodeError(f"it calls {ast.unparse(call.func)[:80]!r}")

    def arguments(self, call: ast.Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if any(keyword.arg is None for keyword in call.keywords):
            raise CodeError("its source text has ** in a call")
        args = tuple(self.value(argument) for argument in call.args)
        return args, {str(keyword.arg): self.value(keyword.value) for keyword in call.keywords}

    # --- values ----------------------------------------------------------------------------------

    def is_value(self, expression: ast.expr) -> bool:
        return isinstance(expression, ast.Name) and isinstance(self.values.get(expression.id), Node)

    def value(self, expression: ast.expr) -> Any:
        """An argument: a node, a constant, or a container of them."""
        self.depth += 1
        if self.depth > MAX_CODE_NESTING:
            raise CodeError(f"its source text is nested deeper than the limit of {MAX_CODE_NESTING}")
        try:
            return self.argument(expression)
        finally:
            self.depth -= 1

    def argument(self, expression: ast.expr) -> Any:
        match expression:
            case ast.Name(id=name) if name in self.values:
                return self.values[name]
            case ast.Name(id=name) if name in _CONSTANTS:
                return _CONSTANTS[name]
            case ast.Constant(value=value) if value is ... or type(value) in _SCALARS:
                return value
            case ast.Tuple(elts=parts):
                return tuple(map(self.value, parts))
            case ast.List(elts=parts):
                return [*map(self.value, parts)]
            case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
                pairs = zip(keys, values, strict=True)
                return {self.key(key): self.value(value) for key, value in pairs}
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
                return -_CONSTANTS["inf"]
            case ast.Call(func=ast.Name(id="slice"), args=parts, keywords=[]) if 1 <= len(parts) <= 3:
                return slice(*map(self.value, parts))
            case ast.Slice(lower=lower, upper=upper, step=step):
                return slice(*(None if part is None else self.value(part) for part in (lower, upper, step)))
            case ast.Call(func=ast.Name(id="device"), args=[], keywords=[*_]):
                return torch.device("cpu")  # everything is loaded there
            case ast.Attribute(value=ast.Name(id="torch"), attr=attribute):
                found = getattr(torch, attribute, None) if _IDENTIFIER.fullmatch(attribute) else None
                if isinstance(found, torch.dtype | torch.memory_format | torch.layout):
                    return found
        if isinstance(expression, ast.Call):
            return self.named_tuple(expression)
        raise CodeError(f"its source text has {ast.unparse(expression)[:80]!r}")

    def named_tuple(self, call: ast.Call) -> Any:
        """``Outputs(logits = …, features = …)`` among arguments."""
        full = self.full_name(call.func)
        if full is None:
            raise CodeError(f"its source text has {ast.unparse(call)[:80]!r}")
        kind = self.find_tuple(full)
        if kind is None:
            raise CodeError(_UNKNOWN_CALL.format(full))
        args, kwargs = self.arguments(call)
        try:
            return kind(*args, **kwargs)
        except TypeError as error:
            raise CodeError(f"it makes a {kind.__name__} of other fields") from error

    def key(self, expression: ast.expr | None) -> str | int:
        if isinstance(expression, ast.Constant) and type(expression.value) in (str, int):
            return expression.value  # type: ignore[return-value]
        raise CodeError("its source text has a dict with computed keys")

    def full_name(self, expression: ast.expr) -> str | None:
        """The full name of a function that is written out, or None."""
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name) or expression.id == "self" or expression.id in self.values:
            return None
        return ".".join((self.imported.get(expression.id, expression.id), *reversed(parts)))

    # --- self ------------------------------------------------------------------------------------

    def path(self, expression: ast.expr) -> str | None:
        """The path below ``self`` that ``self.a.b`` and ``getattr(self.a, "0")`` name, or None."""
        parts: list[str] = []
        while True:
            match expression:
                case ast.Attribute(value=owner, attr=name):
                    expression = owner
                case ast.Call(
                    func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name))], keywords=[]
                ):
                    expression = owner
                case ast.Name(id="self") if parts:
                    return ".".join(reversed(parts))
                case _:
                    return None
            parts.append(name)

    def holder(self, path: str) -> tuple[nn.Module, str]:
        *folders, last = path.split(".")
        found: Any = self.root
        for part in folders:
            found = found._modules.get(part)
            if not isinstance(found, nn.Module):
                raise CodeError(f"it has no module {path!r}")
        return found, last

    def require_module(self, path: str) -> None:
        owner, name = self.holder(path)
        if not isinstance(owner._modules.get(name), nn.Module):
            raise CodeError(f"it has no module {path!r}")

    def require_attribute(self, path: str) -> None:
        owner, name = self.holder(path)
        value = owner._parameters.get(name, owner._buffers.get(name, owner.__dict__.get(name, _REFUSED)))
        is_plain = isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str)
        if not is_plain:
            raise CodeError(f"it has no parameter {path!r}")

    # --- nested arguments ------------------------------------------------------------------------

    def spec(self, expression: ast.expr) -> Any:
        path = self.path(expression)
        if path is None or path not in self.specs:
            raise CodeError("it has no description of its nested arguments")
        return self.specs[path]

    def unpack(self, names: list[str], value: ast.expr) -> None:
        """``x, y, = fx_pytree.tree_flatten_spec(([x, y], {}), self._in_spec)``, as tracing would see it."""
        match value:
            case ast.Call(func=function, args=[nested, spec], keywords=[]) if (
                ast.unparse(function) == _FLATTEN
            ):
                leaves = _flattened(tree_flatten_spec, self.value(nested), self.spec(spec))
            case _:
                raise CodeError(f"its source text has {ast.unparse(value)[:80]!r}")
        if len(leaves) != len(names):
            raise CodeError("it has another number of arguments than it says")
        self.values.update(zip(names, leaves, strict=True))

    def result(self, expression: ast.expr) -> Any:
        match expression:
            case ast.Call(func=function, args=[nested, spec], keywords=[]) if (
                ast.unparse(function) == _UNFLATTEN
            ):
                return _flattened(pytree.tree_unflatten, self.value(nested), self.spec(spec))
        return self.value(expression)


_REFUSED = object()
_UNKNOWN_CALL = (
    "it calls {}, which is no computation that is known here; if it is a class of yours, --allow it"
)
_SCALARS = (int, float, bool, str, type(None))


def _flattened(function: Callable[..., Any], nested: Any, spec: Any) -> Any:
    try:
        return function(nested, spec)
    except Exception as error:  # a description of the wrong shape fails with anything
        raise CodeError("its nested arguments do not fit their description") from error


def _type(annotation: ast.expr | None) -> Any:
    """The annotations that say something; others are comments."""
    return torch.Tensor if annotation is not None and ast.unparse(annotation) == "torch.Tensor" else None


def _is_release(statement: ast.Assign) -> bool:
    """``x = y = None`` lets go of values."""
    is_none = isinstance(statement.value, ast.Constant) and statement.value.value is None
    return is_none and all(isinstance(target, ast.Name) for target in statement.targets)


def _is_literal(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant) and type(expression.value) in _SCALARS
