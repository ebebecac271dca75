"""``fxhead rewrite``: load, rewrite, export both forms, check, write all or nothing."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from torch import nn

from fxhead.load import load_model
from fxhead.progress import Progress
from fxhead.results import Check, ModelInfo, RewriteOutcome, WrittenFile, worst
from fxhead.save import OutputNames, publish, require_free, save_json, save_module, staged
from fxhead.shapes import InputShapes, ShapeOrigin, find_shapes
from fxhead.sources import Source
from fxpasses import RewriteResult, find_sites, rewrite
from fxpasses.errors import InputError
from fxpasses.report import Form, MissCode, Scope, Site

_TRACE_BATCH = 2
# misses that example inputs may turn into sites
_NEEDS_INPUTS = frozenset({MissCode.UNKNOWN_EXTENT, MissCode.UNKNOWN_LAYOUT, MissCode.AMBIGUOUS_SQUEEZE})


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
    names = OutputNames.choose(options.source, options.to, options.out)
    _require_possible(options, names)
    providers = _providers(options)
    with progress.step(f"loading {options.source.text}"):
        module = load_model(options.source, weights=options.weights, seed=options.seed)
    shapes, result = _rewrite(module, options, progress)
    checks: tuple[Check, ...] = ()
    files: tuple[WrittenFile, ...] = ()
    if result.report.rewrites:
        with staged(names.folder) as staging:
            if options.with_onnx and shapes is not None:
                checks = _export_and_check(module, result, shapes, options, names, staging, providers, progress)
            if worst(checks) != "broken":
                files = _write(result, checks, options, names, staging, progress)
    return RewriteOutcome(
        model=describe(options.source, module, shapes),
        report=result.report,
        already=_already(module, options) if not result.report.rewrites else (),
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


def _require_possible(options: RewriteOptions, names: OutputNames) -> None:
    inputs = [Path(text) for text in (options.source.path, options.weights) if text is not None]
    require_free(names, inputs, with_onnx=options.with_onnx, force=options.force)
    if not options.with_onnx and (options.providers is not None or options.opset is not None):
        raise InputError(
            "--providers and --opset are about ONNX files, and none are written",
            where="--no-onnx",
            fix="leave one or the other out",
        )


def _providers(options: RewriteOptions) -> tuple[str, ...]:
    if not options.with_onnx:
        return ()  # nothing of onnxruntime is imported
    from fxhead.proof import choose_providers

    return choose_providers(options.providers)


def _rewrite(
    module: nn.Module, options: RewriteOptions, progress: Progress
) -> tuple[InputShapes | None, RewriteResult]:
    """Example inputs cost a shape propagation, so they are only given where something needs them."""
    blind: RewriteResult | None = None
    if not options.with_onnx and not options.input_shapes:
        with progress.step("rewriting"):
            blind = rewrite(module, to=options.to, scope=options.scope)
        if _NEEDS_INPUTS.isdisjoint(miss.code for miss in blind.report.misses):
            return None, blind
    try:
        with progress.step("finding the input shape"):
            shapes = find_shapes(module, options.source, options.input_shapes, options.weights)
    except InputError as error:
        if blind is None:
            raise
        progress.note(f"some of what was skipped needs the input shape: {error}")
        return None, blind
    note_guess(shapes, progress)
    with progress.step("rewriting"):
        examples = shapes.examples(_TRACE_BATCH)
        return shapes, rewrite(module, to=options.to, scope=options.scope, example_inputs=examples)


def _export_and_check(
    module: nn.Module,
    result: RewriteResult,
    shapes: InputShapes,
    options: RewriteOptions,
    names: OutputNames,
    staging: Path,
    providers: tuple[str, ...],
    progress: Progress,
) -> tuple[Check, ...]:
    from export import export_onnx
    from fxhead.proof import prove

    before = Form.LINEAR if options.to is Form.CONV else Form.CONV
    examples = shapes.examples(_TRACE_BATCH)
    for form, model in ((before, module), (options.to, result.module)):
        with progress.step(f"exporting the {form} form to ONNX"):
            export_onnx(model, examples, staging / names.onnx[form], opset=options.opset)
    candidates = {
        names.module: result.module,
        names.onnx[before]: staging / names.onnx[before],
        names.onnx[options.to]: staging / names.onnx[options.to],
    }
    return prove(module, candidates, shapes, providers, result.plan, progress)


def _write(
    result: RewriteResult,
    checks: tuple[Check, ...],
    options: RewriteOptions,
    names: OutputNames,
    staging: Path,
    progress: Progress,
) -> tuple[WrittenFile, ...]:
    with progress.step(f"writing {names.folder / names.module}"):
        save_module(result.module, staging / names.module)
        save_json(result.plan.to_dict(), staging / names.plan)
        if checks:
            certificate = {"verdict": worst(checks), "checks": [check.to_dict() for check in checks]}
            save_json(certificate, staging / names.certificate)
        paths = publish(staging, force=options.force)
    return tuple(WrittenFile(path=path, size_bytes=path.stat().st_size) for path in paths)


def _already(module: nn.Module, options: RewriteOptions) -> tuple[Site, ...]:
    found = find_sites(module, scope=options.scope)
    return tuple(site for site in found.sites if site.form is options.to)
