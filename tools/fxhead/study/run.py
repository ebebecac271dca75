"""``fxhead study``: trains what is missing, then judges all of it and draws the picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from fxhead.files.typed_json import read_as
from fxhead.outcome import WrittenFile
from fxhead.show.progress import Progress
from fxhead.study.analysis import analyse
from fxhead.study.data import Images, load_digits, load_folder
from fxhead.study.jobs import PairTask, Record, RunTask, Task, run_tasks
from fxhead.study.outcome import Environment, StudyOutcome
from fxhead.study.picture import draw
from fxhead.study.records import DataInfo, PairRecord, RunRecord
from fxhead.study.settings import PAIRED_SEEDS, Dtype, StudyHead, StudyOptions, StudySubject
from fxhead.study.store import StudyStore, write_whole
from fxpasses.report import plain

_Made = TypeVar("_Made")
PICTURE, DOCUMENT = "study.png", "study.json"


def run_study(options: StudyOptions, progress: Progress) -> StudyOutcome:
    """The outcome; the runs, the JSON document and the picture are in ``options.out``.

    Raises:
        FxHeadError: the user can do something about it.
    """
    store = StudyStore(folder=options.out)
    store.require_own()  # before the images are read, which may take long
    images = _load(options, progress)
    data, environment = images.describe(), Environment.here()
    store.open(_settings(options, data, environment))
    tasks = _tasks(options)
    _train(images, options, tasks, store, progress)
    with progress.step("judging"):
        runs = {
            (task.head, task.seed): _stored(RunRecord, task, store)
            for task in tasks
            if isinstance(task, RunTask)
        }
        pairs = [_stored(PairRecord, task, store) for task in tasks if isinstance(task, PairTask)]
        findings = analyse(runs, pairs, options, len(data.classes))
    outcome = StudyOutcome(options=options, data=data, environment=environment, findings=findings)
    with progress.step("drawing"):
        return _published(outcome, store)


def _stored(kind: type[_Made], task: Task, store: StudyStore) -> _Made:
    """The record of a finished run."""
    found: _Made = read_as(kind, store.read(task.name), {})
    return found


def _load(options: StudyOptions, progress: Progress) -> Images:
    if options.data is None:
        with progress.step("loading digits"):
            return load_digits(options.seed)
    with progress.count(f"loading {options.data}", None) as advance:
        return load_folder(options.data, options.image_size, options.seed, advance)


def _settings(options: StudyOptions, data: DataInfo, environment: Environment) -> dict[str, Any]:
    """What a run depends on; not how many there are, nor how they are judged, so both may change."""
    facts = {
        "data": plain(data),
        "training": options.training.to_dict(),
        "seed": options.seed,
        "environment": plain(environment),
    }
    settings: dict[str, Any] = json.loads(json.dumps(facts))  # as it is read back
    return settings


def _tasks(options: StudyOptions) -> list[Task]:
    """Every run of the study, the longest ones first."""
    even, odd = options.even_seeds, options.odd_seeds
    pairs = [
        PairTask(subject=subject, dtype=dtype, seed=seed)
        for dtype in (Dtype.FLOAT64, Dtype.FLOAT32)
        for subject in StudySubject
        for seed in even[:PAIRED_SEEDS]
    ]
    heads = (
        (StudyHead.LINEAR, even),
        (StudyHead.CONV, even),
        (StudyHead.LINEAR, odd),
        (StudyHead.SCALED, even),
    )
    # seed by seed, so that a study that is stopped has as many of each
    runs = [RunTask(head=head, seed=seeds[i]) for i in range(options.seeds) for head, seeds in heads]
    return [*pairs, *runs]


def _train(
    images: Images, options: StudyOptions, tasks: Sequence[Task], store: StudyStore, progress: Progress
) -> None:
    missing = [task for task in tasks if not store.has(task.name)]
    if len(missing) < len(tasks):
        progress.note(f"{len(tasks) - len(missing)} of {len(tasks)} runs are in {options.out} already")
    if not missing:
        return
    with progress.count(f"training {len(missing)} runs", len(missing)) as advance:

        def finished(task: Task, record: Record) -> None:
            store.write(task.name, plain(record))
            advance()

        run_tasks(
            images,
            options.training,
            missing,
            jobs=options.jobs,
            finished=finished,
            scheduler=options.scheduler,
        )


def _published(outcome: StudyOutcome, store: StudyStore) -> StudyOutcome:
    """The outcome with its files: the picture, and the document that --json prints."""
    picture, document = store.folder / PICTURE, store.folder / DOCUMENT
    with store.writing():
        draw(outcome, picture)
        drawn = WrittenFile(path=picture, size_bytes=picture.stat().st_size)
        outcome = dataclasses.replace(outcome, files=(drawn,))
        write_whole(document, outcome.to_dict())
    return outcome
