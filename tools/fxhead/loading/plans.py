"""The weight plans that ``rewrite`` writes, read from their files."""

from __future__ import annotations

from pathlib import Path

from fxhead.files.strict_json import read_json
from fxhead.loading.load import require_readable
from fxpasses import WeightPlan
from fxpasses.errors import PlanError


def load_plan(path: Path) -> WeightPlan:
    """The plan in ``path``.

    Raises:
        FileError: it cannot be read, or is no JSON.
        PlanError: it is no plan.
    """
    fix = "give a file that fxhead wrote as *.plan.json"
    require_readable(path, fix)
    data = read_json(path, fix).value
    try:
        return WeightPlan.from_dict(data)
    except PlanError as error:
        raise PlanError(error.what, where=error.where or str(path), fix=error.fix) from error
