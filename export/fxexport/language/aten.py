"""ATen graphs as terms: what ``torch.export`` records of a module, bound by the operators' own schemas."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from fxexport.language.aten_operators import OPERATORS
from fxexport.language.call import Call
from fxexport.language.composed import composed
from fxexport.language.constant_tensor import torch_value
from fxexport.language.extents import Extent, Polynomial, floor_divided, minus, plus, symbol, times
from fxexport.language.foreign import foreign
from fxexport.language.graph import NotRead
from fxexport.language.term import Origin, Terms, Uninterpreted, Value
from fxpasses.private_names import HigherOrderOperator, OpOverload, pytree

Tree = Any
"""A value, an extent, a Python constant, or a list or tuple of them."""

_SIZE = "aten.sym_size.int"
_SILENT = {
    "aten._assert_async.msg",
    "aten._assert_scalar.default",
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
}
"""What gives nothing and only refuses some inputs."""
_REGIONS = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}
"""Blocks that run a graph with other settings, and how many of these stand before it."""
_IS_CAST = 2
"""Which setting of autocast says whether it casts."""


class MustFunctionalise(Exception):
    """An operator changes a value in place that others may see through views."""


def loses_writes(graph: torch.fx.Graph) -> bool:
    """Whether torch loses a write where it makes a program functional: to a view that it takes for a copy.

    Or it copies first what a run overwrites while it copies: within one memory.
    """
    written = {memory for node in graph.nodes if _is_in_place(node) for memory in _memory(node)}
    views = (node for node in graph.nodes if _is_view(node) and not _says_view(node))
    is_lost = any(_memory(node) & written and str(node.target) not in _TAKEN_APART for node in views)
    # torch 2.11 copies what it passes on, in the recording alone
    is_copied = any(
        _memory(node) & written for node in graph.nodes if _passes_on(node) and not _is_view(node)
    )
    return is_lost or is_copied or any(map(_copies_within, graph.nodes))


def _copies_within(node: torch.fx.Node) -> bool:
    return str(node.target) == "aten.copy_.default" and bool(
        set.intersection(*(_memory(item) for item in node.all_input_nodes))
    )


def read_program(
    terms: Terms, program: ExportedProgram, inputs: Sequence[Value], prefix: str = ""
) -> list[Value]:
    """The user's outputs of a program over values of its tensor inputs.

    ``prefix`` is left out of what its parameters are called.

    Raises:
        NotRead: it changes its own state, or holds what is no tensor operator.
        MustFunctionalise: it changes values in place that have views.
    """
    reader = _Reader(terms, program, inputs, prefix)
    return reader.outputs()


class _Reader:
    """One walk over a program's nodes."""

    def __init__(self, terms: Terms, program: ExportedProgram, inputs: Sequence[Value], prefix: str) -> None:
        self._terms = terms
        self._program = program
        self._prefix = prefix
        self._env: dict[torch.fx.Node, Tree] = {}
        self._viewed: dict[torch.fx.Node, torch.fx.Node] = {}
        self._inputs = list(inputs)
        terms.sizes.clear()

    def outputs(self) -> list[Value]:
        self._bind_placeholders()
        self._walk(self._program.graph)
        self._terms.origin = None
        left = self._program.graph.output_node()
        found: list[Value] = []
        specs = self._program.graph_signature.output_specs
        for item, spec in zip(left.args[0], specs, strict=True):
            if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
                raise NotRead(f"a run changes {spec.target}")
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise NotRead(f"an output of kind {spec.kind.name}")
            value = self._env[item] if isinstance(item, torch.fx.Node) else item
            if isinstance(value, Value):
                found.append(value)
            elif value is not None:
                raise NotRead("an output that is no tensor")
        return found

    def _walk(self, graph: torch.fx.Graph, *, is_own: bool = True) -> None:
        """Reads the nodes; those of a definition, not the program's own, are told as what they define."""
        for node in graph.nodes:
            if node.op == "call_function":
                if is_own:
                    self._terms.origin = Origin(
                        operator=_name(node),
                        node=node.name,
                        module=_module_of(node).removeprefix(self._prefix)[:-1],
                    )
                self._env[node] = self._called(node)
            elif node.op == "get_attr":
                self._env[node] = self._attribute(node)

    def _bind_placeholders(self) -> None:
        left = iter(self._inputs)
        nodes = {node.name: node for node in self._program.graph.nodes if node.op == "placeholder"}
        for spec in self._program.graph_signature.input_specs:
            node = nodes[spec.arg.name]
            name = (spec.target or node.name).removeprefix(self._prefix)
            kind = "constant" if spec.kind is InputKind.CONSTANT_TENSOR else "parameter"
            self._terms.origin = Origin(operator=kind, node=name)
            if spec.kind is InputKind.USER_INPUT:
                value = next(left)
                sizes = zip(node.meta["val"].shape, value.shape, strict=True)
                self._terms.sizes.update(
                    {str(own): extent for own, extent in sizes if isinstance(own, torch.SymInt)}
                )
                self._env[node] = value
                continue
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self._env[node] = torch_value(self._terms, self._stored(spec))
                continue
            raise NotRead(f"an input of kind {spec.kind.name}")

    def _stored(self, spec: Any) -> torch.Tensor:
        target = spec.target
        found = self._program.state_dict.get(target, self._program.constants.get(target))
        if not isinstance(found, torch.Tensor):
            raise NotRead(f"no tensor {target}")
        return found

    def _attribute(self, node: torch.fx.Node) -> Tree:
        found: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return torch_value(self._terms, found) if isinstance(found, torch.Tensor) else found

    def _called(self, node: torch.fx.Node) -> Tree:
        if isinstance(node.target, OpOverload):
            return self._overload(node, node.target)
        if isinstance(node.target, HigherOrderOperator):
            return self._region(node)
        arguments = [self._tree(item) for item in node.args]
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        if node.kwargs or not all(isinstance(item, int | Polynomial) for item in arguments):
            raise NotRead(f"{_name(node)} is no tensor operator")
        return _sized(getattr(node.target, "__name__", str(node.target)), arguments)

    def _region(self, node: torch.fx.Node) -> list[Tree]:
        """What a block gives whose settings change no value: gradients, or autocast that is off.

        Raises:
            NotRead: it is another one, or changes values in place.
        """
        count = _REGIONS.get(_name(node))
        if count is None or (count > _IS_CAST and node.args[_IS_CAST] is not False):
            raise NotRead(f"{_name(node)} is no tensor operator")
        graph, *given = map(self._tree, node.args[count:])
        inner = graph.graph
        if any(map(_is_in_place, inner.nodes)):
            raise NotRead(f"{_name(node)} changes a value in place")
        self._env.update(zip(inner.find_nodes(op="placeholder"), given, strict=True))
        self._walk(inner)
        return [self._tree(item) for item in inner.output_node().args[0]]

    def _overload(self, node: torch.fx.Node, target: OpOverload) -> Tree:
        if str(target) in _SILENT:
            return None
        if str(target) == _SIZE:
            value, dim = (self._tree(item) for item in node.args)
            return value.shape[dim]
        named = {name: self._tree(item) for name, item in node.kwargs.items()}
        arguments = bound(target._schema, [self._tree(a) for a in node.args], named)
        written = [item.name for item in target._schema.arguments if _is_written(item)]
        if written:
            return self._in_place(node, target, arguments, written)
        expected = node.meta.get("val")
        found = understood(self._terms, target, arguments, expected, _read_places(node))
        if found is None:
            found = self._composed(node)
        if found is None:
            found = _foreign(self._terms, target, arguments, expected)
        self._note_view(node, found)
        return found

    def _composed(self, node: torch.fx.Node) -> Tree | None:
        """What torch's own definition of a call gives; None for operators that it defines by no others."""
        graph = composed(node)
        if graph is None:
            return None
        given = (
            self._tree(leaf)
            for leaf in pytree.tree_leaves((node.args, dict(node.kwargs)))
            if isinstance(leaf, torch.fx.Node)
        )
        self._env.update(zip(graph.find_nodes(op="placeholder"), given, strict=True))
        try:
            self._walk(graph, is_own=False)
        except (NotRead, MustFunctionalise):
            return None
        found = self._tree(graph.output_node().args[0])
        with contextlib.suppress(Uninterpreted):
            _require_fits(found, node.meta.get("val"), _read_places(node))
            return found
        return None

    def _note_view(self, node: torch.fx.Node, found: Tree) -> None:
        """Keeps of which node this one has every element once, in another order or shape."""
        read = [item for item in node.all_input_nodes if isinstance(self._env[item], Value)]
        if len(read) == 1 and isinstance(found, Value) and not _is_new(node):
            source = self._env[read[0]]
            if source.term is found.term and None not in (source.known_layout, found.known_layout):
                if times(*source.shape) == times(*found.shape):  # else some are repeated
                    self._viewed[node] = read[0]

    def _in_place(
        self,
        node: torch.fx.Node,
        target: OpOverload,
        arguments: Mapping[str, Tree],
        written: list[str],
    ) -> Tree:
        pure = _pure(target)
        changed = node.args[0] if node.args else None
        first = target._schema.arguments[0].name
        if pure is None or written != [first] or not isinstance(changed, torch.fx.Node):
            raise MustFunctionalise(str(target))
        before = self._env[changed]
        named = {
            pure._schema.arguments[0].name if name == first else name: own for name, own in arguments.items()
        }
        found = interpreted(self._terms, pure, named, node.meta.get("val"))
        if isinstance(before, Value) and isinstance(found, Value):
            if found.term is before.term and found.known_layout == before.known_layout:
                return found
            found = dataclasses.replace(found, contents=None)
        if not self._is_alone(changed, node):
            raise MustFunctionalise(str(target))
        self._env[changed] = found
        return found

    def _is_alone(self, changed: torch.fx.Node, writer: torch.fx.Node) -> bool:
        """Whether nobody but the node itself, or who reads it after the writer, sees what is written."""
        chain = changed
        while True:
            source = chain.args[0] if _is_in_place(chain) else self._viewed.get(chain)
            if not isinstance(source, torch.fx.Node):
                break
            if {user for user in source.users if str(user.target) != _SIZE} != {chain}:
                return False  # else it is known by this name alone
            chain = source
        is_new = _is_new(chain) and not _is_in_place(chain)
        return is_new and all(user is writer or _is_new(user) or writer < user for user in changed.users)

    def _tree(self, item: Any) -> Tree:
        if isinstance(item, torch.fx.Node):
            return self._env[item]
        if isinstance(item, list | tuple):
            return [self._tree(part) for part in item]
        if isinstance(item, torch.SymInt):
            raise NotRead("an extent outside of the graph")
        return item


