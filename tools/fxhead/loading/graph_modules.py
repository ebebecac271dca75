"""A saved GraphModule → the same GraphModule, without running the source text that it holds."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fxexport.untrusted import names
from fxexport.untrusted.allowed import LEAF_SPECS, TREE_SPEC, tree_type
from fxexport.untrusted.functions import find_function, is_attribute, is_method
from fxexport.untrusted.pickle_records import Global, Made, PickleError, PlainDict
from fxexport.untrusted.refused import Refused
from fxhead.loading.graph_code import read_graph
from fxhead.loading.objects import Objects
from fxpasses.engine import undo
from fxpasses.private_names import pytree
from fxpasses.vocabulary.writer import named_functions

_MAX_DEPTH = 20
# made anew with the graph, or only of use to whoever traced it
_DROPPED = frozenset(
    {
        "_code", "code", "_lineno_map", "_prologue_start", "_tracer_cls", "_tracer_extras", "_replace_hooks",
        "_create_node_hooks", "_erase_node_hooks", "_deepcopy_hooks", "shape_env", "_graphmodule_cls_name",
    }
)  # fmt: skip
_SPECS = ("_in_spec", "_out_spec")


def make_graph_module(objects: Objects, record: Made) -> GraphModule:
    """The GraphModule of a ``reduce_graph_module(body, imports)`` record.

    Raises:
        PickleError: the record or its source text holds anything but a graph and a tree of modules.
    """
    args = record.args
    plain = (
        isinstance(args, tuple)
        and len(args) == 2
        and not (record.is_instance or record.states or record.items)
    )
    if not plain or not isinstance(args[0], PlainDict) or not isinstance(args[1], str):
        raise PickleError("the pickle makes a GraphModule in a way that torch.fx does not")
    body = {key: value for key, value in args[0].pairs if isinstance(key, str)}
    code = body.get("_code", body.get("code"))
    if not isinstance(code, str):
        raise PickleError("the GraphModule has no source text")
    root = nn.Module()
    root.__dict__.update(_state(objects, body))
    specs = {name: _spec(body[name]) for name in _SPECS if name in body}
    try:
        graph = read_graph(code, args[1], root, specs, objects.allowed.find_tuple)
    except Refused as error:
        raise PickleError(f"the GraphModule cannot be read safely: {error}") from error
    module = GraphModule(root, graph, class_name="GraphModule")
    module.__dict__.update({name: value for name, value in root.__dict__.items() if name != "meta"})
    module.meta.update(root.__dict__.get("meta", {}))
    _keep_sound_records(module)
    return module


def _state(objects: Objects, body: dict[str, Any]) -> dict[str, Any]:
    kept = PlainDict()
    kept.pairs = [
        (name, value) for name, value in body.items() if name not in _DROPPED and name not in _SPECS
    ]
    state = objects.module_state(nn.Module, kept)
    return {name: value for name, value in state.items() if _is_data(value) or name.startswith("_")}


def _is_data(value: Any) -> bool:
    return isinstance(value, torch.Tensor | dict | list | tuple | str | int | float | bool | None)


def _spec(record: Any, depth: int = 0) -> pytree.TreeSpec:
    """A description of nested arguments: tuples, lists and dicts of leaves."""
    return pytree.treespec_loads(json.dumps([1, _spec_data(record, depth)]))


def _spec_data(record: Any, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH or not isinstance(record, Made):
        raise PickleError("the GraphModule describes its arguments in a way that torch does not")
    if record.function in LEAF_SPECS:
        return {"type": None, "context": None, "children_spec": []}
    state = record.states[0] if len(record.states) == 1 else None
    if isinstance(state, PlainDict):
        fields = dict(state.pairs)
        kind, context, children = (fields.get(name) for name in ("type", "_context", "_children"))
    elif isinstance(state, list) and len(state) >= 3:
        kind, context, children = state[:3]
    else:
        raise PickleError("the GraphModule describes its arguments in a way that torch does not")
    found = tree_type(kind) if isinstance(kind, Global) else None
    if record.function != TREE_SPEC or found is None or not isinstance(children, list):
        raise PickleError("the GraphModule describes its arguments in a way that torch does not")
    if found is dict:
        if not isinstance(context, list):
            raise PickleError("the GraphModule has a dict of arguments without keys")
        for key in context:
            if type(key) is not int:
                names.name(key, "an argument")
    return {
        "type": f"builtins.{found.__name__}",
        "context": json.dumps(context if found is dict else None),
        "children_spec": [_spec_data(child, depth + 1) for child in children],
    }


def _keep_sound_records(module: GraphModule) -> None:
    """Drops the records of earlier rewrites where one is not what fxpasses writes; they only save work."""
    data = module.__dict__.pop(undo.ATTRIBUTE, None)
    module.meta.pop(undo.ATTRIBUTE, None)
    try:
        records = tuple(undo.Record.from_data(entry) for entry in data or ())
        sound = all(_is_sound(record) for record in records)
    except (TypeError, KeyError, ValueError, AttributeError):
        return
    if sound and data is not None:
        undo.store(module, records)


def _is_sound(record: undo.Record) -> bool:
    """Whether every name can be one of a graph, and every value is of its kind; a name that cannot raises."""
    specs = (*record.before, *record.after)
    for name in (*record.sites, *record.inserted, *record.orders, *record.kernels, *record.extents):
        names.variable(name)
    for path in (*record.batch_norms, *record.conv_extras):
        names.path(path)
    numbers = [*record.batch_norms.values(), *record.native]
    for extents in (*record.kernels.values(), *record.extents.values()):
        numbers += extents
    settings = [value for extras in record.conv_extras.values() for value in extras.values()]
    return (
        all(map(_is_sound_spec, specs))
        and all(type(text) is str for text in record.orders.values())
        and all(type(number) is int for number in numbers)
        and all(_is_setting(value) for value in settings)
        and all(_is_sound_reader(reader) for reader in record.readers)
    )


def _is_sound_reader(reader: undo.Reader) -> bool:
    for name in (reader.name, reader.before, reader.after):
        names.variable(name)
    return type(reader.position) is int


def _is_sound_spec(spec: undo.Spec) -> bool:
    for name in (spec.name, *spec.inputs, *((spec.previous,) if spec.previous != "" else ())):
        names.variable(name)
    if not _is_origin(spec.origin):
        return False
    if spec.op in ("call_module", "get_attr"):
        names.member(spec.target)
    elif spec.op == "call_method":
        if not is_method(str(spec.target)):
            return False
    elif spec.op != "call_function" or (spec.target is not None and not _is_known(spec)):
        return False
    return spec.args is None or _is_encoded(spec.args)


def _is_origin(data: Any) -> bool:
    """Whether this is where a node came from, as fxpasses writes it down: names and a traceback's text."""

    def are_texts(value: Any) -> bool:
        return type(value) in (tuple, list) and all(type(part) is str for part in value)

    if type(data) is not dict or not data.keys() <= {"nn_module_stack", "stack_trace", "torch_fn"}:
        return False
    stack = data.get("nn_module_stack", {})
    return (
        type(data.get("stack_trace", "")) is str
        and are_texts(data.get("torch_fn", ()))
        and type(stack) is dict
        and are_texts([*stack])
        and all(are_texts(entry) for entry in stack.values())
    )


