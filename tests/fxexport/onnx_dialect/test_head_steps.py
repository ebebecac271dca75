"""A head as boxes and wires, read from the file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from fxexport import export_onnx
from fxexport.onnx_dialect.head_steps import draw_onnx
from fxpasses import rewrite
from fxpasses.errors import FileError


def names(path: Path) -> list[str]:
    drawing = draw_onnx(path, "m")
    assert drawing is not None
    return [step.name for step in drawing.steps]


def test_a_head_goes_from_what_collapses_the_map_to_the_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*features, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    example = (torch.randn(2, 3, 8, 8),)
    export_onnx(model, example, tmp_path / "linear.onnx")
    assert names(tmp_path / "linear.onnx") == ["GlobalAveragePool", "Flatten", "Gemm", "Relu", "Gemm"]
    export_onnx(rewrite(model, to="conv").module, example, tmp_path / "conv.onnx")
    assert names(tmp_path / "conv.onnx") == ["GlobalAveragePool", "Conv", "Relu", "Conv", "Flatten"]
    single = nn.Sequential(*features, nn.Linear(4, 2))
    export_onnx(rewrite(single.eval(), to="dense").module, example, tmp_path / "dense.onnx")
    assert names(tmp_path / "dense.onnx") == ["Conv", "GlobalAveragePool", "Flatten"]


def test_wires_are_those_of_the_graph(tmp_path: Path) -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = x.mean((2, 3))
            return self.second(self.first(pooled).relu()) + pooled

    export_onnx(Skips().eval(), (torch.randn(2, 3, 8, 8),), tmp_path / "m.onnx")
    drawing = draw_onnx(tmp_path / "m.onnx", "m")
    assert drawing is not None
    last = drawing.steps[-1]
    assert last.name == "Add"
    assert [drawing.steps[place].name for place in last.sources][-1] == "Gemm"
    assert len(last.sources) == 2
    assert not last.is_open
    assert drawing.steps[0].is_open


def test_an_attribute_of_no_type_is_an_error_of_the_file(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])
    flat = helper.make_node("Flatten", ["x"], ["y"], axis=1)
    flat.attribute[0].type = onnx.AttributeProto.UNDEFINED
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])
    onnx.save(helper.make_model(helper.make_graph([flat], "g", [value], [result])), tmp_path / "m.onnx")
    with pytest.raises(FileError, match="'axis' is of no type"):
        draw_onnx(tmp_path / "m.onnx", "m")
