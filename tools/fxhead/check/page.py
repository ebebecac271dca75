"""What the page of a certificate, or of a rewrite that was refused, shows."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxexport.onnx_dialect.head_steps import Drawing, draw_onnx
from fxexport.results import Certificate, Flip, OutputStatistics, Verdict
from fxhead.check.artefact import FileRecord, Recipe
from fxhead.check.environment import describe_environment
from fxhead.check.lines import covered, describe_data, layer_results, percent, witness_line
from fxhead.check.outcome import Check, worst
from fxhead.files.digests import digest_file
from fxhead.page.cells import Cell, colour, number, prose, text, word
from fxhead.page.plot import Plot, plot
from fxhead.page.templates import page
from fxhead.source import SourceKind
from fxpasses.errors import FileError

if TYPE_CHECKING:
    from fxexport.witness import Witness
    from fxpasses.report import Miss, Rewrite, RewriteReport

_TEMPLATE = "certificate.html.jinja"
_SHOWN_FLIPS = 20
_SENTENCES = {
    Verdict.PROVED: "They are the same function of every input, up to rounding.",
    Verdict.AGREES: "Whatever was run lies within its bounds; no proof relates the two for every input.",
    Verdict.INCONCLUSIVE: "Something that is needed could not be run.",
    Verdict.BROKEN: "They are not the same function.",
}

Rows = list[list[Cell]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One comparison on the page.

    Attributes:
        title: which two.
        certificate: what is known of them.
        colour: of the verdict.
        sentence: what the verdict says.
        witness: where the two were seen to differ; None where they were not.
        values: what they gave there, and how far apart it may be.
        layers: what each layer established.
        outputs: how far each output lies apart, and how its decisions do.
        distances: the differences beside their bounds.
        decisions: each output's samples: certified, the same, another class, as shares.
        flips: how far decisions that differ were apart.
    """

    title: str
    certificate: Certificate
    colour: str
    sentence: str
    witness: str | None
    values: Rows
    layers: Rows
    outputs: Rows
    distances: Plot | None
    decisions: tuple[tuple[str, float, float, float], ...]
    flips: Plot | None


def certificate_page(
    name: str,
    checks: Sequence[Check],
    recipe: Recipe | None = None,
    folders: Sequence[Path] = (),
    *,
    environment: Mapping[str, str] | None = None,
    report: RewriteReport | None = None,
) -> str:
    """The page.

    Args:
        name: of the certificate; of the model where there is none.
        checks: the certificates; empty where nothing was checked.
        recipe: files and models; None where there is no certificate.
        folders: where the recipe's files lie, for now or for good; a file with another content is not drawn.
        environment: versions and machine, as the certificate says; None takes this one.
        report: what was rewritten, and what not.
    """
    verdict = worst(tuple(checks))
    if environment is None:
        environment = describe_environment(() if recipe is None else recipe.providers)
    return page(
        _TEMPLATE,
        title=_title(name, checks),
        word=verdict or ("not checked" if report and report.rewrites else "not rewritten"),
        colour=colour(verdict or "no"),
        sentence=_sentence(verdict, report),
        summary=[[*_names(check), word(check.certificate.verdict)] for check in checks],
        drawings=[*_drawings(recipe, folders)],
        checks=[_shown(check) for check in checks],
        inputs=None if recipe is None else describe_data(recipe.data, recipe.seed),
        shows=_shows(name, folders),
        misses=[_miss_row(miss) for miss in (report.misses if report else ())],
        rewrites=[_rewrite_row(entry) for entry in (report.rewrites if report else ())],
        files=[_file_row(file) for file in (recipe.files() if recipe else ())],
        environment=[[text(key), text(value)] for key, value in environment.items()],
        repeat=None if recipe is None else f"fxhead check --replay {shlex.quote(name)}",
    )


def _title(name: str, checks: Sequence[Check]) -> str:
    if len(checks) == 1:
        return f"{checks[0].candidate} against {checks[0].reference}"
    return checks[0].reference if checks else name


