"""Scales and shifts around the head: an average commutes with them, so they stand on the map as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from fxpasses import rewrite

CHANNELS, CLASSES = 8, 5


class Scaled(nn.Module):
    def __init__(self, head: Callable[[Scaled, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = head
        self.conv, self.fc = nn.Conv2d(3, CHANNELS, 3), nn.Linear(CHANNELS, CLASSES)
        self.shift, self.row = nn.Parameter(torch.randn(CLASSES)), nn.Parameter(torch.randn(1, CHANNELS))
        self.heat = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("counts", torch.rand(1, CLASSES) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, self.conv(x).relu().mean((2, 3)))


HEADS: dict[str, Callable[[Scaled, Tensor], Tensor]] = {
    "number before": lambda m, f: m.fc(f * 30.0),
    "vector before": lambda m, f: m.fc((f - m.row) * m.row),
    "parameter behind": lambda m, f: m.fc(f) / m.heat,
    "bias of its own": lambda m, f: m.fc(f) + m.shift,
    "adjusted": lambda m, f: m.fc(f) - 1.5 * torch.log(m.counts),
    "viewed": lambda m, f: m.fc(f) * m.shift.view(1, -1) + m.shift[None],
    "inverse scale": lambda m, f: 3 - m.fc(f) * m.heat.exp(),
}


@pytest.mark.parametrize("dialect", ["torch", "aten", "core"])
@pytest.mark.parametrize("name", HEADS)
def test_scales_and_shifts_are_part_of_the_map(name: str, dialect: str) -> None:
    model, x = Scaled(HEADS[name]).eval().double(), torch.randn(2, 3, 7, 9).double()
    subject: object = model
    if dialect != "torch":
        subject = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("n")},))
        subject = subject.run_decompositions() if dialect == "core" else subject
    dense = rewrite(subject, to="dense", outputs=("logits", "map"))  # type: ignore[call-overload]
    assert [entry.site.name for entry in dense.report.rewrites] == ["fc"]
    back = rewrite(dense.module, to="linear")
    runs = [made.module if dialect == "torch" else made.module.module() for made in (dense, back)]
    with torch.no_grad():
        logits, scores = runs[0](x)
        expected = model(x)
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(scores.mean((2, 3)), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(runs[1](x), expected)


@pytest.mark.parametrize(
    ("behind", "reader"),
    [
        (lambda y: y * 30, None),
        (lambda y: torch.cat([y, y], 1), None),
        (lambda y: y.softmax(1), "softmax"),
        (lambda y: {"shares": y.sigmoid()}, "sigmoid"),
        (lambda y: (y, y.softmax(1)), None),
    ],
    ids=["scale", "joined", "softmax", "dict", "both"],
)
def test_the_report_says_whose_mean_the_logits_are_not(behind: Any, reader: str | None) -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return behind(self.fc(self.conv(x).mean((2, 3))))

    notes = rewrite(Behind().eval(), to="dense", outputs=("logits", "map")).report.trace.notes
    assert notes == (() if reader is None else (f"the mean of the map is what {reader!r} reads, no output",))
