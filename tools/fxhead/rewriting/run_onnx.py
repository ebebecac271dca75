"""``fxhead rewrite FILE.onnx``: one file in, the other form out, checked against what it was made from."""

from __future__ import annotations

import dataclasses
import errno
import filecmp
import os
import shutil
import time
from pathlib import Path

from fxexport.onnx_dialect.broken import BrokenGraph
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.external import path_of, write_pieces
from fxexport.onnx_dialect.rewrite import Rewritten, read_content, rewrite_content, sites_of_content
from fxexport.untrusted.archive import open_regular
from fxhead.check.artefact import (
    FileRecord,
    Recipe,
    document,
    kept_options,
    record_model,
    record_staged,
)
from fxhead.check.outcome import Check, worst
from fxhead.files.publish import publish, staged
from fxhead.files.save import names_folder, require_free_file, save_json
from fxhead.files.settle import settle
from fxhead.loading.held import held
from fxhead.outcome import ModelInfo, WrittenFile
from fxhead.rewriting.options import RewriteOptions
from fxhead.rewriting.outcome import RewriteOutcome
from fxhead.show.progress import Progress
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, InputError
from fxpasses.report import Site
from fxpasses.wall.wall import lowered, writing

_SUFFIX = ".onnx"
_BLOCK = 1 << 24


def run_rewrite_onnx(options: RewriteOptions, progress: Progress) -> RewriteOutcome:
    """The outcome; its files are written when this returns, or none are.

    Raises:
        FxHeadError: the user can do something about it; nothing is written.
    """
    with held((options.source,), options.loading, progress.note):
        return _run(options, progress)


def _run(options: RewriteOptions, progress: Progress) -> RewriteOutcome:
    start = time.perf_counter()
    if not options.with_onnx:  # what a file can do without its other files
        options = dataclasses.replace(options, with_check=False)
    job = _Job(options=options, target=_target(options), progress=progress)
    job.require_possible()
    with progress.step(f"reading {options.source.text}"):
        content = read_content(Path(options.source.name))
    with progress.step("rewriting"):
        name = None if options.link_data else f"{job.target.name}.data"
        changed = rewrite_content(content, options.to, options.scope, options.input_shapes, name)
    checks: tuple[Check, ...] = ()
    files: tuple[WrittenFile, ...] = ()
    if changed.report.rewrites:
        checks, files = job.write(changed)
    if not files:
        home, stem = job.target.parent, job.target.stem
        files = options.beside.publish_alone(
            home, stem, options.source.text, checks, changed.report, force=options.force
        )
    return RewriteOutcome(
        model=ModelInfo(source=options.source, class_name="ONNX", parameters=None),
        report=changed.report,
        already=() if changed.report.rewrites else job.already(content),
        checks=checks,
        files=files,
        seconds=time.perf_counter() - start,
        require=options.require,
        unchecked=options.unchecked,
    )


def _target(options: RewriteOptions) -> Path:
    """The file to write."""
    source = options.source
    name = f"{source.stem}.{options.to}{_SUFFIX}"
    if options.out is None:
        return source.folder / name
    out = Path(options.out)
    if names_folder(options.out):
        return out / name
    if out.suffix.lower() == _SUFFIX:
        return out
    if out.is_file() or out.suffix.lower() in (".pt", ".pth", ".pt2", ".json", ".safetensors"):
        raise InputError("is neither an .onnx file nor a folder", where=f"-o {out}", fix="name an .onnx file")
    return out / name


def _link(path: Path, new: Path) -> None:
    """Gives a file another name for a while, or where the file system has no such links, a copy."""
    try:
        with lowered():  # a link that our own code makes
            os.link(path, new)
    except OSError:
        _copy(path, new)


def _copy(path: Path, new: Path) -> None:
    """Copies a file with its holes: one of a few bytes may say that it is a terabyte."""
    if not hasattr(os, "SEEK_DATA"):
        shutil.copyfile(path, new)
        return
    with open_regular(path) as source, new.open("wb") as target:
        end = os.fstat(source.fileno()).st_size
        target.truncate(end)
        at = 0
        while at < end:
            try:
                start = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole is left
            at = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            source.seek(start)
            target.seek(start)
            while part := source.read(min(_BLOCK, at - source.tell())):
                target.write(part)


