"""The certificates in a file as the records that they were written from."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from fxexport.results import Certificate, OutputStatistics, TargetResult
from fxexport.witness import Witness
from fxhead.check.artefact import SCHEMA_VERSION, Artefact
from fxhead.check.outcome import Check
from fxhead.files.strict_json import Field
from fxhead.files.typed_json import read_as
from fxpasses.errors import FileError

WRITTEN: dict[Any, dict[str, Any]] = {
    Certificate: {"schema_version": Literal[2], "by_default": NotRequired[tuple[OutputStatistics, ...]]},
    TargetResult: dict.fromkeys(("asked_precision", "measured_precision"), NotRequired[str | None]),
    Witness: {"reference": None, "candidate": None},
}
"""Where a certificate's JSON has other keys than its records have fields."""


def read_checks(artefact: Artefact) -> tuple[Check, ...]:
    """What a certificate file says of each pair.

    Raises:
        FileError: it is of an older fxhead, or says something else than a certificate.
    """
    if artefact.schema_version != SCHEMA_VERSION:
        raise FileError(
            "was written by an older fxhead",
            where=str(artefact.path),
            fix="fxhead check --replay tells whether it holds, check -o writes a new one",
        )
    found = []
    for index, check in enumerate(artefact.checks):
        field = Field(check, f"checks[{index}]", artefact.path, "give the file as fxhead wrote it")
        certificate: Certificate = read_as(Certificate, field, WRITTEN)
        found.append(
            Check(reference=certificate.reference, candidate=certificate.candidate, certificate=certificate)
        )
    return tuple(found)
