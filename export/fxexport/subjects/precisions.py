"""What may be claimed of how a target computes: precisions, tightest first."""

from __future__ import annotations

from fxexport.numerics.bounds import FP32, Precision, looser, precision_of
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.subject import Subject


def claims_of(dtype: str, subject: Subject, target: str) -> tuple[Precision, ...]:
    """Precisions that values of a storage type may have on a target, tightest first.

    What holds under the first holds under the others; which one was needed is part of the result. TF32 is
    no excuse on a CPU, whose kernels do not shorten the operands of fp32.
    """
    first = precision_of(dtype) or FP32
    weaker = looser(first)
    on_cpu = subject.device == "cpu" if isinstance(subject, ModuleSubject) else target == "cpu"
    if weaker is None or (first is FP32 and on_cpu):
        return (first,)
    return first, weaker
