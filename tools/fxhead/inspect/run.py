"""``fxhead inspect``: every site and every miss; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fxhead.inputs.describe import describe, note_guess
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.shapes import find_shapes
from fxhead.inspect.outcome import InspectOutcome
from fxhead.loading.held import held
from fxhead.loading.load import Loading, load
from fxhead.outcome import ModelInfo
from fxhead.show.progress import Progress
from fxhead.source import Source, SourceKind
from fxpasses import find_sites
from fxpasses.errors import InputError
from fxpasses.report import Form, Scope


def run_inspect(
    source: Source,
    *,
    scope: Scope,
    way: str,
    to: Form | None,
    input_shapes: tuple[tuple[int, ...], ...],
    loading: Loading,
    progress: Progress,
) -> InspectOutcome:
    """The outcome: every site and every miss of the model, or those of a rewrite to one form.

    Raises:
        FxHeadError: the user can do something about it.
    """
    with held((source,), loading, progress.note, has_files=False):
        if source.kind is SourceKind.ONNX:
            return _inspect_onnx(source, scope, to, input_shapes, progress)
        with progress.step(f"loading {source.text}"):
            loaded = load(source, loading, progress.note)
        module = loaded.model
        shapes: InputShapes | None = None
        try:
            with progress.step("finding the input shape"):
                shapes = find_shapes(module, loading.built(source), input_shapes, loading.weights)
            note_guess(shapes, progress)
        except InputError as error:
            if input_shapes:
                raise
            progress.note(f"looking without an example input: {error}")
        with progress.step("finding sites"):
            examples = shapes.examples(2) if shapes else None
            sites = find_sites(module, scope=scope, example_inputs=examples, way=way, to=to)
        model = describe(source, module, shapes, loaded.container)
        return InspectOutcome(model=model, scope=str(scope), sites=sites)


def _inspect_onnx(
    source: Source, scope: Scope, to: Form | None, input_shapes: Sequence[Sequence[int]], progress: Progress
) -> InspectOutcome:
    from fxexport.onnx_dialect.rewrite import read_content, sites_of_content

    with progress.step(f"reading {source.text}"):
        content = read_content(Path(source.name))
    with progress.step("finding sites"):
        sites = sites_of_content(content, to, scope, input_shapes)
    model = ModelInfo(source=source, class_name="ONNX", parameters=None)
    return InspectOutcome(model=model, scope=str(scope), sites=sites)
