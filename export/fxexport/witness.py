"""An input on which two models give other outputs, for anyone to run again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxpasses.report import JsonRecord

Inputs = tuple[tuple[str, NDArray[Any]], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Witness(JsonRecord):
    """One batch on which two models differ by more than rounding; the inputs are no part of its JSON.

    Attributes:
        made: how the batch was made, in words.
        reference: what the reference was given, by the names of its inputs.
        candidate: what the candidate was given.
        on: where each of them ran.
        output: name of the output; None where the candidate does not run.
        positions: place of the output among those of each model.
        index: sample, and place in the sample when it is laid out flat.
        expected: the reference's value there.
        bound: how far apart rounding may take the two.
        is_wide: whether both were evaluated in float64, weights and inputs as the numbers that they are.
    """

    unwritten = ("reference", "candidate")

    made: str
    on: tuple[str, str]
    reference: Inputs = ()
    candidate: Inputs = ()
    output: str | None = None
    positions: tuple[int, int] = (0, 0)
    index: tuple[int, int] = (0, 0)
    expected: float | None = None
    found: float | None = None
    bound: float | None = None
    is_wide: bool = False

    def __str__(self) -> str:
        """Which input tells the two apart, and in what."""
        if self.output is None:
            return f"seen on {self.made}, where the candidate does not run"
        row, column = self.index
        digits = 17 if self.is_wide else 9
        values = f"{self.expected:.{digits}g} and {self.found:.{digits}g}"
        return f"seen on {self.made}: {self.output}, sample {row}, place {column}: {values}"

    def save(self, path: Path) -> None:
        """Writes the inputs as ``reference/NAME`` and ``candidate/NAME``."""
        sides = (("reference", self.reference), ("candidate", self.candidate))
        arrays = {f"{side}/{name}": array for side, inputs in sides for name, array in inputs}
        np.savez(path, **arrays)  # type: ignore[arg-type] # numpy's own signature takes a flag by keyword
