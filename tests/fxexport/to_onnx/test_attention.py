"""Attention over tensors of any rank is written, and the file is proved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxexport import Verdict, certify, export_onnx

Tensor = torch.Tensor


class Attending(nn.Module):
    """A head behind attention within blocks of a map, as Hiera's and NesT's is."""

    def __init__(self, rank: int, mask: Tensor | None = None, scale: float | None = None) -> None:
        super().__init__()
        self.qkv, self.fc = nn.Linear(6, 18), nn.Linear(6, 3)
        self.rank, self.scale = rank, scale
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(x.flatten(2).transpose(1, 2))  # [N, 16, 18]
        tokens = tokens.unflatten(1, (2, 2, 4)) if self.rank == 5 else tokens
        query, key, value = tokens.chunk(3, -1)
        found = F.scaled_dot_product_attention(query, key, value, self.mask, scale=self.scale)
        scores: Tensor = self.fc(found.mean([*range(1, self.rank - 1)]))
        return scores


@pytest.mark.parametrize(
    ("rank", "mask", "scale"),
    [(5, None, None), (3, torch.linspace(-1, 1, 256).view(16, 16), 0.3)],
)
def test_attention_of_another_rank_is_written(
    rank: int, mask: Tensor | None, scale: float | None, tmp_path: Path
) -> None:
    model = Attending(rank, mask, scale).eval()
    images = torch.randn(8, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    export_onnx(model, (images,), tmp_path / "attending.onnx")
    certificate = certify(model, tmp_path / "attending.onnx", images)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
