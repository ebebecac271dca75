"""Recurrent layers of torch beside the files that its exporters write of them, and beside others."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from fxexport import export_onnx
from fxexport.language import derive, graph_of_module, graph_of_onnx

X = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
LAYERS: dict[str, Callable[[], nn.RNNBase]] = {
    "lstm": lambda: nn.LSTM(4, 6, batch_first=True),
    "both ways": lambda: nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True),
    "without bias": lambda: nn.LSTM(4, 6, batch_first=True, bias=False),
    "gru": lambda: nn.GRU(4, 6, 2, batch_first=True, bidirectional=True),
}


class Read(nn.Module):
    """All that a layer gives, as scores."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, last = self.layer(x)
        state = last[1] if isinstance(last, tuple) else last
        return outputs.mean(1), state.transpose(0, 1)


def written(module: nn.Module, path: Path, *, is_new: bool) -> onnx.ModelProto:
    if is_new:
        return onnx.load(export_onnx(module, X, path))
    free = {"x": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is deprecated
        torch.onnx.export(
            module, (X,), path, dynamo=False, input_names=["x"], dynamic_axes=free, opset_version=17
        )
    return onnx.load(path)


@functools.cache
def are_states_recorded() -> bool:
    """Whether torch records the states of an LSTM with the axes that they have; 2.11 says one more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a layer lists its weights
        program = torch.export.export(nn.LSTM(4, 6, batch_first=True).eval(), (X,))
    return all(node.meta["val"][1].dim() == X.dim() for node in program.graph.nodes if node.name == "lstm")


@pytest.mark.parametrize("is_new", [True, False], ids=["dynamo", "script"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_that_of_its_file_and_no_other(name: str, tmp_path: Path, *, is_new: bool) -> None:
    if name != "gru" and not are_states_recorded():
        pytest.skip("this torch records states of another rank")
    torch.manual_seed(0)
    module = Read(LAYERS[name]()).eval()
    file = written(module, tmp_path / "layer.onnx", is_new=is_new)
    assert derive(graph_of_module(module, (X,)), graph_of_onnx(file)).is_proved
    with torch.no_grad():
        weight = module.layer.weight_hh_l0
        weight[:6], weight[-6:] = weight[-6:].clone(), weight[:6].clone()
        weight[0, 0] += 1e-3
    assert not derive(graph_of_module(module, (X,)), graph_of_onnx(file)).is_proved


CHANGES: dict[str, tuple[str, Callable[[onnx.NodeProto], object]]] = {
    "another direction": ("lstm", lambda node: change(node, "direction", "reverse")),
    "other functions": ("lstm", lambda node: change(node, "activations", ["Sigmoid", "Tanh", "Relu"])),
    "a limit": ("lstm", lambda node: change(node, "clip", 0.5)),
    "a reset before the product": ("gru", lambda node: change(node, "linear_before_reset", 0)),
}


def change(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


@pytest.mark.parametrize("name", CHANGES)
def test_another_layer_is_not_proved(name: str, tmp_path: Path) -> None:
    kind, edit = CHANGES[name]
    torch.manual_seed(0)
    module = Read(LAYERS[kind]()).eval()
    file = written(module, tmp_path / "layer.onnx", is_new=False)
    edit(next(node for node in file.graph.node if node.op_type in ("LSTM", "GRU")))
    assert not derive(graph_of_module(module, (X,)), graph_of_onnx(file)).is_proved


def test_a_state_that_is_not_zero_counts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Read(nn.GRU(4, 6, batch_first=True)).eval()
    file = written(module, tmp_path / "layer.onnx", is_new=False)
    (node,) = (node for node in file.graph.node if node.op_type == "GRU")
    for number, is_proved in ((0.0, True), (0.5, False)):
        state = np.full((1, 3, 6), number, np.float32)
        file.graph.initializer.append(numpy_helper.from_array(state, f"state {number}"))
        node.input[5] = f"state {number}"
        assert derive(graph_of_module(module, (X,)), graph_of_onnx(file)).is_proved is is_proved