def _read_places(node: torch.fx.Node) -> frozenset[int]:
    """Which results of a node with several are read."""
    return frozenset(user.args[1] for user in node.users if user.target is operator.getitem and user.users)  # type: ignore[misc]


def interpreted(
    terms: Terms,
    target: OpOverload,
    arguments: Mapping[str, Tree],
    expected: Any,
    read: frozenset[int] = frozenset(),
) -> Tree:
    """What an operator gives: a term of the language, or a foreign one; see ``understood``."""
    found = understood(terms, target, arguments, expected, read)
    return _foreign(terms, target, arguments, expected) if found is None else found


def understood(
    terms: Terms,
    target: OpOverload,
    arguments: Mapping[str, Tree],
    expected: Any,
    read: frozenset[int] = frozenset(),
) -> Tree | None:
    """What an operator gives, where the language has a rule for it; else None.

    Args:
        terms: the table.
        target: the operator.
        arguments: every argument of its schema by name.
        expected: what torch says that it gives: tensors of the right types and shapes.
        read: places of the results that are read, where there are several.
    """
    handler = OPERATORS.get(str(target))
    if handler is not None and target.namespace == "aten":
        defaults = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
        call = Call(terms, arguments, defaults, _types(expected))
        with contextlib.suppress(Uninterpreted):
            found = handler(call)
            call.require_read()
            _require_fits(found, expected, read)
            return found
    return None


