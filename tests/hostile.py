"""Files that try to run code, read elsewhere, or exhaust the machine; each with a canary.

A payload is a function that writes one file into a folder. What it tries to run creates ``canary`` in that
folder; the tests look for it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

Payload = Callable[[Path], Path]
PAYLOADS: dict[str, Payload] = {}
CANARY = "canary"


def payload(function: Payload) -> Payload:
    """Puts a payload on the list."""
    PAYLOADS[function.__name__] = function
    return function


# --- pickles by hand ---------------------------------------------------------------------------------


def text(value: str) -> bytes:
    """The instruction for a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(name: str, *args: bytes) -> bytes:
    """Instructions that call a global with arguments."""
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n(" + b"".join(args) + b"tR"


def touch(folder: Path) -> str:
    """A shell command that leaves the canary."""
    return f"touch {folder / CANARY}"


def code(folder: Path) -> str:
    """Python that leaves the canary."""
    return f"open({str(folder / CANARY)!r}, 'w').close()"


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def torch_zip(path: Path, instructions: bytes, **more: bytes) -> Path:
    """An archive as torch.save writes, with this pickle."""
    return write_zip(
        path,
        {
            "m/data.pkl": b"\x80\x02" + instructions + b".",
            "m/byteorder": b"little",
            "m/version": b"3\n",
            **more,
        },
    )


class Reduced:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.made = (function, args)

    def __reduce__(self) -> Any:
        return self.made


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def calling(name: str, argument: Callable[[Path], str]) -> Payload:
    def write(folder: Path) -> Path:
        return torch_zip(folder / "evil.pt", call(name, text(argument(folder))))

    return write


PAYLOADS |= {
    "os_system": calling("os.system", touch),
    "posix_system": calling("posix.system", touch),
    "subprocess_getoutput": calling("subprocess.getoutput", touch),
    "builtins_eval": calling("builtins.eval", code),
    "builtins_exec": calling("builtins.exec", code),
    "runpy": calling("runpy._run_code", code),
    "pydoc_locate": calling("pydoc.locate", lambda folder: "os.system"),
    "torch_load": calling("torch.load", lambda folder: str(folder / "other.pt")),
    "torch_hub": calling("torch.hub.load", lambda folder: str(folder)),
    "torch_jit_load": calling("torch.jit.load", lambda folder: str(folder / "other.pt")),
    "load_library": calling("torch.ops.load_library", lambda folder: str(folder / "evil.so")),
    "import_module": calling("importlib.import_module", lambda folder: "antigravity"),
    "dunder_import": calling("builtins.__import__", lambda folder: "antigravity"),
    "getattr_of_torch": calling("torch.serialization.os.system", touch),
    "numpy_memmap": calling("numpy.memmap", lambda folder: str(folder / CANARY)),
    "from_file": calling("torch.UntypedStorage.from_file", lambda folder: str(folder / CANARY)),
    "storage_from_file": calling("torch.storage.UntypedStorage.from_file", lambda folder: "/etc/passwd"),
}


@payload
def getattr_chain(folder: Path) -> Path:
    inner = b"cbuiltins\ngetattr\n(cos\npath\n" + text("os") + b"tR"
    return torch_zip(
        folder / "evil.pt",
        b"cbuiltins\ngetattr\n(" + inner + text("system") + b"tR" + text(touch(folder)) + b"\x85R",
    )


@payload
def reduce_in_a_state_dict(folder: Path) -> Path:
    return saved(
        folder / "evil.pth", {"fc.weight": torch.zeros(2, 2), "fc.bias": Reduced(os.system, touch(folder))}
    )


@payload
def reduce_in_an_optimizer_state(folder: Path) -> Path:
    weights = {"conv1.weight": Reduced(os.system, touch(folder)), "fc.bias": torch.zeros(3)}
    return saved(folder / "evil.ckpt", {"state_dict": weights, "epoch": 1})


@payload
def legacy_reduce(folder: Path) -> Path:
    value = Reduced(os.system, touch(folder))
    return saved(folder / "evil.pt", value, _use_new_zipfile_serialization=False)


@payload
def plain_pickle(folder: Path) -> Path:
    (folder / "evil.pt").write_bytes(pickle.dumps(Reduced(os.system, touch(folder))))
    return folder / "evil.pt"


@payload
def protocol_0(folder: Path) -> Path:
    (folder / "evil.pt").write_bytes(pickle.dumps(Reduced(os.system, touch(folder)), 0))
    return folder / "evil.pt"


@payload
def protocol_4_stack_global(folder: Path) -> Path:
    inner = pickle.dumps(Reduced(os.system, touch(folder)), 4)
    return write_zip(folder / "evil.pt", {"m/data.pkl": inner, "m/byteorder": b"little"})


@payload
def nested_pickle(folder: Path) -> Path:
    inner = pickle.dumps(Reduced(os.system, touch(folder)))
    return saved(folder / "evil.pt", Reduced(pickle.loads, inner))


@payload
def second_data_pkl(folder: Path) -> Path:
    """Python reads the last member of a name, torch's reader the first."""
    good = saved(folder / "good.pt", nn.Linear(2, 3))
    path = folder / "evil.pt"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        evil = b"\x80\x02" + call("os.system", text(touch(folder))) + b"."
        target.writestr("good/data.pkl", evil)
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in source.namelist():
                target.writestr(name, source.read(name))
    return path


@payload
def other_local_header(folder: Path) -> Path:
    """The directory says ``data.pkl``, the member itself something else."""
    path = saved(folder / "evil.pt", nn.Linear(2, 3))
    content = path.read_bytes().replace(b"data.pkl", b"evil.pkl", 1)
    path.write_bytes(content)
    return path


@payload
def unused_global(folder: Path) -> Path:
    """Named and thrown away again: the import alone would run a module."""
    Path(folder / "evil_module.py").write_text(code(folder))
    empty = torch_zip(folder / "evil.pt", b"cevil_module\nx\n0}")
    return empty


@payload
def module_state_is_a_call(folder: Path) -> Path:
    linear = nn.Linear(2, 3)
    linear.__dict__["extra"] = Reduced(os.system, touch(folder))
    return saved(folder / "evil.pt", linear)


def hostile_linear(folder: Path, **attributes: Any) -> Path:
    linear = nn.Linear(2, 3)
    linear.__dict__.update(attributes)
    return saved(folder / "evil.pt", linear)


@payload
def forward_is_replaced(folder: Path) -> Path:
    return hostile_linear(folder, forward=torch.nn.functional.relu)


@payload
def forward_is_a_module(folder: Path) -> Path:
    return hostile_linear(folder, forward=nn.ReLU())


@payload
def call_is_replaced(folder: Path) -> Path:
    return hostile_linear(folder, _call_impl=nn.ReLU())


@payload
def eval_is_replaced(folder: Path) -> Path:
    """``model.eval()`` would call a constructor."""
    return hostile_linear(folder, eval=nn.Linear)


@payload
def class_is_replaced(folder: Path) -> Path:
    linear = nn.Linear(2, 3)
    state = {**linear.__dict__, "__class__": nn.ReLU}
    made = b"ctorch.nn.modules.linear\nLinear\n)\x81"
    inner = io.BytesIO()
    pickle.Pickler(inner, 2).dump(
        {key: value for key, value in state.items() if key in ("__class__", "training")}
    )
    return torch_zip(folder / "evil.pt", made + inner.getvalue()[2:-1] + b"b")


@payload
def forward_hook_is_a_class(folder: Path) -> Path:
    linear = nn.Linear(2, 3)
    linear._forward_hooks[0] = nn.ReLU  # type: ignore[assignment]
    return saved(folder / "evil.pt", linear)


@payload
def load_state_dict_hook(folder: Path) -> Path:
    linear = nn.Linear(2, 3)
    linear._load_state_dict_pre_hooks[0] = os.system  # type: ignore[assignment]
    return saved(folder / "evil.pt", linear)


@payload
def child_is_a_string(folder: Path) -> Path:
    linear = nn.Sequential(nn.Linear(2, 3))
    linear._modules["0"] = "os.system"  # type: ignore[assignment]
    return saved(folder / "evil.pt", linear)


@payload
def parameter_hook(folder: Path) -> Path:
    """A tensor with ``_backward_hooks``."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02tQ"
    hooks = b"ccollections\nOrderedDict\n)R(K\x00cos\nsystem\nu"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02\x85K\x01\x85\x89" + hooks + b"tR"
    )
    return torch_zip(folder / "evil.pth", b"}" + text("w") + tensor + b"s", **{"m/data/0": bytes(8)})


@payload
def setstate_of_a_user_class(folder: Path) -> Path:
    (folder / "theirs.py").write_text(
        f"class Evil:\n    def __setstate__(self, state):\n        {code(folder)}\n"
    )
    return torch_zip(folder / "evil.pt", b"ctheirs\nEvil\n)\x81}b")


@payload
def partial_of_a_function(folder: Path) -> Path:
    import functools

    return hostile_linear(folder, norm=functools.partial(os.system, touch(folder)))


@payload
def constructor_is_called(folder: Path) -> Path:
    """An allowed class, called: a terabyte of weights."""
    huge = b"\x8a\x08" + (1 << 40).to_bytes(8, "little")
    return torch_zip(folder / "evil.pt", b"ctorch.nn.modules.linear\nLinear\n(" + huge + huge + b"tR")


@payload
def tensor_beyond_its_storage(folder: Path) -> Path:
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00M\xff\x7f\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    return torch_zip(folder / "evil.pth", b"}" + text("w") + tensor + b"s", **{"m/data/0": bytes(8)})


@payload
def expanded_to_a_terabyte(folder: Path) -> Path:
    return saved(folder / "evil.pth", {"w": torch.zeros(1).expand(1 << 20, 1 << 20)})


@payload
def storage_outside_the_archive(folder: Path) -> Path:
    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("../../../etc/passwd")
        + text("cpu")
        + b"K\x02tQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    return torch_zip(folder / "evil.pth", b"}" + text("w") + tensor + b"s")


@payload
def deep_recursion(folder: Path) -> Path:
    return torch_zip(folder / "evil.pt", b"]" * 200_000 + b"a" * 199_999)


@payload
def deep_tuples_in_a_checkpoint(folder: Path) -> Path:
    return torch_zip(folder / "evil.pt", b"}" + text("state_dict") + b")" + b"\x85" * 200_000 + b"s")


@payload
def list_that_contains_itself(folder: Path) -> Path:
    linear = nn.Linear(2, 3)
    loop: list[Any] = []
    loop.append(loop)
    linear.__dict__["loop"] = loop
    return saved(folder / "evil.pt", linear)


@payload
def doubling_memo(folder: Path) -> Path:
    """2^200 elements to whoever walks it without remembering."""
    lines = b"](K\x00K\x00eq\x00" + b"".join(
        b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200)
    )
    return torch_zip(folder / "evil.pt", lines)


@payload
def huge_integer(folder: Path) -> Path:
    return torch_zip(folder / "evil.pt", b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\xff")


@payload
def huge_string_in_a_legacy_file(folder: Path) -> Path:
    good = saved(folder / "good.pt", nn.Linear(2, 3), _use_new_zipfile_serialization=False).read_bytes()
    (folder / "evil.pt").write_bytes(good[:60] + b"\x8d" + struct.pack("<Q", 1 << 40) + good[60:])
    return folder / "evil.pt"


# --- archives ----------------------------------------------------------------------------------------


@payload
def path_traversal(folder: Path) -> Path:
    return torch_zip(folder / "evil.pt", b"}", **{"m/../../canary": b"x"})


@payload
def absolute_member(folder: Path) -> Path:
    return torch_zip(folder / "evil.pt", b"}", **{str(folder / CANARY): b"x"})


@payload
def zip_bomb(folder: Path) -> Path:
    return write_zip(folder / "evil.pt", {"m/data.pkl": b"]" * (1 << 24)}, zipfile.ZIP_DEFLATED)


@payload
def overlapping_members(folder: Path) -> Path:
    """Many entries of the directory share one member's bytes."""
    path = write_zip(
        folder / "evil.pt", {"m/data.pkl": b"\x80\x02}.", **{f"m/data/{i}": b"x" * 99 for i in range(9)}}
    )
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[1].header_offset
        for info in archive.infolist()[1:]:
            info.header_offset = first
        archive._didModify = True  # type: ignore[attr-defined]
    return path


# --- GraphModules ------------------------------------------------------------------------------------


def graph_module(
    folder: Path, body: str, signature: str = "def forward(self, x):", imports: str = "import torch\n"
) -> Path:
    """A pickled GraphModule with source text of the attacker's own."""
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)))
    state = {key: value for key, value in traced.__dict__.items() if key != "_graph"}
    state["_code"] = f"{signature}\n    {body}\n    return x\n"
    return saved(folder / "evil.pt", Reduced(torch.fx.graph_module.reduce_graph_module, state, imports))


