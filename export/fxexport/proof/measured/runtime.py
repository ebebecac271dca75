"""What ONNX Runtime makes of files that is not what they say: integer kernels, and a wrong optimiser.

Those kernels round once where a quantised file says twice, and which nodes they take depends on the form of
the head. No bound holds of that, so how far the files lie apart as they run by default is told beside the
verdict, which is of the files as they are written.

The optimiser is wrong in places: that of 1.31 takes the zeros that a Pad puts around a map into a MaxPool,
whose own padding is minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

from fxexport.numerics.bounds import Precision
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.batches import Streamed
from fxexport.proof.measured.measure import parts
from fxexport.proof.measured.rounding import OutputCheck
from fxexport.proof.measured.tally import Tally
from fxexport.proof.pairing.outputs import Pair
from fxexport.providers import by_default
from fxexport.results import OutputStatistics
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import BatchError, Subject
from fxexport.terms.term import Array
from fxexport.witness import Witness
from fxpasses.errors import ProviderError

_NEARER = 0.1
"""What is left of the difference where that is so; rounding remains."""


def compare_by_default(
    pair: Pair, samples: Samples, providers: Sequence[str], precision: Precision
) -> tuple[tuple[OutputStatistics, ...], tuple[str, ...]]:
    """One record for each output and provider; and a sentence on each provider that did not run both."""
    tally, untold = Tally(), []
    for provider in providers:
        try:
            _add(tally, Pair.at(by_default(provider), *pair.subjects, pair.outputs), samples, precision)
        except (BatchError, ProviderError) as error:
            untold.append(f"with the defaults of {provider} nothing was compared: {error}")
    return tally.statistics, tuple(untold)


def _add(tally: Tally, pair: Pair, samples: Samples, precision: Precision) -> None:
    subjects, on = pair.subjects, pair.on
    streamed = Streamed(subjects[0], on[0]), Streamed(subjects[1], on[1])
    # nothing inside is tapped: that would change which nodes are fused
    for part in parts(*subjects, samples, lambda feeds: subjects[0].outputs(feeds, on[0])):
        run_by: tuple[Subject | Streamed, Subject | Streamed] = subjects if part.is_first else streamed
        given = zip(run_by, part.feeds, on, strict=True)
        reference, candidate = (runner.outputs(feeds, name) for runner, feeds, name in given)
        for name, i, j in pair.outputs:
            check = _unbounded(name, reference[i], candidate[j], precision)
            tally.add(check, part, "/".join(dict.fromkeys(on)), precision)


def _unbounded(name: str, reference: Array, candidate: Array, precision: Precision) -> OutputCheck:
    a, b, unit = flat(reference), flat(candidate), precision.result
    return OutputCheck(name=name, reference=a, candidate=b, bound=None, unit=unit)


def changed_by_optimiser(left: Subject, right: Subject, witness: Witness) -> str | None:
    """What to say of the file that computes the other model's value as it is written, or None."""
    if witness.is_wide or witness.expected is None or witness.found is None:
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
