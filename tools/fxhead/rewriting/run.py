"""``fxhead rewrite``: load, rewrite, export both forms, check, write all or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.export import ExportedProgram

from fxhead.check.outcome import Check, worst
from fxhead.files.publish import publish, staged
from fxhead.files.save import OutputNames, require_free, save_json, save_module
from fxhead.files.settle import settle
from fxhead.inputs.describe import describe, note_guess
from fxhead.inputs.input_shapes import InputShapes, ShapeOrigin
from fxhead.inputs.shapes import find_shapes
from fxhead.loading.held import held
from fxhead.loading.load import load, require_readable
from fxhead.outcome import WrittenFile
from fxhead.rewriting.both_forms import Graphs, take_graph
from fxhead.rewriting.memory_lines import memory_line
from fxhead.rewriting.options import RewriteOptions
from fxhead.rewriting.outcome import RewriteOutcome
from fxhead.show.progress import Notes, Progress
from fxhead.source import SourceKind
from fxpasses import find_sites
from fxpasses.errors import FxHeadError, InputError, SizeError
from fxpasses.report import Form, RewriteReport, Site
from fxpasses.wall.marks import tensors_of
from fxpasses.wall.wall import writing

if TYPE_CHECKING:
    from fxexport import Certificate
    from fxhead.check.artefact import ModelRecord, Recipe
    from fxhead.inputs.samples import Data

_TRACE_BATCH = 2
# from the original (0) to the module (1) and both ONNX files (2, 3); like is compared with like where that
# proves more
_CHAIN = ((0, 1), (0, 2), (2, 3))


def run_rewrite(options: RewriteOptions, progress: Progress) -> RewriteOutcome:
    """The outcome; its files are written when this returns, or none are.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    with held((options.source,), options.loading, progress.note, has_files=False):
        return _run(options, progress)


