"""Samples go round where a batch asks for more than there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fxexport.subjects.samples import Samples


class Counted:
    """Rows that count how often each is read."""

    def __init__(self, count: int) -> None:
        self.shape, self.dtype = (count, 2), np.dtype(np.float32)
        self.reads = np.zeros(count, int)

    def __getitem__(self, rows: slice) -> Any:
        self.reads[rows] += 1
        return np.arange(2 * self.shape[0], dtype=np.float32).reshape(self.shape)[rows]


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("start", [0, 1, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_a_batch_goes_round_and_reads_each_sample_once(count: int, start: int, size: int) -> None:
    """An image of 80 million pixels takes seconds to be decoded, each time."""
    rows = Counted(count)
    (batch,) = Samples(names=(), rows=(rows,)).batch(start, size)
    assert batch[:, 0].tolist() == [2 * ((start + place) % count) for place in range(size)]
    assert max(rows.reads) == 1
