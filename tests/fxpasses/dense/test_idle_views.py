"""Views that take a map of one position whole stand in nobody's way; a maximum with its places is told."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim

from fxpasses import find_sites, rewrite
from fxpasses.miss_codes import MissCode


class Indexed(nn.Module):
    def __init__(self, *, largest: bool = False) -> None:
        super().__init__()
        self.conv, self.fc, self.largest = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), largest

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.largest:
            return self.fc(x.flatten(2).max(-1).values)
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1)[:, :, 0, 0])


def test_a_whole_slice_is_passed_by() -> None:
    model, x = Indexed().eval().double(), torch.randn(2, 3, 8, 8).double()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("n")},)).run_decompositions()
    dense = rewrite(program, to="dense")
    assert [entry.site.name for entry in dense.report.rewrites] == ["fc"]
    torch.testing.assert_close(dense.module.module()(x), model(x), rtol=1e-12, atol=1e-12)
    back = rewrite(dense.module, to="linear").module
    assert [str(node) for node in back.graph.nodes] == [str(node) for node in program.graph.nodes]
    assert torch.equal(back.module()(x), model(x))


def test_a_maximum_with_its_places_is_told_as_that() -> None:
    (miss,) = find_sites(Indexed(largest=True)).misses
    assert miss.code is MissCode.NOT_POOLED
    assert "'max_1', which gives values together with their places" in miss.reason
    assert "amax(dim)" in miss.fix
