"""How far quantised files lie apart where ONNX Runtime runs them on integer kernels, as it does by default.

Those kernels round once where a file says twice, and which nodes they take depends on the form of the head.
No bound holds of that, so it is told beside the verdict, which is of the files as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence

from fxexport.numerics.bounds import Precision
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.batches import Streamed
from fxexport.proof.measured.measure import parts
from fxexport.proof.measured.rounding import OutputCheck
from fxexport.proof.measured.tally import Tally
from fxexport.proof.pairing.outputs import PairedOutputs
from fxexport.providers import by_default
from fxexport.results import OutputStatistics
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import BatchError, Subject
from fxexport.terms.term import Array
from fxpasses.errors import ProviderError


def compare_by_default(
    subjects: tuple[Subject, Subject],
    outputs: PairedOutputs,
    samples: Samples,
    providers: Sequence[str],
    precision: Precision,
) -> tuple[tuple[OutputStatistics, ...], tuple[str, ...]]:
    """One record for each output and provider; and a sentence on each provider that did not run both."""
    tally, untold = Tally(), []
    for provider in providers:
        try:
            _add(tally, subjects, outputs, samples, by_default(provider), precision)
        except (BatchError, ProviderError) as error:
            untold.append(f"with the defaults of {provider} nothing was compared: {error}")
    return tally.statistics, tuple(untold)


def _add(
    tally: Tally,
    subjects: tuple[Subject, Subject],
    outputs: PairedOutputs,
    samples: Samples,
    target: str,
    precision: Precision,
) -> None:
    on = subjects[0].runs_on(target), subjects[1].runs_on(target)
    streamed = Streamed(subjects[0], on[0]), Streamed(subjects[1], on[1])
    # nothing inside is tapped: that would change which nodes are fused
    for part in parts(*subjects, samples, lambda feeds: subjects[0].outputs(feeds, on[0])):
        run_by: tuple[Subject | Streamed, Subject | Streamed] = subjects if part.is_first else streamed
        given = zip(run_by, part.feeds, on, strict=True)
        reference, candidate = (runner.outputs(feeds, name) for runner, feeds, name in given)
        for name, i, j in outputs:
            check = _unbounded(name, reference[i], candidate[j], precision)
            tally.add(check, part, "/".join(dict.fromkeys(on)), precision)


def _unbounded(name: str, reference: Array, candidate: Array, precision: Precision) -> OutputCheck:
    a, b, unit = flat(reference), flat(candidate), precision.result
    return OutputCheck(name=name, reference=a, candidate=b, bound=None, unit=unit)
