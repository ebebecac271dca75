"""certify: what is known about two models being the same function, layer by layer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from export.compare import compare_backbones, compare_heads
from export.heads import OnnxSubject
from export.inputs import Inputs, Samples, given_samples, random_samples
from export.layers import backbone_layer, weights_layer, wiring_layer
from export.measure import measure
from export.results import Certificate, LayerResult, Status, Verdict
from export.subjects import EAGER, ModuleSubject, Subject
from export.terms import Term, find_head
from fxpasses.errors import CheckError
from fxpasses.plan import WeightPlan

Source = nn.Module | str | os.PathLike[str]


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
    if not providers:
        raise CheckError("no provider to run on", fix="name at least one, e.g. providers=('cpu',)")
    left, right, samples = _subjects(reference, candidate, inputs, seed)
    roots, outputs = _paired_outputs(left, right)
    heads = find_head(left.graph), find_head(right.graph)
    walk = compare_heads(*heads, roots)
    runs_on = tuple(dict.fromkeys(providers)) if "onnx" in (left.dialect, right.dialect) else (EAGER,)
    weights = weights_layer(*heads, walk, _planned(reference, candidate, plan))
    wiring = wiring_layer(left, right, heads, walk, runs_on, seed)
    backbone = backbone_layer(left, right, compare_backbones(*heads))
    measured = measure(left, right, heads, walk, outputs, samples, runs_on)
    rounding = measured.rounding
    is_moved = backbone.status is Status.NOT_RUN and not measured.has_same_features
    if is_moved and weights.status is Status.FAILED:
        weights, rounding = _undecided(weights), _undecided(rounding)
    layers = (weights, wiring, backbone, rounding, measured.decision)
    verdict, reason = _verdict(layers, measured.is_tf32, bool(heads[0].sites), measured.is_identical)
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
        heads=tuple(site.affine.weight_name for site in heads[0].sites if site.affine is not None),
        providers=runs_on,
        seed=seed,
    )


def _undecided(layer: LayerResult) -> LayerResult:
    """A failed layer as one that was not run.

    Where weights and features both differ, a factor may have moved from one to the other: neither the
    weights nor the reference's head on the candidate's features tells whether the function differs.
    """
    if layer.status is not Status.FAILED or any(item.side == "reference" for item in layer.failures):
        return layer
    reason = f"the heads read different features, and {layer.failures[0]}"
    return dataclasses.replace(layer, status=Status.NOT_RUN, reason=reason, failures=())


def _subjects(
    reference: Source, candidate: Source, inputs: Inputs | None, seed: int
) -> tuple[Subject, Subject, Samples]:
    files = [None if isinstance(item, nn.Module) else _file(item) for item in (reference, candidate)]
    declared = next((file for file in files if file is not None), None)
    if inputs is not None:
        samples = given_samples(inputs)
    elif declared is not None:
        samples = random_samples(declared, seed)
    else:
        raise CheckError(
            "two modules tell nothing about the shape of their inputs",
            fix="give inputs, e.g. torch.randn(8, 3, 224, 224)",
        )
    subjects: list[Subject] = []
    for item, file in zip((reference, candidate), files, strict=True):
        if file is not None:
            subjects.append(file)
        elif isinstance(item, nn.Module):
            subjects.append(ModuleSubject(item, samples.batch(0, 2)))
    return subjects[0], subjects[1], samples


def _file(source: str | os.PathLike[str] | nn.Module) -> OnnxSubject:
    path = Path(os.fspath(source)) if not isinstance(source, nn.Module) else Path()
    if path.suffix != ".onnx":
        raise CheckError(
            "neither a module nor an .onnx file", where=str(path), fix="load it first, or export it"
        )
    if not path.is_file():
        raise CheckError("no such file", where=str(path), fix="give the path of an existing .onnx file")
    return OnnxSubject(path)


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
