"""Module → ONNX: dynamic batch, stable names, canonical head, the opset asked for, same bytes again."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.export import ExportedProgram

from fxexport.language.recording import WholePools
from fxexport.to_onnx.dynamic_size import require_one_graph, require_open, require_same_below
from fxexport.to_onnx.example_call import ExampleCall, example_call, output_names
from fxexport.untrusted.archive import path_of_file
from fxexport.untrusted.programs import as_module, read_program
from fxpasses.api import model_of
from fxpasses.errors import ExportError, brief, first_line, telling
from fxpasses.fcn.native_size import native_size, require_native
from fxpasses.graph.quiet import quiet
from fxpasses.graph.tracing import calls_apart, tracing
from fxpasses.wall.marks import walled_for
from fxpasses.wall.wall import lowered

if TYPE_CHECKING:
    import onnx_ir as ir

BATCH_AXIS = "batch"
_SIZE_AXES = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
"""Names of the axes behind batch and channels, by rank."""
NATIVE_SIZE = "native_size"
"""Key of the file's metadata under which a fully convolutional head has its smallest input."""
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>")
"""How torch's exporter says it, deep below the error that it raises."""
_INLINE_LIMIT_BYTES = 2_000_000_000

ExampleInputs = torch.Tensor | Sequence[object] | Mapping[str, object]


def export_onnx(
    module: nn.Module | ExportedProgram | str | os.PathLike[str],
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    fold_norms: bool = False,
    opset: int | None = None,
) -> Path:
    """The path of the ONNX file written from ``module`` in evaluation mode.

    The batch axis is dynamic: the file runs at any batch size, one included. With ``dynamic_size`` so are
    height and width, as the forms ``dense`` and ``fcn`` want them. Inputs are named after the arguments of
    ``forward``; the output is ``logits`` if there is one tensor, else the keys of a dict, the fields of a
    named tuple, or ``output_0``, ``output_1``, … of a tuple or list (nested ones joined with ``_``; a None is
    left out). The map that a dense head gives beside its logits is ``map`` (``map_0``, … of several). The
    head is written as ``GlobalAveragePool → Conv → Flatten`` or ``GlobalAveragePool → Flatten → Gemm``. The
    same module gives the same bytes: nothing in the file tells of the time or the machine. The file appears
    whole or not at all; weights beyond 2 GB lie beside it in ``<name>.data``.

    Args:
        module: the model, or the result of a rewrite; parameters, buffers and training flags are left as they
            are. A program or the path of a ``.pt2`` file keeps its own dynamic and static axes.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping by argument name.
        path: the file to write; an existing one is replaced.
        dynamic_batch: whether axis 0 of the inputs is dynamic; else the example's batch size is fixed.
        dynamic_size: whether the axes behind the channels are dynamic too; else the example's are fixed.
        fold_norms: whether batch norms behind convolutions are multiplied into their weights, as torch's
            exporter does by itself; else they stay operators, and every weight is the model's own. Behind a
            head's own site they stay in any case: the head keeps its weights.
        opset: the opset of the file; None takes the exporter's default.

    Shapes:
        Axis 0 is the batch in every input tensor whose first extent equals that of the first tensor.
        An example of batch 1 is doubled for tracing, since tracing at 1 would fix it.

    Raises:
        SizeError: with ``dynamic_size``, no one graph is the model at every input size.
        ExportError: the model cannot be exported, its batch would be fixed, dropout would stay active, or
            the opset cannot be had.
        FileError: the file cannot be written.

    Source:
        ``torch.onnx.export(..., dynamo=True)``; rewriting with onnx-ir.
    """
    try:
        from fxexport.to_onnx.opset import check_opset, exporter_opset, require_opset
    except ImportError as error:
        raise ExportError(
            f"ONNX export needs {error.name}, which is not installed", fix="run pip install 'fxhead[cpu]'"
        ) from error
    from fxexport.to_onnx.canonical_head import canonicalize_head
    from fxexport.to_onnx.keep_batch_norms import head_norms, norms_apart
    from fxexport.to_onnx.recorded import at_sizes, shared_program, with_own_names

    module, target = model_of(module), path_of_file(path)
    check_opset(opset)
    with walled_for(module):
        given = module if isinstance(module, nn.Module | ExportedProgram) else read_program(module)
        runnable = as_module(given)
        native = native_size(given.graph_module if isinstance(given, ExportedProgram) else given)
        call = example_call(runnable, example_inputs, double=dynamic_batch and runnable is given)
        require_native(native, call.shapes(), target.name)
        with evaluation_mode(runnable), torch.no_grad(), _silent():
            is_plain = dynamic_batch and not (dynamic_size or fold_norms)
            shared = shared_program(runnable, call) if is_plain and runnable is given else None
            if isinstance(given, ExportedProgram):
                program = given
                if dynamic_size:
                    require_open(program, call, target.name)
            else:
                program = shared or _trace(
                    given, call, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size
                )
            with contextlib.nullcontext() if shared is None else at_sizes(shared, call):
                exported = _to_onnx(program, call, exporter_opset(opset), target.name)
            if shared is not None:
                with_own_names(exported.model)
            with norms_apart(exported.model, head_norms(program) if fold_norms else None):
                exported.optimize()
            model = exported.model
            _strip(model, dynamic_batch)
            if native is not None:
                model.metadata_props[NATIVE_SIZE] = "x".join(map(str, native))
            canonicalize_head(model)
            _require_inference(model, target)
            model = require_opset(model, opset)
            with lowered():
                with telling("cannot be written", where=target, fix="make room, or name another file"):
                    _write(model, target)
    return target


