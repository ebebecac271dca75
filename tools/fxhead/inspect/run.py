"""``fxhead inspect``: every site and every miss; writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from fxhead.inputs.describe import describe, note_guess
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.shapes import find_shapes
from fxhead.loading.held import held
from fxhead.loading.load import Loading, load
from fxhead.outcome import ModelInfo, Outcome
from fxhead.rewriting.memory_lines import memory_lines
from fxhead.show.fitting_table import FittingTable
from fxhead.show.progress import Progress
from fxhead.show.tables import count_text, image_lines, miss_lines, model_line, trace_lines
from fxhead.source import Source, SourceKind
from fxpasses import find_sites
from fxpasses.errors import InputError
from fxpasses.report import Form, Scope, Site, Sites


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectOutcome(Outcome):
    """Result of ``fxhead inspect``."""

    command = "inspect"

    model: ModelInfo
    scope: str
    sites: Sites

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        found = self.sites
        yield model_line(self.model, with_container=True)
        yield from image_lines(self.model)
        if found.sites:
            yield ""
            yield _site_table(found.sites)
        if len(found.heads) > 1:
            yield ""
            names = ", ".join(f"{number} {escape(head.name)}" for number, head in enumerate(found.heads))
            yield f"heads: {names}"
        if found.memory is not None and found.memory.sites:
            yield ""
            yield from memory_lines(found.memory)
        yield from miss_lines(found.misses)
        yield from trace_lines(found.trace)
        yield ""
        yield f"{count_text(len(found.sites), 'site')}, {count_text(len(found.misses), 'miss', 'misses')}"

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return Outcome.to_dict(self) | self.sites.to_dict()


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


def _site_table(sites: Iterable[Site]) -> FittingTable:
    table = FittingTable("site", "scope", "now", "can become", "node", "source")
    for site in sites:
        other = site.linear if site.form == "conv" else site.conv
        if site.scope == "unfolded" and site.form == "conv":
            other = site.unfolded
        table.add(site.name, site.scope, site.now, other, site.node, site.source or "")
    return table
