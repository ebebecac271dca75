"""certify: what is known about two models being the same function, layer by layer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from fxexport.proof.evidence import gathered
from fxexport.proof.layers import Prober, backbone_layer, weights_layer, wiring_layer
from fxexport.proof.measured.other_size import map_axes, resized, size_of, why_not
from fxexport.proof.measured.runtime import changed_by_optimiser
from fxexport.proof.measured.tally import joined
from fxexport.proof.measured.windows import UNPAIRED, check_windows, is_windowed
from fxexport.proof.pairing.heads import paired_heads
from fxexport.proof.pairing.outputs import PairedOutputs, paired_outputs
from fxexport.proof.scope import scope_of
from fxexport.proof.verdicts import Judge
from fxexport.providers import require_known, require_provider, short_name
from fxexport.results import Certificate, LayerResult, SizeResult, Status, Verdict
from fxexport.subjects.arguments import on_disk, plan_of, require_names, require_seed
from fxexport.subjects.models import Models, ModelSource, Opened, opened
from fxexport.subjects.samples import Inputs, InputSpec, Samples, given_samples
from fxexport.subjects.subject import EAGER, Subject
from fxexport.terms.pool_first import is_dense
from fxpasses.api import RewriteResult
from fxpasses.errors import CheckError
from fxpasses.plan import WeightPlan
from fxpasses.wall.clock import add_bytes
from fxpasses.wall.marks import walled_for


def certify(
    reference: ModelSource | RewriteResult[Any],
    candidate: ModelSource | RewriteResult[Any],
    inputs: Inputs | None = None,
    providers: Sequence[str] = ("cpu",),
    plan: WeightPlan | None = None,
    *,
    seed: int = 0,
) -> Certificate:
    """The certificate of ``candidate`` being the same function as ``reference``.

    Each of the two is a module or a program (run in eager mode, evaluation mode, where it lies), the path of
    a ``.pt2`` file (a program; no code in the file is run), the path of an ONNX file (run on every
    provider), an ``onnx.ModelProto`` or ``onnx_ir.Model``, or the result of a rewrite, whose plan is then
    checked too. What wraps a module (``torch.compile``, data parallelism) is looked through.

    The verdict:

    - ``proved``: both are read into one closed language, in which every argument of every operator counts,
      and identities from a fixed table turn one into the other, over equal constants. So the two are one
      function for every input, up to rounding; ``scope`` says for which batches and sizes. What ran lies
      within its bounds (layer 4).
    - ``broken``: an input on which outputs lie further apart than rounding can take them; ``witness`` has
      it, and layers 1 to 3 say what in the models differs. In graphs that are the same but for constants,
      where rounding may hide what these do, and in files that hold the same tensors, it is an input on
      which the two differ in float64; numbers that moved from one place to another differ there, but by no
      more than roundings of them. Where nothing evaluates the two in float64, a number that differs is
      enough, and ``scope`` says so.
    - ``agrees``: neither. ``reason`` names what no identity relates; where that is something, a search ran
      both models on further inputs, some sixty where they are small.
    - ``inconclusive``: something that is needed could not be run; ``reason`` says what.

    Five layers are established beside the derivation:

    1. **weights**: every head parameter is the same number.
    2. **wiring**: each site alone, run on inputs for which floating point is exact, puts every weight in its
       place, on every provider; and the heads are the same operators on the same values.
    3. **backbone**: what is upstream of the head is the same operators with the same constants.
    4. **rounding**: every site and every output of each model lies within a rigorous bound of the float64
       value of the *reference's* head, on the features that this model computed; and outputs lie no further
       apart than rounding takes them, as each model shows when weights and inputs are nudged.
    5. **decision**: top-1 classes agree, or differ by less than the bounds.

    They are established on each provider in a strict session (fp32 stays fp32), and once more with the
    provider's own defaults where these loosen it; the verdict rests on the strict ones, and ``targets`` has
    both. Of quantised files, which by default run on integer kernels, ``by_default`` has how far outputs lie
    apart there.

    A head before its pool is compared as the head behind it that it is equal to, with bounds that hold in
    both orders; its map is checked at every position, and its mean against the logits. Such models are
    certified once more at another size, if they take one. A head on windows is certified at its native size,
    and each position at a larger one is compared with the classifier on its window of the map. The verdict is
    never better than at the other size; ``sizes`` has what was found there.

    A file of one batch is certified at that batch. Outputs are paired by name, else by position.

    Args:
        reference: the model that is right by definition.
        candidate: the model that should be the same function.
        inputs: ``[N, …]`` samples (one tensor, a sequence, or a mapping by input name); None takes eight
            random ones, as an ONNX file declares its inputs. Batches of 1, 2 and 5 are run, then all
            further samples.
        providers: ONNX Runtime providers that files are run on; modules are always run in eager mode.
        plan: the plan by which the candidate was rewritten; for two modules, names and shapes are then
            checked against it too.
        seed: seed of every random number used.

    Raises:
        InputError: an argument is of another kind, or the inputs are below the native size of a fully
            convolutional head.
        CheckError: the two cannot be compared, or there is nothing to compare.
        ProviderError: a provider is missing or did not run every node.
    """
    plan = plan_of(plan, reference, candidate)
    with contextlib.ExitStack() as until:
        left, right = (
            on_disk(model, name, until)
            for name, model in (("reference", reference), ("candidate", candidate))
        )
        given = None if inputs is None else given_samples(inputs)
        until.enter_context(walled_for(left, right))
        # what the caller has in memory takes the time that it takes
        add_bytes(
            0 if given is None else sum(math.prod(rows.shape) * rows.dtype.itemsize for rows in given.rows)
        )
        return Certifier(given, providers, seed=seed).certify(left, right, plan)


class Certifier:
    """Certificates over the same inputs and providers; models that occur in several are run once.

    A module is traced, and a file read and run, the first time that it occurs, and both are taken to
    stay as they are.

    Raises:
        CheckError: there is no provider or no sample.
        ProviderError: a provider is unknown, or the installed build lacks it.
    """

    def __init__(
        self,
        inputs: Inputs | Samples | None = None,
        providers: Sequence[str] = ("cpu",),
        *,
        seed: int = 0,
    ) -> None:
        providers = (providers,) if isinstance(providers, str) else providers
        if not providers:
            raise CheckError("no provider to run on", fix="name at least one, e.g. providers=('cpu',)")
        require_names(providers)
        require_known(providers)
        require_seed(seed)
        self._providers = tuple(dict.fromkeys(map(short_name, providers)))
        self._seed = seed % 2**64  # NumPy takes none below 0, as torch does
        self._prober = Prober(self._seed)
        self._models = Models(None if inputs is None else given_samples(inputs), self._seed)

    def declared(self, path: str | os.PathLike[str]) -> tuple[InputSpec, ...]:
        """What an ONNX file says about its inputs.

        Raises:
            CheckError: it is no ONNX file.
        """
        return self._models.declared(path)

    def give(self, inputs: Inputs | Samples) -> None:
        """Takes ``inputs`` as the samples of every certificate from here on.

        Raises:
            CheckError: there is no sample, or a certificate was made over other samples.
        """
        self._models.give(given_samples(inputs))

    def certify(
        self, reference: ModelSource, candidate: ModelSource, plan: WeightPlan | None = None
    ) -> Certificate:
        """The certificate of ``candidate`` being the same function as ``reference``; see ``certify``."""
        reference, candidate = opened(reference), opened(candidate)
        found = self._at_one_size(reference, candidate, plan)
        left, right, samples = self._models.pair(reference, candidate)
        is_map = is_dense(left.graph) or is_dense(right.graph)
        order = paired_outputs(left.commuted, right.commuted) if is_map else None
        windowed = None if is_map else self._windowed(left, right)
        if (order is None and windowed is None) or found.verdict is Verdict.BROKEN:
            return found
        axes = map_axes(samples, (left, right))
        sides = (left, right) if windowed is None else windowed[1:2]
        larger = resized(samples, axes)
        refused = self._refusal(sides, larger)
        if refused is not None:
            doubled = resized(samples, axes, is_doubled=True)
            if self._refusal(sides, doubled) is None:
                larger, refused = doubled, None
        size = size_of(larger, axes)
        if refused is not None:
            result = SizeResult(size=size, verdict=None, reason=refused)
        elif windowed is None:
            result = self._at_another_size(reference, candidate, larger, size)
        else:
            result = self._on_windows(*windowed, larger, size)
        return _with_size(found, result)

    def _refusal(self, sides: Sequence[Subject], samples: Samples) -> str | None:
        """Which of the models does not take samples of these sizes, and why; None where all do."""
        told = ((side.name, why_not(side, samples, self._providers[0])) for side in sides)
        return next((f"{name}: {reason}" for name, reason in told if reason is not None), None)

    def _at_another_size(
        self, reference: Opened, candidate: Opened, samples: Samples, size: str
    ) -> SizeResult:
        other = Certifier(samples, self._providers, seed=self._seed)
        found = other._at_one_size(reference, candidate, None)
        return SizeResult(size=size, verdict=found.verdict, reason=found.reason, statistics=found.statistics)

    def _windowed(self, left: Subject, right: Subject) -> tuple[Subject, Subject, PairedOutputs] | None:
        """The classifier, the model on windows and their outputs, if the two are that."""
        order = paired_outputs(left, right)
        if is_windowed(left, right, order):
            return left, right, order
        swapped = tuple((name, j, i) for name, i, j in order)
        return (right, left, swapped) if is_windowed(right, left, swapped) else None

    def _on_windows(
        self, classifier: Subject, other: Subject, order: PairedOutputs, samples: Samples, size: str
    ) -> SizeResult:
        walk = paired_heads(classifier, other, order)
        failures, gaps = [], []
        for provider in self._providers:
            found = check_windows(classifier, other, walk, order, samples, provider)
            failures.extend(found[0])
            gaps.extend(found[1])
        if failures:
            return SizeResult(size=size, verdict=Verdict.BROKEN, reason=f"windows: {failures[0]}")
        if gaps:
            # windows that cannot be told apart are what such a head is for
            is_lacking = any(UNPAIRED in gap for gap in gaps)
            return SizeResult(size=size, verdict=Verdict.INCONCLUSIVE if is_lacking else None, reason=gaps[0])
        reason = "every position is the classifier on its window, within its bound"
        return SizeResult(size=size, verdict=Verdict.AGREES, reason=reason)

    def _at_one_size(self, reference: Opened, candidate: Opened, plan: WeightPlan | None) -> Certificate:
        left, right, samples = self._models.pair(reference, candidate)
        if "onnx" in (left.dialect, right.dialect):
            for provider in self._providers:
                require_provider(provider)
            runs_on = self._providers
        else:
            runs_on = (EAGER,)
        if not samples.names and len(samples.rows) == len(left.input_names):
            samples = dataclasses.replace(samples, names=left.input_names)
        if is_dense(left.graph) or is_dense(right.graph):
            left, right = left.commuted, right.commuted
        found = gathered(left, right, samples, runs_on)
        weights = weights_layer(found, _planned(reference, candidate, plan))
        backbone = backbone_layer(found)

        def wired(providers: tuple[str, ...]) -> LayerResult:
            is_here = found.is_in_heads and weights.status is not Status.FAILED
            return wiring_layer((left, right), found, providers, self._prober, is_here=is_here)

        whole = Judge(weights=weights, backbone=backbone, derived=found.derived, tried=found.tried)
        wiring = wired(runs_on)
        tally = joined([found.tallies[target] for target in runs_on])
        judged = whole.judge(wiring, tally)
        targets = tuple(
            whole.on_target(target, wired((target,)), seen, [side.repeats(target) for side in (left, right)])
            for target, seen in found.tallies.items()
        )
        statistics = tuple(record for seen in found.tallies.values() for record in seen.statistics)
        batches = next((record.batches for record in statistics), ())
        witness = tally.witness if judged.verdict is Verdict.BROKEN else None
        blamed = None if witness is None else changed_by_optimiser(left, right, witness)
        rounding = judged.rounding if blamed is None else _told(judged.rounding, blamed)
        return Certificate(
            reference=left.name,
            candidate=right.name,
            verdict=judged.verdict,
            reason=judged.reason if blamed is None else f"{judged.reason}; {blamed}",
            weights=weights,
            wiring=wiring,
            backbone=backbone,
            rounding=rounding,
            decision=judged.decision,
            statistics=statistics,
            by_default=found.by_default,
            flips=tally.flips,
            heads=found.sites.names(),
            providers=runs_on,
            targets=targets,
            seed=self._seed,
            scope=(
                *scope_of(left, right, found.outputs, batches),
                *found.untold,
                *((*found.derived.scope, *found.derived.sizes) if judged.verdict is Verdict.PROVED else ()),
            ),
            witness=witness,
        )


def _told(layer: LayerResult, why: str) -> LayerResult:
    """The layer with what its failures come of."""
    told = (dataclasses.replace(failure, what=f"{failure.what}: {why}") for failure in layer.failures)
    return dataclasses.replace(layer, failures=tuple(told))


def _with_size(found: Certificate, other: SizeResult) -> Certificate:
    """The certificate with what was found at another size: never better than there.

    On windows of a larger map the function is measured, and its proof is that of the native size.
    """
    reason = f"{found.reason}; at {other.size}: {other.reason}"
    verdict = found.verdict
    if other.verdict in (Verdict.BROKEN, Verdict.INCONCLUSIVE):
        verdict, reason = other.verdict, f"at {other.size}: {other.reason}"
    elif other.reason == found.reason:
        reason = f"{found.reason}; the same at {other.size}"
    return dataclasses.replace(found, verdict=verdict, reason=reason, sizes=(other,))


def _planned(
    reference: ModelSource, candidate: ModelSource, plan: WeightPlan | None
) -> tuple[nn.Module, nn.Module, WeightPlan] | None:
    if plan is None or not isinstance(reference, nn.Module) or not isinstance(candidate, nn.Module):
        return None
    return reference, candidate, plan