def record_ahead(module: nn.Module | ExportedProgram, example_inputs: ExampleInputs) -> None:
    """Records what ``export_onnx`` of a module records, where recordings are shared, and writes nothing."""
    from fxexport.to_onnx.recorded import shared_program

    runnable = as_module(module)
    if runnable is module:
        with evaluation_mode(runnable), torch.no_grad(), _silent():
            shared_program(runnable, example_call(runnable, example_inputs, double=True))


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within it every submodule is in evaluation mode; afterwards each has its own mode again.

    The flags are set one by one: ``module.eval()`` runs hooks that merge or change weights in some
    libraries, and the caller's module must come out as it went in. What ``module.compile()`` made is passed
    over, as ``torch.compile`` is looked through.
    """
    flags = [(part, part.training) for part in module.modules()]
    compiled = [(part, vars(part).pop("_compiled_call_impl", None)) for part, _ in flags]
    try:
        for part, _ in flags:
            part.training = False
        yield
    finally:
        for part, training in flags:
            part.training = training
        for part, implementation in compiled:
            if implementation is not None:
                part._compiled_call_impl = implementation


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within it torch's exporter prints, logs and warns nothing; what matters it raises."""
    sink = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sink),
        quiet("torch.onnx", "torch.export", "torch.fx", "torch._subclasses", "onnxscript", "onnx_ir"),
    ):
        warnings.simplefilter("ignore")
        yield


def _trace(
    module: nn.Module, call: ExampleCall, *, dynamic_batch: bool, dynamic_size: bool
) -> torch.export.ExportedProgram:
    from fxexport.to_onnx.private_names import UserError  # brings all of torch's compiler

    where = type(module).__name__
    batch = torch.export.Dim(BATCH_AXIS) if dynamic_batch else None
    # AUTO lets inputs share an extent; what it lets the model fix is told afterwards
    shapes = call.dynamic_shapes(module, batch, torch.export.Dim.AUTO if dynamic_size else None)
    traced = require_one_graph(module, call) if dynamic_size else call
    try:
        with tracing(module), calls_apart(module), WholePools() if dynamic_size else contextlib.nullcontext():
            program = torch.export.export(
                module, traced.args, traced.kwargs, dynamic_shapes=shapes, strict=False
            )
    except UserError as error:
        raise ExportError(
            f"the model cannot be traced with a dynamic batch ({first_line(error)})",
            where=where,
            fix="make forward take the batch size from x.size(0), or export with dynamic_batch=False",
        ) from error
    except Exception as error:
        # a class that forward returns; torch 2.11 says the latter
        is_record = any(text in str(error) for text in ("register a pytree", "unhashable"))
        fix = "call the model on the example inputs first, to see whether they fit it"
        raise ExportError(
            f"torch.export cannot trace the model ({brief(error)})",
            where=where,
            fix="give it torch.export.register_dataclass, or return a dict" if is_record else fix,
        ) from error
    if dynamic_size:
        require_same_below(module, traced, require_open(program, traced, where))
    return program