SOURCES = {
    "class_chain": "x = ().__class__.__base__.__subclasses__()",
    "fstring": 'x = f\'{__import__("os").system("CMD")}\'',
    "lambda": "x = (lambda: CODE)()",
    "comprehension": "x = [y for y in [CODE]]",
    "import_statement": "import os; x = os.system('CMD')",
    "from_import": "from os import system; x = system('CMD')",
    "hub": "x = torch.hub.load('DIR', 'canary')",
    "load": "x = torch.load('DIR/other.pt')",
    "save": "y = torch.save(x, 'DIR/canary')",
    "ops_save": "y = torch.ops.aten.save.default(x, 'DIR/canary')",
    "from_file": "y = torch.from_file('DIR/canary', True, 10)",
    "ops_from_file": "y = torch.ops.aten.from_file.default('DIR/canary', True, 10)",
    "load_library": "y = torch.ops.load_library('DIR/evil.so')",
    "getattr": "y = getattr(torch, 'load')('DIR/other.pt')",
    "getitem_of_a_dunder": "y = x.__class__['__globals__']",
    "method_tofile": "y = x.numpy().tofile('DIR/canary')",
    "apply": "y = x.apply_(torch.load)",
    "function_as_argument": "y = torch.nn.functional.relu(torch.load)",
    "dunder_method": "y = x.__reduce_ex__(2)",
    "self_attribute": "y = self.__class__(x)",
    "self_method": "y = self.load_state_dict(x)",
    "walrus": "y = (z := CODE)",
    "assert": "assert CODE",
    "while": "while True: pass",
    "decorated": "@CODE\n    def f(): pass",
    "eval": 'y = eval("CODE2")',
    "exec": 'exec("CODE2")',
    "operator_call": "y = operator.call(torch.load, 'DIR/other.pt')",
    "attrgetter": "y = operator.attrgetter('load')(torch)",
    "torch_os": "y = torch.os.system('CMD')",
    "compile": "y = torch.compile(x)",
    "starred": "y = torch.relu(*CODE)",
    "power_tower": "y = 9 ** 9 ** 9",
    "deep": "y = " + "(" * 500 + "x" + ",)" * 500,
}


