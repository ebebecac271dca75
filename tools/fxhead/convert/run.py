"""``fxhead convert-weights``: a checkpoint from one form to the other, without the model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fxexport.untrusted.archive import ZIP_MAGIC, open_regular, read_regular
from fxexport.untrusted.limits import MAX_LIST_BYTES
from fxexport.untrusted.plain_json import read_plain_json
from fxhead.convert.edits import Conversion, find_edits
from fxhead.convert.legacy_stream import LegacyCheckpoint, open_legacy
from fxhead.convert.outcome import Converted, ConvertOutcome
from fxhead.convert.safetensors_stream import SafetensorsCheckpoint, is_safetensors, open_safetensors
from fxhead.convert.stored_tensors import TensorEdit
from fxhead.convert.survey import survey
from fxhead.convert.zip_stream import ZipCheckpoint, open_zip
from fxhead.files.publish import publish, staged
from fxhead.files.save import names_folder, require_free_file
from fxhead.loading.inert_names import unknown_names
from fxhead.loading.load import require_readable
from fxhead.loading.plans import load_plan
from fxhead.outcome import WrittenFile
from fxhead.show.progress import Progress
from fxhead.source import stem_and_suffix
from fxpasses import WeightPlan
from fxpasses.errors import FileError, FxHeadError, InputError, PlanError
from fxpasses.wall.wall import walled


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What ``fxhead convert-weights`` was asked for.

    Attributes:
        reverse: whether to go the plan's way backwards.
        out: the file to write, or a folder; None writes beside the checkpoint.
        prefixes: what stands before the plan's names in it; empty to find out.
        optimizer_names: a file with the names of an optimiser's parameters, or None.
        allowed: names in its pickle that may stay though they are no plain data.
    """

    checkpoint: Path
    plan: Path
    reverse: bool = False
    out: str | None = None
    prefixes: tuple[str, ...] = ()
    optimizer_names: Path | None = None
    allowed: tuple[str, ...] = ()
    force: bool = False


_MOST_TOLD = 20
_NAMES = "write one name a line, or a JSON list of strings"

Checkpoint = ZipCheckpoint | LegacyCheckpoint | SafetensorsCheckpoint
"""A file of weights that can be written again with other shapes."""


def run_convert(options: ConvertOptions, progress: Progress) -> ConvertOutcome:
    """The outcome; the converted file is written when this returns, or none is.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    with walled(str(options.checkpoint)):
        return _convert(options, progress)


def _convert(options: ConvertOptions, progress: Progress) -> ConvertOutcome:
    start = time.perf_counter()
    plan = load_plan(options.plan)
    if not plan.moves:
        raise PlanError("moves no weights", where=str(options.plan), fix="give the plan of a rewrite")
    plan = plan.invert() if options.reverse else plan
    where = str(options.checkpoint)
    require_readable(options.checkpoint)
    out = _out(options, plan)
    inputs = [options.checkpoint, options.plan, *filter(None, [options.optimizer_names])]
    require_free_file(out, inputs, force=options.force)
    with progress.step(f"reading {where}"):
        checkpoint = open_checkpoint(options.checkpoint)
        conversion = _conversion(checkpoint, plan, options)
    for line in _stranger_lines(conversion.strangers):
        progress.note(line)
    files: tuple[WrittenFile, ...] = ()
    if conversion.edits:
        with progress.step(f"writing {out}"), staged(out.parent) as staging:
            with open_regular(options.checkpoint) as source, (staging / out.name).open("wb") as target:
                checkpoint.write(source, target, conversion.edits)
                target.truncate()  # it may end in a hole
            files = publish(staging, force=options.force)
    return ConvertOutcome(
        checkpoint=where,
        container=checkpoint.kind,
        to=str(plan.to),
        converted=tuple(map(_converted, conversion.edits)),
        left=conversion.strangers,
        files=files,
        seconds=time.perf_counter() - start,
    )


def _stranger_lines(places: Sequence[str]) -> Iterator[str]:
    for place in places[:_MOST_TOLD]:
        yield f"{place} looks like a weight of the plan and was left as it is"
    if len(places) > _MOST_TOLD:
        yield f"so do {len(places) - _MOST_TOLD:,} more; --json lists all"


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, recognised by its content; no weight is read.

    Raises:
        FileError: it is damaged, or none of torch's or safetensors' formats.
    """
    with open_regular(path) as file:
        beginning = file.read(16)
    if beginning.startswith(ZIP_MAGIC):
        return open_zip(path)
    if is_safetensors(beginning):
        return open_safetensors(path)
    return open_legacy(path)


def _conversion(checkpoint: Checkpoint, plan: WeightPlan, options: ConvertOptions) -> Conversion:
    where = str(options.checkpoint)
    names = None if options.optimizer_names is None else _read_names(options.optimizer_names)
    found = survey(checkpoint.root, where, [move.name for move in plan.moves])
    _require_known(checkpoint, options)
    try:
        return find_edits(found, plan, options.prefixes, names)
    except PlanError as error:
        at = error.where if error.where and error.where != "checkpoint" else None
        raise PlanError(error.what, where=f"{where}: {at}" if at else where, fix=error.fix) from error


def _require_known(checkpoint: Checkpoint, options: ConvertOptions) -> None:
    """Returns where whoever loads the result calls nothing but what makes data, or what the user allowed."""
    unknown = unknown_names(checkpoint.names, options.allowed, checkpoint.root)
    if unknown:
        raise FileError(
            f"it refers to what is no plain data: {', '.join(unknown[:20])}",
            where=str(options.checkpoint),
            fix="if that belongs there, give "
            + " ".join(f"--allow {name}" for name in unknown[:3])
            + (" …" if len(unknown) > 3 else "")
            + " to keep it; it is copied, never run",
        )


def _out(options: ConvertOptions, plan: WeightPlan) -> Path:
    path = options.checkpoint
    # model.linear.pt becomes model.conv.pt, not model.linear.conv.pt
    stem, suffix = stem_and_suffix(path)
    name = f"{stem.removesuffix(f'.{plan.source}')}.{plan.to}{suffix}"
    if options.out is None:
        return path.parent / name
    out = Path(options.out)
    return out / name if names_folder(options.out) else out


def _read_names(path: Path) -> list[str]:
    require_readable(path, _NAMES)
    try:
        text = read_regular(path, MAX_LIST_BYTES).decode("utf-8")
        names = read_plain_json(text) if text.lstrip().startswith("[") else text.split()
    except ValueError as error:  # also UnicodeDecodeError
        raise _not_names(path) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise _not_names(path)
    return list(names)


def _not_names(path: Path) -> FxHeadError:
    return InputError("is no list of names", where=str(path), fix=_NAMES)


def _converted(edit: TensorEdit) -> Converted:
    return Converted(
        place=edit.place,
        before=edit.tensor.shape,
        after=edit.shape,
        copied_bytes=edit.tensor.size_bytes if edit.is_copy else 0,
    )
