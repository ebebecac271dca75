"""torchvision families in every dialect, both directions: two of them here, all in the slow run."""

from __future__ import annotations

import pytest
import torch

from bench.dialects import DIALECTS, FAMILIES, examine
from bench.zoo import REFUSED, build, model_names

DEFAULT = {"mobilenet_v3_small": ("training",), "shufflenet_v2_x0_5": ("functional", "core")}
_ALL = [(name, DIALECTS, (pytest.mark.slow,)) for name in FAMILIES]
_ALL += [(name, dialects, ()) for name, dialects in DEFAULT.items()]


@pytest.mark.parametrize(
    ("name", "dialects"),
    [pytest.param(*rest, marks=marks, id="-".join((rest[0], *rest[1]))) for *rest, marks in _ALL],
)
def test_a_family_in_every_dialect(name: str, dialects: tuple[str, ...]) -> None:
    rows = list(examine(name, dialects))
    assert all(row.is_right for row in rows), [row for row in rows if not row.is_right]
    forms = 1 if name in REFUSED else 2  # an exported one is rewritten as a program and as its module
    assert len(rows) == forms * sum(2 if dialect in ("training", "core") else 1 for dialect in dialects)


@pytest.mark.slow
def test_every_class_of_model_is_there() -> None:
    classes = {name: type(build(name, "meta", torch.float32)) for name in model_names()}
    assert {classes[name] for name in FAMILIES} == set(classes.values())
