"""Small members of torchvision's families, and two models of our own for what those lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    swin_transformer,
)


class Grid(nn.Module):
    """VGG's head in small: a 2×2 grid, two sites, the second one square."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(24, 10), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(10, 10)
        )
        nn.init.uniform_(self.classifier[0].bias, 0.1, 0.5)  # or some of its units are never reached

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class Twins(nn.Module):
    """Two inputs of one shape, two maps of one shape, two heads of one shape, one of them with softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.norm(self.first(left)) + self.second(right))
        y = torch.relu(self.second(right))
        scores = self.a(torch.flatten(self.pool(x), 1)), self.b(torch.flatten(self.pool(y), 1))
        return torch.softmax(scores[0], 1), scores[1]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family's small member.

    Attributes:
        make: builds it.
        inputs: number of image inputs.
        side: extent of the images.
    """

    make: Callable[[], nn.Module]
    inputs: int = 1
    side: int = 64

    def example(self, samples: int, seed: int = 1) -> tuple[torch.Tensor, ...]:
        """Seeded images, one tensor an input."""
        generator = torch.Generator().manual_seed(seed)
        shape = (samples, 3, self.side, self.side)
        return tuple(torch.randn(shape, generator=generator) for _ in range(self.inputs))


_Bneck = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
_MBConv = efficientnet.MBConvConfig

FAMILIES: dict[str, Family] = {
    "grid": Family(make=Grid, side=8),
    "twins": Family(make=Twins, inputs=2, side=8),
    "resnet": Family(make=lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)),
    "resnext": Family(
        make=lambda: resnet.ResNet(
            resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=4, width_per_group=4
        )
    ),
    "densenet": Family(
        make=lambda: densenet.DenseNet(4, (2, 2), num_init_features=8, num_classes=10), side=32
    ),
    "efficientnet": Family(
        make=lambda: efficientnet.EfficientNet(
            [_MBConv(1, 3, 1, 8, 8, 1), _MBConv(4, 3, 2, 8, 16, 1)], 0.2, num_classes=10, last_channel=32
        ),
        side=32,
    ),
    "mnasnet": Family(make=lambda: mnasnet.MNASNet(0.1, num_classes=10)),
    "mobilenet_v2": Family(
        make=lambda: mobilenetv2.MobileNetV2(
            num_classes=10, width_mult=0.1, inverted_residual_setting=[[1, 8, 2, 1], [2, 16, 2, 2]]
        ),
        side=32,
    ),
    "mobilenet_v3": Family(
        make=lambda: mobilenetv3.MobileNetV3(
            [
                _Bneck(16, 3, 16, 16, True, "RE", 1),
                _Bneck(16, 3, 16, 16, True, "HS", 2),
            ],
            last_channel=16,
            num_classes=16,
        ),
        side=16,
    ),
    "regnet": Family(
        make=lambda: regnet.RegNet(
            regnet.BlockParams([1, 2], [8, 16], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25),
            num_classes=10,
            stem_width=8,
        ),
        side=32,
    ),
    "shufflenet": Family(
        make=lambda: shufflenetv2.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 32], num_classes=10)
    ),
    "convnext": Family(
        make=lambda: convnext.ConvNeXt(
            [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)], num_classes=10
        ),
        side=32,
    ),
    "swin": Family(
        make=lambda: swin_transformer.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=10),
        side=32,
    ),
}


def build(name: str, *, is_calibrated: bool) -> nn.Module:
    """The family's member in evaluation mode; calibrated, its batch norms hold statistics of its data.

    With default statistics the features of deep members are next to nothing, and a wrong head hides
    behind its bias.
    """
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = family.make()
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if is_calibrated and norms:
        kept = [norm.momentum for norm in norms]
        with torch.no_grad():
            for norm in norms:
                norm.momentum = 1.0
            model.train()(*family.example(16, seed=2))
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
            torch.nn.init.normal_(norm.bias, std=0.1)
    return model.eval()
