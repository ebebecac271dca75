"""``fxhead explain``: every code, each with an example that has it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxpasses import find_sites
from fxpasses.miss_codes import EXAMPLE_PARTS, MissCode

Run = Callable[..., Any]
NAMES = {"torch": torch, "nn": nn, "F": F}


class Built(ast.NodeTransformer):
    """Gives the layers that an expression makes on the spot names of their own."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if not reads_input(node):
            layer = eval(ast.unparse(node), self.made)
            if isinstance(layer, nn.Module | nn.Parameter):
                name = f"made_{len(self.made)}"
                self.made[name] = layer
                return ast.Name(id=name, ctx=ast.Load())
        self.generic_visit(node)
        return node


def reads_input(node: ast.AST) -> bool:
    return bool({"x", "v"} & {name.id for name in ast.walk(node) if isinstance(name, ast.Name)})


def model(example: str) -> nn.Module:
    """A module whose ``forward`` is the example, with its layers as attributes."""
    made = dict(NAMES)
    made |= {name: eval(text, made) for name, text in EXAMPLE_PARTS.items()}
    lines = []
    for statement in ast.parse(example).body:
        if reads_input(statement):
            lines.append(ast.unparse(Built(made).visit(statement)))
        else:  # what is done to a layer before it is called
            exec(ast.unparse(statement), made)
    layers = {name: layer for name, layer in made.items() if isinstance(layer, nn.Module | nn.Parameter)}
    used = [name for name in layers if any(name in line for line in lines)]
    lines[-1] = f"return {lines[-1]}"
    body = [f"{name} = self.{name}" for name in used] + lines
    exec("class Net(nn.Module):\n  def forward(self, x):\n" + "".join(f"    {line}\n" for line in body), made)
    net = made["Net"]()
    for name in used:
        setattr(net, name, layers[name])
    return net


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # torch says it; models that use it exist
@pytest.mark.parametrize("code", MissCode)
def test_the_example_has_the_miss(code: MissCode) -> None:
    arguments = eval(f"dict({code.asked})", {"x": torch.randn(2, 8, 4, 4)})
    assert code in [miss.code for miss in find_sites(model(code.example), **arguments).misses]


def test_without_a_code_all_are_listed(run: Run) -> None:
    done = run("explain")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    for code in MissCode:
        assert any(line.split() == [code, *code.meaning.split()] for line in lines)
    assert [record["code"] for record in run("explain", "--json").document["codes"]] == list(MissCode)


@pytest.mark.parametrize("typed", ["WEIGHT_TYPE", "weight-type"])
def test_a_code_is_explained_with_its_example(run: Run, typed: str) -> None:
    code, done = MissCode.WEIGHT_TYPE, run("explain", typed)
    assert done.code == 0
    lines = [line.strip() for line in done.out.splitlines()]
    assert lines[0] == f"{code}  {code.meaning}"
    assert f"what to do: {code.fix}" in lines
    assert {*code.example.splitlines(), "fc = nn.Linear(8, 10)"} <= {*lines}
    assert "conv = nn.Conv2d(8, 10, 1)" not in lines
    (record,) = run("explain", typed, "--json").document["codes"]
    assert record == {
        "code": code, "meaning": code.meaning, "fix": code.fix, "example": code.example, "asked": code.asked
    }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "fix"),
    [("BAKE_BATCH", "did you mean 'BAKED_BATCH'?"), ("proved", "fxhead explain lists all")],
)
def test_a_code_that_there_is_not(run: Run, typed: str, fix: str) -> None:
    done = run("explain", typed, "--json")
    assert done.code == 2
    assert done.document["error"] == {
        "type": "InputError", "what": "no such code", "where": typed, "fix": fix,
    }  # fmt: skip
