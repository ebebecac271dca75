"""The second ONNX file of the main job is made from the first, and is what an export would have given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from bench.derived import up_to_names
from fxexport import export_onnx
from fxhead.rewriting.derive import derive
from fxpasses import rewrite

Run = Callable[..., Any]
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.LayerNorm(8)
        self.one, self.two = torch.nn.Linear(8, 6), torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(torch.nn.functional.adaptive_avg_pool2d(self.stem(x).relu(), 1), 1)
        return self.two(torch.nn.functional.hardswish(self.one(self.norm(x))))


def test_what_is_derived_is_what_is_exported_up_to_names(tmp_path: Path) -> None:
    model, examples = Head().eval(), (torch.randn(2, 3, 9, 9),)
    result = rewrite(model, to="conv")
    export_onnx(model, examples, tmp_path / "linear.onnx")
    export_onnx(result.module, examples, tmp_path / "conv.onnx")
    assert derive(tmp_path / "linear.onnx", tmp_path / "derived.onnx", result.report)
    assert up_to_names(tmp_path / "derived.onnx") == up_to_names(tmp_path / "conv.onnx")
    back = rewrite(result.module, to="linear")
    assert derive(tmp_path / "conv.onnx", tmp_path / "back.onnx", back.report)
    assert up_to_names(tmp_path / "back.onnx") == up_to_names(tmp_path / "linear.onnx")
    assert not onnx.load(tmp_path / "derived.onnx").metadata_props


@pytest.mark.parametrize("change", ["form", "scope", "sites"])
def test_what_is_no_such_change_is_not_derived(tmp_path: Path, change: str) -> None:
    model, examples = Head().eval(), (torch.randn(2, 3, 9, 9),)
    export_onnx(model, examples, tmp_path / "linear.onnx")
    if change == "sites":
        with torch.no_grad():
            model.two = torch.nn.Linear(6, 5)
    to, scope = ("dense" if change == "form" else "conv"), ("all" if change == "scope" else "head")
    model.one = torch.nn.Linear(8, 6)
    if change == "form":
        model = torch.nn.Sequential(model.stem, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), model.one)
    report = rewrite(model, to=to, scope=scope, example_inputs=examples).report
    assert report.rewrites
    assert not derive(tmp_path / "linear.onnx", tmp_path / "derived.onnx", report)
    assert not (tmp_path / "derived.onnx").exists()


def test_the_main_job_exports_once(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)  # else a fork does it
    done = run("rewrite", "model.pt", "--to", "conv", *SMALL)
    assert done.code == 0, done.out + done.err
    assert done.err.count("exporting the") == 1
    assert "making model.conv.onnx of model.linear.onnx" in done.err
