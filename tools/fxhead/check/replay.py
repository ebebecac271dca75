"""``fxhead check --replay``: does again what a certificate says was done, and compares."""

from __future__ import annotations

import dataclasses
import posixpath
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torchvision.models
from torch import nn

from fxexport import Verdict
from fxhead.check.artefact import SCHEMA_VERSION, Artefact, ModelRecord
from fxhead.check.changes import CertificateChange, check_changes, version_changes
from fxhead.check.environment import describe_environment
from fxhead.check.examine import Answer, Question, examine
from fxhead.check.read_artefact import read_artefact
from fxhead.check.replay_outcome import ReplayOutcome
from fxhead.files.digests import digest_file, digest_files, digest_weights
from fxhead.inputs.images import ImageSize, holds_images, list_images
from fxhead.inputs.options import DataOptions
from fxhead.inputs.samples import DataRecord
from fxhead.loading.held import held
from fxhead.loading.load import Loading
from fxhead.show.progress import Progress
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, InputError

_BETTER = (str(Verdict.AGREES), str(Verdict.PROVED))
"""What an older certificate may have become."""
_MOST_SAMPLES = 10_000


def run_replay(path: Path, *, trust: bool, progress: Progress) -> ReplayOutcome:
    """The outcome: what the certificate said, what was found now, and what differs.

    Raises:
        FxHeadError: it is no certificate, or something that it names is missing or cannot be run here.
    """
    start = time.perf_counter()
    artefact = read_artefact(path)
    for record in artefact.recipe.models:
        if record.kind is SourceKind.CALLABLE and not trust:
            raise InputError(
                f"the certificate names the callable {record.source!r}, and to import it is to run its code",
                where=str(path),
                fix="give --trust if you know where the certificate comes from",
            )
    code = artefact.recipe.loading.code()
    if code is not None and not trust:
        fix = "give --trust if you know where the certificate comes from"
        raise InputError(f"the certificate {code}", where=str(path), fix=fix)
    if not trust:
        _require_no_download(artefact)
        _require_few_samples(artefact)
    recipe = artefact.recipe
    sources = tuple(_source(model, path.parent) for model in recipe.models)
    with held(sources, recipe.loading, progress.note, may_download=trust):
        return _replayed(artefact, progress, start)


def _replayed(artefact: Artefact, progress: Progress, start: float) -> ReplayOutcome:
    folder = artefact.path.parent
    for file in artefact.recipe.files():
        progress.note(f"the certificate names {folder / file.path}")
    if artefact.recipe.data.path is not None:
        progress.note(f"the certificate names {folder / artefact.recipe.data.path}")
    changed = [*_file_changes(artefact, folder), *_data_changes(artefact.recipe.data, folder)]
    answer = examine(_question(artefact, folder), progress)
    changed += _state_changes(artefact, answer)
    versions = version_changes(artefact.environment, describe_environment(answer.providers))
    checks = [check.to_dict() for check in answer.checks]
    named = _named(artefact, checks)
    results = check_changes(*_comparable(artefact, named), is_same_place=not versions)
    return ReplayOutcome(
        certificate=artefact.path,
        was=artefact.verdict,
        models=answer.infos,
        checks=answer.checks,
        changes=(*changed, *versions, *results, *_verdict_changes(artefact)),
        seconds=time.perf_counter() - start,
    )


def _require_no_download(artefact: Artefact) -> None:
    """Returns where loading the models again reaches no network: somebody else named what is fetched."""
    records = artefact.recipe.models
    names = {record.weights for record in records if record.weights is not None}
    for source in (record.source for record in records if record.kind is SourceKind.TORCHVISION):
        for name in sorted(names):
            if not _is_downloaded(Source.parse(source or ""), name):
                raise InputError(
                    f"the certificate names the weights {name} of {source}, which would be downloaded",
                    where=str(artefact.path),
                    fix="give --trust to download them",
                )


def _require_few_samples(artefact: Artefact) -> None:
    """Returns where the random samples are soon run: somebody else said how many are drawn."""
    data = artefact.recipe.data
    if data.path is None and data.samples > _MOST_SAMPLES:
        raise InputError(
            f"the certificate asks for {data.samples:,} random samples, more than the {_MOST_SAMPLES:,} that "
            "are drawn unasked",
            where=str(artefact.path),
            fix="give --trust if you know where the certificate comes from",
        )


def _is_downloaded(source: Source, name: str) -> bool:
    """Whether torchvision has these weights on the disk, or none by that name, which is an error later."""
    if source.name not in torchvision.models.list_models():
        return True
    members = torchvision.models.get_model_weights(source.name).__members__
    if name not in members:
        return True
    file = posixpath.basename(urllib.parse.urlparse(members[name].value.url).path)
    return Path(torch.hub.get_dir(), "checkpoints", file).is_file()


