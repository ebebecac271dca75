"""What only torch.export writes is rewritten with equal outputs, or missed for the reason that is true."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from fxpasses import rewrite
from zoo.compare import leaves
from zoo.programs import DIALECTS
from zoo.situations import CASES, Case

TOLERANCE = 1e-12
# what torch.export says of a tensor attribute that is no buffer, and Dynamo of what torch.cond reads
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tensor attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


def image(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


@functools.cache
def exported(case: str, dialect: str) -> tuple[Any, ExportedProgram]:
    chosen = next(one for one in CASES if one.name == case)
    if dialect == "core":
        model, program = exported(case, "training")
        return model, program.run_decompositions()
    model = chosen.make()
    example = 4 if 4 in chosen.batches or not chosen.axes else max(chosen.batches[-1], 2)
    return model, torch.export.export(
        model, (image(example),), dynamic_shapes=(chosen.axes or None,), **chosen.options
    )


def assert_equal(reference: Any, program: ExportedProgram, batches: tuple[int, ...]) -> None:
    for batch in batches:
        pairs = zip(leaves(reference(image(batch))), leaves(program.module()(image(batch))), strict=True)
        for expected, found in pairs:
            assert expected.shape == found.shape
            assert (expected - found).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1e-3)


def _pairs() -> list[Any]:
    """Every case in both dialects; by default in one of them, and in both where they differ."""
    pairs = []
    for index, case in enumerate(CASES):
        for position, dialect in enumerate(DIALECTS):
            is_default = index % 2 == position or case.training != case.core
            marks = () if is_default else (pytest.mark.slow,)
            pairs.append(pytest.param(case, dialect, marks=marks, id=f"{case.name}-{dialect}"))
    return pairs


@pytest.mark.parametrize(("case", "dialect"), _pairs())
def test_a_situation(case: Case, dialect: str) -> None:
    model, program = exported(case.name, dialect)
    before = written(program)
    result = rewrite(program, to=case.to, scope=case.scope)
    result.module.validate() if hasattr(result.module, "validate") else result.module._validate()
    assert_equal(model, result.module, case.batches)
    wanted = case.training if dialect == "training" else case.core
    if isinstance(wanted, str):
        assert result.report.rewrites == ()
        assert str(result.report.misses[0].code) == wanted
        assert written(result.module) == before
        return
    assert (len(result.report.rewrites), result.report.misses) == (wanted, ())
    result.plan.apply(program.state_dict)
    back = rewrite(result.module, to="linear" if case.to == "conv" else "conv", scope=case.scope).module
    assert written(back) == before == written(program)
    assert_equal(model, back, case.batches[-1:])


def written(program: ExportedProgram) -> list[tuple[str, ...]]:
    return [(n.op, n.name, str(n.target), str(n.args), str(n.kwargs)) for n in program.graph.nodes]


def test_names_are_used_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
