"""One small backbone and the heads under study, as their authors write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxhead.study.settings import StudyHead

WIDTH = 64
"""Channels that the head reads."""
SCALE = 30.0
"""What the positive control's first weights are multiplied by."""


class LinearHead(nn.Module):
    """Pool, flatten, ``nn.Linear``.

    Shapes:
        maps: [N, C, H, W]; result: [N, classes].
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.fc(self.pool(maps).flatten(1))
        return logits


class ConvHead(nn.Module):
    """Pool, ``nn.Conv2d`` with a 1×1 kernel, view.

    Shapes:
        maps: [N, C, H, W]; result: [N, classes].
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.fc(self.pool(maps))
        return logits.view(logits.size(0), -1)


class Network(nn.Module):
    """Three convolutions with batch norm, and a head.

    Shapes:
        images: [N, C, H, W]; result: [N, classes].
    """

    def __init__(self, backbone: nn.Sequential, head: LinearHead | ConvHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def build(head: StudyHead, channels: int, classes: int, seed: int) -> Network:
    """A network drawn from ``seed`` in torch's default way; the backbone is drawn first.

    So under one seed every head follows the same backbone, and draws from the same state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _backbone(channels)
        top = ConvHead(WIDTH, classes) if head is StudyHead.CONV else LinearHead(WIDTH, classes)
    if head is StudyHead.SCALED:
        with torch.no_grad():
            for parameter in top.parameters():
                parameter.mul_(SCALE)
    return Network(backbone, top)


def _backbone(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, stride in ((16, 1), (32, 2), (WIDTH, 2)):
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers)