def _run(options: RewriteOptions, progress: Progress) -> RewriteOutcome:
    start = time.perf_counter()
    job = _Job(
        options=options,
        names=OutputNames.choose(options.source, options.to, options.out),
        progress=progress,
    )
    job.require_possible()
    providers = job.providers()
    with progress.step(f"loading {options.source.text}"):
        loaded = load(options.source, options.loading, progress.note)
    module = loaded.model
    shapes, graphs = job.rewrite(module)
    job, result = job.renamed(graphs), graphs.result
    if result.report.memory is not None:
        progress.note(memory_line(result.report.memory))
    checks: tuple[Check, ...] = ()
    made: _Made | None = None
    files: tuple[WrittenFile, ...] = ()
    if result.report.rewrites:
        with staged(job.names.folder) as staging:
            data = None
            if options.with_onnx and shapes is not None:
                from fxexport.language.recording import shared_recordings

                data = job.samples(graphs, shapes)
                with shared_recordings():
                    checks, made = job.export_and_check(graphs, shapes, data, staging, providers)
            if worst(checks) != "broken":
                files = job.write(graphs, module, data, checks, providers, made, staging)
    if not files:
        names = job.names
        files = options.beside.publish_alone(
            names.folder, names.stem, options.source.text, checks, result.report, force=options.force
        )
    return RewriteOutcome(
        model=describe(options.source, module, shapes, loaded.container),
        report=result.report,
        already=() if result.report.rewrites else job.already(graphs),
        checks=checks,
        files=files,
        seconds=time.perf_counter() - start,
        require=options.require,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What a background has made.

    Attributes:
        notes: what is to be told of it.
        records: of every model that it wrote: the rewritten module and its ONNX files.
        of_files: the certificate of two ONNX files, where there are two.
    """

    notes: list[str]
    records: tuple[ModelRecord, ...]
    of_files: Certificate | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run of ``fxhead rewrite``, step by step."""

    options: RewriteOptions
    names: OutputNames
    progress: Progress

    def require_possible(self) -> None:
        """Refuses before the long work starts what would be refused after it."""
        options = self.options
        if not options.with_check or options.link_data:
            option = "--link-data" if options.with_check else "--no-check"
            raise InputError("is for an ONNX file", where=option, fix="leave it out")
        about_files = options.providers is not None or options.opset is not None or options.fold_norms
        if not options.with_onnx and about_files:
            raise InputError(
                "--providers, --opset and --fold-norms are about ONNX files, and none are written",
                where="--no-onnx",
                fix="leave one or the other out",
            )
        if options.beside.attest and not options.with_onnx:
            raise InputError("there is no certificate", where="--attest", fix="leave out --no-onnx")
        if options.with_map and options.to is not Form.DENSE:
            raise InputError(f"the form {options.to} has no map", where="--with-map", fix="use --to dense")
        with writing(self.names.folder):
            settle(self.names.folder)
        if options.source.kind is SourceKind.FILE:
            require_readable(Path(options.source.name))
        inputs = [path for path in (options.source.path, options.loading.weights) if path is not None]
        require_free(
            self.names,
            map(Path, inputs),
            with_onnx=options.with_onnx,
            beside=options.beside.names(self.names.stem),
            force=options.force,
        )

    def is_named(self) -> bool:
        """Whether the user named the module's file, not a folder."""
        return self.options.out is not None and Path(self.options.out).name == self.names.module

    def providers(self) -> tuple[str, ...]:
        """The providers to check on; without ONNX nothing of onnxruntime is imported."""
        if not self.options.with_onnx:
            return ()
        from fxhead.check.proof import choose_providers

        return choose_providers(self.options.providers)

    def rewrite(self, module: nn.Module | ExportedProgram) -> tuple[InputShapes | None, Graphs]:
        """The result; without ONNX the input shape, which costs a run, is looked for only if it is needed."""
        options = self.options
        needs_shapes = options.with_onnx or options.input_shapes or options.to in (Form.FCN, Form.UNFOLD)
        shapes = self.shapes(module) if needs_shapes else None
        # memory is told for the batch that was asked for; a graph does not depend on it
        batch = shapes.shapes[0][0] if shapes and options.to is Form.UNFOLD else _TRACE_BATCH
        examples = shapes.examples(batch) if shapes else lambda: self.examples_if_known(module)
        with self.progress.step("rewriting"):
            graphs = take_graph(
                module,
                to=options.to,
                scope=options.scope,
                way=options.way,
                examples=examples,
                as_program=self.names.is_program or (False if self.is_named() else None),
                outputs=("logits", "map") if options.with_map else ("logits",),
            )
        if graphs.fixed_batch is not None and shapes is not None and shapes.fixed_batch is None:
            shapes = dataclasses.replace(shapes, fixed_batch=graphs.fixed_batch)
            note_guess(dataclasses.replace(shapes, origin=ShapeOrigin.GIVEN), self.progress)
        return shapes, graphs

    def renamed(self, graphs: Graphs) -> _Job:
        """The job with its files called after what they hold, but for the one that the user named.

        Raises:
            FileError: an output by the new name exists already.
        """
        is_program = isinstance(graphs.written, ExportedProgram)
        if isinstance(graphs.original, ExportedProgram) and not is_program:
            self.progress.note(f"{self.names.module} does not check its inputs, as a .pt2 file does")
        names = self.names if self.is_named() else self.names.holding(is_program=is_program)
        forms = [entry.site.form for entry in graphs.result.report.rewrites]
        names = dataclasses.replace(names, before=forms[0]) if forms else names
        if names == self.names:
            return self
        job = dataclasses.replace(self, names=names)
        job.require_possible()
        return job

    def shapes(self, module: nn.Module | ExportedProgram) -> InputShapes:
        """The shapes of the model's inputs."""
        options = self.options
        with self.progress.step("finding the input shape"):
            built = options.loading.built(options.source)
            shapes = find_shapes(module, built, options.input_shapes, options.loading.weights)
        note_guess(shapes, self.progress)
        return shapes

    def examples_if_known(self, module: nn.Module | ExportedProgram) -> tuple[torch.Tensor, ...] | None:
        """Example inputs, or None, with a note, where their shapes cannot be found."""
        try:
            return self.shapes(module).examples(_TRACE_BATCH)
        except InputError as error:
            self.progress.note(f"the result may depend on the input shape: {error}")
            return None

    def already(self, graphs: Graphs) -> tuple[Site, ...]:
        """The sites that have the asked form before anything is done."""
        found = find_sites(graphs.original, scope=self.options.scope, to=self.options.to)
        return tuple(site for site in found.sites if site.form is self.options.to)

    def samples(self, graphs: Graphs, shapes: InputShapes) -> Data:
        """The samples of the certificates."""
        from fxhead.inputs.options import DataOptions
        from fxhead.inputs.samples import take_data
        from fxhead.inputs.specs import module_specs

        specs = module_specs(graphs.original, shapes)
        seed, fixed = self.options.loading.seed, shapes.fixed_batch
        return take_data(None, DataOptions(), specs, (), seed=seed, fixed_batch=fixed)

    def export_and_check(
        self,
        graphs: Graphs,
        shapes: InputShapes,
        data: Data,
        staging: Path,
        providers: tuple[str, ...],
    ) -> tuple[tuple[Check, ...], _Made | None]:
        """The certificates of the rewritten module and of both ONNX files, which are then in ``staging``.

        And what a background made of all that.
        """
        from fxexport.certificate import Certifier
        from fxexport.untrusted.programs import as_module
        from fxhead.check.proof import NamedModel, prove

        options, names = self.options, self.names
        original, written = as_module(graphs.original), as_module(graphs.written)
        models: tuple[NamedModel, ...] = (
            (options.source.text, original),
            (names.module, written),
            *((name, staging / name) for name in names.onnx.values()),
        )
        certifier = functools.partial(Certifier, data.samples, providers, seed=options.loading.seed)

        def beside(folder: Path) -> Certificate | None:
            """What is known of the two files in a folder, where there are two."""
            files = [folder / name for name in names.onnx.values()]
            return certifier().certify(files[0], files[1]) if self.chain() == _CHAIN else None

        with self.exporting(graphs, shapes.examples(_TRACE_BATCH), staging, beside) as exported:

            def pairs() -> Iterator[tuple[NamedModel, NamedModel, Certificate | None]]:
                for a, b in self.chain():
                    made = exported() if max(a, b) > 1 else None
                    yield models[a], models[b], made.of_files if made and min(a, b) > 1 else None

            checks = prove(certifier(), pairs(), plan=graphs.result.plan, progress=self.progress)
            return checks, None if worst(checks) == "broken" else exported()

    def chain(self) -> tuple[tuple[int, int], ...]:
        """What is compared with what; a model that keeps its form has one ONNX file."""
        return _CHAIN if self.names.before is not self.names.to else _CHAIN[:2]

    @contextlib.contextmanager
    def exporting(
        self,
        graphs: Graphs,
        examples: tuple[torch.Tensor, ...],
        staging: Path,
        beside: Callable[[Path], Certificate | None],
    ) -> Iterator[Callable[[], _Made | None]]:
        """Within it both ONNX files are in the making: they are in ``staging`` once what it gives was called.

        Where there is a core for it, they are made beside what else is done until then, and the module is
        saved there, too. ``beside`` certifies the files in a folder.
        """
        from fxexport.to_onnx.write import record_ahead
        from fxhead.rewriting.background import Background, is_worthwhile

        report = graphs.result.report
        sources = {self.names.before: graphs.original, self.names.to: graphs.result.module}
        if not is_worthwhile(tensors_of(graphs.original)):
            self.export(sources, examples, staging, report)
            yield lambda: None
            return
        record_ahead(graphs.original, examples)
        with tempfile.TemporaryDirectory(dir=staging) as name:
            folder = Path(name)

            def work() -> _Made:
                notes = Notes()
                dataclasses.replace(self, progress=notes).export(sources, examples, folder, report)
                save_module(graphs.written, folder / self.names.module)
                return _Made(notes=notes.told, records=self.records(folder), of_files=beside(folder))

            background = Background(work)

            @functools.cache
            def exported() -> _Made | None:
                with self.progress.step("exporting to ONNX"):
                    made = background.result()
                if made is None:
                    self.export(sources, examples, staging, report)
                    return None
                for note in made.notes:
                    self.progress.note(note)
                for path in folder.iterdir():
                    os.replace(path, staging / path.name)
                return made

            try:
                yield exported
            except FxHeadError:
                exported()  # what stops the export is told, as where it comes first
                raise
            finally:
                background.close()

    def export(
        self,
        models: dict[Form, nn.Module | ExportedProgram],
        examples: tuple[torch.Tensor, ...],
        folder: Path,
        report: RewriteReport,
    ) -> None:
        """Writes the ONNX files: with free height and width where a form is about maps, if the model can."""
        from fxexport import export_onnx

        opset, fold_norms = self.options.opset, self.options.fold_norms
        free = {*models} if Form.DENSE in models else {*models} & {Form.FCN}
        for form, model in models.items():
            path = folder / self.names.onnx[form]
            if form is self.names.to and self.derive(path, report):
                continue
            with self.progress.step(f"exporting the {form} form to ONNX"):
                try:
                    export_onnx(
                        model,
                        examples,
                        path,
                        dynamic_size=form in free,
                        fold_norms=fold_norms,
                        opset=opset,
                    )
                    continue
                except SizeError as error:
                    sizes = "x".join(map(str, examples[0].shape[2:]))
                    self.progress.note(f"{path.name} takes {sizes} only: {error.what}")
                export_onnx(model, examples, path, fold_norms=fold_norms, opset=opset)

    def derive(self, path: Path, report: RewriteReport) -> bool:
        """Whether the other form's file could be made from the first one, which is in the same folder."""
        from fxhead.rewriting.derive import derive

        first = path.parent / self.names.onnx[self.names.before]
        if not first.exists() or first == path:
            return False
        with self.progress.step(f"making {path.name} of {first.name}"):
            return derive(first, path, report)

    def write(
        self,
        graphs: Graphs,
        module: nn.Module | ExportedProgram,
        data: Data | None,
        checks: tuple[Check, ...],
        providers: tuple[str, ...],
        made: _Made | None,
        staging: Path,
    ) -> tuple[WrittenFile, ...]:
        """Everything written, after all of it was written to ``staging``."""
        names = self.names
        with self.progress.step(f"writing {names.folder / names.module}"):
            if made is None:  # which has saved it
                save_module(graphs.written, staging / names.module)
            save_json(graphs.result.plan.to_dict(), staging / names.plan)
            recipe, about = None, self.options.source.text
            if data is not None:
                from fxhead.check.artefact import document

                records = self.records(staging) if made is None else made.records
                recipe, about = self.recipe(module, data, providers, records, staging), names.certificate
                save_json(document(recipe, checks), staging / about)
            report = graphs.result.report
            self.options.beside.save(staging, names.folder, names.stem, about, checks, recipe, report)
            # what follows is external data of the ONNX files
            first = (*names.all(with_onnx=True), *self.options.beside.names(names.stem))
            return publish(staging, force=self.options.force, first=first)

    def records(self, folder: Path) -> tuple[ModelRecord, ...]:
        """Those of the rewritten module and its ONNX files, which are in a folder by now."""
        from fxhead.check.artefact import record_staged

        kinds = {self.names.module: SourceKind.FILE} | dict.fromkeys(
            self.names.onnx.values(), SourceKind.ONNX
        )
        return tuple(record_staged(folder / name, kind) for name, kind in kinds.items())

    def recipe(
        self,
        module: nn.Module | ExportedProgram,
        data: Data,
        providers: tuple[str, ...],
        written: tuple[ModelRecord, ...],
        staging: Path,
    ) -> Recipe:
        """How to certify again what is in ``staging`` by now, which has these records."""
        from fxhead.check.artefact import FileRecord, Recipe, kept_options, record_model

        options, names = self.options, self.names
        return Recipe(
            models=(record_model(options.source, module, options.loading.weights, names.folder), *written),
            pairs=self.chain(),
            providers=providers,
            plan=FileRecord.staged(staging / names.plan),
            seed=options.loading.seed,
            loading=kept_options(options.loading, (options.source,)),
            data=data.record,
        )