def _is_known(spec: undo.Spec) -> bool:
    target = str(spec.target)
    if target.startswith("aten."):
        return find_function(f"torch.ops.{target}") is not None
    if target == "getattr":
        ((_, (args, _)),) = spec.args.items()
        return is_attribute(args["tuple"][1]["value"])
    return target in named_functions()


def _is_encoded(data: Any, depth: int = 0) -> bool:
    """Whether this is an argument as fxpasses encodes it: the names of nodes and of dtypes, and constants."""
    if type(data) is not dict or len(data) != 1 or depth > _MAX_DEPTH:
        return False
    ((kind, content),) = data.items()
    if kind in ("node", "ellipsis", "value"):
        return content is None or type(content) in (str, int, float, bool)
    if kind == "dtype":
        return type(content) is str and isinstance(getattr(torch, content, None), torch.dtype)
    if kind == "dict":
        if type(content) is not dict:
            return False
        for key in content:
            names.variable(key)  # of keyword arguments, which become source text
        return all(_is_encoded(part, depth + 1) for part in content.values())
    is_list = kind in ("tuple", "list", "slice") and type(content) is list
    return is_list and all(_is_encoded(part, depth + 1) for part in content)


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(type(part) in (int, str) for part in value)
    return value is None or type(value) in (bool, int, float, str)
