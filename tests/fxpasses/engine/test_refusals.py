"""What forbids a rewrite of one affine op, guard by guard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.parametrizations as parametrizations
from torch import fx, nn
from torch.nn.utils import prune, weight_norm

from fxpasses.engine.refusals import bias_problem, module_problem, sharing_problem, weight_problem
from fxpasses.engine.uses import Uses
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Problem
from fxpasses.vocabulary.ops import Affine, WeightSource
from fxpasses.vocabulary.vocabulary import Vocabulary

SOURCE = fx.Graph().placeholder("x")


def op_of(module: nn.Module | None, source: WeightSource = WeightSource.PARAMETER) -> Affine:
    return Affine(
        source=SOURCE, form=Form.LINEAR, rank=0, weight="fc.weight", bias="fc.bias", weight_source=source,
        module=module,
    )  # fmt: skip


def code(problem: Problem | None) -> MissCode | None:
    return problem and problem.code


class Subclass(nn.Linear):
    pass


def hooked() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_forward_pre_hook(lambda module, args: None)
    return module


def pruned() -> nn.Module:
    module = nn.Linear(2, 2)
    prune.identity(module, "weight")
    return module


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: None, None),
        (lambda: nn.Linear(2, 2), None),
        (lambda: nn.Conv3d(2, 2, 1), None),
        (lambda: nn.LazyLinear(2), MissCode.UNINITIALIZED),
        (lambda: parametrizations.spectral_norm(nn.Linear(2, 2)), MissCode.PARAMETRIZED),
        (lambda: weight_norm(nn.Linear(2, 2)), MissCode.PARAMETRIZED),
        (pruned, MissCode.PARAMETRIZED),
        (lambda: Subclass(2, 2), MissCode.SUBCLASS),
        (hooked, MissCode.HOOKED),
    ],
    ids=["function", "linear", "conv", "lazy", "spectral", "weight_norm", "pruned", "subclass", "hooked"],
)
def test_module(make: Callable[[], nn.Module | None], expected: MissCode | None) -> None:
    assert code(module_problem(op_of(make()))) == expected


def test_a_packed_module() -> None:
    assert code(module_problem(op_of(nn.Linear(2, 2), WeightSource.PACKED))) == MissCode.QUANTIZED


class Weight(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("weight", "source", "expected"),
    [
        (nn.Parameter(torch.zeros(2, 2)), WeightSource.PARAMETER, None),
        (nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16)), WeightSource.PARAMETER, None),
        (nn.Parameter(torch.zeros(2, 2)), WeightSource.COMPUTED, MissCode.COMPUTED_WEIGHT),
        (nn.Parameter(torch.zeros(2, 2)), WeightSource.INPUT, None),
        (nn.UninitializedParameter(), WeightSource.PARAMETER, MissCode.UNINITIALIZED),
        (nn.Parameter(torch.zeros(2, 2).as_subclass(Weight)), WeightSource.PARAMETER, MissCode.WEIGHT_TYPE),
        (
            nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False),
            WeightSource.PARAMETER,
            MissCode.DTYPE,
        ),
        (nn.Parameter(torch.eye(2).to_sparse()), WeightSource.PARAMETER, MissCode.DTYPE),
    ],
    ids=["plain", "bf16", "computed", "input", "uninitialised", "subclass", "int8", "sparse"],
)
def test_weight(weight: nn.Parameter, source: WeightSource, expected: MissCode | None) -> None:
    root = nn.Module()
    root.fc = nn.Module()
    root.fc.register_parameter("weight", weight)
    op = dataclasses.replace(op_of(None, source), bias=None)
    assert code(weight_problem(op, root)) == expected


@pytest.mark.parametrize(("shape", "expected"), [((3,), None), ((1, 3), MissCode.MATRIX_PRODUCT)])
def test_bias(shape: tuple[int, ...], expected: MissCode | None) -> None:
    root = nn.Module()
    root.fc = nn.Module()
    root.fc.register_parameter("bias", nn.Parameter(torch.zeros(shape)))
    assert code(bias_problem(op_of(None), Vocabulary(root), 3)) == expected


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.fc.weight
        self.alone = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.alone(self.tied(self.fc(x)) + self.alone(x)) @ self.alone.weight


@pytest.mark.parametrize(
    ("site", "alike", "expected"),
    [
        ("fc", ["fc"], MissCode.TIED_WEIGHT),
        ("fc", ["fc", "tied"], None),
        ("alone", ["alone"], MissCode.SHARED_MODULE),
        ("alone", ["alone", "alone_1"], MissCode.TIED_WEIGHT),
    ],
)
def test_sharing(site: str, alike: list[str], expected: MissCode | None) -> None:
    """Uses of a weight that all change alike are no obstacle; the product with ``alone.weight`` is one."""
    traced = fx.symbolic_trace(Net())
    vocabulary = Vocabulary(traced)
    ops = {node: vocabulary.classify(node) for node in traced.graph.nodes if node.op == "call_module"}
    uses = Uses.of(traced.graph, vocabulary, ops.values())
    named = {node.name: node for node in ops}
    chosen = {named[name]: ops[named[name]] for name in alike}
    assert code(sharing_problem(ops[named[site]], traced, uses, chosen)) == expected
