"""A graph has the inputs that are given; every other parameter of ``forward`` keeps its default."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from fxexport.certificate import Verdict
from fxhead import certify, export_onnx
from fxpasses import rewrite
from zoo.untraceable import Head, image


class MayWeigh(Head):
    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            x = x * weights
        return self.logits(x)


class MayScale(Head):
    def forward(self, x: Tensor, *, scale: float = 0.5, mode: str = "logits") -> Any:
        return self.logits(x) * scale if mode == "logits" else x


class MayDouble(Head):
    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        return self.logits(x) * scale


class LikeTransformers(Head):
    def forward(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        assert pixel_values is not None
        loss = None if labels is None and not kwargs.get("loss") else self.logits(pixel_values).mean()
        return {"logits": self.logits(pixel_values), "loss": loss}


class TakesAnyNumber(Head):
    def forward(self, *images: Tensor) -> Tensor:
        return self.logits(torch.stack(images).sum(0))


def leaf(result: Any) -> Tensor:
    return result["logits"] if isinstance(result, dict) else result


@pytest.mark.parametrize("has_examples", [False, True])
@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (MayWeigh, "weights"),
        (MayScale, "scale, mode"),
        (LikeTransformers, "labels, kwargs"),
        (TakesAnyNumber, None),
    ],
)
def test_what_is_not_given_keeps_its_default(kind: type[Head], kept: str | None, has_examples: bool) -> None:
    model = kind().double().eval()
    result = rewrite(model, to="conv", example_inputs=image(2) if has_examples else None)
    notes = [f"inputs that keep their defaults in the graph: {kept}"] if kept else []
    assert (result.report.trace.method, [*result.report.trace.notes]) == ("symbolic", notes)
    assert len(result.report.rewrites) == 1
    torch.testing.assert_close(leaf(result.module(image(3))), leaf(model(image(3))))


def test_a_graph_is_certified_with_the_inputs_that_are_given() -> None:
    """torch.fx makes an input of every parameter; the others keep their defaults, as in a call."""
    model = MayDouble().eval()
    graph, changed = (symbolic_trace(model) for _ in range(2))
    next(node for node in changed.graph.nodes if node.target == "scale").args = (3.0,)
    changed.recompile()
    images = image(2).float()
    assert certify(model, graph, images).verdict is Verdict.PROVED
    assert certify(graph, graph, images).verdict is Verdict.PROVED
    assert certify(model, changed, images).verdict is Verdict.BROKEN


def test_a_model_may_be_copied_and_tried_while_it_is_traced() -> None:
    """As the command line does where a parameter can do without an input, to find the input's shape."""
    model = MayWeigh().double().eval()
    model.norm = nn.BatchNorm2d(3).double().eval()  # asks for its mode
    tried: list[Tensor] = []

    def examples() -> Tensor:
        twin = copy.deepcopy(model)
        tried.append(twin(twin.norm(image(2))))
        return image(2)

    report = rewrite(model, to="conv", example_inputs=examples).report
    assert (report.trace.method, len(report.rewrites)) == ("symbolic", 1)
    assert tried


def test_what_is_given_is_an_input() -> None:
    model = MayWeigh().double().eval()
    given = image(2), image(2) + 3
    result = rewrite(model, to="conv", example_inputs=given)
    assert result.report.trace.notes == ()
    torch.testing.assert_close(result.module(*given), model(*given))
    with pytest.raises(TypeError):
        rewrite(model, to="conv", example_inputs=given[0]).module(*given)


def test_as_many_inputs_as_are_given(tmp_path: Path) -> None:
    model = TakesAnyNumber().eval()
    given = tuple(image(2).float() for _ in range(3))
    result = rewrite(model, to="conv", example_inputs=given)
    torch.testing.assert_close(result.module(*given), model(*given))
    export_onnx(model, given, tmp_path / "net.onnx")
    assert len(onnx.load(tmp_path / "net.onnx").graph.input) == 3


def test_one_with_defaults_is_certified() -> None:
    model = LikeTransformers().eval()
    given = image(2).float()
    assert certify(model, rewrite(model, to="conv"), given).verdict is Verdict.PROVED
