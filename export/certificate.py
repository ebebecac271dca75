"""certify: what is known about two models being the same function, layer by layer."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from export.compare import Comparison, compare_backbones, compare_heads
from export.heads import OnnxSubject
from export.inputs import Inputs, Samples, given_samples, random_samples
from export.layers import Prober, Walks, backbone_layer, weights_layer, wiring_layer
from export.measure import measure
from export.module_subject import ModuleSubject
from export.onnx_export import export_onnx
from export.programs import as_module, fixed_batch, is_program_path, read_program
from export.providers import require_known, require_provider
from export.results import Certificate, LayerResult, Status, Verdict
from export.subjects import EAGER, Subject
from export.terms import Shape, Term, affine_of
from export.trials import Trials
from fxpasses.errors import CheckError, ExportError, InternalError
from fxpasses.plan import WeightPlan

Opened = nn.Module | str | os.PathLike[str]
Source = Opened | ExportedProgram
PairedOutputs = tuple[tuple[str, int, int], ...]


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

    Each of the two is a module (run in eager mode, evaluation mode, where it lies) or the path of an ONNX
    file (run on every provider). Five layers are established:

    1. **weights**: every head parameter is equal, bit for bit.
    2. **wiring**: the heads are the same operators on the same values, and each site alone, run on inputs
       for which floating point is exact, puts every weight in its place, on every provider.
    3. **backbone**: what is upstream of the head is the same operators with the same constants. An
       operator that only one has, or that gives something else when it is run alone, is a failure.
    4. **rounding**: every site and every output of each model lies within a rigorous bound of the float64
       value of the *reference's* head, on the features that this model computed.
    5. **decision**: top-1 classes agree, or differ by less than the bounds.

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
        inputs: ``[N, …]`` samples (one tensor, a sequence, or a mapping by input name); None takes seeded
            normal samples in the shape that an ONNX file declares. Batches of 1, 2 and 5 are run.
        providers: ONNX Runtime providers that files are run on; modules are always run in eager mode.
        plan: the plan by which the candidate was rewritten; for two modules, names and shapes are then
            checked against it too.
        seed: seed of every random number used.

    Raises:
        CheckError: the two cannot be compared, or there is nothing to compare.
        ProviderError: a provider is missing or did not run every node.
    """
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
        self, inputs: Inputs | None = None, providers: Sequence[str] = ("cpu",), *, seed: int = 0
    ) -> None:
        if not providers:
            raise CheckError("no provider to run on", fix="name at least one, e.g. providers=('cpu',)")
        require_known(providers)
        self._providers = tuple(dict.fromkeys(providers))
        self._seed = seed
        self._samples = None if inputs is None else given_samples(inputs)
        self._subjects: dict[object, tuple[Source, Subject]] = {}
        self._exported: dict[int, OnnxSubject] = {}
        self._written: dict[int, tuple[nn.Module, Path]] = {}
        self._prober = Prober(seed)

    def take_export(self, module: nn.Module, path: Path) -> None:
        """Takes the file as what ``module`` exports to, which spares an export."""
        self._written[id(module)] = (module, path)

    def certify(self, reference: Source, candidate: Source, plan: WeightPlan | None = None) -> Certificate:
        """The certificate of ``candidate`` being the same function as ``reference``; see ``certify``."""
        reference, candidate = _opened(reference), _opened(candidate)
        left, right, samples = self._pair(reference, candidate)
        if "onnx" in (left.dialect, right.dialect):
            for provider in self._providers:
                require_provider(provider)
            runs_on = self._providers
        else:
            runs_on = (EAGER,)
        if not samples.names and len(samples.arrays) == len(left.input_names):
            samples = dataclasses.replace(samples, names=left.input_names)
        roots, outputs = _paired_outputs(left, right)
        heads = left.head, right.head
        trials = Trials(left, right, self._providers)
        head = compare_heads(*heads, roots, trials)
        strict, upstream = self._strictly(left, right, outputs, head, trials)
        walks = Walks(heads=heads, head=head, strict=strict, upstream=upstream)
        weights = weights_layer(walks, _planned(reference, candidate, plan))
        wiring = wiring_layer((left, right), walks, runs_on, self._prober)
        is_across = left.dialect != right.dialect
        backbone = backbone_layer(upstream, is_exported=is_across)
        proofs = (weights, wiring, backbone)
        is_same_backbone = not is_across and all(
            layer.status in (Status.PROVED, Status.HELD) for layer in proofs
        )
        is_restructured = backbone.status is Status.NOT_RUN or bool(upstream.operators)
        measured = measure(
            left,
            right,
            heads,
            head,
            outputs,
            samples,
            runs_on,
            is_same_backbone=is_same_backbone,
            is_in_doubt=is_restructured and weights.status is Status.FAILED,
        )
        rounding = measured.rounding
        is_moved = is_restructured and not measured.has_same_features and not measured.is_apart
        if is_moved and weights.status is Status.FAILED:
            weights, backbone, rounding = map(_undecided, (weights, backbone, rounding))
        layers = (weights, wiring, backbone, rounding, measured.decision)
        verdict, reason = _verdict(layers, measured.is_tf32, bool(heads[0].sites), measured.is_identical)
        sites = (*heads[0].sites, *(a for a, _ in walks.rewritten_sites()))
        return Certificate(
            reference=left.name,
            candidate=right.name,
            verdict=verdict,
            reason=reason,
            weights=weights,
            wiring=wiring,
            backbone=backbone,
            rounding=rounding,
            decision=measured.decision,
            statistics=measured.statistics,
            flips=measured.flips,
            heads=tuple(affine_of(site).weight_name for site in sites),
            providers=runs_on,
            seed=self._seed,
        )

    def _strictly(
        self, left: Subject, right: Subject, outputs: PairedOutputs, head: Comparison, trials: Trials
    ) -> tuple[Comparison, Comparison]:
        """Heads and backbones side by side in one dialect: a module beside a file as what it exports to."""
        if left.dialect == right.dialect:
            return head, compare_backbones(left.head, right.head, head, trials)
        try:
            a, b = self._as_file(left), self._as_file(right)
        except ExportError as error:
            reason = f"the module cannot be written as ONNX, to be compared node by node ({error})"
            return head, Comparison(nodes=0, parting=reason, constants=(), operators=(), tried=(), partner={})
        trials = Trials(a, b, self._providers)
        strict = compare_heads(a.head, b.head, _roots(a, b, outputs), trials)
        return strict, compare_backbones(a.head, b.head, strict, trials)

    def _as_file(self, subject: Subject) -> OnnxSubject:
        if isinstance(subject, OnnxSubject):
            return subject
        if not isinstance(subject, ModuleSubject) or self._samples is None:
            raise InternalError(f"{subject.name} is neither a module nor a file")
        if id(subject.module) in self._written:
            return self._file(self._written[id(subject.module)][1])
        if id(subject) not in self._exported:
            batch = subject.fixed_batch
            example = [torch.from_numpy(x) for x in self._samples.batch(0, batch or 2)]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "module.onnx"
                export_onnx(subject.module, example, path, dynamic_batch=batch is None)
                self._exported[id(subject)] = OnnxSubject(path)
        return self._exported[id(subject)]

    def _pair(self, reference: Opened, candidate: Opened) -> tuple[Subject, Subject, Samples]:
        files = [item for item in (reference, candidate) if not isinstance(item, nn.Module)]
        for item in files:
            self._file(item)
        if self._samples is None and not files:
            raise CheckError(
                "two modules tell nothing about the shape of their inputs",
                fix="give inputs, e.g. torch.randn(8, 3, 224, 224)",
            )
        if self._samples is None:
            self._samples = random_samples(self._file(files[0]), self._seed)
        subjects = [
            self._module(item) if isinstance(item, nn.Module) else self._file(item)
            for item in (reference, candidate)
        ]
        return subjects[0], subjects[1], self._samples

    def _file(self, source: str | os.PathLike[str]) -> OnnxSubject:
        path = Path(os.fspath(source))
        known = self._subjects.get(path)
        shapes = () if self._samples is None else tuple(x.shape[1:] for x in self._samples.arrays)
        subject = _file(path, shapes) if known is None else known[1]
        self._subjects[path] = (source, subject)
        if not isinstance(subject, OnnxSubject):
            raise InternalError(f"{path} was read as {type(subject).__name__}")
        return subject

    def _module(self, module: nn.Module) -> Subject:
        if self._samples is None:
            raise InternalError("a module came before the samples")
        known = self._subjects.get(id(module))  # the entry holds the module, so its id stays its own
        subject = (
            ModuleSubject(module, self._samples.batch(0, fixed_batch(module) or 2))
            if known is None
            else known[1]
        )
        self._subjects[id(module)] = (module, subject)
        return subject