def _source(body: str) -> Payload:
    def write(folder: Path) -> Path:
        filled = body.replace("CODE2", code(folder).replace('"', "'")).replace("CODE", code(folder))
        return graph_module(folder, filled.replace("CMD", touch(folder)).replace("DIR", str(folder)))

    return write


PAYLOADS |= {f"graph_{name}": _source(body) for name, body in SOURCES.items()}


@payload
def graph_default_argument(folder: Path) -> Path:
    return graph_module(folder, "pass", f"def forward(self, x={code(folder)}):")


@payload
def graph_annotation(folder: Path) -> Path:
    return graph_module(folder, "y = torch.load(x)", f"def forward(self, x: {code(folder)}):")


@payload
def graph_decorator(folder: Path) -> Path:
    return graph_module(folder, "pass", f"@{code(folder)}\ndef forward(self, x):")


@payload
def graph_second_statement(folder: Path) -> Path:
    return graph_module(folder, "pass", f"{code(folder)}\ndef forward(self, x):")


@payload
def graph_import_block(folder: Path) -> Path:
    return graph_module(folder, "y = torch.load(x)", imports=f"import torch\n{code(folder)}\n")


@payload
def graph_import_renamed(folder: Path) -> Path:
    body = f"y = relu({touch(folder)!r})"
    return graph_module(folder, body, imports="from os import system as relu\n")


