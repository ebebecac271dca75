"""The certificates in a file as the records that they were written from."""

from __future__ import annotations

from typing import Any, Literal

from fxexport.results import Certificate
from fxexport.witness import Witness

WRITTEN: dict[Any, dict[str, Any]] = {
    Certificate: {"schema_version": Literal[2]},
    Witness: {"reference": None, "candidate": None},
}
"""Where a certificate's JSON has other keys than its records have fields."""
