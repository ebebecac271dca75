"""Runs both models over several batches and establishes layers 4 and 5."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fxexport.language import Derivation
from fxexport.language.identities import TIES
from fxexport.numerics.bounds import FP32, Precision, looser, precision_of
from fxexport.proof.measured.batches import Batch, Streamed, parts_of
from fxexport.proof.measured.far_apart import far_apart, witness_of, worst_of
from fxexport.proof.measured.map_outputs import check_maps
from fxexport.proof.measured.rounding import (
    OutputCheck,
    Pairing,
    Side,
    check_side,
    joint,
    observable,
    read_same_features,
    sides_of,
)
from fxexport.proof.measured.tally import Tally, weakest
from fxexport.proof.pairing.heads import PairedHeads
from fxexport.proof.pairing.outputs import Pair
from fxexport.results import Failure
from fxexport.subjects.samples import BATCHES, Samples
from fxexport.subjects.subject import BatchError, Feeds, Run, Subject
from fxexport.terms.pool_first import spread_sites
from fxexport.terms.term import Array, Kind
from fxexport.witness import Witness
from fxpasses.errors import CheckError, InternalError

_SIDES = ("reference", "candidate")
_MADE = "the samples"
_RunBy = tuple[Subject | Streamed, Subject | Streamed]


def measure(pair: Pair, walk: PairedHeads, samples: Samples, target: str, derivation: Derivation) -> Tally:
    """What layers 4 and 5 see on one target, over batches of 1, 2 and 5 and then all further samples.

    ``derivation``: what was proved of the two.
    """
    left, right = pair.subjects
    pairing = Pairing(
        reference=left.graph,
        head=left.head,
        outputs=pair.outputs,
        observed=observable(left.head, right.head, walk),
        boundary=left.head.boundary,
        before_pool=spread_sites(left.head, walk.partner),
    )
    here = _Here(pair=pair, target=target, pairing=pairing, walk=walk, derivation=derivation)
    streamed = Streamed(left, target), Streamed(right, target)
    # infinite values have no bound, which is said as a failure or a gap; they are no warning
    with np.errstate(invalid="ignore", over="ignore"):
        for part in parts(left, right, samples, lambda feeds: left.observe(feeds, pair.on[0])):
            if not here.runs(pair.subjects if part.is_first else streamed, part):
                break
    return here.tally


def batch_sizes(left: Subject, right: Subject) -> tuple[int, ...]:
    """1, 2 and 5, or sizes in the range that an exported program has; the only size of a fixed model.

    Raises:
        CheckError: the two take no size in common.
    """
    only = left.fixed_batch or right.fixed_batch
    if only is None:
        return right.batches(left.batches(BATCHES))
    if any(
        side.fixed_batch not in (None, only) or side.batches((only,)) != (only,) for side in (left, right)
    ):
        takes = (
            f"{side.name} takes batches of {side.fixed_batch or 'other sizes'}" for side in (left, right)
        )
        raise CheckError(
            f"the two take no batch size in common: {', '.join(takes)}",
            fix="export both for one batch size, or with a free one",
        )
    return (only,)


def parts(left: Subject, right: Subject, samples: Samples, run: Callable[[Feeds], object]) -> Iterator[Batch]:
    """The samples in batches; one by one where ``run``, of the reference, takes no more at once."""
    sizes = batch_sizes(left, right)
    parts = parts_of(samples, left, right, sizes)
    first = next(parts)
    try:
        run(first.feeds[0])
    except BatchError:
        if sizes == BATCHES:
            yield from parts_of(samples, left, right, (1,))
            return
    yield first
    yield from parts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Here:
    """Two models on one target, and what was seen of them there."""

    pair: Pair
    target: str
    pairing: Pairing
    walk: PairedHeads
    derivation: Derivation
    tally: Tally = dataclasses.field(default_factory=Tally)

    def runs(self, run_by: _RunBy, part: Batch) -> bool:
        """Adds what is seen on a part; False where the candidate does not run on it."""
        tally, pairing, walk = self.tally, self.pairing, self.walk
        claims = self._claims()
        found = self._found(run_by, part.feeds, claims)
        if found is None:
            first = part.feeds[0][0], part.feeds[1][0]
            tally.is_run = False
            tally.witness = tally.witness or witness_of(self.pair, None, first, _MADE)
            return False
        misread = {who for who, subject in zip(_SIDES, self.pair.subjects, strict=True) if subject.is_misread}
        sides = found.sides
        failures = [part.numbered(failure) for failure in found.failures if failure.side not in misread]
        if len(failures) < len(found.failures):
            tally.doubts += [f"no graph shows what the {who} computes" for who in _SIDES if who in misread]
        tally.precision = weakest((tally.precision, found.precision))
        tally.sites += found.sites
        tally.gaps.extend(found.gaps)
        if found.precision is not claims[0] and not failures:
            note = f"the bounds that held are those of {found.precision.name}"
            # bounds of sums in half precision are too wide to tell one operator from another
            is_vague = not ((walk.parting is None and walk.is_known) or found.precision.operand)
            (tally.doubts if is_vague else tally.notes).append(note)
        is_telling, told = read_same_features(sides, pairing, found.precision)
        (tally.notes if is_telling else tally.doubts).extend([] if told is None else [told])
        tally.has_same_features = tally.has_same_features and told is None
        # what one head makes of other features than the other's is no difference of the two models
        tally.failures.extend(failures if is_telling else [f for f in failures if f.side == "reference"])
        label = "/".join(dict.fromkeys(self.pair.on))
        checks = joint(sides[0], sides[1], pairing, (precision_of(pairing.head.kind) or FP32).result)
        for check, (_, i, j) in zip(checks, pairing.outputs, strict=True):
            other = _other_kind(sides[0].outputs[i], sides[1].outputs[j])
            axes = self.pair.subjects[0].batch_axes.get(i, 0), self.pair.subjects[1].batch_axes.get(j, 0)
            if axes[0] != axes[1]:
                other = f"the batch along axis {axes[1]} where it is along axis {axes[0]}"
            if other is None:
                _judge(check, label, part, found.precision, tally)
            else:
                tally.failures.append(Failure(what=other, name=check.name, provider=label, side="candidate"))
        for subject, side, who, name in zip(self.pair.subjects, sides, _SIDES, self.pair.on, strict=True):
            maps, failures = check_maps(subject, side, who, walk, found.precision, name, tally)
            tally.failures.extend(part.numbered(failure) for failure in failures)
            for check in maps:
                _judge(check, name, part, found.precision, tally)
        if not tally.failures:
            has_ties = self.derivation.is_proved and TIES in self.derivation.identities
            kinds = (sides[0].outputs[i].dtype.kind for _, i, _ in pairing.outputs)
            pairs = zip(checks, kinds, strict=True)
            firm = _comparable([check for check, kind in pairs if not (kind == "i" and has_ties)])
            apart = far_apart(self.pair, part.feeds, firm, found.precision)
            tally.failures.extend(part.numbered(failure) for failure in apart)
        if tally.failures and tally.witness is None:
            tally.witness = self._seen_in(checks, part)
        return True

    def _claims(self) -> tuple[Precision, ...]:
        """Precisions to try, tightest first; both models run at the same one."""
        kind = self.pairing.head.kind
        pairs = zip(self.pair.subjects, self.pair.on, strict=True)
        return max((subject.claims(kind, target) for subject, target in pairs), key=len)

    def _found(
        self, run_by: _RunBy, feeds: tuple[Feeds, Feeds], claims: tuple[Precision, ...]
    ) -> _Within | None:
        left, right = self.pair.subjects
        can_borrow = self.derivation.is_proved and left.dialect == right.dialect
        found = self._borrowed(run_by, feeds, claims[:1]) if can_borrow else None
        if found is None:
            runs = _runs(run_by, feeds, self.target, self.tally)
            found = None if runs is None else _within(runs, self.pairing, self.pair.on, claims)
        return found

    def _borrowed(
        self, run_by: _RunBy, feeds: tuple[Feeds, Feeds], claims: tuple[Precision, ...]
    ) -> _Within | None:
        """The candidate's outputs against the reference's features, or None where they do not hold so.

        Such a bound says more than one on the candidate's own features: its outputs lie within the rounding
        of the head of the reference's features. So the candidate needs no second run to be tapped. An output
        without a bound says nothing about it, and then it is tapped.
        """
        pairing, target = self.pairing, self.target
        try:
            reference = run_by[0].observe(feeds[0], target)
            outputs = run_by[1].outputs(feeds[1], target)
        except BatchError:
            return None
        pairs = [(a, b) for a, b in pairing.observed.items() if a.kind is not Kind.CONSTANT]
        candidate = Run(outputs=outputs, taps={b.value: reference.taps[a.value] for a, b in pairs})
        found = _within((reference, candidate), pairing, (target, target), claims)
        terms = [pairing.reference[position] for _, position, _ in pairing.outputs]
        has_bounds = all(term in found.sides[1].intervals for term in terms)
        return found if has_bounds and not found.failures and not found.gaps else None

    def _seen_in(self, checks: Sequence[OutputCheck], part: Batch) -> Witness | None:
        """The batch of a part in which outputs lie furthest apart, beside their bound; None where none do."""
        worst = worst_of(_comparable(checks))
        if worst is None or worst.index is None:
            return None
        row, column = worst.index
        place = next(i for name, i, _ in self.pair.outputs if name == worst.name)
        for batch in zip(*part.feeds, strict=True):
            # there may be any number of rows to a sample, or the same to every batch
            rows = np.atleast_1d(self.pair.subjects[0].rerun([batch[0]], self.pair.on[0])[place])
            if row < len(rows):
                break
            row -= len(rows)
        return witness_of(self.pair, dataclasses.replace(worst, index=(row, column)), batch, _MADE)


def _comparable(checks: Sequence[OutputCheck]) -> list[OutputCheck]:
    """The outputs for ``far_apart``; none that are of another shape."""
    return [check for check in checks if check.reference.shape == check.candidate.shape]


def _other_kind(a: Array, b: Array) -> str | None:
    """In what an output is of another kind than it should be; axes of one cell are none."""
    shapes = [tuple(extent for extent in array.shape[1:] if extent != 1) for array in (a, b)]
    if shapes[0] != shapes[1] or len(a) != len(b):
        return f"shape {b.shape[1:]} a sample where {a.shape[1:]} is due"
    return None if a.dtype == b.dtype else f"type {b.dtype.name} where {a.dtype.name} is due"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within:
    """Both sides against float64: the first precision whose bounds hold, else the first tried.

    ``sites`` counts the values of sites that were compared.
    """

    precision: Precision
    sides: tuple[Side, Side]
    failures: list[Failure]
    gaps: list[str]
    sites: int


def _within(
    runs: tuple[Run, Run], pairing: Pairing, on: tuple[str, str], claims: tuple[Precision, ...]
) -> _Within:
    first = None
    for claim in claims:
        sides = sides_of(runs, pairing, functools.partial(_claimed, is_weaker=claim is not claims[0]))
        checks = [
            check_side(sides[0], pairing, "reference", on[0]),
            check_side(sides[1], pairing, "candidate", on[1]),
        ]
        found = _Within(
            precision=claim,
            sides=sides,
            failures=[failure for failures, _ in checks for failure in failures],
            gaps=[gap for _, gaps in checks for gap in gaps],
            sites=sum(v.size for side in sides for t, v in side.observed.items() if t in side.intervals),
        )
        if not found.failures:
            return found
        first = first or found
    if first is None:
        raise InternalError("no precision was claimed")
    return first


def _claimed(kind: str, *, is_weaker: bool) -> Precision:
    first = precision_of(kind) or FP32
    return (looser(first) or first) if is_weaker else first


def _runs(run_by: _RunBy, feeds: tuple[Feeds, Feeds], provider: str, tally: Tally) -> tuple[Run, Run] | None:
    """Both models' runs of all batches; None where the candidate does not run at one of them."""
    try:
        reference = run_by[0].observe(feeds[0], provider)
    except BatchError as error:
        raise CheckError(
            str(error), where=run_by[0].name, fix="give inputs of the shape that it was made for"
        ) from error
    try:
        return reference, run_by[1].observe(feeds[1], provider)
    except BatchError as error:
        tally.failures.append(Failure(what=str(error), side="candidate", provider=provider))
        return None


def _judge(check: OutputCheck, provider: str, part: Batch, precision: Precision, tally: Tally) -> None:
    name, a, b = check.name, check.reference, check.candidate
    if a.shape != b.shape:  # of a map
        what = f"shape {b.shape[1:]} a sample where {a.shape[1:]} is due"
        tally.failures.append(Failure(what=what, name=name, provider=provider, side="candidate"))
        return
    tally.add(check, part, provider, precision)
    tally.is_identical = tally.is_identical and np.array_equal(a, b)
    is_due = True if check.overflow is None else ~check.overflow
    if ((np.isfinite(a) != np.isfinite(b)) & is_due).any():
        what = "NaN or infinity in one model and not in the other"
        tally.failures.append(Failure(what=what, name=name, provider=provider))
    elif not (np.isfinite(a) & np.isfinite(b)).all():
        count = (~(np.isfinite(a) & np.isfinite(b))).sum()
        tally.gaps.append(f"{count} values of {name!r} are NaN or infinite: no evidence")
    elif check.bound is None:
        tally.unbounded.append(name)
