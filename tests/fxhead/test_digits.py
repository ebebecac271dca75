"""As a user would: train on real images, save, run the command, and deploy any of the results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]

MODEL = '''
"""A small classifier of 8×8 digits."""

from torch import nn


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.dropout(self.pool(self.features(x)).flatten(1)))
'''


def train(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(12):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()


def run_onnx(path: Path, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (item.name for item in session.get_inputs())
    (logits,) = session.run(None, {name: images.numpy()})
    return np.asarray(logits)


def test_the_same_digits_are_read_from_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digit_net.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(images))
    fit, held_out = order[:1347], order[1347:]
    module = __import__("digit_net").DigitNet()
    train(module, images[fit], labels[fit])
    torch.save(module, tmp_path / "digits.pt")  # in train mode, as after training

    command = [
        sys.executable,
        "-m",
        "fxhead",
        "rewrite",
        "digits.pt",
        "--to",
        "conv",
        "--input-shape",
        "1x1x8x8",
        "--allow",
        "digit_net.DigitNet",
    ]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tools")))
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    shown = images[held_out]
    with torch.no_grad():
        original = module.eval()(shown).argmax(1)
        rewritten = torch.load(tmp_path / "digits.conv.pt", weights_only=False)(shown).argmax(1)
    assert (original == labels[held_out]).float().mean() > 0.95
    expected = original.numpy()
    np.testing.assert_array_equal(rewritten.numpy(), expected)
    for name in ("digits.linear.onnx", "digits.conv.onnx"):
        np.testing.assert_array_equal(run_onnx(tmp_path / name, shown).argmax(1), expected)
