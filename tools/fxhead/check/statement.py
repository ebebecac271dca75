"""An in-toto statement: which files a certificate is about, by their digests, and what it says of them.

Whatever signs such statements takes it as it is: seen with ``sigstore.dsse.Statement`` and with
securesystemslib, which signs it as a DSSE envelope and verifies that.

Source:
    https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxhead.check.artefact import FileRecord, Recipe
from fxhead.check.environment import describe_environment
from fxhead.check.outcome import Check, worst
from fxhead.files.digests import digest_file
from fxpasses.errors import InputError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:fxhead:predicate:certificate:v1"


def statement(certificate: Path, checks: Sequence[Check], recipe: Recipe) -> dict[str, Any]:
    """The statement; its subjects are the files that the certificate is about.

    Raises:
        InputError: it is about no file.
        FileError: the certificate cannot be read.
    """
    subjects = [_resource(file) for file in recipe.files()]
    if not subjects:
        raise InputError("the certificate is about no file", where="--attest", fix="compare files")
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verdict": worst(tuple(checks)),
            "certificate": {"name": certificate.name, "digest": {"sha256": digest_file(certificate)}},
            "environment": describe_environment(recipe.providers),
            "checks": [_brief(check) for check in checks],
        },
    }


def _resource(file: FileRecord) -> dict[str, Any]:
    return {"name": file.path, "digest": {"sha256": file.sha256}}


def _brief(check: Check) -> dict[str, Any]:
    certificate = check.certificate
    return {
        "reference": check.reference,
        "candidate": check.candidate,
        "verdict": str(certificate.verdict),
        "reason": certificate.reason,
        "scope": list(certificate.scope),
        "layers": {str(layer.layer): str(layer.status) for layer in certificate.layers},
    }
