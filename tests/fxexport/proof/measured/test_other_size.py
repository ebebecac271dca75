"""Whether a model takes other sizes is asked by running it, and it refuses as it likes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fxexport.certificate import certify
from fxexport.onnx_dialect.rewrite import rewrite_onnx
from fxexport.proof.measured.other_size import map_axes, resized, why_not
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.samples import Samples
from tests.onnx_files import classifier, images, weights


class OneSize(nn.Module):
    def __init__(self, *told: str) -> None:
        super().__init__()
        self.told = told

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 8:
            raise AssertionError(*self.told)
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("told", "why"),
    [((), "AssertionError"), (("",), "AssertionError"), (("8 only\nsays the model",), "8 only")],
    ids=["nothing", "empty", "lines"],
)
def test_a_refusal_without_a_message_is_told_by_its_type(told: tuple[str, ...], why: str) -> None:
    rows = np.zeros((2, 3, 8, 8), np.float32)
    samples = Samples(names=("x",), rows=(rows,))
    subject = ModuleSubject(OneSize(*told), [rows])
    assert why_not(subject, samples) is None
    assert why_not(subject, resized(samples, map_axes(samples, [subject]))) == why


_EVEN = (
    "s = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) "
    "t = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r, V) u = Add(s, t) "
    "p = GlobalAveragePool(u) f = Flatten(p) y = Gemm<transB=1>(f, W)"
)


@pytest.mark.parametrize(
    ("to", "dims", "verdict"), [("fcn", "N,3,6,6", "agrees"), ("dense", "N,3,h,w", "proved")]
)
def test_a_body_of_even_maps_alone_is_measured_at_twice_the_size(
    to: str, dims: str, verdict: str, tmp_path: Path
) -> None:
    model = classifier(_EVEN, {"V": weights(8, 8, 3, 3), "W": weights(5, 8)}, dims=dims)
    made = rewrite_onnx(model, to=to).module
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(made, tmp_path / "b.onnx")
    found = certify(tmp_path / "a.onnx", tmp_path / "b.onnx", images(8))
    assert (found.verdict.value, found.sizes[0].size) == (verdict, "12x12")


def test_rounding_to_half_precision_behind_a_head_in_fp32_is_rounding(tmp_path: Path) -> None:
    """As converters leave it that are told which layers to keep: what lay one step apart was broken."""
    body = (
        "h = Cast<to=10>(r) p = GlobalAveragePool(h) f = Flatten(p) c = Cast<to=1>(f) "
        "g = Gemm<transB=1>(c, W) q = Cast<to=10>(g) y = Cast<to=1>(q)"
    )
    model = classifier(body, {"W": weights(5, 8)})
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(rewrite_onnx(model, to="fcn").module, tmp_path / "b.onnx")
    found = certify(tmp_path / "a.onnx", tmp_path / "b.onnx", images(8))
    assert found.verdict.value == "agrees", found.reason
    other = rewrite_onnx(model, to="fcn").module
    (weight,) = (tensor for tensor in other.graph.initializer if tensor.name == "W")
    weight.raw_data = (weights(5, 8)[::-1]).tobytes()
    onnx.save(other, tmp_path / "b.onnx")
    assert certify(tmp_path / "a.onnx", tmp_path / "b.onnx", images(8)).verdict.value == "broken"
