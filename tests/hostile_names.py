"""Files with names, guards and samples that would become source text or objects, spelled many ways."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hostile import (
    PAYLOADS,
    Payload,
    Reduced,
    _member,
    call,
    edited_program,
    payload,
    saved,
    text,
    touch,
    write_zip,
)

Edit = Callable[[dict[str, Any], Path], None]


def injected(folder: Path, start: str, comment: str = "#") -> str:
    """Ends the quotes that torch.fx writes, and goes on with a statement of its own."""
    return f'{start}"); y = 1\r    getattr(__import__("os"), "system")("{touch(folder)}")\r    {comment}'


# --- pickled modules -----------------------------------------------------------------------------


def _head(rename: Callable[[nn.Module, Path], None]) -> Payload:
    def write(folder: Path) -> Path:
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        rename(model, folder)
        return saved(folder / "evil.pt", model)

    return write


def _as_child(spelling: Callable[[Path], str]) -> Payload:
    def rename(model: nn.Module, folder: Path) -> None:
        model._modules[spelling(folder)] = model._modules.pop("2")

    return _head(rename)


def _as_parameter(model: nn.Module, folder: Path) -> None:
    model._parameters[injected(folder, "w")] = nn.Parameter(torch.zeros(2))


def _as_buffer(model: nn.Module, folder: Path) -> None:
    model._buffers[injected(folder, "w")] = torch.zeros(2)


def _as_attribute(model: nn.Module, folder: Path) -> None:
    model.__dict__[injected(folder, "w")] = torch.zeros(2)


def _in_a_child(model: nn.Module, folder: Path) -> None:
    inner = nn.Sequential(nn.Linear(3, 2))
    inner._modules[injected(folder, "x")] = inner._modules.pop("0")
    model._modules["2"] = inner


PAYLOADS |= {
    "name_of_a_child": _as_child(lambda folder: injected(folder, "x")),
    "name_of_a_child_with_a_newline": _as_child(lambda folder: injected(folder, "x").replace("\r    ", "\n")),
    "name_of_a_child_with_a_form_feed": _as_child(lambda folder: injected(folder, "x\f")),
    "name_of_a_child_in_one_line": _as_child(
        lambda folder: f'x")(y) or getattr(__import__("os"), "system")("{touch(folder)}") or getattr(self, "1'
    ),
    "name_of_a_child_is_a_dunder": _as_child(lambda folder: "__class__"),
    "name_of_a_child_is_not_ascii": _as_child(lambda folder: "ﬁ"),
    "name_of_a_child_ends_in_a_newline": _as_child(lambda folder: "x\n"),
    "name_of_a_child_with_a_surrogate": _as_child(lambda folder: "x\ud800"),
    "name_of_a_grandchild": _head(_in_a_child),
    "name_of_a_parameter": _head(_as_parameter),
    "name_of_a_buffer": _head(_as_buffer),
    "name_of_an_attribute": _head(_as_attribute),
}


# --- saved GraphModules --------------------------------------------------------------------------


def _traced(change: Callable[[dict[str, Any], Path], None]) -> Payload:
    def write(folder: Path) -> Path:
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        traced = torch.fx.symbolic_trace(model)
        state = {key: value for key, value in traced.__dict__.items() if key != "_graph"}
        state["_code"] = traced.code
        change(state, folder)
        reduced = Reduced(torch.fx.graph_module.reduce_graph_module, state, "import torch\n")
        return saved(folder / "evil.pt", reduced)

    return write


def _graph_child(state: dict[str, Any], folder: Path) -> None:
    name = injected(folder, "x")
    modules = dict(state["_modules"])
    modules[name] = modules.pop("2")
    state["_modules"] = modules
    state["_code"] = state["_code"].replace('"2"', json.dumps(name))


def _graph_attribute(state: dict[str, Any], folder: Path) -> None:
    name = injected(folder, "x")
    state[name] = torch.zeros(2)
    code = f"def forward(self, x):\n    y = getattr(self, {json.dumps(name)})\n    return y\n"
    state["_code"] = code


PAYLOADS |= {"graph_child_name": _traced(_graph_child), "graph_attribute_name": _traced(_graph_attribute)}


# --- programs --------------------------------------------------------------------------------------


def _edited(edit: Edit) -> Payload:
    """A program whose JSON was changed."""

    def write(folder: Path) -> Path:
        def change(members: dict[str, bytes]) -> None:
            name = _member(members, "models/model.json")
            data = json.loads(members[name])
            edit(data, folder)
            members[name] = json.dumps(data).encode()

        return edited_program(folder, change)

    return write


def _renamed(old: str, spelling: Callable[[Path], str]) -> Payload:
    """A program in which every text that is ``old`` is another, in the weights' list too."""

    def write(folder: Path) -> Path:
        def change(members: dict[str, bytes]) -> None:
            new = json.dumps(spelling(folder)).encode()
            for name in members:
                if name.endswith(".json"):
                    members[name] = members[name].replace(json.dumps(old).encode(), new)

        return edited_program(folder, change)

    return write


def _program_argument(folder: Path) -> str:
    return f"x=getattr(__import__('os'), 'system')('{touch(folder)}')"