@payload
def graph_name_shadows_torch(folder: Path) -> Path:
    body = f"y = torch.relu({touch(folder)!r})"
    return graph_module(folder, body, imports="from os import path as torch\n")


@payload
def graph_tracer_runs_code(folder: Path) -> Path:
    state: dict[str, Any] = {"_code": "def forward(self, x):\n    return x\n", "_tracer_cls": os.system}
    return saved(folder / "evil.pt", Reduced(torch.fx.graph_module.reduce_graph_module, state, ""))


@payload
def package_graph_module(folder: Path) -> Path:
    value = Reduced(torch.fx.graph_module.reduce_package_graph_module, None, {}, "evil_module")
    return saved(folder / "evil.pt", value)


# --- programs ----------------------------------------------------------------------------------------


class Net(nn.Module):
    """A head, to be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(self.conv(x), 1), 1))  # type: ignore[no-any-return]


def program() -> bytes:
    """A program as torch.export.save writes it."""
    buffer = io.BytesIO()
    exported = torch.export.export(Net().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: Dim("b")},))
    torch.export.save(exported, buffer)
    return buffer.getvalue()


_PROGRAM: list[bytes] = []


def edited_program(folder: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """A program with members that an attacker changed; the checksums are right."""
    if not _PROGRAM:
        _PROGRAM.append(program())
    with zipfile.ZipFile(io.BytesIO(_PROGRAM[0])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    return write_zip(folder / "evil.pt2", members)


def replacing(old: str, new: Callable[[Path], str]) -> Payload:
    def write(folder: Path) -> Path:
        def edit(members: dict[str, bytes]) -> None:
            (name,) = (name for name in members if name.endswith("models/model.json"))
            content = members[name].decode()
            assert old in content
            members[name] = content.replace(old, json.dumps(new(folder))[1:-1]).encode()

        return edited_program(folder, edit)

    return write


def _member(members: dict[str, bytes], end: str) -> str:
    return next(name for name in members if name.endswith(end))


_SIZE = "Symbol('s77', positive=True, integer=True)"
PAYLOADS |= {
    "program_size_is_code": replacing(_SIZE, lambda folder: f"__import__('os').system({touch(folder)!r})"),
    "program_size_is_attribute": replacing(_SIZE, lambda folder: "Symbol('s0').__class__.__base__"),
    "program_size_is_a_string": replacing(_SIZE, lambda folder: f"sympify({code(folder)!r})"),
    "program_size_never_ends": replacing(_SIZE, lambda folder: "9**9**9**9"),
    "program_size_is_lambda": replacing(_SIZE, lambda folder: f"(lambda: {code(folder)})()"),
    "program_calls_save": replacing(
        "torch.ops.aten.conv2d.default", lambda folder: "torch.ops.aten.save.default"
    ),
    "program_calls_from_file": replacing(
        "torch.ops.aten.conv2d.default", lambda folder: "torch.ops.aten.from_file.default"
    ),
    "program_calls_load": replacing("torch.ops.aten.conv2d.default", lambda folder: "torch.load"),
    "program_calls_hub": replacing("torch.ops.aten.conv2d.default", lambda folder: "torch.hub.load"),
    "program_calls_a_library": replacing(
        "torch.ops.aten.conv2d.default", lambda folder: "torch.ops.load_library"
    ),
    "program_calls_methodcaller": replacing(
        "torch.ops.aten.conv2d.default", lambda folder: "_operator.methodcaller"
    ),
    "program_calls_call": replacing("torch.ops.aten.conv2d.default", lambda folder: "_operator.call"),
}


@payload
def program_guard(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "models/model.json")
        data = json.loads(members[name])
        data["guards_code"] = [f"{code(folder)} is not None"]
        members[name] = json.dumps(data).encode()

    return edited_program(folder, edit)


@payload
def program_tree_imports(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "models/model.json")
        data = json.loads(members[name])
        context = {"default_factory_module": "evil_module", "default_factory_name": "x", "dict_context": []}
        tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}
        data["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])
        members[name] = json.dumps(data).encode()

    (folder / "evil_module.py").write_text(code(folder))
    return edited_program(folder, edit)


@payload
def program_enum_imports(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "models/model.json")
        data = json.loads(members[name])
        context = json.dumps([{"__enum__": True, "fqn": "evil_module:x", "name": "y"}])
        tree = {"type": "builtins.dict", "context": context, "children_spec": []}
        data["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, tree])
        members[name] = json.dumps(data).encode()

    (folder / "evil_module.py").write_text(code(folder))
    return edited_program(folder, edit)


def evil_bytes(folder: Path) -> bytes:
    """What torch.load would run."""
    buffer = io.BytesIO()
    torch.save(Reduced(os.system, touch(folder)), buffer)
    return buffer.getvalue()


@payload
def program_sample_inputs(folder: Path) -> Path:
    return edited_program(
        folder,
        lambda members: members.update({_member(members, "sample_inputs/model.pt"): evil_bytes(folder)}),
    )


@payload
def program_sample_inputs_in_other_letters(folder: Path) -> Path:
    """Torch's reader ignores case where it looks for a member."""

    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "sample_inputs/model.pt")
        del members[name]
        members[name.replace("sample_inputs", "Sample_Inputs")] = evil_bytes(folder)

    return edited_program(folder, edit)


