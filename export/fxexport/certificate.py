"""certify: what is known about two models being the same function, layer by layer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fxexport.proof.graphs.compare import Comparison, compare_heads, nothing_compared
from fxexport.proof.graphs.paired_outputs import paired_outputs, roots_of, unexplained
from fxexport.proof.graphs.run_alone import Trials
from fxexport.proof.graphs.strict import PairedOutputs, Strict, compare_files, compare_modules
from fxexport.proof.layers import Prober, Walks, backbone_layer, site_name, weights_layer, wiring_layer
from fxexport.proof.measured.measure import measure
from fxexport.proof.measured.other_size import resized, size_of, why_not
from fxexport.proof.measured.tally import joined
from fxexport.proof.measured.windows import check_windows, is_windowed
from fxexport.proof.verdicts import Judge, Seen
from fxexport.providers import is_defaults, require_known, require_provider, short_name, targets_of
from fxexport.results import Certificate, LayerResult, SizeResult, Status, Verdict
from fxexport.subjects.models import Models, Opened, Source, opened
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.samples import Inputs, InputSpec, Samples, given_samples
from fxexport.subjects.subject import EAGER, Subject
from fxexport.terms.pool_first import has_norm_before_pool, is_dense
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
    provider). Five layers are established:

    1. **weights**: every head parameter is equal, bit for bit.
    2. **wiring**: the heads are the same operators on the same values, and each site alone, run on inputs
       for which floating point is exact, puts every weight in its place, on every provider.
    3. **backbone**: what is upstream of the head is the same operators with the same constants, in whatever
       layouts the two hold their values; sites there may have other forms, and count in layers 1 and 2. An
       operator that only one has, or that gives something else when it is run alone, is a failure.
    4. **rounding**: every site and every output of each model lies within a rigorous bound of the float64
       value of the *reference's* head, on the features that this model computed.
    5. **decision**: top-1 classes agree, or differ by less than the bounds.

    They are established on each provider in a strict session (fp32 stays fp32), and once more with the
    provider's own defaults where these loosen it; the verdict rests on the strict ones, and ``targets`` has
    both.

    A head before its pool is compared as the head behind it that it is equal to, with bounds that hold in
    both orders; its map is checked at every position, and its mean against the logits. Such models are
    certified once more at another size, if they take one. A head on windows is certified at its native size,
    and each position at a larger one is compared with the classifier on its window of the map. The verdict is
    never better than at the other size; ``sizes`` has what was found there.

    The verdict:

    - ``broken``: a layer failed.
    - ``proved``: layers 1 to 3 are proved and layer 4 held. The candidate computes the reference's
      function for every input, up to rounding; layer 5 is a measurement and is not needed.
    - ``within rounding``: layers 1 and 2 at least held, and layer 4 held. Layer 3 rests on more than the
      graphs: on the exporter (a module beside a file is compared as the file that it exports to), on
      operators that are written differently and gave the same when they were run alone, or, where the
      backbones are built differently, on the inputs that were run.
    - ``within TF32 rounding``: the same, where layer 4 held with TF32's bounds only.
    - ``inconclusive``: something that is needed could not be run; ``reason`` says what.

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
        return SizeResult(size=size, verdict=Verdict.WITHIN_ROUNDING, reason=reason)

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
        is_norm_moved = has_norm_before_pool(left.graph) != has_norm_before_pool(right.graph)
        if is_dense(left.graph) or is_dense(right.graph):
            left, right = self._models.commuted(left), self._models.commuted(right)
        roots, outputs = paired_outputs(left, right)
        heads = left.head, right.head
        trials = Trials(left, right, self._providers)
        head = compare_heads(*heads, roots, trials)
        beside = self._strictly(left, right, outputs, head, trials)
        upstream = beside.upstream
        walks = Walks(
            heads=heads,
            head=head,
            strict=beside.head,
            upstream=upstream,
            is_reformed=beside.is_reformed,
            in_heads=beside.in_heads,
        )
        weights = weights_layer(walks, _planned(reference, candidate, plan))
        backbone = backbone_layer(upstream, is_exported=beside.is_exported)
        is_restructured = backbone.status is Status.NOT_RUN or bool(upstream.operators)

        def seen_on(target: str) -> Seen:
            wiring = wiring_layer((left, right), walks, (target,), self._prober)
            is_alike = all(
                layer.status in (Status.PROVED, Status.HELD) for layer in (weights, wiring, backbone)
            )
            tally = measure(
                left,
                right,
                heads,
                walks.head,
                outputs,
                samples,
                target,
                is_same_backbone=is_alike and not beside.is_exported,
                is_in_doubt=is_restructured and weights.status is Status.FAILED,
            )
            tally.gaps.extend(
                f"the map {name!r} of {side.name} is not the map of its logits, as far as is known here"
                for side, other in ((left, right), (right, left))
                for name in unexplained(side, other)
            )
            repeats = [side.repeats(target) for side in (left, right)]
            if False in repeats:
                tally.notes.append(f"a second run on {target} gave other bits")
            return Seen(target=target, wiring=wiring, tally=tally, repeats=repeats)

        strict = [seen_on(provider) for provider in runs_on]
        own = [seen_on(t) for provider in runs_on for t in targets_of(provider) if is_defaults(t)]
        names = [affine_of(site).weight_name for site in heads[0].sites]
        names += [site_name(affine_of(a), affine_of(b)) for a, b in walks.rewritten_sites()]
        whole = Judge(
            weights=weights,
            backbone=backbone,
            has_sites=bool(heads[0].sites),
            is_restructured=is_restructured,
        )
        wiring = wiring_layer((left, right), walks, runs_on, self._prober)
        judged = whole.judge(wiring, joined([seen.tally for seen in strict]))
        targets = tuple(whole.on_target(seen) for seen in (*strict, *own))
        found = Certificate(
            reference=left.name,
            candidate=right.name,
            verdict=judged.verdict,
            reason=judged.reason,
            weights=judged.weights,
            wiring=wiring,
            backbone=judged.backbone,
            rounding=judged.rounding,
            decision=judged.measured.decision,
            statistics=tuple(record for seen in (*strict, *own) for record in seen.tally.statistics),
            flips=judged.measured.flips,
            heads=tuple(names),
            providers=runs_on,
            targets=targets,
            seed=self._seed,
        )
        return _undecided(found) if is_norm_moved and found.verdict is Verdict.BROKEN else found

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


def _undecided(found: Certificate) -> Certificate:
    """The certificate of two models of which one has a batch norm before the pool, and the other behind it.

    These may be one function, which is not shown here: operators that then part are no failures. Weights
    and outputs tell what they tell of any two models.
    """
    layers = (found.weights, found.rounding, found.decision)
    if any(layer.status is Status.FAILED for layer in layers):
        return found
    reason = "a batch norm stands before the pool in one of the two and behind it in the other"

    def open_layer(layer: LayerResult) -> LayerResult:
        is_failed = layer.status is Status.FAILED
        return (
            dataclasses.replace(layer, status=Status.NOT_RUN, reason=reason, failures=())
            if is_failed
            else layer
        )

    return dataclasses.replace(
        found,
        verdict=Verdict.INCONCLUSIVE,
        reason=f"{found.wiring.layer}: {reason}",
        wiring=open_layer(found.wiring),
        backbone=open_layer(found.backbone),
        targets=tuple(
            dataclasses.replace(
                item, verdict=Verdict.INCONCLUSIVE, reason=reason, wiring=open_layer(item.wiring)
            )
            for item in found.targets
        ),
    )


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
