"""Whether two models differ only because ONNX Runtime's optimiser changes what a file computes.

It does where it is wrong: 1.31 takes the zeros that a Pad puts around a map into a MaxPool, whose own padding
is minus infinity.
"""

from __future__ import annotations

from fxexport.numerics.evaluate import flat
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.subject import BatchError, Subject
from fxexport.witness import Witness
from fxpasses.errors import ProviderError

_NEARER = 0.1
"""What is left of the difference where that is so; rounding remains."""


def changed_by_optimiser(left: Subject, right: Subject, witness: Witness) -> str | None:
    """What to say of the file that computes the other model's value as it is written, or None."""
    if witness.expected is None or witness.found is None:
        return None
    values = witness.expected, witness.found
    given = witness.reference, witness.candidate
    for side, subject in enumerate((left, right)):
        if isinstance(subject, OnnxSubject):
            try:
                outputs = subject.as_written(tuple(array for _, array in given[side]), witness.on[side])
            except (BatchError, ProviderError):
                continue
            row, column = witness.index
            value = float(flat(outputs[witness.positions[side]])[row, column])
            if abs(value - values[1 - side]) < _NEARER * abs(values[0] - values[1]):
                return (
                    f"{subject.name} gives the other's value where ONNX Runtime optimises nothing "
                    "(ORT_DISABLE_ALL): its optimiser changes what the file computes"
                )
    return None
