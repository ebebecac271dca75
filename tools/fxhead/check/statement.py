"""An in-toto statement: which files a certificate is about, by their digests, and what it says of them.

Whatever signs such statements takes it as it is: seen with ``sigstore.dsse.Statement`` and with
securesystemslib, which signs it as a DSSE envelope and verifies that.

Source:
    https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from fxexport.results import LayerName, Status, Verdict
from fxhead.check.artefact import Recipe
from fxhead.check.environment import describe_environment
from fxhead.check.outcome import Check, worst
from fxhead.files.digests import digest_file
from fxpasses.errors import InputError


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
    """An in-toto Statement v1 with a predicate of ours."""

    _type: Literal["https://in-toto.io/Statement/v1"]
    subject: tuple[Resource, ...]
    predicateType: Literal["urn:fxhead:predicate:certificate:v1"]
    predicate: Predicate


def statement(certificate: Path, checks: Sequence[Check], recipe: Recipe) -> Statement:
    """The statement; its subjects are the files that the certificate is about.

    Raises:
        InputError: it is about no file.
        FileError: the certificate cannot be read.
    """
    subjects = tuple(_resource(file.path, file.sha256) for file in recipe.files())
    if not subjects:
        raise InputError("the certificate is about no file", where="--attest", fix="compare files")
    predicate: Predicate = {
        "verdict": Verdict(str(worst(tuple(checks)))),
        "certificate": _resource(certificate.name, digest_file(certificate)),
        "environment": describe_environment(recipe.providers),
        "checks": tuple(map(_brief, checks)),
    }
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "urn:fxhead:predicate:certificate:v1",
        "predicate": predicate,
    }


def _resource(name: str, sha256: str) -> Resource:
    return {"name": name, "digest": {"sha256": sha256}}


def _brief(check: Check) -> AttestedCheck:
    certificate = check.certificate
    return {
        "reference": check.reference,
        "candidate": check.candidate,
        "verdict": certificate.verdict,
        "reason": certificate.reason,
        "scope": certificate.scope,
        "layers": {layer.layer: layer.status for layer in certificate.layers},
    }
