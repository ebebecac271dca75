"""``fxhead check``: the certificate for two files; writes nothing."""

from __future__ import annotations

import time
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from export.programs import as_module
from fxhead.load import Loading, load, require_readable
from fxhead.plans import load_plan
from fxhead.progress import Progress
from fxhead.proof import Model, Pair, check_inputs, choose_providers, prove
from fxhead.results import CheckOutcome, ModelInfo
from fxhead.run_rewrite import describe, note_guess
from fxhead.shapes import InputShapes, find_shapes
from fxhead.sources import Source, SourceKind


def run_check(
    reference: Source,
    candidate: Source,
    *,
    providers: tuple[str, ...] | None,
    plan: str | None,
    input_shapes: tuple[tuple[int, ...], ...],
    loading: Loading,
    progress: Progress,
) -> CheckOutcome:
    """The outcome: the certificate of the two.

    Raises:
        FxHeadError: the user can do something about it.
    """
    start = time.perf_counter()
    chosen = choose_providers(providers)
    weight_plan = None if plan is None else load_plan(Path(plan))
    models: list[nn.Module | ExportedProgram | Path] = []
    for source in (reference, candidate):
        with progress.step(f"loading {source.text}"):
            models.append(_load(source, loading, progress))
    shapes: InputShapes | None = None
    for source, model in zip((reference, candidate), models, strict=True):
        if not isinstance(model, Path) and (shapes is None or isinstance(model, ExportedProgram)):
            shapes = find_shapes(model, source, input_shapes, loading.weights)
            note_guess(shapes, progress)
    (check,) = prove(
        [
            Pair(
                reference_name=reference.text,
                reference=_runnable(models[0]),
                candidate_name=candidate.text,
                candidate=_runnable(models[1]),
            )
        ],
        None if shapes is None else check_inputs(shapes, loading.seed),
        providers=chosen,
        plan=weight_plan,
        seed=loading.seed,
        progress=progress,
    )
    return CheckOutcome(
        reference=_describe(reference, models[0], shapes),
        candidate=_describe(candidate, models[1], shapes),
        check=check,
        seconds=time.perf_counter() - start,
    )


def _runnable(model: nn.Module | ExportedProgram | Path) -> Model:
    return model if isinstance(model, Path) else as_module(model)


def _load(source: Source, loading: Loading, progress: Progress) -> nn.Module | ExportedProgram | Path:
    if source.kind is SourceKind.ONNX:
        path = Path(source.name)
        require_readable(path)
        return path
    # --weights is for the one of the two that is built, --arch for the one that is a file of weights
    return load(source, loading.for_source(source), progress.note).model


def _describe(
    source: Source, model: nn.Module | ExportedProgram | Path, shapes: InputShapes | None
) -> ModelInfo:
    if not isinstance(model, Path):
        return describe(source, model, shapes)
    return ModelInfo(source=source, class_name="ONNX", parameters=None)
