"""``torch.export`` programs where a module is expected."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from fxexport.untrusted.archive import Archive, open_archive
from fxexport.untrusted.arithmetic import require_small_numbers
from fxexport.untrusted.refused import Refused
from fxexport.untrusted.torch_archives import is_compiled
from fxexport.untrusted.torch_archives import is_program as is_program_archive
from fxpasses.errors import FileError, InputError, brief
from fxpasses.graph.quiet import quiet
from fxpasses.graph.shapes import static_extent
from fxpasses.private_names import PyTreeCodeGen, pytree
from fxpasses.wall.wall import lowered

PROGRAM_SUFFIX = ".pt2"
_LOOKED_AT = 16
_RANGES = "range_constraints"


def as_module(source: nn.Module | ExportedProgram) -> nn.Module:
    """A program as a module that runs, on one tensor for each of its inputs; a module as it is.

    Inputs in a dict or a list, and those by keyword, are taken one by one, as an ONNX file takes them.
    """
    if not isinstance(source, ExportedProgram):
        return source
    spec = source.call_spec.in_spec
    is_flat = spec is None or spec == pytree.tree_structure(((0,) * spec.num_leaves, {}))
    try:
        with quiet_archive():
            module = source.module()
    except Exception as error:  # a program that anybody may have written, or edited
        raise InputError(
            f"the program cannot be made a module again ({brief(error)})",
            fix="export the model again",
        ) from error
    assert isinstance(module, GraphModule)
    module.meta[_RANGES] = {str(symbol): found for symbol, found in source.range_constraints.items()}
    return module if is_flat else _taking_leaves(module)


def _taking_leaves(module: GraphModule) -> nn.Module:
    names = [str(node.target) for node in module.graph.find_nodes(op="placeholder")]
    flat = pytree.tree_structure(((0,) * len(names), {}))
    codegen: Any = module.graph._codegen
    info = codegen.pytree_info._replace(orig_args=names, in_spec=flat)
    module.graph.set_codegen(PyTreeCodeGen(info))
    for hooks in (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs):
        hooks.clear()  # they know the nested inputs
    module.recompile()
    return module


def is_program(module: nn.Module) -> bool:
    """True for what ``as_module`` made of a program."""
    return isinstance(module, GraphModule) and _RANGES in module.meta


def is_program_path(source: object) -> bool:
    """True for the path of a ``.pt2`` file."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == PROGRAM_SUFFIX


def read_program(
    path: str | os.PathLike[str], *, archive: Archive | None = None, trust: bool = False
) -> ExportedProgram:
    """The program that ``torch.export.save`` wrote; nothing in the file is run.

    ``archive`` is the same file, opened and found whole already; ``trust`` lets torch read it unchecked,
    which runs whatever it says.

    Raises:
        FileError: there is no such file, it holds no program, is damaged, or holds what could run code.
    """
    where = str(path)
    try:
        with quiet_archive():
            return torch.export.load(path) if trust else _made(archive or _opened(Path(path)))
    except FileError:
        raise
    except Refused as error:
        raise FileError(
            f"is an exported program that {error}",
            where=where,
            fix="export the model again with torch.export.save; fxhead's --trust, as torch.export.load does, "
            "loads it and runs whatever it says",
        ) from error
    except Exception as error:  # a program of any age can fail with anything
        raise FileError(
            f"is not a file that torch.export.save wrote, or is damaged ({brief(error)})",
            where=where,
            fix="save it again with torch.export.save(program, path)",
        ) from error


def _made(archive: Archive) -> ExportedProgram:
    """The program, put together by torch of parts that were read here."""
    if is_compiled(archive):
        raise FileError(
            "is a program compiled by AOTInductor",
            where=archive.where,
            fix="give the program that it was compiled from",
        )
    if not is_program_archive(archive):
        raise FileError(
            "is not a file that torch.export.save wrote, or is damaged",
            where=archive.where,
            fix="save it again with torch.export.save(program, path)",
        )
    with lowered():  # torch's reader of programs is slow to import, and most files are none
        from fxexport.untrusted.private_names import ExportedProgramDeserializer
        from fxexport.untrusted.program_archive import read_parts

    parts = read_parts(archive)
    program = ExportedProgramDeserializer().deserialize(
        parts.program, parts.weights, parts.constants, parts.samples
    )
    assert isinstance(program, ExportedProgram)
    require_small_numbers(program.graph)
    return program


def _opened(path: Path) -> Archive:
    try:
        archive = open_archive(path, str(path))
    except OSError as error:
        what = (
            "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        )
        raise FileError(what, where=str(path), fix="give the path of a program that you may read") from error
    archive.require_whole()
    return archive


@contextlib.contextmanager
def quiet_archive() -> Iterator[None]:
    """Within it torch tells nothing of a program's file: it logs every format that it tried, and warns."""
    with quiet("torch.export", "torch._export"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that torch deprecates, which say nothing to a user
        yield


def fixed_batch(module: nn.Module) -> int | None:
    """The only batch size that an exported graph takes, or None where several do or nobody knows."""
    batch = _batch_of(module)
    return None if batch is None else static_extent(batch)


def batches_within(module: nn.Module, wanted: Sequence[int]) -> tuple[int, ...]:
    """As many batch sizes as ``wanted``, and those where the module takes them.

    An exported graph has a range of sizes, and may take its multiples alone (``2 * Dim("half")``).
    """
    batch = _batch_of(module)
    if not isinstance(batch, torch.SymInt) or static_extent(batch) is not None:
        return tuple(wanted)
    symbols, environment = list(batch.node.expr.free_symbols), batch.node.shape_env
    if len(symbols) != 1 or environment is None:
        return tuple(wanted)
    # the program knows the range that was declared; while tracing, one sample is no batch
    declared = module.meta.get(_RANGES, {}) if isinstance(module, GraphModule) else {}
    found = declared.get(str(symbols[0])) or environment.var_to_range.get(symbols[0])
    if found is None:
        return tuple(wanted)
    lower = max(int(found.lower), 1)
    upper = lower + _LOOKED_AT if found.upper > lower + _LOOKED_AT else int(found.upper)
    sizes = [int(batch.node.expr.subs(symbols[0], value)) for value in range(lower, upper + 1)]
    kept = [size for size in sizes if size in wanted]
    others = [size for size in sizes if size not in wanted and size > 0]
    return tuple(sorted(kept + others[: len(wanted) - len(kept)]))


def _batch_of(module: nn.Module) -> int | torch.SymInt | None:
    """The first extent of an exported graph's first input, or None."""
    graph = getattr(module, "graph", None)
    for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, torch.Tensor) and value.ndim:
            return value.shape[0]
    return None
