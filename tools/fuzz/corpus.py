"""Small good files of every kind that fxhead reads, made once."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch import nn

from fxexport import certify, export_onnx
from fxpasses import rewrite


def _net() -> nn.Module:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    net = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return net.eval()


def _torch_saved(value: Any, **options: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made, **options)
    return made.getvalue()


def _training() -> dict[str, Any]:
    net = _net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return {"state_dict": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


def _program() -> bytes:
    made = io.BytesIO()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(_net(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, made)
    return made.getvalue()


def _array(**options: Any) -> bytes:
    made = io.BytesIO()
    values = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    np.savez(made, x=values) if options.get("zipped") else np.save(made, values)
    return made.getvalue()


def _image(kind: str) -> bytes:
    made = io.BytesIO()
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    Image.fromarray(pixels).save(made, format=kind)
    return made.getvalue()


@functools.cache
def corpus(folder: Path) -> dict[str, bytes]:
    """Contents by the name of a file; ``folder`` is for what has to be written first."""
    net = _net()
    result = rewrite(net, "conv")
    export_onnx(net, torch.randn(2, 3, 8, 8), folder / "seed.onnx")
    return {
        "module.pt": _torch_saved(net),
        "legacy.pt": _torch_saved(net, _use_new_zipfile_serialization=False),
        "graph.pt": _torch_saved(result.module),
        "weights.pth": _torch_saved(net.state_dict()),
        "legacy.pth": _torch_saved(net.state_dict(), _use_new_zipfile_serialization=False),
        "training.ckpt": _torch_saved(_training()),
        "weights.safetensors": save_safetensors(dict(net.state_dict())),
        "program.pt2": _program(),
        "model.onnx": (folder / "seed.onnx").read_bytes(),
        "model.plan.json": json.dumps(result.plan.to_dict()).encode(),
        "model.certificate.json": json.dumps(_certificate()).encode(),
        "net.certificate.json": json.dumps(_certificate(net, result.module)).encode(),
        "models.csv": b"source,name,to,html\nmodel.pt,one,conv,yes\nmodel.onnx,two,linear,\n",
        "models.jsonl": b'{"source": "model.pt", "to": "conv", "seed": 3, "html": true}\n',
        "models.yaml": b"- source: model.pt\n  to: conv\n  seed: 3\n- &last {source: net.onnx, to: linear}\n",
        "config.json": json.dumps(_FOLDER).encode(),
        "model.safetensors": save_safetensors(dict(net.state_dict())),
        "data.npy": _array(),
        "data.npz": _array(zipped=True),
        "image.png": _image("PNG"),
        "image.jpg": _image("JPEG"),
        "image.gif": _image("GIF"),
        "image.tiff": _image("TIFF"),
        "image.bmp": _image("BMP"),
        "image.webp": _image("WEBP"),
        "labels.json": b'{"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "cow"]}',
    }


_FOLDER: dict[str, Any] = {
    "architecture": "test_resnet", "num_classes": 3, "label_names": ["cat", "dog", "elk"],
    "label_descriptions": {"cat": "a cat"},
    "pretrained_cfg": {
        "input_size": [3, 160, 160], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}  # fmt: skip


def _certificate(*pair: nn.Module) -> dict[str, Any]:
    """As ``fxhead check -o`` writes it, with the fields that reading looks at; of a pair, those of a page."""
    file = {"path": "m.onnx", "sha256": "0" * 64, "size_bytes": 10}
    model = {
        "name": "m.onnx", "kind": "onnx", "source": None, "file": file, "data": [], "weights": None,
        "weights_file": None, "state_sha256": None,
    }  # fmt: skip
    data = {
        "kind": "random", "samples": 8, "path": None, "sha256": None, "left_out": 0, "preparation": None,
        "inputs": [{"name": "x", "shape": [3, 8, 8], "dtype": "float32", "limit": None}],
    }  # fmt: skip
    recipe = {
        "models": [model, model], "pairs": [[0, 1]], "plan": None, "seed": 0, "data": data,
        "providers": [{"name": "cpu", "options": {}}],
        "loading": {"arch": None, "ema": False, "prefix": None, "allow": [], "trust": False},
    }  # fmt: skip
    checks = [certify(*pair, torch.randn(8, 3, 8, 8)).to_dict()] if pair else [{"verdict": "proved"}]
    return {
        "schema_version": 2 if pair else 1, "kind": "fxhead certificate", "verdict": "proved",
        "environment": {"torch": "2"}, "recipe": recipe, "checks": checks,
    }  # fmt: skip
