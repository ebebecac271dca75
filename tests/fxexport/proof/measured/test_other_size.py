"""Whether a model takes other sizes is asked by running it, and it refuses as it likes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fxexport.proof.measured.other_size import map_axes, resized, why_not
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.samples import Samples


class OneSize(nn.Module):
    def __init__(self, *told: str) -> None:
        super().__init__()
        self.told = told

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 8:
            raise AssertionError(*self.told)
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("told", "why"),
    [((), "AssertionError"), (("",), "AssertionError"), (("8 only\nsays the model",), "8 only")],
    ids=["nothing", "empty", "lines"],
)
def test_a_refusal_without_a_message_is_told_by_its_type(told: tuple[str, ...], why: str) -> None:
    rows = np.zeros((2, 3, 8, 8), np.float32)
    samples = Samples(names=("x",), rows=(rows,))
    subject = ModuleSubject(OneSize(*told), [rows])
    assert why_not(subject, samples) is None
    assert why_not(subject, resized(samples, map_axes(samples, [subject]))) == why
