"""certify: what is known about two models being the same function, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from export.compare import compare_backbones, compare_heads
from export.heads import OnnxSubject
from export.inputs import (
    BATCHES,
    Inputs,
    InputSpec,
    Samples,
    declared_inputs,
    given_samples,
    random_samples,
)
from export.layers import Prober, Walks, backbone_layer, weights_layer, wiring_layer
from export.measure import measure
from export.module_subject import ModuleSubject
from export.programs import as_module, fixed_batch, is_program_path, read_program
from export.providers import is_defaults, require_known, require_provider, short_name, targets_of
from export.results import Certificate, Status
from export.subjects import EAGER, Subject
from export.tally import joined
from export.terms import Term, affine_of
from export.verdicts import Judge, Seen
from export.weight_pool import WeightPool
from fxpasses.errors import CheckError, InternalError
from fxpasses.plan import WeightPlan

Opened = nn.Module | str | os.PathLike[str]
Source = Opened | ExportedProgram


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
    3. **backbone**: what is upstream of the head is the same operators with the same constants.
    4. **rounding**: every site and every output of each model lies within a rigorous bound of the float64
       value of the *reference's* head, on the features that this model computed.
    5. **decision**: top-1 classes agree, or differ by less than the bounds.

    They are established on each provider in a strict session (fp32 stays fp32), and once more with the
    provider's own defaults where these loosen it; the verdict rests on the strict ones, and ``targets`` has
    both.

    The verdict:

    - ``broken``: a layer failed.
    - ``proved``: layers 1 to 3 are proved and layer 4 held. The candidate computes the reference's
      function for every input, up to rounding; layer 5 is a measurement and is not needed.
    - ``within rounding``: layers 1 and 2 at least held, and layer 4 held. Layer 3 could not be run (a
      module against a file, or backbones built differently), so it rests on the inputs that were run.
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
        self._samples = None if inputs is None else given_samples(inputs)
        self._subjects: dict[object, tuple[Source, Subject]] = {}
        self._prober = Prober(seed)
        self._pool = WeightPool()

    def declared(self, path: str | os.PathLike[str]) -> tuple[InputSpec, ...]:
        """What an ONNX file says about its inputs.

        Raises:
            CheckError: it is no ONNX file.
        """
        return declared_inputs(self._file(path))

    def give(self, inputs: Inputs | Samples) -> None:
        """Takes ``inputs`` as the samples of every certificate from here on.

        Raises:
            CheckError: there is no sample, or a certificate was made over other samples.
        """
        if self._samples is not None:
            raise CheckError("the certifier has inputs", fix="make another one for other inputs")
        self._samples = given_samples(inputs)

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
        roots, outputs = _paired_outputs(left, right)
        heads = left.head, right.head
        walks = Walks(heads=heads, head=compare_heads(*heads, roots), upstream=compare_backbones(*heads))
        weights = weights_layer(walks, _planned(reference, candidate, plan))
        backbone = backbone_layer(left, right, walks.upstream)

        def seen_on(target: str) -> Seen:
            wiring = wiring_layer((left, right), walks, (target,), self._prober)
            is_same_backbone = all(layer.status is Status.PROVED for layer in (weights, wiring, backbone))
            tally = measure(
                left,
                right,
                heads,
                walks.head,
                outputs,
                samples,
                target,
                is_same_backbone=is_same_backbone,
            )
            repeats = [side.repeats(target) for side in (left, right)]
            if False in repeats:
                tally.notes.append(f"a second run on {target} gave other bits")
            return Seen(target=target, wiring=wiring, tally=tally, repeats=repeats)

        strict = [seen_on(provider) for provider in runs_on]
        own = [seen_on(t) for provider in runs_on for t in targets_of(provider) if is_defaults(t)]
        sites = (*heads[0].sites, *(a for a, _ in walks.rewritten_sites()))
        whole = Judge(weights=weights, backbone=backbone, has_sites=bool(heads[0].sites))
        wiring = wiring_layer((left, right), walks, runs_on, self._prober)
        judged = whole.judge(wiring, joined([seen.tally for seen in strict]))
        targets = tuple(whole.on_target(seen) for seen in (*strict, *own))
        return Certificate(
            reference=left.name,
            candidate=right.name,
            verdict=judged.verdict,
            reason=judged.reason,
            weights=judged.weights,
            wiring=wiring,
            backbone=backbone,
            rounding=judged.rounding,
            decision=judged.measured.decision,
            statistics=tuple(record for seen in (*strict, *own) for record in seen.tally.statistics),
            flips=judged.measured.flips,
            heads=tuple(affine_of(site).weight_name for site in sites),
            providers=runs_on,
            targets=targets,
            seed=self._seed,
        )

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
            self._samples = random_samples(self.declared(files[0]), sum(BATCHES), self._seed)
        subjects = [
            self._module(item) if isinstance(item, nn.Module) else self._file(item)
            for item in (reference, candidate)
        ]
        return subjects[0], subjects[1], self._samples

    def _file(self, source: str | os.PathLike[str]) -> OnnxSubject:
        path = Path(os.fspath(source))
        known = self._subjects.get(path)
        subject = _file(path, self._pool) if known is None else known[1]
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


def _file(path: Path, pool: WeightPool) -> OnnxSubject:
    if path.suffix != ".onnx":
        raise CheckError(
            "neither a module nor an .onnx file", where=str(path), fix="load it first, or export it"
        )
    if not path.is_file():
        raise CheckError("no such file", where=str(path), fix="give the path of an existing .onnx file")
    return OnnxSubject(path, pool)


def _paired_outputs(
    left: Subject, right: Subject
) -> tuple[tuple[tuple[Term, Term], ...], tuple[tuple[str, int, int], ...]]:
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
    roots = tuple((left.graph.outputs[i][1], right.graph.outputs[j][1]) for _, i, j in order)
    return roots, order


def _planned(
    reference: Source, candidate: Source, plan: WeightPlan | None
) -> tuple[nn.Module, nn.Module, WeightPlan] | None:
    if plan is None or not isinstance(reference, nn.Module) or not isinstance(candidate, nn.Module):
        return None
    return reference, candidate, plan