@payload
def program_with_two_of_a_name(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "models/model.json")
        evil = members[name].replace(_SIZE.encode(), f"__import__('os').system({touch(folder)!r})".encode())
        members[name.replace("models/", "Models/")] = evil

    return edited_program(folder, edit)


@payload
def program_beside_its_folder(folder: Path) -> Path:
    """A member outside of the one folder, so that nobody but torch takes that folder off the names."""

    def edit(members: dict[str, bytes]) -> None:
        members[_member(members, "sample_inputs/model.pt")] = evil_bytes(folder)
        members["archive_format"] = b"pt2"

    return edited_program(folder, edit)


@payload
def program_pickled_weight(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "model_weights_config.json")
        data = json.loads(members[name])
        for entry in data["config"].values():
            entry["use_pickle"] = True
            members[name.replace("model_weights_config.json", entry["path_name"])] = evil_bytes(folder)
        members[name] = json.dumps(data).encode()

    return edited_program(folder, edit)


@payload
def program_old_weights(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "model_weights_config.json")
        members[name.replace("model_weights_config.json", "model.pt")] = evil_bytes(folder)

    return edited_program(folder, edit)


@payload
def program_custom_object(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        name = _member(members, "model_constants_config.json")
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        members[name] = json.dumps({"config": {"x": entry}}).encode()
        members[name.replace("model_constants_config.json", "opaque_obj_0")] = pickle.dumps(
            Reduced(os.system, touch(folder))
        )

    return edited_program(folder, edit)


@payload
def program_with_a_library(folder: Path) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        prefix = next(iter(members)).partition("/")[0]
        members[f"{prefix}/data/aotinductor/model/model.wrapper.so"] = b"\x7fELF"

    return edited_program(folder, edit)


@payload
def old_program_layout(folder: Path) -> Path:
    members = {
        "version": b"8.8",
        "serialized_exported_program.json": b"{}",
        "serialized_state_dict.pt": evil_bytes(folder),
        "serialized_constants.pt": evil_bytes(folder),
        "serialized_example_inputs.pt": evil_bytes(folder),
    }
    return write_zip(folder / "evil.pt2", members)


@payload
def torchscript(folder: Path) -> Path:
    source = b"def forward(self, x):\n  return torch.save(x, 'canary')\n"
    members = {"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02).", "m/code/__torch__.py": source}
    return write_zip(folder / "evil.pt", members)


# --- what lies beside a model ------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, str | None]:
    """Everything in a folder, links and pipes not followed."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        if path.is_file() and not path.is_symlink()
        else None
        for path in sorted(folder.rglob("*"))
    }


def identity(path: Path) -> list[int]:
    """What a manifest says of a file."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


def planted(folder: Path, kind: str) -> None:
    """Puts there what somebody may have packed with a model: thesis.txt is to go, or be what is elsewhere."""
    names = {"well named": f".fxhead-done-{'0' * 16}-{'0' * 64}", "link": ".fxhead-done-x"}
    staging = folder / names.get(kind, ".fxhead-x")
    staging.mkdir()
    (staging / "lock").touch()
    (folder / "thesis.txt").write_text("years of work")
    before = thesis = identity(folder / "thesis.txt")
    if kind == "link":
        (folder.parent / "elsewhere").mkdir()
        (folder.parent / "elsewhere" / "thesis.txt").write_text("evil")
        thesis = identity(folder.parent / "elsewhere" / "thesis.txt")
        (staging / "new").symlink_to(folder.parent / "elsewhere")
    else:
        (staging / "old").mkdir()
    files = {"thesis.txt": [thesis, before if kind == "link" else None]}
    if kind == "pipe":
        os.mkfifo(staging / "manifest.json")
    else:
        text = json.dumps({"thesis.txt": None, "files": files, "code": "0" * 64})
        (staging / "manifest.json").write_text(text)


# --- safetensors -------------------------------------------------------------------------------------


def safetensors(folder: Path, header: bytes, data: bytes = bytes(16), length: int | None = None) -> Path:
    path = folder / "evil.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def _entry(begin: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@payload
def safetensors_huge_header(folder: Path) -> Path:
    return safetensors(folder, b"{}", length=1 << 62)


@payload
def safetensors_offsets_outside(folder: Path) -> Path:
    return safetensors(folder, json.dumps({"w": _entry(0, 1 << 40, [1 << 38])}).encode())


@payload
def safetensors_negative_offsets(folder: Path) -> Path:
    return safetensors(folder, json.dumps({"w": _entry(-16, 0, [4])}).encode())


@payload
def safetensors_overlap(folder: Path) -> Path:
    return safetensors(folder, json.dumps({"a": _entry(0, 16, [4]), "b": _entry(0, 16, [4])}).encode())


@payload
def safetensors_overflowing_shape(folder: Path) -> Path:
    return safetensors(folder, json.dumps({"w": _entry(0, 16, [1 << 62, 1 << 62, 4])}).encode())


@payload
def safetensors_deep_header(folder: Path) -> Path:
    return safetensors(folder, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


if sys.platform == "win32":  # commands and paths here are a shell's
    PAYLOADS.clear()
