"""``fxhead explain``: looks a code up."""

from __future__ import annotations

from fxhead.explain.outcome import ExplainOutcome
from fxpasses.errors import InputError, suggest
from fxpasses.miss_codes import MissCode


def run_explain(code: str | None) -> ExplainOutcome:
    """One code explained, or all of them listed.

    Raises:
        InputError: there is no such code.
    """
    if code is None:
        return ExplainOutcome(codes=tuple(MissCode))
    name = code.upper().replace("-", "_")
    if name not in MissCode.__members__:
        near = suggest(name, MissCode)
        # all of them are too many for a line
        fix = near if near.startswith("did you mean") else "fxhead explain lists all"
        raise InputError("no such code", where=code, fix=fix)
    return ExplainOutcome(codes=(MissCode[name],), is_listing=False)
