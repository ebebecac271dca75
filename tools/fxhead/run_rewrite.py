"""``fxhead rewrite``: load, rewrite, export both forms, check, write all or nothing."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch
from torch import nn
from torch.fx import GraphModule

from fxhead.load import load_model, require_readable
from fxhead.progress import Progress
from fxhead.results import Check, ModelInfo, RewriteOutcome, WrittenFile, worst
from fxhead.save import OutputNames, publish, require_free, save_json, save_module, staged
from fxhead.shapes import InputShapes, ShapeOrigin, find_shapes
from fxhead.sources import Source, SourceKind
from fxpasses import RewriteResult, find_sites, rewrite
from fxpasses.errors import InputError
from fxpasses.report import Form, Scope, Site

_TRACE_BATCH = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOptions:
    """What ``fxhead rewrite`` was asked for; ``providers`` None takes every one available."""

    source: Source
    to: Form
    out: str | None = None
    scope: Scope = Scope.HEAD
    providers: tuple[str, ...] | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    opset: int | None = None
    with_onnx: bool = True
    weights: str | None = None
    seed: int = 0
    force: bool = False


def run_rewrite(options: RewriteOptions, progress: Progress) -> RewriteOutcome:
    """The outcome; its files are written when this returns, or none are.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    start = time.perf_counter()
    job = _Job(
        options=options,
        names=OutputNames.choose(options.source, options.to, options.out),
        progress=progress,
    )
    job.require_possible()
    providers = job.providers()
    with progress.step(f"loading {options.source.text}"):
        module = load_model(options.source, weights=options.weights, seed=options.seed)
    shapes, result = job.rewrite(module)
    checks: tuple[Check, ...] = ()
    files: tuple[WrittenFile, ...] = ()
    if result.report.rewrites:
        with staged(job.names.folder) as staging:
            if options.with_onnx and shapes is not None:
                checks = job.export_and_check(module, result, shapes, staging, providers)
            if worst(checks) != "broken":
                files = job.write(result, checks, staging)
    return RewriteOutcome(
        model=describe(options.source, module, shapes),
        report=result.report,
        already=() if result.report.rewrites else job.already(module),
        checks=checks,
        files=files,
        seconds=time.perf_counter() - start,
    )


def describe(source: Source, module: nn.Module, shapes: InputShapes | None) -> ModelInfo:
    """What was loaded, for the result."""
    return ModelInfo(
        source=source,
        class_name=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        input_shapes=shapes.shapes if shapes else None,
        input_origin=str(shapes.origin) if shapes else None,
    )


def note_guess(shapes: InputShapes, progress: Progress) -> None:
    """Says on stderr that the input shape was guessed, where it was."""
    if shapes.origin is ShapeOrigin.GUESSED:
        progress.note(f"input shape {shapes} is a guess that the model accepts; --input-shape gives another")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run of ``fxhead rewrite``, step by step."""

    options: RewriteOptions
    names: OutputNames
    progress: Progress

    def require_possible(self) -> None:
        """Refuses before the long work starts what would be refused after it."""
        options = self.options
        if not options.with_onnx and (options.providers is not None or options.opset is not None):
            raise InputError(
                "--providers and --opset are about ONNX files, and none are written",
                where="--no-onnx",
                fix="leave one or the other out",
            )
        if options.source.kind is SourceKind.FILE:
            require_readable(Path(options.source.name))
        inputs = [path for path in (options.source.path, options.weights) if path is not None]
        require_free(self.names, map(Path, inputs), with_onnx=options.with_onnx, force=options.force)

    def providers(self) -> tuple[str, ...]:
        """The providers to check on; without ONNX nothing of onnxruntime is imported."""
        if not self.options.with_onnx:
            return ()
        from fxhead.proof import choose_providers

        return choose_providers(self.options.providers)

    def rewrite(self, module: nn.Module) -> tuple[InputShapes | None, RewriteResult[GraphModule]]:
        """The result; without ONNX the input shape, which costs a run, is looked for only if it is needed."""
        options = self.options
        shapes = self.shapes(module) if options.with_onnx or options.input_shapes else None
        examples = shapes.examples(_TRACE_BATCH) if shapes else lambda: self.examples_if_known(module)
        with self.progress.step("rewriting"):
            result = rewrite(module, to=options.to, scope=options.scope, example_inputs=examples)
        return shapes, result

    def shapes(self, module: nn.Module) -> InputShapes:
        """The shapes of the model's inputs."""
        options = self.options
        with self.progress.step("finding the input shape"):
            shapes = find_shapes(module, options.source, options.input_shapes, options.weights)
        note_guess(shapes, self.progress)
        return shapes

    def examples_if_known(self, module: nn.Module) -> tuple[torch.Tensor, ...] | None:
        """Example inputs, or None, with a note, where their shapes cannot be found."""
        try:
            return self.shapes(module).examples(_TRACE_BATCH)
        except InputError as error:
            self.progress.note(f"the result may depend on the input shape: {error}")
            return None

    def already(self, module: nn.Module) -> tuple[Site, ...]:
        """The sites that have the asked form before anything is done."""
        found = find_sites(module, scope=self.options.scope)
        return tuple(site for site in found.sites if site.form is self.options.to)

    def export_and_check(
        self,
        module: nn.Module,
        result: RewriteResult[GraphModule],
        shapes: InputShapes,
        staging: Path,
        providers: tuple[str, ...],
    ) -> tuple[Check, ...]:
        """The certificates of the rewritten module and of both ONNX files, which are then in ``staging``."""
        from export import export_onnx
        from fxhead.proof import Pair, check_inputs, prove

        options, names = self.options, self.names
        before = Form.LINEAR if options.to is Form.CONV else Form.CONV
        examples = shapes.examples(_TRACE_BATCH)
        for form, model in ((before, module), (options.to, result.module)):
            with self.progress.step(f"exporting the {form} form to ONNX"):
                export_onnx(model, examples, staging / names.onnx[form], opset=options.opset)
        # a chain from the original to every result; like is compared with like where that proves more
        chain = (
            (options.source.text, module, names.module, result.module),
            (options.source.text, module, names.onnx[before], staging / names.onnx[before]),
            (
                names.onnx[before],
                staging / names.onnx[before],
                names.onnx[options.to],
                staging / names.onnx[options.to],
            ),
        )
        return prove(
            (Pair(reference_name=a, reference=b, candidate_name=c, candidate=d) for a, b, c, d in chain),
            check_inputs(shapes, options.seed),
            providers=providers,
            plan=result.plan,
            seed=options.seed,
            progress=self.progress,
        )

    def write(
        self, result: RewriteResult[GraphModule], checks: tuple[Check, ...], staging: Path
    ) -> tuple[WrittenFile, ...]:
        """Everything written, after all of it was written to ``staging``."""
        names = self.names
        with self.progress.step(f"writing {names.folder / names.module}"):
            save_module(result.module, staging / names.module)
            save_json(result.plan.to_dict(), staging / names.plan)
            if checks:
                certificate = {"verdict": worst(checks), "checks": [check.to_dict() for check in checks]}
                save_json(certificate, staging / names.certificate)
            paths = publish(staging, force=self.options.force)
        order = names.all(with_onnx=True)  # what follows is external data of the ONNX files
        ranked = sorted(paths, key=lambda path: order.index(path.name) if path.name in order else len(order))
        return tuple(WrittenFile(path=path, size_bytes=path.stat().st_size) for path in ranked)