_DRAWS_BY = ("train", "training", "dropout", "dropout_p")
"""Arguments of operators that draw random numbers (GRU, RReLU, attention): with any of them 0, none draws."""


def _foreign(terms: Terms, target: OpOverload, arguments: Mapping[str, Tree], expected: Any) -> Tree:
    operands: list[Value | None] = []
    attributes: list[Hashable] = []
    for name, item in arguments.items():
        attributes.append((name, _spelled(item, operands)))
    results = expected if isinstance(expected, tuple | list) else (expected,)
    kinds = []
    for item in results:
        if not isinstance(item, torch.Tensor):
            raise NotRead(f"{target} gives what is no tensor")
        dims = tuple(e if isinstance(e, int) else terms.sizes.get(str(e)) for e in item.shape)
        kinds.append((dtype_name(item.dtype), dims))
    is_off = any(isinstance(arguments.get(name), int | float) and not arguments[name] for name in _DRAWS_BY)
    is_random = torch.Tag.nondeterministic_seeded in target.tags and not is_off
    key = ("aten", str(target._schema), *attributes)
    if is_random and terms.origin is not None:
        terms.origin = dataclasses.replace(terms.origin, is_random=True)
    found = foreign(terms, key, operands, kinds, is_random=is_random)
    return found if isinstance(expected, tuple | list) else found[0]