def _question(artefact: Artefact, folder: Path) -> Question:
    recipe = artefact.recipe
    weights = [model.weights for model in recipe.models if model.weights is not None]
    stored = [model.weights_file for model in recipe.models if model.weights_file is not None]
    chosen = str(folder / stored[0].path) if stored else next(iter(weights), None)
    return Question(
        models=tuple(_source(model, folder) for model in recipe.models),
        pairs=recipe.pairs,
        providers=recipe.providers,
        plan=None if recipe.plan is None else folder / recipe.plan.path,
        input_shapes=tuple((1, *map(int, filter(None, spec.shape or ()))) for spec in recipe.data.inputs),
        loading=Loading(weights=chosen, seed=recipe.seed, **dataclasses.asdict(recipe.loading)),
        data=_options(recipe.data, folder),
    )


def _source(model: ModelRecord, folder: Path) -> Source:
    if model.file is None:
        return Source.parse(model.source or "")
    file = folder / model.file.path
    path = str(file.parent if model.kind is SourceKind.FOLDER else file)
    return Source(text=path, kind=model.kind, name=path)


def _options(data: DataRecord, folder: Path) -> DataOptions:
    if data.path is None:
        return DataOptions(samples=data.samples)
    how = data.preparation
    return DataOptions(
        path=str(folder / data.path),
        size=None if how is None else ImageSize(resize=how.resize, crop=how.crop),
        mean=() if how is None else how.mean,
        std=() if how is None else how.std,
    )


def _file_changes(artefact: Artefact, folder: Path) -> Iterator[CertificateChange]:
    for file in artefact.recipe.files():
        path = folder / file.path
        if not path.is_file():
            raise FileError(
                "no such file",
                where=str(path),
                fix=f"put it back: {artefact.path.name} is about it, and finds files beside itself",
            )
        now = digest_file(path)
        if now != file.sha256:
            yield CertificateChange(kind="file", where=file.path, then=file.sha256, now=now, counts=True)


def _data_changes(data: DataRecord, folder: Path) -> Iterator[CertificateChange]:
    if data.path is None or data.sha256 is None:
        return
    path = folder / data.path
    images = list_images(path) if holds_images(path) else None
    now = digest_file(path) if images is None else digest_files(images.folder, images.images)
    if now != data.sha256:
        yield CertificateChange(
            kind="file", where=data.path.as_posix(), then=data.sha256, now=now, counts=True
        )


def _state_changes(artefact: Artefact, answer: Answer) -> list[CertificateChange]:
    changes = []
    for record, model in zip(artefact.recipe.models, answer.models, strict=True):
        if record.state_sha256 is None or not isinstance(model, nn.Module):
            continue
        now = digest_weights(model)
        if now != record.state_sha256:
            where = f"weights of {record.name}"
            changes.append(
                CertificateChange(kind="file", where=where, then=record.state_sha256, now=now, counts=True)
            )
    return changes


def _named(artefact: Artefact, checks: list[dict[str, object]]) -> list[dict[str, object]]:
    """The checks with the names that the certificate gives the models: paths may differ, and do not count."""
    names = [model.name for model in artefact.recipe.models]
    pairs = artefact.recipe.pairs
    return [
        check | {"reference": names[a], "candidate": names[b]}
        for check, (a, b) in zip(checks, pairs, strict=False)
    ]


def _comparable(artefact: Artefact, now: list[dict[str, object]]) -> tuple[Sequence[object], list[object]]:
    """What a certificate says beside what was found now: of an older one verdicts, which may be better."""
    if artefact.schema_version == SCHEMA_VERSION:
        return artefact.checks, [*now]
    then = [{"verdict": check["verdict"]} for check in artefact.checks]
    found = [str(check["verdict"]) for check in now]
    kept = [
        before if (before["verdict"], verdict) == _BETTER else {"verdict": verdict}
        for before, verdict in zip(then, found, strict=False)
    ]
    return then, [*kept, *({"verdict": verdict} for verdict in found[len(kept) :])]


def _verdict_changes(artefact: Artefact) -> Iterator[CertificateChange]:
    """Where the certificate's own verdict is not that of its checks."""
    order = [str(verdict) for verdict in Verdict]
    worst = max((check["verdict"] for check in artefact.checks), key=order.index)
    if worst != artefact.verdict:
        yield CertificateChange(kind="result", where="verdict", then=artefact.verdict, now=worst, counts=True)
