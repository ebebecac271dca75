"""Guards of a recording, as ranges of extents that are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxexport.language import derive, graph_of_module
from fxexport.language.extents import floor_divided, plus, ranges, symbol, times
from fxexport.language.graph import GraphInput
from fxexport.language.guards import NotUnderstood
from fxexport.language.ranges import MOST, Granted, granted

INPUT = GraphInput(
    name="args_0", dtype="float32",
    dims=(None, 3, None, None), least=(2, 3, 2, 2), most=(None, 3, None, None),
    same=("b", None, "h", "w"),
)  # fmt: skip
HEIGHT, WIDTH = "L['args'][0].size()[2]", "L['args'][0].size()[3]"


def read(*guards: str) -> Granted:
    return granted(guards, [INPUT], [(2, 3, 32, 48)], [(None, 3, None, None)], {"args_0": "x"})


@pytest.mark.parametrize(
    ("guard", "taken"),
    [
        (f"{HEIGHT} >= 7", (7, None)),
        (f"5 < {HEIGHT}", (6, None)),
        (f"{HEIGHT} <= 100", (2, 100)),
        (f"4 <= {HEIGHT} and {HEIGHT} != 50", (4, 49)),
        (f"(1 + ((-1 + {HEIGHT}) // 8)) != 1", (9, MOST)),
        (f"{HEIGHT} % 2 == 0", (32, 32)),
        (f"{HEIGHT} ** 2 < 2000", (2, 44)),
        (f"torch.sym_max(1, {HEIGHT} - 20) != 1", (22, MOST)),
        (f"64 // ({HEIGHT} - 8) == 2", (30, 40)),
        (f"not ({HEIGHT} == 31)", (32, MOST)),
        (f"math.floor({HEIGHT} / 3) == 10", (30, 32)),
        ("L['args'][0].size()[1] == 3", (2, None)),
    ],
)
def test_what_is_asked_of_one_extent_is_a_range(guard: str, taken: tuple[int, int | None]) -> None:
    found = read(guard)
    assert found.ranges["h"] == taken
    assert found.ranges["w"] == (2, None)
    assert found.conditions == ()
    ends = {dims[0][2] for dims in (*found.outside, *found.fixed) if dims[0][3] == 48}
    assert ends >= {end for end in (taken[0] - 1, (taken[1] or MOST) + 1) if 0 < end < MOST}


def test_what_is_asked_of_several_is_a_condition() -> None:
    found = read(f"{HEIGHT} <= {WIDTH}", f"{HEIGHT} * {WIDTH} < 10000")
    assert [item.text for item in found.conditions] == [
        "x.size(2) <= x.size(3)",
        "x.size(2) * x.size(3) < 10000",
    ]
    assert found.takes([(None, 3, 32, 48)])
    assert found.takes([(None, 3, 32, None)])
    assert not found.takes([(None, 3, 49, 48)])
    assert not found.takes([(None, 3, 200, 300)])
    assert not found.takes([(None, 4, 32, 48)])
    seen = {dims[0][2:] for dims in (*found.outside, *found.fixed)}
    assert {(49, 48), (32, 31), (209, 48), (32, 313), (100, 100)} <= seen


def test_a_batch_that_takes_no_part_is_not_raised_where_maps_vanish() -> None:
    batch = "L['args'][0].size()[0]"
    found = read(f"{batch} * ({HEIGHT} // 16) != {batch}")
    assert not found.fixed
    assert ((2, 3, 31, 48),) in found.outside


def test_a_product_that_one_extent_keeps_from_one_asks_no_more() -> None:
    found = read(f"(({HEIGHT} // 16)*({WIDTH} // 16)) != 1", f"({HEIGHT} // 16) != 1")
    assert found.conditions == ()
    assert found.ranges["h"] == (32, MOST)


@pytest.mark.parametrize(
    "guard",
    ["L['args'][0].stride()[2] > 1", "L['y'].size()[2] > 1", f"{HEIGHT} > 33", f"f({HEIGHT})", "x > 1"],
)
def test_what_is_not_understood_or_false_is_no_recording(guard: str) -> None:
    with pytest.raises(NotUnderstood):
        read(guard)


def test_numbers_too_large_to_know_do_not_hold() -> None:
    found = read(f"{HEIGHT} ** 6 > 0")
    low, high = found.ranges["h"]
    assert low == 2
    assert high is not None
    assert high**6 < 2**53 <= (high + 1) ** 6


def test_an_extent_that_torch_fixes_or_ties_is_tried_beside_it() -> None:
    tied = GraphInput(
        name="args_0", dtype="float32", dims=(2, 3, None, None), least=(2, 3, 2, 2), most=(2, 3, None, None),
        same=(None, None, "h", "h"),
    )  # fmt: skip
    found = granted((), [tied], [(2, 3, 32, 32)], [(None, 3, None, None)], {})
    seen = {dims[0] for dims in found.fixed}
    assert {(1, 3, 32, 32), (3, 3, 32, 32), (4, 3, 32, 32), (2, 3, 32, 33), (2, 3, 32, 64)} <= seen


@pytest.mark.parametrize("ends", [(8, 15), (8, 16), (0, 7), (3, 3), (1, None)])
@pytest.mark.parametrize("step", [1, 2, 8])
@pytest.mark.parametrize(("factor", "added"), [(1, -8), (1, 3), (2, 1), (-1, 20), (-3, 0)])
def test_a_quotient_is_a_number_where_it_is_that_in_the_whole_range(
    ends: tuple[int, int | None], step: int, factor: int, added: int
) -> None:
    low, high = ends
    with ranges({"h": ends}):
        once = floor_divided(plus(times(factor, symbol("h")), added), step)
        twice = floor_divided(plus(once, 1), 2)
    most = 60 if high is None else high
    values = [(factor * h + added) // step for h in range(low, most + 1)]
    for found, every in ((once, values), (twice, [(value + 1) // 2 for value in values])):
        if isinstance(found, int):
            assert {found} == set(every)
    if len(set(values)) == 1 and low != high:
        assert once == values[0]
    assert not isinstance(floor_divided(plus(symbol("h"), 3), 2), int)


class Pooled(nn.Module):
    """A head on a pool of one size, as a Linear or as a convolution."""

    def __init__(self, *, is_linear: bool, stride: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight, bias = torch.randn(5, 3), torch.randn(5)
        self.pool = nn.AvgPool2d(8, stride)
        self.head = nn.Linear(3, 5) if is_linear else nn.Conv2d(3, 5, 1)
        self.head.weight.data = weight if is_linear else weight[:, :, None, None]
        self.head.bias.data = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(x.relu())
        if isinstance(self.head, nn.Linear):
            return self.head(x.view(x.size(0), -1))
        return self.head(x).view(x.size(0), -1)


def test_models_are_compared_where_both_run() -> None:
    """The Linear takes maps of 8 to 15 places; the convolution any from 8 on."""
    x = torch.randn(2, 3, 9, 10)
    first, second, third = (
        graph_of_module(Pooled(is_linear=is_linear, stride=stride), (x,), free_sizes=True)
        for is_linear, stride in ((True, 8), (False, 8), (False, 2))
    )
    found = derive(first, second)
    assert found.is_proved
    assert "x axis 2: every extent from 8 to 15" in found.sizes
    assert not derive(first, third).is_proved
