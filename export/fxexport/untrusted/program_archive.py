"""A program's archive → what it is made of: the program itself, its tensors, its sample inputs.

``torch.export.load`` unpickles members of the archive, and reads it with a zip reader of its own. Neither
happens here: the JSON is read by its schema, pickles as plain data and tensors, raw weights from where they
lie in the file; and torch is handed the objects. So what else is in the archive does not matter.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from fxexport.untrusted.archive import ZIP_MAGIC, Archive, open_archive
from fxexport.untrusted.limits import MAX_PROGRAM_BYTES
from fxexport.untrusted.names import require_few_modules, shown, variable
from fxexport.untrusted.plain_json import read_plain_json
from fxexport.untrusted.plain_objects import PlainObjects
from fxexport.untrusted.private_names import TORCH_DTYPES, deserialize_device, schema
from fxexport.untrusted.program_schema import read_payloads, read_program
from fxexport.untrusted.refused import Refused
from fxexport.untrusted.tensors import ArchiveStorages, tensor
from fxexport.untrusted.torch_archives import pickle_of
from fxpasses.errors import FileError
from fxpasses.private_names import pytree

_VERSION = b"0"
_DEVICES = frozenset({"cpu", "cuda", "xpu", "mps"})
_MODEL = "models/model.json"
_OLD_MODEL = "serialized_exported_program.json"
_SAMPLES, _OLD_SAMPLES = "data/sample_inputs/model.pt", "serialized_example_inputs.pt"

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProgramParts:
    """What a program is made of.

    Attributes:
        weights: parameters and persistent buffers by name.
        constants: other tensors by name.
        samples: the arguments that it was exported with, or None.
    """

    program: schema.ExportedProgram
    weights: Tensors
    constants: Tensors
    samples: tuple[Any, ...] | None


def read_parts(archive: Archive) -> ProgramParts:
    """The parts of the program in the archive, each checked.

    Raises:
        Refused: one is not what ``torch.export.save`` writes for a program of tensors.
        FileError: a part is missing or damaged.
    """
    is_old = _OLD_MODEL in archive and _MODEL not in archive
    if not is_old and archive.read("archive_version") != _VERSION:
        raise Refused("has a layout of its own")
    if "byteorder" in archive and archive.read("byteorder") != b"little":
        raise Refused("was written on a big-endian machine")
    program = read_program(_json(archive, _OLD_MODEL if is_old else _MODEL))
    samples = _samples(archive, _OLD_SAMPLES if is_old else _SAMPLES, program)
    if is_old:
        weights, constants = (_pickled(archive, f"serialized_{part}") for part in ("state_dict", "constants"))
    else:
        weights, constants = (_tensors(archive, part) for part in ("weights", "constants"))
    parts = ProgramParts(program=program, weights=weights, constants=constants, samples=samples)
    _require_fit(parts)
    return parts


def _json(archive: Archive, name: str) -> Any:
    size = archive.member(name).size
    if size > MAX_PROGRAM_BYTES:
        raise Refused(f"has {size:,} bytes in {name}, more than the limit of {MAX_PROGRAM_BYTES:,}")
    try:
        return read_plain_json(archive.read(name).decode())
    except ValueError as error:
        raise FileError(
            f"is not a file that torch.export.save wrote, or is damaged ({name} is no JSON: {error})",
            where=archive.where,
            fix="save it again with torch.export.save(program, path)",
        ) from error


# --- tensors -------------------------------------------------------------------------------------


def _tensors(archive: Archive, part: str) -> Tensors:
    """The weights or the constants: raw bytes and a list of what they are, or one pickle in older files."""
    folder = f"data/{part}"
    if f"{folder}/model.pt" in archive:
        return _pickled(archive, f"{folder}/model")
    listed = read_payloads(_json(archive, f"{folder}/model_{part}_config.json")).config
    storages = ArchiveStorages(archive)
    return {name: _tensor(storages, folder, name, payload) for name, payload in listed.items()}


def _tensor(storages: ArchiveStorages, folder: str, name: str, payload: schema.PayloadMeta) -> torch.Tensor:
    member = f"{folder}/{payload.path_name}"
    if payload.use_pickle:
        pickled = _unpickled(storages.archive, member)
        if not isinstance(pickled, torch.Tensor):
            raise Refused(f"has something else than a tensor for {shown(name)}")
        return pickled
    meta = payload.tensor_meta
    if meta is None:
        raise Refused(f"has a tensor without a description for {shown(name)}")
    dtype = TORCH_DTYPES.get(meta.dtype)
    if dtype is None or meta.layout != schema.Layout.Strided:
        raise Refused(f"has a tensor of an unknown kind for {name}")
    size, stride = (tuple(map(_extent, extents)) for extents in (meta.sizes, meta.strides))
    made = tensor(storages.member(member), dtype, _extent(meta.storage_offset), size, stride)
    if meta.device.type not in _DEVICES:
        raise Refused(f"has a tensor on a device that holds none ({meta.device.type})")
    made = made.to(deserialize_device(meta.device))
    if payload.is_param:
        return nn.Parameter(made, requires_grad=meta.requires_grad)
    return made


def _extent(extent: schema.SymInt) -> int:
    if extent.type != "as_int":
        raise Refused("has a weight without a fixed size")
    return int(extent.value)


def _pickled(archive: Archive, stem: str) -> Tensors:
    name = next((name for name in (f"{stem}.pt", f"{stem}.json") if name in archive), f"{stem}.pt")
    found = _unpickled(archive, name)
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise Refused(f"has something else than tensors in {name}")
    return dict(found)


def _unpickled(archive: Archive, name: str) -> Any:
    """What ``torch.save`` wrote into a member, of plain data and tensors; an empty one is an empty dict."""
    content = archive.read(name)
    if not content:
        return {}
    if not content.startswith(ZIP_MAGIC):
        raise Refused(f"has a pickle in {name}")
    inner = open_archive(content, f"{archive.where} ({name})")
    inner.require_whole()
    return PlainObjects(ArchiveStorages(inner)).make(pickle_of(inner).root)


# --- sample inputs ---------------------------------------------------------------------------------


def _samples(archive: Archive, name: str, program: schema.ExportedProgram) -> tuple[Any, ...] | None:
    found = _unpickled(archive, name)
    if not found:
        return None
    is_call = type(found) is tuple and len(found) == 2
    if not is_call or type(found[0]) not in (tuple, list) or type(found[1]) is not dict:
        raise Refused(f"has something else than arguments in {name}")
    for keyword in found[1]:
        variable(keyword, "an argument")
    signature = program.graph_module.module_call_graph[0].signature if _has_call(program) else None
    if signature is not None:
        spec = pytree.treespec_loads(signature.in_spec)
        if pytree.tree_structure((tuple(found[0]), found[1])) != spec:
            raise Refused("has sample inputs of another structure than its inputs")
    return (tuple(found[0]), found[1])


def _has_call(program: schema.ExportedProgram) -> bool:
    return bool(program.graph_module.module_call_graph)


# --- what has to fit -------------------------------------------------------------------------------


def _require_fit(parts: ProgramParts) -> None:
    """Returns where the graph takes and returns what the signature says, and every weight is there."""
    module = parts.program.graph_module
    inputs, outputs = module.signature.input_specs, module.signature.output_specs
    if len(inputs) != len(module.graph.inputs) or len(outputs) != len(module.graph.outputs):
        raise Refused("has another number of inputs or outputs than it says")
    if not _has_call(parts.program) or module.module_call_graph[0].signature is None:
        raise Refused("does not describe its arguments")
    signature = module.module_call_graph[0].signature
    given = sum(spec.type in ("user_input", "constant_input") for spec in inputs)
    returned = sum(spec.type == "user_output" for spec in outputs)
    counts = tuple(pytree.treespec_loads(text).num_leaves for text in (signature.in_spec, signature.out_spec))
    if counts != (given, returned):
        raise Refused("has another number of arguments than it describes")
    _require_names(signature)
    require_few_modules((*parts.weights, *parts.constants))
    for spec in inputs:
        _require_tensor(parts, spec)


def _require_names(signature: schema.ModuleCallSignature) -> None:
    """Returns where every argument has one name, if they have names."""
    spec = pytree.treespec_loads(signature.in_spec)
    is_call = spec.type is tuple and spec.num_children == 2
    if not is_call or spec.child(0).type is not tuple or spec.child(1).type is not dict:
        raise Refused("takes something else than arguments and keywords")
    names = signature.forward_arg_names or ()
    count = spec.child(0).num_children + spec.child(1).num_children
    if names and (len({*names, "self"}) != count + 1 or len(names) != count):
        raise Refused("has another number of names than of arguments")


def _require_tensor(parts: ProgramParts, spec: schema.InputSpec) -> None:
    """Returns where the tensor of a parameter, buffer or constant is there and as the graph has it."""
    if spec.type == "parameter":
        name, held = spec.value.parameter_name, parts.weights
    elif spec.type == "buffer":
        name, held = spec.value.buffer_name, parts.weights if spec.value.persistent else parts.constants
    elif spec.type == "tensor_constant":
        name, held = spec.value.tensor_constant_name, parts.constants
    else:
        return
    found = held.get(name)
    if found is None:
        raise Refused(f"has no tensor for {name}")
    meta = parts.program.graph_module.graph.tensor_values.get(spec.value.arg.name)
    if meta is None or tuple(map(_extent, meta.sizes)) != tuple(found.shape):
        raise Refused(f"has a tensor of another size for {shown(name)}")
    if TORCH_DTYPES.get(meta.dtype) != found.dtype:
        raise Refused(f"has a tensor of another dtype for {shown(name)}")
