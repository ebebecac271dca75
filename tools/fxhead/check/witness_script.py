"""The script beside a witness: it shows the difference with torch, onnxruntime or onnx alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxexport.onnx_graph.evaluated import own_operators
from fxexport.providers import UNFUSED, UNPAIRED
from fxhead.show.visible import visible
from fxhead.source import Source, SourceKind

if TYPE_CHECKING:
    from fxexport import Witness

_ONNX = (
    "session = onnxruntime.InferenceSession({path!r}, options, providers=[{provider!r}], **without)\n"
    "{side} = session.run(None, {{key[{cut}:]: given[key] for key in given if key.startswith({prefix!r})}})"
)
_MODULE = (
    "inputs = [torch.from_numpy(given[key]) for key in given if key.startswith({prefix!r})]\n"
    "{side} = torch.utils._pytree.tree_leaves({model}(*inputs))"
)

_WIDE_ONNX = (
    "{side} = wide({path!r}).run("
    "None, {{key[{cut}:]: given[key] for key in given if key.startswith({prefix!r})}})"
)


def witness_script(
    witness: Witness, sources: Sequence[Source], paths: Sequence[str | None], npz: str, provider: str
) -> str | None:
    """The script's text; None for a model that no two lines load.

    ``paths`` are their files as seen from the script, None where they are no files; ``provider`` is ONNX
    Runtime's name.
    """
    sides = ("reference", "candidate")
    is_wide = witness.is_wide
    runs = [
        _run(source, path, side, provider, is_wide=is_wide)
        for source, path, side in zip(sources, paths, sides, strict=True)
    ]
    if None in runs:
        return None
    kinds = {source.kind is SourceKind.ONNX for source in sources}
    imports = ["import numpy", *(["import onnxruntime"] if True in kinds and not is_wide else [])]
    if True in kinds and is_wide:
        imports = [_FUTURE, *imports, *_wide(sources)]
    imports += [_TORCH] if False in kinds else []
    imports += [_OPTIONS] if True in kinds and not is_wide else []
    imports += [f"given = numpy.load({npz!r})", *([_WIDENED] if is_wide else [])]
    lines = [*imports, *(str(run) for run in runs)]
    if witness.output is None:
        lines.append('print("both ran")')
        return _text(f"{sources[1].text} does not run on what {sources[0].text} runs on", lines)
    (i, j), (row, column) = witness.positions, witness.index
    for side, position in (("reference", i), ("candidate", j)):
        rows = f"numpy.atleast_1d({side}[{position}])"
        lines.append(f"{side} = {rows}.reshape(len({rows}), -1)[{row}, {column}]")
    bound = "" if witness.bound is None else f"; rounding explains {witness.bound:.3g}"
    told = f"output {witness.output!r}, sample {row}, place {column}:"
    lines.append(f"print({told!r}, reference, 'and', f'{{candidate}}{bound}')")
    return _text(f"{sources[0].text} and {sources[1].text} on {witness.made}", lines)


def _wide(sources: Sequence[Source]) -> list[str]:
    """What evaluates files in float64, with the operators that onnx has in float32 alone."""
    files = [source.path for source in sources if source.kind is SourceKind.ONNX and source.path is not None]
    classes, own = own_operators(files)
    given = f", new_ops=[{', '.join(classes)}]" if classes else ""
    return [_ONNX_PARTS, *own, _WIDE.format(own=given)]


def _text(about: str, lines: Sequence[str]) -> str:
    """The lines below a comment: names of files and of outputs are text there, whatever is in them."""
    return "\n".join([f"# {visible(about)}", *lines, ""])


_OPTIONS = (
    "options = onnxruntime.SessionOptions(); options.add_session_config_entry({!r}, {!r}); "
    "without = dict(disabled_optimizers={!r})"
).format(*UNFUSED, [*UNPAIRED])
_ONNX_PARTS = "import math, onnx, onnx.numpy_helper, onnx.reference.op_run"
_WIDENED = 'given = {k: x.astype("float64") if x.dtype.kind == "f" else x for k, x in given.items()}'
_FUTURE = "from __future__ import annotations"
_WIDE = """\
def wide(path, short=(1, 10, 16), double=11):
    model = onnx.load(path)
    items = [item for node in model.graph.node for item in node.attribute]
    for held in (*model.graph.initializer, *(item.t for item in items if item.HasField("t"))):
        if held.data_type in short:
            array = onnx.numpy_helper.to_array(held).astype("float64")
            held.CopyFrom(onnx.numpy_helper.from_array(array, held.name))
    for cast in (item for item in items if item.name == "to" and item.i in short):
        cast.i = double
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in short:
            value.type.tensor_type.elem_type = double
    del model.graph.value_info[:]
    return onnx.reference.ReferenceEvaluator(model{own})"""
_TORCH = "import torch\ntorch.set_grad_enabled(False)"


def _run(source: Source, path: str | None, side: str, provider: str, *, is_wide: bool) -> str | None:
    prefix = f"{side}/"
    if source.kind is SourceKind.ONNX and path is not None and is_wide:
        return _WIDE_ONNX.format(path=path, side=side, prefix=prefix, cut=len(prefix))
    if source.kind is SourceKind.ONNX and path is not None:
        return _ONNX.format(path=path, side=side, prefix=prefix, cut=len(prefix), provider=provider)
    if source.kind is not SourceKind.FILE or path is None:
        return None
    is_program = Path(path).suffix.lower() == ".pt2"
    model = f"torch.export.load({path!r}).module()"
    if not is_program:
        model = f"torch.load({path!r}, weights_only=False, map_location='cpu').eval()"
    model = f"{model}.double()" if is_wide else model
    return _MODULE.format(model=model, side=side, prefix=prefix)
