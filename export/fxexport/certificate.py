"""certify: what is known about two models being the same function, layer by layer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fxexport.numerics.bounds import FP32
from fxexport.proof.derivation import UNTRIED, derived
from fxexport.proof.differences import derived_layer, is_same_graph, is_shown, unfolded, unshown
from fxexport.proof.graphs.compare import Comparison, compare_heads, nothing_compared
from fxexport.proof.graphs.paired_outputs import paired_outputs, roots_of, unexplained
from fxexport.proof.graphs.run_alone import Trials
from fxexport.proof.graphs.strict import PairedOutputs, Strict, compare_files, compare_modules
from fxexport.proof.layers import (
    Prober,
    Walks,
    backbone_layer,
    site_differences,
    site_name,
    weights_layer,
    wiring_layer,
)
from fxexport.proof.measured.measure import measure
from fxexport.proof.measured.other_size import resized, size_of, why_not
from fxexport.proof.measured.search import Found, search
from fxexport.proof.measured.tally import Tally, joined
from fxexport.proof.measured.windows import check_windows, is_windowed
from fxexport.proof.scope import scope_of
from fxexport.proof.verdicts import Judge, Seen
from fxexport.providers import is_defaults, require_known, require_provider, short_name, targets_of
from fxexport.results import Certificate, LayerResult, SizeResult, Status, Verdict
from fxexport.subjects.models import Models, Opened, Source, opened
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.samples import Inputs, InputSpec, Samples, given_samples
from fxexport.subjects.subject import EAGER, Subject
from fxexport.terms.pool_first import is_dense
from fxexport.terms.term import affine_of
from fxpasses.errors import CheckError, ExportError
from fxpasses.plan import WeightPlan
from fxpasses.wall.marks import walled_for


def certify(
    reference: Source,
    candidate: Source,
    inputs: Inputs | None = None,
    providers: Sequence[str] = ("cpu",),
    plan: WeightPlan | None = None,
    *,
    seed: int = 0,
) -> Certificate:
    """The certificate of ``candidate`` being the same function as ``reference``.

    Each of the two is a module or a program (run in eager mode, evaluation mode, where it lies), the path of
    a ``.pt2`` file (a program; no code in the file is run) or the path of an ONNX file (run on every
    provider). What wraps a module (``torch.compile``, data parallelism) is looked through.

    The verdict:

    - ``proved``: both are read into one closed language, in which every argument of every operator counts,
      and identities from a fixed table turn one into the other, over equal constants. So the two are one
      function for every input, up to rounding; ``scope`` says for which batches and sizes. What ran lies
      within its bounds (layer 4).
    - ``broken``: an input on which outputs lie further apart than rounding can take them; ``witness`` has
      it, and layers 1 to 3 say what in the models differs. Or one constant is another number, by more than
      the folding of a batch norm allows, in graphs that are the same but for it.
    - ``agrees``: neither. ``reason`` names what no identity relates; where that is something, a search ran
      both models on some sixty further inputs.
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
    both.

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
        InputError: the inputs are below the native size of a fully convolutional head.
        CheckError: the two cannot be compared, or there is nothing to compare.
        ProviderError: a provider is missing or did not run every node.
    """
    with walled_for(reference, candidate):
        return Certifier(inputs, providers, seed=seed).certify(reference, candidate, plan)


class Certifier:
    """Certificates over the same inputs and providers; models that occur in several are run once.

    A module is traced, and a file read and run, the first time that it occurs, and both are taken to
    stay as they are.

    Args:
        inputs: see ``certify``.
        providers: see ``certify``.
        seed: seed of every random number used.

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
        if not providers:
            raise CheckError("no provider to run on", fix="name at least one, e.g. providers=('cpu',)")
        require_known(providers)
        self._providers = tuple(dict.fromkeys(map(short_name, providers)))
        self._seed = seed
        self._prober = Prober(seed)
        self._models = Models(None if inputs is None else given_samples(inputs), seed)

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

    def take_export(self, module: nn.Module, path: Path) -> None:
        """Takes the file as what ``module`` exports to, which spares an export."""
        self._models.take_export(module, path)

    def certify(self, reference: Source, candidate: Source, plan: WeightPlan | None = None) -> Certificate:
        """The certificate of ``candidate`` being the same function as ``reference``; see ``certify``."""
        reference, candidate = opened(reference), opened(candidate)
        found = self._at_one_size(reference, candidate, plan)
        left, right, samples = self._models.pair(reference, candidate)
        is_map = is_dense(left.graph) or is_dense(right.graph)
        order = paired_outputs(*map(self._models.commuted, (left, right)))[1] if is_map else None
        windowed = None if is_map else self._windowed(left, right)
        if (order is None and windowed is None) or found.verdict is Verdict.BROKEN:
            return found
        larger = resized(samples)
        sides = (left, right) if windowed is None else windowed[1:2]
        refused = [f"{side.name}: {reason}" for side in sides if (reason := why_not(side, larger))]
        if refused:
            result = SizeResult(size=size_of(larger), verdict=None, reason=refused[0])
        elif windowed is None:
            result = self._at_another_size(reference, candidate, larger)
        else:
            result = self._on_windows(*windowed, larger)
        return _with_size(found, result)

    def _at_another_size(self, reference: Opened, candidate: Opened, samples: Samples) -> SizeResult:
        other = Certifier(None, self._providers, seed=self._seed)
        other._models = self._models.at(samples)
        found = other._at_one_size(reference, candidate, None)
        return SizeResult(
            size=size_of(samples), verdict=found.verdict, reason=found.reason, statistics=found.statistics
        )

    def _windowed(self, left: Subject, right: Subject) -> tuple[Subject, Subject, PairedOutputs] | None:
        """The classifier, the model on windows and their outputs, if the two are that."""
        order = paired_outputs(left, right)[1]
        if is_windowed(left, right, order):
            return left, right, order
        swapped = tuple((name, j, i) for name, i, j in order)
        return (right, left, swapped) if is_windowed(right, left, swapped) else None

    def _on_windows(
        self, classifier: Subject, other: Subject, order: PairedOutputs, samples: Samples
    ) -> SizeResult:
        roots = roots_of(classifier, other, order)
        walk = compare_heads(classifier.head, other.head, roots, Trials(classifier, other, self._providers))
        failures, gaps = [], []
        for provider in self._providers:
            found = check_windows(classifier, other, walk, order, samples, provider)
            failures.extend(found[0])
            gaps.extend(found[1])
        size = size_of(samples)
        if failures:
            return SizeResult(size=size, verdict=Verdict.BROKEN, reason=f"windows: {failures[0]}")
        if gaps:
            return SizeResult(size=size, verdict=None, reason=gaps[0])
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
            left, right = self._models.commuted(left), self._models.commuted(right)
        roots, outputs = paired_outputs(left, right)
        heads = left.head, right.head
        trials = Trials(left, right, self._providers)
        head = compare_heads(*heads, roots, trials)
        beside = self._strictly(left, right, outputs, head, trials)
        walks = Walks(
            heads=heads,
            head=head,
            strict=beside.head,
            upstream=beside.upstream,
            is_reformed=beside.is_reformed,
            in_heads=beside.in_heads,
        )
        different = site_differences(walks)
        weights = weights_layer(walks, different, _planned(reference, candidate, plan))
        hidden = [f"{side.name}: {side.doubt}" for side in (left, right) if side.doubt is not None]
        is_alike = is_same_graph(walks, different) and weights.status is Status.PROVED and not hidden

        def seen_on(target: str) -> Tally:
            tally = measure(
                left,
                right,
                heads,
                walks.head,
                outputs,
                samples,
                target,
                is_same_backbone=is_alike and not beside.is_exported,
                has_same_sites=not different,
            )
            tally.gaps.extend(
                f"the map {name!r} of {side.name} is not the map of its logits, as far as is known here"
                for side, other in ((left, right), (right, left))
                for name in unexplained(side, other)
            )
            repeats = [side.repeats(target) for side in (left, right)]
            if False in repeats:
                tally.notes.append(f"a second run on {target} gave other bits")
            return tally

        targets = [
            *runs_on,
            *(t for provider in runs_on for t in targets_of(provider) if is_defaults(t)),
        ]
        tallies = {target: seen_on(target) for target in targets}
        first = tallies[runs_on[0]]
        is_seen = any(tallies[target].failures for target in runs_on)
        derivation = UNTRIED if is_seen else derived(left, right, outputs)
        other = unfolded(walks, different, is_exported=beside.is_exported) if derivation.has_folds else None
        derivation = derivation if other is None else derivation.without(other)
        is_told = not (is_seen or derivation.is_proved) and is_shown(
            walks,
            different,
            is_identical=all(tallies[target].is_identical for target in runs_on),
            ulps=max(
                (item.max_difference_ulp for t in runs_on for item in tallies[t].statistics), default=0.0
            ),
        )
        found = Found()
        is_open = not (is_seen or is_told or derivation.is_proved)
        if is_open and (derivation.is_made or not is_alike):
            on = tuple(EAGER if side.dialect == "module" else runs_on[0] for side in (left, right))
            found = search(
                (left, right), (on[0], on[1]), samples, outputs, first.precision or FP32, is_brief=is_alike
            )
            first.failures.extend(found.failures)
            first.witness = first.witness or found.witness
        is_broken = is_seen or is_told or bool(found.failures)
        if 0 < len(weights.failures) <= len(different) and not is_broken:
            weights = unshown(weights)
        backbone = backbone_layer(beside.upstream, is_exported=beside.is_exported, is_shown=is_broken)
        if derivation.is_proved:
            weights, backbone = (derived_layer(layer, derivation.reason) for layer in (weights, backbone))

        def wired(providers: tuple[str, ...]) -> LayerResult:
            return wiring_layer(
                (left, right),
                walks,
                providers,
                self._prober,
                is_shown=is_broken,
                is_derived=derivation.is_proved,
            )

        whole = Judge(weights=weights, backbone=backbone, derived=derivation, tried=found.tried)
        wiring = wired(runs_on)
        judged = whole.judge(wiring, joined([tallies[target] for target in runs_on]))
        names = [affine_of(site).weight_name for site in heads[0].sites]
        names += [site_name(affine_of(a), affine_of(b)) for a, b in walks.rewritten_sites()]
        seen = [
            Seen(
                target=target,
                wiring=wired((target,)),
                tally=tally,
                repeats=[side.repeats(target) for side in (left, right)],
            )
            for target, tally in tallies.items()
        ]
        return Certificate(
            reference=left.name,
            candidate=right.name,
            verdict=judged.verdict,
            reason=judged.reason,
            weights=weights,
            wiring=wiring,
            backbone=backbone,
            rounding=judged.measured.rounding,
            decision=judged.measured.decision,
            statistics=tuple(record for tally in tallies.values() for record in tally.statistics),
            flips=judged.measured.flips,
            heads=tuple(names),
            providers=runs_on,
            targets=tuple(map(whole.on_target, seen)),
            seed=self._seed,
            scope=(
                *scope_of(left, right, outputs, next((s.batches for s in first.statistics), ())),
                *derivation.scope,
                *derivation.sizes,
            ),
            witness=judged.measured.witness if judged.verdict is Verdict.BROKEN else None,
        )

    def _strictly(
        self, left: Subject, right: Subject, outputs: PairedOutputs, head: Comparison, trials: Trials
    ) -> Strict:
        """Heads and backbones side by side in one dialect: a module beside a file as what it exports to.

        Two modules are compared as such, unless sites changed form between their feature maps.
        """
        is_exported = "module" in (left.dialect, right.dialect)
        by_themselves = None
        if isinstance(left, ModuleSubject) and isinstance(right, ModuleSubject):
            by_themselves = compare_modules(left, right, head, trials)
            if not by_themselves.is_reformed:
                return by_themselves
        try:
            # between a site's forms a batch norm is part of the weights in one of them only
            keep_norms = by_themselves is not None
            a, b = (self._models.as_file(subject, keep_norms=keep_norms) for subject in (left, right))
        except ExportError as error:
            reason = f"the module cannot be written as ONNX, to be compared node by node ({error})"
            return by_themselves or Strict(head=head, upstream=nothing_compared(reason))
        trials = Trials(a, b, self._providers)
        own = compare_heads(a.head, b.head, roots_of(a, b, outputs), trials) if is_exported else head
        found = compare_files(a, b, outputs, own, trials)
        return dataclasses.replace(found, is_exported=is_exported)


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
    reference: Source, candidate: Source, plan: WeightPlan | None
) -> tuple[nn.Module, nn.Module, WeightPlan] | None:
    if plan is None or not isinstance(reference, nn.Module) or not isinstance(candidate, nn.Module):
        return None
    return reference, candidate, plan
