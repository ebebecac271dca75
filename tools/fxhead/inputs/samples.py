"""``--inputs`` and ``--samples``: the samples that a check runs on, and a record of what they were."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxexport.subjects.samples import BATCHES, InputSpec, Rows, Samples, random_samples
from fxhead.files.digests import digest_file, digest_files
from fxhead.inputs.arrays import StoredArray, fitted, open_arrays
from fxhead.inputs.images import ImageFiles, ImageRows, Preparation, holds_images, list_images
from fxhead.inputs.options import DataOptions
from fxhead.inputs.preset import Preset
from fxhead.loading.load import require_readable
from fxpasses.errors import InputError

MOST_SAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataFiles:
    """What ``--inputs`` names, looked into but not read.

    Attributes:
        arrays: the arrays of a file.
        images: the files of a folder.
    """

    path: Path
    arrays: tuple[StoredArray, ...] = ()
    images: ImageFiles | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """What a check ran on; enough to make the same samples again.

    Attributes:
        kind: ``random``, ``arrays`` or ``images``.
        samples: how many.
        inputs: name, shape and type of each input.
        path: the file or folder; None for random ones.
        sha256: of the file, or of the images' names and contents; None for random ones.
        left_out: number of files in the folder that are no images.
        preparation: of images.
    """

    kind: str
    samples: int
    inputs: tuple[InputSpec, ...]
    path: Path | None = None
    sha256: str | None = None
    left_out: int = 0
    preparation: Preparation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = dataclasses.asdict(self)
        return plain | {"path": None if self.path is None else self.path.as_posix()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Data:
    """Samples, and what they are."""

    samples: Samples
    record: DataRecord


def open_data(options: DataOptions, until: contextlib.ExitStack) -> DataFiles | None:
    """What ``--inputs`` names, which can be read as long as ``until`` is open; None for random samples.

    Raises:
        FileError: it cannot be read.
        InputError: options do not go together.
    """
    options.require_sound()
    if options.path is None:
        return None
    path = Path(options.path)
    if not path.is_dir():
        require_readable(path, "give an .npz or .npy file, an image, or a folder of images")
    if holds_images(path):
        return DataFiles(path=path, images=list_images(path))
    return DataFiles(path=path, arrays=open_arrays(path, until))


def take_data(
    files: DataFiles | None,
    options: DataOptions,
    specs: Sequence[InputSpec],
    names: Sequence[Sequence[str]],
    *,
    seed: int,
    fixed_batch: int | None,
    preset: Preset | None = None,
) -> Data:
    """The samples for models with these inputs.

    ``names`` are those of each model's inputs, and arrays have either's; random samples fill a
    ``fixed_batch``.

    Raises:
        FileError: an image cannot be read.
        InputError: the samples are not what the models take.
    """
    if files is None:
        count = options.samples or max(sum(BATCHES), fixed_batch or 0)
        samples = random_samples(specs, count, seed)
        return Data(samples=samples, record=_record("random", samples, specs))
    if files.images is not None:
        return _from_images(files.path, files.images, options, preset or Preset(), specs)
    return _from_arrays(files, specs, names)


def _record(kind: str, samples: Samples, specs: Sequence[InputSpec]) -> DataRecord:
    inputs = tuple(
        dataclasses.replace(spec, shape=rows.shape[1:], dtype=rows.dtype.name)
        for spec, rows in zip(specs, samples.rows, strict=True)
    )
    return DataRecord(kind=kind, samples=samples.count, inputs=inputs)


def _from_images(
    path: Path, files: ImageFiles, options: DataOptions, preset: Preset, specs: Sequence[InputSpec]
) -> Data:
    if len(specs) != 1:
        raise InputError(f"the model has {len(specs)} inputs", where=str(path), fix="give an .npz file")
    is_its_own = preset.size is not None and preset.size.extents == (specs[0].shape or ())[1:]
    how = dataclasses.replace(
        preset,
        size=options.size or (preset.size if is_its_own else None),
        mean=options.mean or preset.mean,
        std=options.std or preset.std,
    ).prepared(specs[0])
    samples = Samples(names=(), rows=(ImageRows(files, specs[0], how),))
    record = dataclasses.replace(
        _record("images", samples, specs),
        path=path,
        sha256=digest_files(files.folder, files.images),
        left_out=len(files.others),
        preparation=how,
    )
    return Data(samples=samples, record=record)


def _from_arrays(files: DataFiles, specs: Sequence[InputSpec], names: Sequence[Sequence[str]]) -> Data:
    arrays = _in_order(files, specs, names)
    rows: tuple[Rows, ...] = tuple(fitted(array, spec) for array, spec in zip(arrays, specs, strict=True))
    counts = {array.where: one.shape[0] for array, one in zip(arrays, rows, strict=True)}
    if len({*counts.values()}) > 1:
        listed = ", ".join(f"{count} in {where}" for where, count in counts.items())
        raise InputError(f"different numbers of samples ({listed})", fix="give as many for each input")
    given = () if len(arrays) == 1 else tuple(array.name for array in arrays)
    samples = Samples(names=given, rows=rows)
    record = dataclasses.replace(
        _record("arrays", samples, specs), path=files.path, sha256=digest_file(files.path)
    )
    return Data(samples=samples, record=record)


def _in_order(
    files: DataFiles, specs: Sequence[InputSpec], names: Sequence[Sequence[str]]
) -> list[StoredArray]:
    """The arrays in the order of ``specs``; one array goes to one input, whatever its name."""
    arrays = {array.name: array for array in files.arrays}
    if len(arrays) == len(specs) == 1:
        return list(arrays.values())
    known = next((own for own in names if set(own) == set(arrays)), None)
    if known is None:
        wanted, found = (", ".join(map(repr, some)) for some in (names[0], arrays))
        raise InputError(
            f"holds {found}, the model takes {wanted}",
            where=str(files.path),
            fix="store an array for each input, under its name",
        )
    return [arrays[name] for name in known]
