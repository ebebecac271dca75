"""All samples in parts: the batches of the proof first, then the rest, some at a time.

Memory does not grow with the number of samples: each part is read, run, judged and dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from fxexport.results import Failure
from fxexport.subjects.samples import BATCHES, Samples
from fxexport.subjects.subject import Feed, Feeds, Run, Subject, joined_taps
from fxexport.terms.term import Array

_PART_BYTES = 8 * 2**20
_FEWEST, _MOST = 8, 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some of the samples, for both models.

    Attributes:
        start: number of the first sample.
        fresh: how many are in no other part; further ones only fill up a batch.
        sizes: batch sizes.
        feeds: the batches, in the order of each model's inputs.
        is_first: whether these are the batches of the proof.
    """

    start: int
    fresh: int
    sizes: tuple[int, ...]
    feeds: tuple[Feeds, Feeds]
    is_first: bool = True

    def numbered(self, failure: Failure) -> Failure:
        """The failure with the number of its sample among all, in place of that in this part."""
        if failure.index is None:
            return failure
        row, *rest = failure.index
        return dataclasses.replace(failure, index=(self.start + row % self.fresh, *rest))


def parts_of(samples: Samples, left: Subject, right: Subject, sizes: tuple[int, ...]) -> Iterator[Batch]:
    """Batches of ``sizes``, going round where there are fewer samples; then what is left of them."""
    ordered = samples.ordered(left.input_names), samples.ordered(right.input_names)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]

    def feeds(batches: list[tuple[int, int]]) -> tuple[Feeds, Feeds]:
        first = [ordered[0].batch(start, size) for start, size in batches]
        if samples.names == () or left.input_names == right.input_names:
            return first, first
        return first, [ordered[1].batch(start, size) for start, size in batches]

    done = min(sum(sizes), samples.count)
    yield Batch(start=0, fresh=done, sizes=sizes, feeds=feeds(list(zip(starts, sizes, strict=True))))
    is_fixed = sizes != BATCHES  # a program's range, of which only these are known
    size = sizes[-1] if is_fixed else _part_size(samples)
    for start in range(done, samples.count, size):
        fresh = min(size, samples.count - start)
        run = size if is_fixed else fresh
        yield Batch(
            start=start,
            fresh=fresh,
            sizes=(run,),
            feeds=feeds([(start, run)]),
            is_first=False,
        )


def _part_size(samples: Samples) -> int:
    sample_bytes = sum(math.prod(rows.shape[1:]) * rows.dtype.itemsize for rows in samples.rows)
    return min(max(_PART_BYTES // max(sample_bytes, 1), _FEWEST), _MOST)


class Streamed:
    """A subject run part by part: its sessions are kept, its results are not.

    Args:
        subject: what is run; its ``observe`` was called before.
        provider: where.
    """

    def __init__(self, subject: Subject, provider: str) -> None:
        self.name = subject.name
        self._subject, self._provider = subject, provider
        self._runners: dict[bool, Callable[[Feed], Run]] = {}

    def outputs(self, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        """Outputs of the model as it is."""
        return self._run(feeds, is_tapped=False).outputs

    def observe(self, feeds: Feeds, provider: str) -> Run:
        """Outputs of the model as it is, and the values tapped inside it."""
        return self._run(feeds, is_tapped=True)

    def _run(self, feeds: Feeds, *, is_tapped: bool) -> Run:
        if is_tapped not in self._runners:
            # opened when first needed: a session holds its own copies of the weights
            self._runners[is_tapped] = self._subject.runner(self._provider, is_tapped=is_tapped)
        runs = [self._runners[is_tapped](feed) for feed in feeds]
        names = runs[0].taps
        taps = joined_taps([[run.taps[name] for name in names] for run in runs])
        outputs = self._subject.joined([run.outputs for run in runs])
        return Run(outputs=outputs, taps=dict(zip(names, taps, strict=True)))