def bound(schema: Any, args: Sequence[Tree], kwargs: Mapping[str, Tree]) -> dict[str, Tree]:
    """Every argument of a schema by name, defaults filled in.

    Raises:
        NotRead: one is missing or unknown.
    """
    found: dict[str, Tree] = {}
    names = [argument.name for argument in schema.arguments]
    if len(args) > len(names) or not set(kwargs) <= set(names):
        raise NotRead(f"{schema.name} has other arguments")
    for place, argument in enumerate(schema.arguments):
        if place < len(args):
            found[argument.name] = args[place]
        elif argument.name in kwargs:
            found[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
        else:
            raise NotRead(f"{schema.name} without {argument.name}")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The type's name: ``float32``."""
    return str(dtype).removeprefix("torch.")


def _name(node: torch.fx.Node) -> str:
    return (
        str(node.target)
        if isinstance(node.target, OpOverload)
        else getattr(node.target, "__name__", str(node.target))
    )


_SIZED: dict[str, Callable[[Extent, Extent], Extent]] = {
    "add": plus,
    "sub": minus,
    "mul": lambda a, b: times(a, b),
    "floordiv": lambda a, b: (
        floor_divided(a, b) if isinstance(b, int) and b > 0 else _unknown("floordiv", a, b)
    ),
}


def _unknown(name: str, *extents: Extent) -> Extent:
    return symbol(f"{name}({'; '.join(map(str, extents))})")


def _sized(name: str, arguments: Sequence[Extent]) -> Extent:
    """A Python operator on extents; one without a rule is a symbol of its own."""
    if name in _SIZED and len(arguments) == 2:
        return _SIZED[name](arguments[0], arguments[1])
    return times(-1, arguments[0]) if name == "neg" else _unknown(name, *arguments)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _pure(target: OpOverload) -> OpOverload | None:
    """The operator that gives what an in-place one writes: of the same arguments, by its schema."""
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    found = getattr(packet, target._overloadname, None) if packet is not None else None
    if found is None:
        return None
    sides = [[(a.name, str(a.type)) for a in op._schema.arguments] for op in (found, target)]
    (first, *own), (second, *other) = sides  # what is written may go by another name: dropout, dropout_
    return found if own == other and first[1] == second[1] else None


_TAKEN_APART = {"aten.alpha_dropout.default", "aten.dropout.default", "aten.feature_dropout.default"}
"""What gives what it is given, by no word of its schema, and is written out before torch looks for writes."""


def _is_new(node: torch.fx.Node) -> bool:
    """Whether no other value shares memory with the node's."""
    return node.op == "call_function" and not (_says_view(node) or _is_view(node) or _passes_on(node))


def _passes_on(node: torch.fx.Node) -> bool:
    """Whether it gives the very tensor that it is given, since nothing is dropped in evaluation."""
    return str(node.target) in _TAKEN_APART and node.args[-1] is False


def _says_view(node: torch.fx.Node) -> bool:
    """Whether the operator's schema says that it gives what it is given, or a view of it."""
    target = node.target
    return not isinstance(target, OpOverload) or any(item.alias_info for item in target._schema.returns)


def _is_view(node: torch.fx.Node) -> bool:
    """Whether torch's own run of the recording gave it memory that it was given, whatever its schema says."""
    return any(_memory(node) & _memory(read) for read in node.all_input_nodes)


def _memory(node: torch.fx.Node) -> set[int]:
    found = node.meta.get("val")
    items = found if isinstance(found, tuple | list) else (found,)
    tensors = (item for item in items if isinstance(item, torch.Tensor) and item.layout is torch.strided)
    return {item.untyped_storage()._cdata for item in tensors}  # a sparse one is no view


def _is_in_place(node: torch.fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    return any(_is_written(item) for item in node.target._schema.arguments)


def _types(expected: Any) -> list[str | None]:
    items = expected if isinstance(expected, tuple | list) else (expected,)
    return [dtype_name(item.dtype) if isinstance(item, torch.Tensor) else None for item in items]


def _require_fits(found: Any, expected: Any, read: frozenset[int]) -> None:
    """Nothing, if each result that is read has the type, rank and fixed extents that torch says."""
    items = found if isinstance(found, tuple | list) else (found,)
    wanted = expected if isinstance(expected, tuple | list) else (expected,)
    if len(items) != len(wanted):
        raise Uninterpreted("another number of results")
    for place, (item, tensor) in enumerate(zip(items, wanted, strict=True)):
        if item is None and place not in read:
            continue
        if not isinstance(item, Value) or not isinstance(tensor, torch.Tensor):
            raise Uninterpreted("no tensor")
        if item.dtype != dtype_name(tensor.dtype) or item.rank != tensor.dim():
            raise Uninterpreted("another type or rank")
        for extent, known in zip(item.shape, tensor.shape, strict=True):
            if isinstance(extent, int) and isinstance(known, int) and extent != known:
                raise Uninterpreted("another extent")


def _module_of(node: torch.fx.Node) -> str:
    """The module whose call made the node, with a dot behind it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return f"{stack[-1][0]}." if stack else ""


def _spelled(item: Tree, operands: list[Value | None]) -> Hashable:
    """An argument as part of a foreign operator's key; tensors become operands.

    Raises:
        NotRead: it is an object of which no value is known.
    """
    if isinstance(item, Value):
        operands.append(item)
        return ("operand", len(operands))
    if isinstance(item, list | tuple):
        return tuple(_spelled(part, operands) for part in item)
    if item is None or isinstance(item, bool | int | float | complex | str | Polynomial):
        return (type(item).__name__, repr(item))
    if isinstance(item, torch.dtype | torch.layout | torch.device | torch.memory_format):
        return (type(item).__name__, str(item))
    raise NotRead(f"an argument of type {type(item).__name__}")
