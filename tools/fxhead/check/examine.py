"""Loads the models of a check, finds what they take, and compares them pair by pair."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from fxexport.certificate import Certifier
from fxexport.subjects.samples import InputSpec
from fxexport.untrusted.programs import as_module
from fxhead.check.outcome import Check
from fxhead.check.proof import choose_providers, prove
from fxhead.inputs.describe import describe, note_guess
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.options import DataOptions
from fxhead.inputs.preset import Preset, find_preset
from fxhead.inputs.samples import Data, DataFiles, DataRecord, open_data, take_data
from fxhead.inputs.shapes import find_shapes
from fxhead.inputs.specs import (
    Hint,
    argument_names,
    filled,
    find_hint,
    module_specs,
    require_known,
    shapes_of,
)
from fxhead.loading.load import Loading, load, require_readable
from fxhead.loading.plans import load_plan
from fxhead.outcome import ModelInfo
from fxhead.show.progress import Progress
from fxhead.source import Source, SourceKind
from fxpasses import WeightPlan
from fxpasses.errors import InputError

Opened = nn.Module | ExportedProgram | Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is compared, and how.

    Attributes:
        pairs: which of them are compared: positions of a reference and a candidate.
        providers: where ONNX files are run; None takes every one available of cpu and cuda.
        plan: file of the weight plan by which the candidates were rewritten.
        input_shapes: shapes of the inputs, batch first; empty where the models or the samples say them.
        loading: how; its seed is that of the random samples, too.
    """

    models: tuple[Source, ...]
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    providers: tuple[str, ...] | None = None
    plan: Path | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    loading: Loading = dataclasses.field(default_factory=Loading)
    data: DataOptions = dataclasses.field(default_factory=DataOptions)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What came of it.

    Attributes:
        models: what was loaded, in the question's order.
        infos: the same, for the result.
        checks: certificates; the last one is broken or they are all there.
    """

    models: tuple[Opened, ...]
    infos: tuple[ModelInfo, ...]
    checks: tuple[Check, ...]
    data: DataRecord
    providers: tuple[str, ...]


def examine(question: Question, progress: Progress) -> Answer:
    """The certificates that a question asks for.

    Raises:
        FxHeadError: the user can do something about it.
    """
    if question.loading.weights is not None and all(source.path is not None for source in question.models):
        raise InputError("files bring their own weights", where="--weights", fix="leave it out")
    providers = choose_providers(question.providers)
    plan = None if question.plan is None else load_plan(question.plan)
    with contextlib.ExitStack() as until:
        return _examined(question, providers, plan, open_data(question.data, until), progress)


def _examined(
    question: Question,
    providers: tuple[str, ...],
    plan: WeightPlan | None,
    files: DataFiles | None,
    progress: Progress,
) -> Answer:
    loaded = [_load(source, question, progress) for source in question.models]
    models = tuple(model for model, _ in loaded)
    certifier = Certifier(None, providers, seed=question.loading.seed)
    shapes, data = _take(question, models, files, certifier, progress)
    certifier.give(data.samples)
    runnable = (model if isinstance(model, Path) else as_module(model) for model in models)
    named = [*zip((source.text for source in question.models), runnable, strict=True)]
    pairs = ((named[a], named[b], None) for a, b in question.pairs)
    checks = prove(certifier, pairs, plan=plan, progress=progress)
    infos = zip(question.models, loaded, shapes, strict=True)
    return Answer(
        models=models,
        infos=tuple(_describe(source, *found, own) for source, found, own in infos),
        checks=checks,
        data=data.record,
        providers=providers,
    )


def _take(
    question: Question,
    models: Sequence[Opened],
    files: DataFiles | None,
    certifier: Certifier,
    progress: Progress,
) -> tuple[list[InputShapes | None], Data]:
    """The shapes of each module or program, and the samples for all models."""
    declared = {i: certifier.declared(model) for i, model in enumerate(models) if isinstance(model, Path)}
    names = [
        tuple(spec.name for spec in declared[index]) if isinstance(model, Path) else argument_names(model)
        for index, model in enumerate(models)
    ]
    hint = find_hint(question.input_shapes, tuple(declared.values()), files, names)
    known: dict[int, InputShapes] = {}
    if hint is None:
        hint, known = _own_hint(question, models, progress)
    shapes: list[InputShapes | None] = []
    specs: list[tuple[InputSpec, ...]] = []
    for index, (source, model) in enumerate(zip(question.models, models, strict=True)):
        if isinstance(model, Path):
            shapes.append(None)
            specs.append(filled(declared[index], hint, source))
            continue
        own = known.get(index) or shapes_of(model, _built(source, question), hint, question.loading.weights)
        shapes.append(own)
        specs.append(module_specs(model, own))
    first = _most_telling(specs)
    if files is None:
        require_known(specs[first], question.models[first])
    found = (own.fixed_batch for own in shapes if own is not None)
    fixed = next((size for size in found if size is not None), None)
    heads = [own[: len(specs[first])] for own in names]
    data = take_data(
        files,
        question.data,
        specs[first],
        heads,
        seed=question.loading.seed,
        fixed_batch=fixed,
        preset=_preset(question, models) if files is not None and files.images is not None else None,
    )
    return shapes, data


def _preset(question: Question, models: Sequence[Opened]) -> Preset:
    """How images are prepared for the first of the models of which that is known."""
    weights = question.loading.weights
    found = (
        find_preset(_built(source, question), weights, None if isinstance(model, Path) else model)
        for source, model in zip(question.models, models, strict=True)
    )
    return next((preset for preset in found if preset != Preset()), Preset())


def _own_hint(
    question: Question, models: Sequence[Opened], progress: Progress
) -> tuple[Hint | None, dict[int, InputShapes]]:
    """The shapes that a program, else a module, says or accepts, and whose they are.

    Height and width are those of ``--size``, which no model's own are as good as.
    """
    order = sorted(range(len(models)), key=lambda i: not isinstance(models[i], ExportedProgram))
    for index in order:
        source, model = question.models[index], models[index]
        if isinstance(model, Path):
            continue
        with progress.step(f"finding the input shape of {source.text}"):
            size, built = question.data.size, _built(source, question)
            own = find_shapes(model, built, (), question.loading.weights, size=size)
        note_guess(own, progress)
        if size is not None and len(own.shapes) == 1 and len(own.shapes[0]) == 4:
            shape = (*own.shapes[0][:2], *size.of_input(*own.shapes[0][2:]).extents)
            return Hint(shapes=(shape,), origin="--size"), {}
        are_floats = any(dtype.is_floating_point for dtype in own.dtypes)
        dtypes = None if are_floats else own.dtypes
        return Hint(shapes=own.shapes, origin=source.text, dtypes=dtypes), {index: own}
    return None, {}


def _most_telling(specs: Sequence[tuple[InputSpec, ...]]) -> int:
    """Position of the first model whose inputs are known in every extent and range, else of the first."""

    def is_telling(spec: InputSpec) -> bool:
        return spec.shape is not None and None not in spec.shape and spec.dtype is not None

    order = range(len(specs))
    ranged = [i for i in order if all(map(is_telling, specs[i])) and any(s.limit for s in specs[i])]
    known = [i for i in order if all(map(is_telling, specs[i]))]
    return next(iter((*ranged, *known)), 0)


def _load(source: Source, question: Question, progress: Progress) -> tuple[Opened, str | None]:
    """The model, and what its file is, in words."""
    with progress.step(f"loading {source.text}"):
        if source.kind is SourceKind.ONNX:
            path = Path(source.name)
            require_readable(path)
            return path, None
        # --weights is for the one of the two that is built, --arch for the one that is a file of weights
        loaded = load(source, question.loading.for_source(source), progress.note)
        return loaded.model, loaded.container


def _built(source: Source, question: Question) -> Source:
    return question.loading.for_source(source).built(source)


def _describe(source: Source, model: Opened, container: str | None, shapes: InputShapes | None) -> ModelInfo:
    if not isinstance(model, Path):
        return describe(source, model, shapes, container)
    return ModelInfo(source=source, class_name="ONNX", parameters=None)
