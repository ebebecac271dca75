"""What the page of a certificate, or of a rewrite that was refused, shows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxexport.onnx_dialect.head_steps import Drawing, draw_onnx
from fxexport.results import Certificate, OutputStatistics, Verdict
from fxhead.check.artefact import FileRecord, Recipe
from fxhead.check.environment import describe_environment
from fxhead.check.lines import covered, describe_data, layer_results, percent
from fxhead.check.outcome import Check, worst
from fxhead.files.digests import digest_file
from fxhead.page.cells import Cell, colour, number, prose, text, word
from fxhead.page.plot import Plot, plot
from fxhead.page.templates import page
from fxhead.source import SourceKind
from fxpasses.errors import FileError

if TYPE_CHECKING:
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

    A file of the recipe that has another content in ``folders`` than it had is not drawn; ``environment``
    None is this one.
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
        summary=[_summary_row(check) for check in checks],
        drawings=[*_drawings(recipe, folders)],
        checks=checks,
        of=_PARTS,
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
    uses = ("has the input", "shows it with torch, onnxruntime or onnx alone")
    return ", ".join(f"{file} {use}" for file, use in zip(there, uses, strict=False)) or None


def _sentence(verdict: str | None, report: RewriteReport | None) -> str:
    if verdict is not None:
        return _SENTENCES[Verdict(verdict)]
    if report is not None and report.rewrites:
        return "The head has the other form; nothing was checked."
    return "There was nothing to rewrite: the model is as it was, and nothing was written."


def _summary_row(check: Check) -> list[Cell]:
    return [text(check.candidate), text(check.reference), word(check.certificate.verdict)]


def _values(certificate: Certificate) -> Rows:
    """What the two gave where they were seen to differ."""
    witness = certificate.witness
    if witness is None or witness.expected is None or witness.found is None:
        return []
    both = [number(value, f"{value:.9g}") for value in (witness.expected, witness.found)]
    return [[*both, number(abs(witness.found - witness.expected)), number(witness.bound)]]


def _layers(certificate: Certificate) -> Rows:
    rows = []
    for on, layer in layer_results(certificate):
        failures = [str(failure) for failure in layer.failures]
        told = "; ".join([part for part in (covered(layer.covered), layer.reason, *failures) if part])
        rows.append([text(layer.layer), text(on), word(layer.status), prose(told)])
    return rows


def _outputs(certificate: Certificate) -> Rows:
    return [
        [
            text(each.output),
            text(each.provider),
            *map(number, (each.max_difference, each.max_bound, each.max_ratio)),
            *(
                number(share, percent(share))
                for share in (each.top1_agreement, each.top5_agreement, each.top1_certified)
            ),
            number(each.samples, f"{each.samples:,}"),
        ]
        for each in certificate.statistics
    ]


def _place(each: OutputStatistics) -> str:
    return f"{each.output} on {each.provider}"


def _distances(certificate: Certificate) -> Plot | None:
    return plot([(_place(each), each.max_difference, each.max_bound) for each in certificate.statistics])


def _decisions(certificate: Certificate) -> list[tuple[str, float, float, float]]:
    """Of each output the shares of samples whose class is certain, the same, another."""
    found = []
    for each in certificate.statistics:
        if each.top1_agreement is not None:
            same, certain = each.top1_agreement, each.top1_certified or 0.0
            label = f"{_place(each)}: {each.samples:,}"
            found.append((label, certain, max(0.0, same - certain), 1 - same))
    return found


def _flips(certificate: Certificate) -> Plot | None:
    return plot(
        [
            (
                f"sample {flip.sample}: {flip.reference_class} → {flip.candidate_class}",
                flip.margin,
                flip.bound,
            )
            for flip in certificate.flips[:_SHOWN_FLIPS]
        ]
    )


_PARTS = {
    "values": _values,
    "layers": _layers,
    "outputs": _outputs,
    "distances": _distances,
    "decisions": _decisions,
    "flips": _flips,
    "witness": str,
    "colour": colour,
}
"""What the template makes of a certificate's parts."""


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