def _to_onnx(
    program: torch.export.ExportedProgram, call: ExampleCall, opset: int | None, where: str
) -> torch.onnx.ONNXProgram:
    """The program as the exporter writes it, before its optimiser."""
    from fxexport.to_onnx.translations import translations

    names = output_names(program)
    try:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=opset,
            input_names=list(call.names),
            output_names=list(names),
            custom_translation_table=dict(translations(program)),
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"torch.onnx cannot convert the model ({_reason(error)})",
            where=where,
            fix="replace the operator that it names by one that ONNX has, or give --no-onnx",
        ) from error
    except ImportError as error:  # each version of torch asks onnxscript for a module of its own
        raise ExportError(
            f"torch {torch.__version__} finds no onnxscript that fits it ({brief(error)})",
            fix="run pip install --upgrade onnxscript",
        ) from error
    if onnx_program is None:
        raise ExportError("torch.onnx.export returned no program", where=where, fix="update torch")
    return onnx_program


def _reason(error: BaseException) -> str:
    """The operator that has no counterpart, or the first line of what went wrong at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lacking = _NO_FUNCTION.search(str(error))
    return f"ONNX has no {lacking[1]}.{lacking[2]}" if lacking else brief(error)


def _strip(model: ir.Model, dynamic_batch: bool) -> None:
    """Removes what differs between machines and runs: stack traces, file paths, symbol numbers."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    names = _axis_names([value.shape for value in model.graph.inputs if value.shape], dynamic_batch)
    for value in _values(model):
        value.metadata_props.clear()
        if names and value.shape is not None:
            value.shape = _named(value.shape, names)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph.all_nodes():
        yield from node.outputs


def _axis_names(shapes: Sequence[ir.Shape], dynamic_batch: bool) -> Mapping[str, str]:
    """Names for torch's own symbols (``s77``) of the batch and of the inputs' sizes."""
    names: dict[str, str] = {}
    for shape in shapes:
        sizes = _SIZE_AXES.get(len(shape), tuple(f"size_{axis}" for axis in range(2, len(shape))))
        for dim, name in zip(shape, (BATCH_AXIS if dynamic_batch else "", "", *sizes), strict=False):
            if not isinstance(dim, int) and dim.value is not None and name:
                taken = sum(known.startswith(name) for known in names.values())
                names.setdefault(dim.value, f"{name}_{taken + 1}" if taken else name)
    return names


def _named(shape: ir.Shape, names: Mapping[str, str]) -> ir.Shape:
    """The shape with the symbols that have a name renamed; others are left unnamed."""
    import onnx_ir as ir

    return ir.Shape([dim if isinstance(dim, int) else names.get(str(dim.value)) for dim in shape])


def _require_inference(model: ir.Model, target: Path) -> None:
    """Nothing, if the graph has no active dropout left.

    Raises:
        ExportError: a Dropout node runs in training mode (tracing a model in training mode fixes it).
    """
    for node in model.graph.all_nodes():
        training = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
        if training is not None and (training.const_value is None or training.const_value.numpy().any()):
            raise ExportError(
                f"dropout stays active in node {node.name!r}",
                where=target.name,
                fix="trace or rewrite the model in evaluation mode (model.eval()) before exporting it; what "
                "drops in evaluation, too (Monte Carlo dropout), is no function of its input",
            )


def _write(model: ir.Model, target: Path) -> None:
    """Writes beside ``target`` and renames, so that a reader sees the old file or the whole new one."""
    import onnx_ir as ir

    target.parent.mkdir(parents=True, exist_ok=True)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    external = f"{target.name}.data" if size > _INLINE_LIMIT_BYTES else None
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        draft = Path(folder) / target.name
        ir.save(model, draft, external_data=external)
        if external is not None:
            os.replace(draft.with_name(external), target.with_name(external))
        os.replace(draft, target)