def _forward_names(data: dict[str, Any], folder: Path) -> None:
    signature = data["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = [_program_argument(folder)]


def _keyword_key(data: dict[str, Any], folder: Path) -> None:
    """The keywords of ``in_spec`` become the names of arguments, and texts between quotation marks."""
    signature = data["graph_module"]["module_call_graph"][0]["signature"]
    key = f"x': __import__('os').system({touch(folder)!r}) or x, 'z"
    leaf = {"type": None, "context": None, "children_spec": []}
    args = {"type": "builtins.tuple", "context": "null", "children_spec": []}
    kwargs = {"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [leaf]}
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [args, kwargs]}
    signature["in_spec"], signature["forward_arg_names"] = json.dumps([1, tree]), None


def _first_node(data: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = data["graph_module"]["graph"]["nodes"][0]
    return node


def _node_name(data: dict[str, Any], folder: Path) -> None:
    _first_node(data)["name"] = f"y; __import__('os').system({touch(folder)!r}); z"


def _subgraph_name(data: dict[str, Any], folder: Path) -> None:
    empty = {
        "inputs": [], "outputs": [], "nodes": [], "tensor_values": {}, "sym_int_values": {},
        "sym_bool_values": {},
    }  # fmt: skip
    argument = {"as_graph": {"name": injected(folder, "g"), "graph": empty}}
    _first_node(data)["inputs"].append({"name": "", "arg": argument, "kind": 1})
    _first_node(data)["target"] = "torch.ops.higher_order.wrap_with_set_grad_enabled"


def _keyword_of_an_operator(data: dict[str, Any], folder: Path) -> None:
    node = _first_node(data)
    node["target"] = "torch.ops.higher_order.wrap_with_set_grad_enabled"
    name = f"x=__import__('os').system({touch(folder)!r}), z"
    node["inputs"].append({"name": name, "arg": {"as_int": 1}, "kind": 2})


def _input_is_a_text(data: dict[str, Any], folder: Path) -> None:
    """Torch writes the text of a constant input between quotation marks into a guard."""
    value = f"' or __import__('os').system({touch(folder)!r}) or '"
    module = data["graph_module"]
    module["graph"]["inputs"][-1] = {"as_string": value}
    module["signature"]["input_specs"][-1] = {"constant_input": {"name": "x", "value": {"as_string": value}}}


def _guard(spelling: Callable[[Path], str]) -> Payload:
    def edit(data: dict[str, Any], folder: Path) -> None:
        data["guards_code"] = [spelling(folder)]

    return _edited(edit)


def _quoted(folder: Path) -> str:
    """Ends the quotation marks of the message that torch makes of a guard."""
    return f'", __import__("os").system("{touch(folder)}"), "'


PAYLOADS |= {
    "program_argument_name": _edited(_forward_names),
    "program_keyword_key": _edited(_keyword_key),
    "program_node_name": _edited(_node_name),
    "program_subgraph_name": _edited(_subgraph_name),
    "program_operator_keyword": _edited(_keyword_of_an_operator),
    "program_input_is_a_text": _edited(_input_is_a_text),
    "program_input_name": _renamed("x", _program_argument),
    "program_input_name_is_a_keyword": _renamed("x", lambda folder: "lambda"),
    "program_value_name": _renamed(
        "conv2d", lambda folder: f"y\n    import os; os.system({touch(folder)!r})\n"
    ),
    "program_parameter_name": _renamed("fc.weight", lambda folder: injected(folder, "w")),
    "program_parameter_below_a_dunder": _renamed("fc.weight", lambda folder: "__class__.weight"),
    "program_parameter_in_place_of_forward": _renamed("fc.weight", lambda folder: "forward"),
    "program_guard_text": _guard(lambda folder: f"L['x'].size()[0] != '{_quoted(folder)}'"),
    "program_guard_key": _guard(lambda folder: f"L['x{_quoted(folder)}'].size()[0] != 7"),
    "program_guard_comment": _guard(lambda folder: "L['x'].size()[0] != 7 #\n, open('canary', 'w')"),
    "program_guard_call": _guard(lambda folder: "math.floor.__self__.inf == 1"),
    "program_guard_walrus": _guard(lambda folder: "(y := L['x'].size()[0]) == 2"),
    "program_guard_power": _guard(lambda folder: "L['x'].size()[0] ** 9 ** 9 != 7"),
    "program_guard_tower": _guard(lambda folder: "((((9 ** 16) ** 16) ** 16) ** 16) ** 16 != 7"),
}


# --- sample inputs -----------------------------------------------------------------------------------


def _sampled(content: Callable[[Path], bytes]) -> Payload:
    def write(folder: Path) -> Path:
        def change(members: dict[str, bytes]) -> None:
            inner = write_zip(
                folder / "inner.pt",
                {"m/data.pkl": b"\x80\x02" + content(folder) + b".", "m/byteorder": b"little"},
            )
            members[_member(members, "sample_inputs/model.pt")] = inner.read_bytes()
            inner.unlink()

        return edited_program(folder, change)

    return write


def _integer(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little")


def _with_a_state(folder: Path) -> bytes:
    """A module that is given a state by its own ``__setstate__``."""
    return b"ctorch.nn.modules.linear\nLinear\n)\x81}" + text("forward") + text(touch(folder)) + b"sb"


PAYLOADS |= {
    "program_samples_call_a_constructor": _sampled(
        lambda folder: b"ctorch.nn.modules.linear\nLinear\n(" + _integer(65536) + _integer(16384) + b"tR"
    ),
    "program_samples_have_a_state": _sampled(_with_a_state),
    "program_samples_call_timm": _sampled(
        lambda folder: call("timm.models._features_fx.FeatureGraphNet", text("x"), b")")
    ),
    "program_samples_are_a_module": _sampled(lambda folder: call("torch.nn.modules.activation.ReLU")),
    "program_samples_of_other_structure": _sampled(lambda folder: b")}" + text("k'") + b"K\x01s\x86"),
}


@payload
def program_samples_in_the_old_format(folder: Path) -> Path:
    def change(members: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save(((torch.zeros(2, 3, 8, 8),), {}), buffer, _use_new_zipfile_serialization=False)
        members[_member(members, "sample_inputs/model.pt")] = buffer.getvalue()

    return edited_program(folder, change)
