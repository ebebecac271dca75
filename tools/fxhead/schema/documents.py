"""The documents that others read: which records each is made of, and under which keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NotRequired, TypedDict

from fxexport.results import Certificate, LayerName, Status, Verdict
from fxhead.batch.process import Done
from fxhead.cam.outcome import ImageRecord
from fxhead.check.artefact import Recipe
from fxhead.check.certificates import WRITTEN
from fxhead.check.changes import CertificateChange
from fxhead.convert.outcome import Converted
from fxhead.files.typed_json import schema_of
from fxhead.inputs.images import Preparation
from fxhead.inputs.samples import DataRecord
from fxhead.outcome import ModelInfo, WrittenFile
from fxhead.source import SourceKind
from fxpasses.miss_codes import MissCode
from fxpasses.plan import WeightPlan
from fxpasses.report import (
    Memory,
    Miss,
    OutputHead,
    Rewrite,
    RewriteReport,
    Scope,
    Site,
    SiteMemory,
    TraceInfo,
)


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


class Digest(TypedDict):
    """Of a file's bytes."""

    sha256: str


class Resource(TypedDict):
    """A file by its content."""

    name: str
    digest: Digest


class AttestedCheck(TypedDict):
    """What a certificate says of one pair, in brief: each layer by its name, with its status."""

    reference: str
    candidate: str
    verdict: Verdict
    reason: str
    scope: tuple[str, ...]
    layers: dict[LayerName, Status]


class Predicate(TypedDict):
    """What is stated of the subjects, and the certificate that says it in full."""

    verdict: Verdict
    certificate: Resource
    environment: dict[str, str]
    checks: tuple[AttestedCheck, ...]


class Statement(TypedDict):
    """An in-toto Statement v1."""

    subject: tuple[Resource, ...]
    predicateType: Literal["urn:fxhead:predicate:certificate:v1"]
    predicate: Predicate


class _Result(TypedDict):
    schema_version: Literal[1]


class RewriteResult(_Result):
    """What ``fxhead rewrite --json`` says."""

    command: Literal["rewrite"]
    model: ModelInfo
    report: RewriteReport
    already: tuple[Site, ...]
    verdict: Verdict | None
    checks: tuple[Certificate, ...]
    files: tuple[WrittenFile, ...]
    seconds: float


class CheckResult(_Result):
    """What ``fxhead check --json`` says."""

    command: Literal["check"]
    reference: ModelInfo
    candidate: ModelInfo
    verdict: Verdict
    check: Certificate
    inputs: DataRecord
    files: tuple[WrittenFile, ...]
    seconds: float


class ReplayResult(_Result):
    """What ``fxhead check --replay CERT.json --json`` says."""

    command: Literal["check"]
    certificate: str
    is_reproduced: bool
    was: Verdict
    verdict: Verdict | None
    changes: tuple[CertificateChange, ...]
    models: tuple[ModelInfo, ...]
    checks: tuple[Certificate, ...]
    seconds: float


class InspectResult(_Result):
    """What ``fxhead inspect --json`` says."""

    command: Literal["inspect"]
    model: ModelInfo
    scope: Scope
    sites: tuple[Site, ...]
    misses: tuple[Miss, ...]
    trace: TraceInfo
    memory: Memory | None
    heads: tuple[OutputHead, ...]


class ConvertResult(_Result):
    """What ``fxhead convert-weights --json`` says."""

    command: Literal["convert-weights"]
    checkpoint: str
    container: str
    to: str
    converted: tuple[Converted, ...]
    left: tuple[str, ...]
    files: tuple[WrittenFile, ...]
    seconds: float


class CamResult(_Result):
    """What ``fxhead cam --json`` says."""

    command: Literal["cam"]
    model: ModelInfo
    head: str | None
    preparation: Preparation | None
    images: tuple[ImageRecord, ...]
    misses: tuple[Miss, ...]
    files: tuple[WrittenFile, ...]
    seconds: float


class ReportResult(_Result):
    """What ``fxhead report --json`` says."""

    command: Literal["report"]
    verdict: Verdict
    files: tuple[WrittenFile, ...]


class BatchResult(_Result):
    """What ``fxhead batch --json`` says."""

    command: Literal["batch"]
    rows: tuple[Done, ...]
    skipped: int
    files: tuple[WrittenFile, ...]
    seconds: float


class Explained(TypedDict):
    """A code of misses."""

    code: MissCode
    meaning: str
    fix: str
    example: str
    asked: str


class ExplainResult(_Result):
    """What ``fxhead explain --json`` says."""

    command: Literal["explain"]
    codes: tuple[Explained, ...]


class Error(TypedDict):
    """What went wrong: what, where, and how to fix it."""

    type: str
    what: str
    where: str | None
    fix: str | None


class ErrorResult(TypedDict):
    """What every command says with ``--json`` where it exits with 2, 3 or 130."""

    error: Error


Result = (
    RewriteResult
    | CheckResult
    | ReplayResult
    | InspectResult
    | ConvertResult
    | CamResult
    | BatchResult
    | ReportResult
    | ExplainResult
    | ErrorResult
)

# Where to_dict writes other keys than the record has fields; None: it does not write that field.
_SPELLING: dict[Any, dict[str, Any]] = WRITTEN | {
    Done: {"document": RewriteResult | ErrorResult | None},
    ModelInfo: {"source": str, "kind": SourceKind, "class": str, "class_name": None},
    Preparation: {"interpolation": NotRequired[str | None]},
    Recipe: {"providers": tuple[Provider, ...]},
    Rewrite: {"before": str, "after": str},
    RewriteReport: {"copied_bytes": int},
    Site: {"now": NotRequired[str]},
    Statement: {"_type": Literal["https://in-toto.io/Statement/v1"]},
    SiteMemory: {"factor": NotRequired[float]},
    WeightPlan: {"schema_version": Literal[1]},
}
_LINE = _SPELLING | {Done: {"schema_version": Literal[1], **_SPELLING[Done]}}

SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "result": lambda: schema_of(Result, _SPELLING, name="result", title="What a command says with --json"),
    "plan": lambda: schema_of(WeightPlan, _SPELLING, name="plan", title="*.plan.json"),
    "certificate": lambda: schema_of(
        CertificateFile, _SPELLING, name="certificate", title="*.certificate.json, and check -o"
    ),
    "statement": lambda: schema_of(Statement, _SPELLING, name="statement", title="*.intoto.json"),
    "batch-row": lambda: schema_of(Done, _LINE, name="batch-row", title="A line of batch.jsonl"),
}
"""Each schema by the name that ``fxhead schema`` takes."""
