"""What reads a spoilt file, and what may come of it: a value, or an error that says what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutate import (
    Choice,
    Spoil,
    after_header,
    in_archive,
    spoil_bytes,
    spoil_json,
    spoil_onnx,
    spoil_text,
    spoilt,
)
from fxexport.subjects.samples import InputSpec
from fxhead import find_sites, load_model
from fxhead.batch.rows import RowOption, read_rows
from fxhead.cam.labels import read_labels
from fxhead.check.read_artefact import read_artefact
from fxhead.check.report import run_report
from fxhead.convert.run import ConvertOptions, open_checkpoint, run_convert
from fxhead.convert.survey import survey
from fxhead.inputs.arrays import fitted, open_arrays
from fxhead.inputs.hub_images import folder_preset
from fxhead.inputs.images import Preparation, decoded
from fxhead.loading.hub_folders import read_hub_folder
from fxhead.loading.plans import load_plan
from fxhead.loading.recognise import recognise
from fxhead.show.progress import Notes
from fxhead.source import Source, SourceKind
from fxpasses.errors import FxHeadError
from fxpasses.wall.wall import WallError, walled

MOST_SECONDS, MOST_BYTES = 60, 3 * 2**30
"""Beyond them reading a file counts as a fault."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A reader.

    Attributes:
        file: the good file in the corpus.
        spoil: how it is spoilt.
        read: reads it.
        beside: good files of the corpus that lie beside it.
    """

    file: str
    spoil: Spoil
    read: Callable[[Path], object]
    beside: tuple[str, ...] = ()


def _sites(path: Path) -> object:
    model = load_model(path)
    return find_sites(model, scope="all")


def _checkpoint(path: Path) -> object:
    recognise(path)
    return survey(open_checkpoint(path).root, str(path), ("0.weight",))


def _converted(path: Path) -> object:
    """All that ``fxhead convert-weights`` does."""
    plan, out = path.with_name("model.plan.json"), path.with_name("out")
    return run_convert(ConvertOptions(checkpoint=path, plan=plan, out=str(out), force=True), Notes())


def _planned(path: Path) -> object:
    load_plan(path)
    return _converted(path.with_name("weights.pth"))


def _report(path: Path) -> object:
    return run_report(path, path.with_name("page.html"), force=True)


def _rows(path: Path) -> object:
    known = {name: RowOption(text=f"--{name}", is_flag=name == "html") for name in ("to", "html", "seed")}
    return read_rows((str(path),), {}, known)


def _folder(path: Path) -> object:
    source = Source(text=str(path.parent), kind=SourceKind.FOLDER, name=str(path.parent))
    return folder_preset(read_hub_folder(source))


def _arrays(path: Path) -> object:
    spec = InputSpec(name="x", shape=(3, 8, 8), dtype="float32")
    with contextlib.ExitStack() as until:
        return [np.asarray(fitted(array, spec)[0:2]).sum() for array in open_arrays(path, until)]


def _image(path: Path) -> object:
    return decoded(path, "RGB", _HOW).size


def _of_torch(name: str) -> Spoil:
    return spoil_json if name.endswith(".json") else spoil_bytes


def _of_graph(name: str) -> Spoil:
    return spoil_text if name.endswith("data.pkl") else spoil_bytes


_PLAN = ("model.plan.json",)
_HOW = Preparation(resize=32, crop=28, mean=(), std=())
_IMAGES = ("png", "jpg", "gif", "tiff", "bmp", "webp")
TARGETS: dict[str, Target] = {
    "pickle": Target(file="module.pt", spoil=in_archive(_of_torch), read=_sites),
    "zip": Target(file="module.pt", spoil=spoil_bytes, read=_sites),
    "legacy": Target(file="legacy.pt", spoil=spoil_bytes, read=_sites),
    "graph": Target(file="graph.pt", spoil=in_archive(_of_graph), read=_sites),
    "state": Target(file="weights.pth", spoil=in_archive(_of_torch), read=_checkpoint),
    "training": Target(file="training.ckpt", spoil=in_archive(_of_torch), read=_checkpoint),
    "safetensors": Target(file="weights.safetensors", spoil=after_header, read=_checkpoint),
    **{
        f"convert-{name.rpartition('.')[2]}": Target(file=name, spoil=spoil, read=_converted, beside=_PLAN)
        for name, spoil in (
            ("training.ckpt", in_archive(_of_torch)),
            ("legacy.pth", spoil_bytes),
            ("weights.safetensors", after_header),
        )
    },
    "program": Target(file="program.pt2", spoil=in_archive(_of_torch), read=_sites),
    "onnx": Target(file="model.onnx", spoil=spoil_onnx, read=lambda path: find_sites(path, scope="all")),
    "plan": Target(file="model.plan.json", spoil=spoil_json, read=_planned, beside=("weights.pth",)),
    "certificate": Target(file="model.certificate.json", spoil=spoil_json, read=read_artefact),
    "report": Target(file="net.certificate.json", spoil=spoil_json, read=_report),
    **{
        f"manifest-{kind}": Target(file=f"models.{kind}", spoil=spoil, read=_rows)
        for kind, spoil in (("csv", spoil_text), ("jsonl", spoil_json), ("yaml", spoil_text))
    },
    "folder": Target(file="config.json", spoil=spoil_json, read=_folder, beside=("model.safetensors",)),
    "npy": Target(file="data.npy", spoil=spoil_text, read=_arrays),
    "npz": Target(file="data.npz", spoil=in_archive(lambda name: spoil_text), read=_arrays),
    "labels": Target(file="labels.json", spoil=spoil_json, read=read_labels),
} | {f"image-{kind}": Target(file=f"image.{kind}", spoil=spoil_bytes, read=_image) for kind in _IMAGES}


class TooLong(BaseException):
    """Reading took longer than it may; no ``except Exception`` takes it for a fault of the file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What must not come of a file.

    Attributes:
        what: in words.
        error: what was raised, if anything was.
    """

    what: str
    error: BaseException | None = None


def attempt(
    target: Target, good: Mapping[str, bytes], choice: Choice, folder: Path
) -> tuple[Fault | None, str]:
    """The fault that reading the spoilt file shows, if any, and what came of it in a word."""
    path = folder / target.file
    path.write_bytes(spoilt(good[target.file], target.spoil, choice))
    for name in target.beside:
        path.with_name(name).write_bytes(good[name])
    before, start = _peak_bytes(), time.perf_counter()
    fault, outcome = None, "read"
    try:
        with _at_most(MOST_SECONDS), warnings.catch_warnings(), walled(target.file):
            warnings.simplefilter("ignore")
            target.read(path)
    except WallError as error:
        fault = Fault(what=f"it acted: {error}", error=error)
    except FxHeadError:
        outcome = "refused"
    except TooLong as error:
        fault = Fault(what=f"it took longer than {MOST_SECONDS} s", error=error)
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        fault = Fault(what=f"{type(error).__name__}: {str(error)[:160]}", error=error)
    grown = _peak_bytes() - before
    if fault is None and grown > MOST_BYTES:
        fault = Fault(what=f"it took {grown / 2**30:.1f} GiB")
    seconds = time.perf_counter() - start
    return fault, outcome if seconds < 5 else f"{outcome} slowly"


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
