"""The weight plans that ``rewrite`` writes, read from their files."""

from __future__ import annotations

import json
from pathlib import Path

from fxhead.loading.load import require_readable
from fxpasses import WeightPlan
from fxpasses.errors import FileError, PlanError


def load_plan(path: Path) -> WeightPlan:
    """The plan in ``path``.

    Raises:
        FileError: it cannot be read, or is no JSON.
        PlanError: it is no plan.
    """
    require_readable(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise FileError(
            f"is not JSON ({error})", where=str(path), fix="give a file that fxhead wrote as *.plan.json"
        ) from error
    try:
        return WeightPlan.from_dict(data)
    except PlanError as error:
        raise PlanError(error.what, where=error.where or str(path), fix=error.fix) from error
