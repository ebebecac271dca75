"""``fxhead check``: the certificate for two models, and the file that holds it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape

from fxexport.providers import require_provider
from fxexport.subjects.subject import EAGER
from fxhead.check.artefact import FileRecord, Recipe, document, kept_options, record_model, relative
from fxhead.check.beside import Beside
from fxhead.check.examine import Answer, Question, examine
from fxhead.check.lines import certificate_lines, describe_data, verdict_line
from fxhead.check.outcome import Check, is_enough
from fxhead.check.witness_script import witness_script
from fxhead.files.publish import publish, staged
from fxhead.files.save import require_free_file, save_json
from fxhead.inputs.samples import DataRecord
from fxhead.loading.held import held
from fxhead.outcome import ExitCode, ModelInfo, Outcome, WrittenFile
from fxhead.show.progress import Progress
from fxhead.show.tables import file_table, model_line
from fxpasses.errors import InputError

_SUFFIX = ".json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What ``fxhead check`` was asked for.

    Attributes:
        out: the certificate file to write; None writes none.
        require: the least verdict that is a yes.
    """

    question: Question
    out: Path | None = None
    force: bool = False
    beside: Beside = dataclasses.field(default_factory=Beside)
    require: str = "agrees"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome(Outcome):
    """Result of ``fxhead check``.

    Attributes:
        inputs: the samples that were run.
        files: the certificate file where one was asked for, and what shows that the two differ.
        seconds: wall-clock time.
        require: the least verdict that is a yes.
    """

    command = "check"
    told = ("verdict",)
    unwritten = ("require",)

    reference: ModelInfo
    candidate: ModelInfo
    check: Check
    inputs: DataRecord
    files: tuple[WrittenFile, ...]
    seconds: float
    require: str = "agrees"

    @property
    def verdict(self) -> str:
        """The certificate's."""
        return str(self.check.certificate.verdict)

    @property
    def exit_code(self) -> ExitCode:
        """NO where the verdict is less than what is required."""
        return ExitCode.DONE if is_enough((self.check,), self.require) else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        certificate = self.check.certificate
        yield "reference  " + model_line(self.reference)
        yield "candidate  " + model_line(self.candidate)
        yield ""
        yield verdict_line(self.verdict)
        yield from certificate_lines(certificate)
        yield ""
        yield escape(f"inputs: {describe_data(self.inputs, certificate.seed)}")
        yield escape(f"heads compared: {', '.join(certificate.heads) or 'none was found'}")
        if self.files:
            yield ""
            yield file_table(self.files)


def run_check(options: CheckOptions, progress: Progress) -> CheckOutcome:
    """The outcome: the certificate of the two, written where that was asked for.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    start = time.perf_counter()
    if options.out is None and options.beside != Beside():
        what, where = "is written beside a certificate", "--attest" if options.beside.attest else "--html"
        raise InputError(what, where=where, fix="name one with -o CERT.json")
    if options.out is not None:
        _require_free(options.out, options)
    question = options.question
    with held(question.models, question.loading, progress.note):
        answer = examine(question, progress)
        files = () if options.out is None else _write(options, options.out, answer, progress)
    return CheckOutcome(
        reference=answer.infos[0],
        candidate=answer.infos[1],
        check=answer.checks[0],
        inputs=answer.data,
        files=files,
        seconds=time.perf_counter() - start,
        require=options.require,
    )


def _require_free(out: Path, options: CheckOptions) -> None:
    if out.suffix.lower() != _SUFFIX:
        raise InputError("is no name of a certificate", where=f"-o {out}", fix=f"end it in {_SUFFIX}")
    question = options.question
    read = [*(source.path for source in question.models), question.plan]
    inputs = [path for path in read if path is not None]
    beside = map(out.with_name, options.beside.names(out.stem))
    for path in (out, *_witness_files(out), *beside):
        require_free_file(path, inputs, force=options.force)


def _witness_files(out: Path) -> tuple[Path, Path]:
    """The inputs on which the two differ, and the script that shows it, of a certificate."""
    stem = out.name[: -len(_SUFFIX)]
    return out.with_name(f"{stem}.witness.npz"), out.with_name(f"{stem}.witness.py")


def _write(options: CheckOptions, out: Path, answer: Answer, progress: Progress) -> tuple[WrittenFile, ...]:
    with progress.step(f"writing {out}"):
        recipe = recipe_of(options.question, answer, out.parent)
        with staged(out.parent) as staging:
            save_json(document(recipe, answer.checks), staging / out.name)
            _write_witness(options.question, out, answer, staging)
            options.beside.save(staging, out.parent, out.stem, out.name, answer.checks, recipe)
            return publish(staging, force=options.force, first=(out.name,))


def _write_witness(question: Question, out: Path, answer: Answer, staging: Path) -> None:
    certificate = answer.checks[0].certificate
    if certificate.witness is None:
        return
    npz, script = _witness_files(out)
    certificate.witness.save(staging / npz.name)
    reference, candidate = question.pairs[0]
    sources = question.models[reference], question.models[candidate]
    paths = [None if source.path is None else relative(source.path, out.parent) for source in sources]
    provider = next((name for name in certificate.witness.on if name != EAGER), "cpu")
    text = witness_script(certificate.witness, sources, paths, npz.name, require_provider(provider))
    if text is not None:
        (staging / script.name).write_text(text, encoding="utf-8")


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