def _not_linked(name: str, old: str) -> InputError:
    """The error of weights that the new file cannot read where they are."""
    if name != old:  # the way back gives the file that it was, with the names that it had
        what, fix = f"the way back reads {name!r}, which is {old!r} here", "leave it out: a copy is made then"
    else:
        what = f"{name} lies in another folder than the output, and no file may refer to it from there"
        fix = "write the output beside it, or leave --link-data out"
    return InputError(what, where="--link-data", fix=fix)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run, step by step."""

    options: RewriteOptions
    target: Path
    progress: Progress

    @property
    def plan(self) -> str:
        """The weight plan's name."""
        return f"{self.target.stem}.plan.json"

    @property
    def certificate(self) -> str:
        """The certificate's name."""
        return f"{self.target.stem}.certificate.json"

    def require_possible(self) -> None:
        """Refuses before the long work starts what would be refused after it."""
        options = self.options
        loading = options.loading
        strangers = {
            "--opset": options.opset is not None,
            "--fold-norms": options.fold_norms,
            "--with-map": options.with_map,
            "--trace": options.way != "auto",
            "--arch": loading.arch is not None,
            "--weights": loading.weights is not None,
        }
        given = next((name for name, is_given in strangers.items() if is_given), None)
        if given is not None:
            raise InputError("an ONNX file is rewritten as it is", where=given, fix="leave it out")
        if not options.with_check and options.providers is not None:
            raise InputError("nothing is checked", where=options.unchecked, fix="leave it or --providers out")
        with writing(self.target.parent):
            settle(self.target.parent)
        if options.beside.attest and not options.with_check:
            raise InputError("there is no certificate", where="--attest", fix="have the file checked")
        names = [self.target.name, self.plan, *((self.certificate,) if options.with_check else ())]
        names += options.beside.names(self.target.stem)
        for name in names:
            require_free_file(self.target.parent / name, [Path(options.source.name)], force=options.force)

    def already(self, content: Content) -> tuple[Site, ...]:
        """The sites that have the asked form before anything is done."""
        options = self.options
        found = sites_of_content(content, options.to, options.scope, options.input_shapes)
        return tuple(site for site in found.sites if site.form is options.to)

    def write(self, changed: Rewritten) -> tuple[tuple[Check, ...], tuple[WrittenFile, ...]]:
        """The certificates, and everything that was written; nothing where the verdict is broken."""
        checks: tuple[Check, ...] = ()
        with staged(self.target.parent) as staging:
            with self.progress.step(f"writing {self.target}"):
                write_pieces(changed.pieces, changed.source, staging / self.target.name)
                there = self.bring_weights(changed, staging)
            save_json(changed.plan.to_dict(), staging / self.plan)
            recipe, about = None, self.options.source.text
            if self.options.with_check:
                checks, recipe = self.check(staging)
                about = self.certificate
                save_json(document(recipe, checks), staging / about)
            home, stem = self.target.parent, self.target.stem
            self.options.beside.save(staging, home, stem, about, checks, recipe, changed.report)
            if worst(checks) == "broken":
                return checks, ()
            for path in there:
                path.unlink()
            first = (self.target.name, self.plan, self.certificate, *self.options.beside.names(stem))
            return checks, publish(staging, force=self.options.force, first=first)

    def bring_weights(self, changed: Rewritten, staging: Path) -> list[Path]:
        """Puts copies of other files that the new one reads beside it; gives those that are there already.

        Raises:
            FileError: one cannot be read, or another one is there already.
        """
        here, source = self.target.parent, Path(self.options.source.name)
        there = []
        for name, old in changed.files.items():
            try:
                path = path_of(source.parent, old)
            except BrokenGraph as error:
                raise FileError(str(error), where=str(source), fix="put it where it was") from error
            target = here / name
            if target.is_file() and (target.samefile(path) or filecmp.cmp(path, target, shallow=False)):
                there.append(staging / name)
            elif self.options.link_data:
                raise _not_linked(name, old)
            else:
                require_free_file(target, [path], force=self.options.force)
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            if staging / name in there:
                _link(target, staging / name)
            else:
                _copy(path, staging / name)
        return there

    def check(self, staging: Path) -> tuple[tuple[Check, ...], Recipe]:
        """The certificate of the new file, which is in ``staging``, against the old one."""
        from fxhead.check.examine import Question, examine

        options = self.options
        staged_path = staging / self.target.name
        written = Source(text=self.target.name, kind=SourceKind.ONNX, name=str(staged_path))
        question = Question(
            models=(options.source, written),
            providers=options.providers,
            plan=staging / self.plan,
            input_shapes=options.input_shapes,
            loading=options.loading,
        )
        answer = examine(question, self.progress)
        folder = self.target.parent
        models = (
            record_model(options.source, Path(options.source.name), None, folder),
            record_staged(staged_path, SourceKind.ONNX),
        )
        recipe = Recipe(
            models=models,
            pairs=question.pairs,
            providers=answer.providers,
            plan=FileRecord.staged(staging / self.plan),
            seed=options.loading.seed,
            loading=kept_options(options.loading, question.models),
            data=answer.data,
        )
        return answer.checks, recipe
