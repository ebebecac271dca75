"""``fxhead cam``: a classifier's dense form run on images, its maps drawn over them and written as arrays."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxhead.cam.find_images import ImageFile, find_images
from fxhead.cam.gallery import Gallery, PictureChoice, file_names
from fxhead.cam.labels import read_labels
from fxhead.cam.onnx_scorer import OnnxScorer
from fxhead.cam.outcome import CamOutcome
from fxhead.cam.run_images import run_images
from fxhead.cam.scorer import FoundHead, find_scorer
from fxhead.files.publish import publish, staged
from fxhead.files.save import require_free_file
from fxhead.files.settle import settle
from fxhead.inputs.describe import describe, note_guess
from fxhead.inputs.images import ImageSize
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.options import require_size
from fxhead.inputs.preset import Preset, find_preset
from fxhead.inputs.shapes import find_shapes
from fxhead.loading.held import held
from fxhead.loading.load import Loading, load, require_readable
from fxhead.outcome import ModelInfo
from fxhead.show.progress import Progress
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, InputError
from fxpasses.wall.wall import writing

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CamOptions:
    """What ``fxhead cam`` was asked for.

    Attributes:
        top: how many classes of each image are drawn, those of the highest logits first.
        classes: which ones instead, by number or label.
        labels: the file with the names of the classes.
        size: how large they are made; None for the model's own.
        head: which head, by name or number; None where the model has one.
        way: how a module becomes a graph.
    """

    source: Source
    images: tuple[str, ...]
    out: Path
    top: int = 3
    classes: tuple[str, ...] = ()
    labels: Path | None = None
    size: ImageSize | None = None
    head: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    batch: int = 8
    way: str = "auto"
    input_shapes: tuple[tuple[int, ...], ...] = ()
    loading: Loading = dataclasses.field(default_factory=Loading)
    force: bool = False


def run_cam(options: CamOptions, progress: Progress) -> CamOutcome:
    """The outcome; all its files are written when this returns, or none are.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    with held((options.source,), options.loading, progress.note):
        return _run(options, progress)


def _run(options: CamOptions, progress: Progress) -> CamOutcome:
    start = time.perf_counter()
    if options.size is not None:
        require_size(options.size)
    files = find_images(options.images)
    labels = () if options.labels is None else read_labels(options.labels)
    _require_free(options, files)
    model, found, preset = _open(options, progress)
    if found.scorer is None:
        return CamOutcome(model=model, misses=found.misses, seconds=time.perf_counter() - start)
    how = preset.prepared(found.scorer.spec)
    choice = PictureChoice(top=options.top, given=options.classes, labels=labels or preset.labels)
    with staged(options.out) as staging:
        gallery = Gallery(staging, options.out, choice)
        what = "1 image" if len(files) == 1 else f"{len(files)} images"
        with progress.count(f"drawing {what}", len(files)) as advance:
            for seen in run_images(files, found.scorer, how, preset.interpolation, options.batch):
                gallery.add(seen)
                advance()
        with progress.step(f"writing {options.out}"):
            gallery.finish()
            written = publish(staging, force=options.force)
    return CamOutcome(
        model=model,
        head=found.scorer.head,
        preparation=how,
        interpolation=preset.interpolation,
        images=tuple(gallery.records),
        files=written,
        seconds=time.perf_counter() - start,
    )


def _require_free(options: CamOptions, files: Sequence[ImageFile]) -> None:
    """Refuses before the long work starts what would be refused after it."""
    with writing(options.out):
        settle(options.out)
    if options.out.exists() and not options.out.is_dir():
        raise FileError("is no folder", where=f"-o {options.out}", fix="name a folder, or a new one")
    taken = [*(file.path for file in files), options.source.path, options.labels]
    inputs = [path for path in taken if path is not None]
    for name in file_names([file.picture for file in files]):
        require_free_file(options.out / name, inputs, force=options.force)


def _preset(options: CamOptions, model: nn.Module | ExportedProgram | None = None) -> Preset:
    """The model's own preparation, where it is known, with what was asked for in its place."""
    own = find_preset(options.loading.built(options.source), options.loading.weights, model)
    if options.input_shapes:
        own = dataclasses.replace(own, size=None)
    return dataclasses.replace(
        own, size=options.size or own.size, mean=options.mean or own.mean, std=options.std or own.std
    )


def _open(options: CamOptions, progress: Progress) -> tuple[ModelInfo, FoundHead, Preset]:
    """The model with its map, or why it has none, and how its images are prepared."""
    source = options.source
    if source.kind is SourceKind.ONNX:
        with progress.step(f"loading {source.text}"):
            require_readable(Path(source.name))
            scorer = OnnxScorer(source, options.input_shapes, options.size, options.head)
        own = ((1, *scorer.input_shape),)
        info = ModelInfo(source=source, class_name="ONNX", parameters=None, input_shapes=own)
        return info, FoundHead(scorer=scorer), _preset(options)
    with progress.step(f"loading {source.text}"):
        loaded = load(source, options.loading, progress.note)
        preset = _preset(options, loaded.model)
    with progress.step("finding the input shape"):
        shapes = _shapes(loaded.model, options, preset)
    note_guess(shapes, progress)
    if source.kind in (SourceKind.TORCHVISION, SourceKind.TIMM) and options.loading.weights is None:
        progress.note("the weights are fresh, so the maps say nothing; --weights gives trained ones")
    with progress.step("moving the pool behind the head"):
        found = find_scorer(loaded.model, shapes, options.way, options.head)
    return describe(source, loaded.model, shapes, loaded.container), found, preset


def _shapes(model: nn.Module | ExportedProgram, options: CamOptions, preset: Preset) -> InputShapes:
    """The shape of the model's input, at the size of the images where that is known.

    Raises:
        InputError: it is not known, or the model does not take it.
    """
    built, weights = options.loading.built(options.source), options.loading.weights
    own = find_shapes(model, built, options.input_shapes, weights, size=preset.size)
    first = own.shapes[0]
    if preset.size is None or options.input_shapes or len(first) != 4:
        return own
    wanted = (*first[:2], *preset.size.of_input(*first[2:]).extents)
    try:
        return own if wanted[1:] == first[1:] else find_shapes(model, built, (wanted,), weights)
    except InputError as error:
        shown = "x".join(map(str, wanted[2:]))
        raise InputError(error.what, where=f"--size {shown}", fix=error.fix) from error