def _opened(source: Source) -> Opened:
    """A program, or a ``.pt2`` file, as a module; anything else as it is."""
    if isinstance(source, ExportedProgram):
        return as_module(source)
    if isinstance(source, nn.Module) or not is_program_path(source):
        return source
    return as_module(read_program(source))


def _undecided(layer: LayerResult) -> LayerResult:
    """A failed layer as one that was not run.

    Where weights and features both differ, a factor may have moved from one to the other: neither the
    weights nor the reference's head on the candidate's features tells whether the function differs.
    """
    if layer.status is not Status.FAILED or any(item.side == "reference" for item in layer.failures):
        return layer
    reason = f"the heads read different features, and {layer.failures[0]}"
    return dataclasses.replace(layer, status=Status.NOT_RUN, reason=reason, failures=())


def _file(path: Path, extents: Sequence[Shape]) -> OnnxSubject:
    if path.suffix != ".onnx":
        raise CheckError(
            "neither a module nor an .onnx file", where=str(path), fix="load it first, or export it"
        )
    if not path.is_file():
        raise CheckError("no such file", where=str(path), fix="give the path of an existing .onnx file")
    return OnnxSubject(path, extents)


def _paired_outputs(left: Subject, right: Subject) -> tuple[tuple[tuple[Term, Term], ...], PairedOutputs]:
    """Pairs of output terms and of output positions: by name where names are equal, else by position."""
    a, b = left.output_names, right.output_names
    if not a or not b:
        raise CheckError("there is no output to compare", where=(left if not a else right).name)
    by_name = set(a) == set(b)
    if not by_name and (len(a) != len(b) or left.dialect == right.dialect == "onnx"):
        missing = [name for name in a if name not in b]
        raise CheckError(
            f"output {missing[0]!r} is missing (it has {', '.join(map(repr, b))})"
            if missing
            else f"it has outputs {b}, the reference has {a}",
            where=right.name,
            fix="export both with the same output names",
        )
    order = tuple((name, i, b.index(name) if by_name else i) for i, name in enumerate(a))
    return _roots(left, right, order), order


