"""The documents that others read: which records each is made of, and where its keys are not their fields."""

from __future__ import annotations

import collections.abc
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NotRequired, TypedDict

import fxexport.results
import fxpasses.report
from fxexport.results import Certificate, Verdict
from fxhead.batch.outcome import BatchOutcome
from fxhead.batch.process import Done
from fxhead.cam.outcome import CamOutcome
from fxhead.check.artefact import Recipe
from fxhead.check.certificates import WRITTEN
from fxhead.check.changes import CertificateChange
from fxhead.check.outcome import Check
from fxhead.check.replay_outcome import ReplayOutcome
from fxhead.check.report import ReportOutcome
from fxhead.check.run import CheckOutcome
from fxhead.check.statement import Statement
from fxhead.convert.outcome import ConvertOutcome
from fxhead.explain.run import ExplainOutcome
from fxhead.files.typed_json import schema_of
from fxhead.inputs.images import Preparation
from fxhead.inputs.samples import DataRecord
from fxhead.inspect.run import InspectOutcome
from fxhead.outcome import ModelInfo, Outcome
from fxhead.rewriting.outcome import RewriteOutcome
from fxhead.source import SourceKind
from fxpasses.miss_codes import MissCode
from fxpasses.plan import WeightPlan
from fxpasses.report import Memory, Miss, OutputHead, Rewrite, RewriteReport, Site, SiteMemory, TraceInfo


class Provider(TypedDict):
    """A provider of ONNX Runtime, with the options that keep it strict."""

    name: str
    options: dict[str, Any]


class CertificateFile(TypedDict):
    """What was found out, about which files, with what, and how to do it again; paths are relative to it."""

    schema_version: Literal[2]
    kind: Literal["fxhead certificate"]
    verdict: Verdict
    environment: dict[str, str]
    recipe: Recipe
    checks: tuple[Certificate, ...]


class Explained(TypedDict):
    """A code of misses."""

    code: MissCode
    meaning: str
    fix: str
    example: str
    asked: str


class Error(TypedDict):
    """What went wrong: what, where, and how to fix it."""

    type: str
    what: str
    where: str | None
    fix: str | None


class ErrorResult(TypedDict):
    """What every command says with ``--json`` where it exits with 2, 3 or 130."""

    error: Error


_OUTCOMES: dict[type[Outcome], dict[str, Any]] = {
    RewriteOutcome: {"verdict": Verdict | None},
    CheckOutcome: {"verdict": Verdict},
    ReplayOutcome: {"is_reproduced": bool, "was": Verdict, "verdict": Verdict | None},
    InspectOutcome: {"sites": tuple[Site, ...], "misses": tuple[Miss, ...], "trace": TraceInfo}
    | {"memory": Memory | None, "heads": tuple[OutputHead, ...]},
    ConvertOutcome: {},
    CamOutcome: {},
    BatchOutcome: {},
    ReportOutcome: {},
    ExplainOutcome: {"codes": tuple[Explained, ...]},
}
Result = functools.reduce(operator.or_, (*_OUTCOMES, ErrorResult))

_FIRST = {"schema_version": Literal[1]}
# Where to_dict writes other keys than the record has fields; None: it does not write that field.
_SPELLING: dict[Any, Any] = WRITTEN | {
    **{
        kind: _FIRST | {"command": Literal[kind.command]} | dict.fromkeys(kind.unwritten) | own
        for kind, own in _OUTCOMES.items()
    },
    Check: Certificate,
    Done: {"document": RewriteOutcome | ErrorResult | None},
    ModelInfo: {"source": str, "kind": SourceKind, "class": str, "class_name": None},
    Preparation: {"interpolation": NotRequired[str | None]},
    Recipe: {"providers": tuple[Provider, ...]},
    Rewrite: {"before": str, "after": str},
    RewriteReport: {"copied_bytes": int},
    Site: {"now": NotRequired[str]},
    SiteMemory: {"factor": NotRequired[float]},
    WeightPlan: _FIRST,
}
_LINE = _SPELLING | {Done: _FIRST | _SPELLING[Done]}
# names that files import for their annotations alone
_NAMES = {
    name: value
    for module in (collections.abc, fxpasses.report, fxexport.results)
    for name, value in vars(module).items()
} | {kind.__name__: kind for kind in (CertificateChange, DataRecord, Preparation, MissCode)}


def _schema(kind: Any, name: str, title: str, spelling: Any = _SPELLING) -> Callable[[], dict[str, Any]]:
    return lambda: schema_of(kind, spelling, _NAMES, name=name, title=title)


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "result": _schema(Result, "result", "What a command says with --json"),
    "plan": _schema(WeightPlan, "plan", "*.plan.json"),
    "certificate": _schema(CertificateFile, "certificate", "*.certificate.json, and check -o"),
    "statement": _schema(Statement, "statement", "*.intoto.json"),
    "batch-row": _schema(Done, "batch-row", "A line of batch.jsonl", _LINE),
}
"""Each schema by the name that ``fxhead schema`` takes."""