def _shows(name: str, folders: Sequence[Path]) -> str | None:
    """What lies beside the certificate and shows the difference again."""
    stem = Path(name).stem
    beside = [f"{stem}.witness{suffix}" for suffix in (".npz", ".py")]
    there = [file for file in beside if any((folder / file).is_file() for folder in folders)]
    uses = ("has the input", "shows it with torch or onnxruntime alone")
    return ", ".join(f"{file} {use}" for file, use in zip(there, uses, strict=False)) or None


def _sentence(verdict: str | None, report: RewriteReport | None) -> str:
    if verdict is not None:
        return _SENTENCES[Verdict(verdict)]
    if report is not None and report.rewrites:
        return "The head has the other form; nothing was checked."
    return "There was nothing to rewrite: the model is as it was, and nothing was written."


def _shown(check: Check) -> Shown:
    certificate = check.certificate
    witness = certificate.witness
    found = certificate.statistics
    return Shown(
        title=f"{check.candidate} against {check.reference}",
        certificate=certificate,
        colour=colour(certificate.verdict),
        sentence=_SENTENCES[certificate.verdict],
        witness=None if witness is None else witness_line(witness),
        values=[] if witness is None else [*_values(witness)],
        layers=[*_layer_rows(certificate)],
        outputs=[*_output_rows(certificate)],
        distances=plot([(_place(each), each.max_difference, each.max_bound) for each in found]),
        decisions=tuple(_decided(each) for each in found if each.top1_agreement is not None),
        flips=plot([_flip(flip) for flip in certificate.flips[:_SHOWN_FLIPS]]),
    )


def _names(check: Check) -> list[Cell]:
    return [text(check.candidate), text(check.reference)]


def _values(witness: Witness) -> Iterator[list[Cell]]:
    expected, found = witness.expected, witness.found
    if expected is not None and found is not None:
        both = [number(value, f"{value:.9g}") for value in (expected, found)]
        yield [*both, number(abs(found - expected)), number(witness.bound)]


def _place(each: OutputStatistics) -> str:
    return f"{each.output} on {each.provider}"


def _decided(each: OutputStatistics) -> tuple[str, float, float, float]:
    """The shares of samples whose class is certain, the same, another."""
    same, certain = each.top1_agreement or 0.0, each.top1_certified or 0.0
    return f"{_place(each)}: {each.samples:,}", certain, max(0.0, same - certain), 1 - same


def _flip(flip: Flip) -> tuple[str, float, float | None]:
    classes = f"{flip.reference_class} → {flip.candidate_class}"
    return f"sample {flip.sample}: {classes}", flip.margin, flip.bound


def _layer_rows(certificate: Certificate) -> Iterator[list[Cell]]:
    for on, layer in layer_results(certificate):
        failures = [str(failure) for failure in layer.failures]
        told = "; ".join([part for part in (covered(layer.covered), layer.reason, *failures) if part])
        yield [text(layer.layer), text(on), word(layer.status), prose(told)]


def _output_rows(certificate: Certificate) -> Iterator[list[Cell]]:
    for each in certificate.statistics:
        shares = (each.top1_agreement, each.top5_agreement, each.top1_certified)
        yield [
            text(each.output),
            text(each.provider),
            number(each.max_difference),
            number(each.max_bound),
            number(each.max_ratio),
            *(number(share, percent(share)) for share in shares),
            number(each.samples, f"{each.samples:,}"),
        ]


def _miss_row(miss: Miss) -> list[Cell]:
    return [text(miss.name), text(miss.code), prose(miss.reason), prose(miss.fix), text(miss.source)]


def _rewrite_row(entry: Rewrite) -> list[Cell]:
    return [text(entry.site.name), text(entry.before), text(entry.after)]


def _file_row(file: FileRecord) -> list[Cell]:
    size = number(file.size_bytes, f"{file.size_bytes:,}")
    return [text(file.path), size, Cell(text=file.sha256, kind="hash")]


def _drawings(recipe: Recipe | None, folders: Sequence[Path]) -> Iterator[Drawing]:
    """The heads of the ONNX files that are as they were."""
    for model in () if recipe is None else recipe.models:
        if model.kind is not SourceKind.ONNX or model.file is None:
            continue
        for folder in folders:
            path = folder / model.file.path
            try:
                drawn = draw_onnx(path, model.name) if digest_file(path) == model.file.sha256 else None
            except FileError:
                continue
            if drawn is not None:
                yield drawn
                break