def _roots(left: Subject, right: Subject, outputs: PairedOutputs) -> tuple[tuple[Term, Term], ...]:
    return tuple((left.graph.outputs[i][1], right.graph.outputs[j][1]) for _, i, j in outputs)


def _planned(
    reference: Source, candidate: Source, plan: WeightPlan | None
) -> tuple[nn.Module, nn.Module, WeightPlan] | None:
    if plan is None or not isinstance(reference, nn.Module) or not isinstance(candidate, nn.Module):
        return None
    return reference, candidate, plan


def _verdict(
    layers: tuple[LayerResult, ...], is_tf32: bool, has_sites: bool, is_identical: bool
) -> tuple[Verdict, str]:
    weights, wiring, backbone, rounding, _ = layers
    failed = next((layer for layer in layers if layer.status is Status.FAILED), None)
    if failed is not None:
        return Verdict.BROKEN, f"{failed.layer}: {failed.failures[0]}"
    if not has_sites:
        if backbone.status is Status.PROVED and is_identical:
            return Verdict.PROVED, "no head was found; the two graphs are the same, with the same constants"
        return Verdict.INCONCLUSIVE, "no head was found in the reference, so nothing is bounded"
    lacking = [layer for layer in (weights, wiring, rounding) if layer.status is Status.NOT_RUN]
    if lacking:
        return Verdict.INCONCLUSIVE, f"{lacking[0].layer}: {lacking[0].reason}"
    if is_tf32:
        return Verdict.WITHIN_TF32_ROUNDING, "the outputs lie within TF32's bounds, not within those of fp32"
    if all(layer.status is Status.PROVED for layer in (weights, wiring, backbone)):
        return Verdict.PROVED, "weights, wiring and backbone are the same; outputs lie within their bounds"
    short = next(layer for layer in (weights, wiring, backbone) if layer.status is not Status.PROVED)
    return Verdict.WITHIN_ROUNDING, f"outputs lie within their bounds; {short.layer}: {short.reason}"
