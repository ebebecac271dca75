"""``fxhead check``: the certificate for two models, and the file that holds it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from fxhead.check.artefact import FileRecord, Recipe, document, kept_options, record_model, relative
from fxhead.check.examine import Answer, Question, examine
from fxhead.check.outcome import CheckOutcome
from fxhead.files.publish import publish, staged
from fxhead.files.save import require_free_file, save_json
from fxhead.loading.held import held
from fxhead.outcome import WrittenFile
from fxhead.show.progress import Progress
from fxpasses.errors import InputError

_SUFFIX = ".json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What ``fxhead check`` was asked for.

    Attributes:
        question: what is compared.
        out: the certificate file to write; None writes none.
        force: whether it may replace a file.
    """

    question: Question
    out: Path | None = None
    force: bool = False


def run_check(options: CheckOptions, progress: Progress) -> CheckOutcome:
    """The outcome: the certificate of the two, written where that was asked for.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    start = time.perf_counter()
    if options.out is not None:
        _require_free(options.out, options)
    question = options.question
    with held(question.models, question.loading, progress.note):
        answer = examine(question, progress)
        files = () if options.out is None else (_write(options, options.out, answer, progress),)
    return CheckOutcome(
        reference=answer.infos[0],
        candidate=answer.infos[1],
        check=answer.checks[0],
        data=answer.data,
        files=files,
        seconds=time.perf_counter() - start,
    )


def _require_free(out: Path, options: CheckOptions) -> None:
    if out.suffix.lower() != _SUFFIX:
        raise InputError("is no name of a certificate", where=f"-o {out}", fix=f"end it in {_SUFFIX}")
    question = options.question
    read = [*(source.path for source in question.models), question.plan]
    require_free_file(out, [path for path in read if path is not None], force=options.force)


def _write(options: CheckOptions, out: Path, answer: Answer, progress: Progress) -> WrittenFile:
    with progress.step(f"writing {out}"):
        content = document(recipe_of(options.question, answer, out.parent), answer.checks)
        with staged(out.parent) as staging:
            save_json(content, staging / out.name)
            (path,) = publish(staging, force=options.force)
    return WrittenFile(path=path, size_bytes=path.stat().st_size)


def recipe_of(question: Question, answer: Answer, folder: Path) -> Recipe:
    """How to do it again, as seen from a certificate in ``folder``."""
    data = answer.data
    path = None if data.path is None else Path(relative(data.path, folder))
    return Recipe(
        models=tuple(
            record_model(source, model, question.loading.weights, folder)
            for source, model in zip(question.models, answer.models, strict=True)
        ),
        pairs=question.pairs,
        providers=answer.providers,
        plan=None if question.plan is None else FileRecord.of(question.plan, folder),
        seed=question.loading.seed,
        loading=kept_options(question.loading, question.models),
        data=dataclasses.replace(data, path=path),
    )
