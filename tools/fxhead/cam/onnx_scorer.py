"""An ONNX file that gives its map of scores: as an output, or computed from the features before its pool.

What ``rewrite --to dense --with-map`` wrote has the map as an output. Any other classifier's map is what its
pool averages, with the sites after the pool applied to it: its features become an output of a copy of the
graph in memory, and the map ``W · features + b`` is computed here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxexport.proof.graphs.paired_outputs import is_map_name
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import InputSpec, declared_inputs
from fxexport.terms.term import SOFTMAX, Kind, SiteWeights, Term, affine_of
from fxhead.cam.scorer import HeadScores, choose_head, require_map_of
from fxhead.inputs.images import ImageSize
from fxhead.inputs.specs import Hint, Shapes, filled
from fxhead.source import Source
from fxpasses.errors import CheckError, InputError

_PROVIDER = "cpu"
_FIX = "give the model that it was exported from, or a file that fxhead rewrite --to dense --with-map wrote"
_AFTER_LOGITS = (SOFTMAX, "sigmoid")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """How the map is computed.

    Attributes:
        logits: name of the value that the mean of the map has to be.
        features: name of the value that the pool averages.
        sites: what is applied to it, in this order.
    """

    logits: str
    features: str
    sites: tuple[SiteWeights, ...]

    def maps(self, features: NDArray[Any]) -> NDArray[Any]:
        """``[N, K, h, w]`` of features ``[N, C, h, w]``."""
        found = features
        for site in self.sites:
            found = np.einsum("oc,nchw->nohw", site.weight, found, optimize=True)
            found = found if site.bias is None else found + site.bias[:, None, None]
        return found


class OnnxScorer:
    """An ONNX file on ONNX Runtime's CPU provider.

    Args:
        source: the file.
        given: shapes of its inputs, batch first, where the user says them.
        size: of the images, where the user says that.
        wanted: which output, by name or number; None where it has one.

    Raises:
        CheckError: the file is no ONNX model.
        InputError: it has no map, or several inputs, or takes another shape.
    """

    def __init__(
        self, source: Source, given: Shapes, size: ImageSize | None, wanted: str | None = None
    ) -> None:
        self._path = Path(source.name)
        subject = OnnxSubject(self._path)
        specs = declared_inputs(subject)
        if len(specs) != 1:
            raise InputError(f"has {len(specs)} inputs, an image is one", where=source.text, fix=_FIX)
        self.spec: InputSpec = filled(specs, _hint(specs[0], given, size), source)[0]
        self.fixed_batch = subject.fixed_batch
        extents = tuple(extent for extent in self.spec.shape or () if extent is not None)
        if len(extents) != 3:
            raise InputError(
                f"input {self.spec.name!r} leaves its shape open", where=source.text, fix="give --size"
            )
        if extents != specs[0].shape:  # what is not known before these are
            subject = OnnxSubject(self._path, extents=(extents,))
        self.head, self._plan = _chosen(subject, wanted, source.text)
        self._session = subject.tapping((self._plan.logits, self._plan.features), _PROVIDER)

    def __call__(self, batch: NDArray[Any], /) -> HeadScores:
        """The scores of the head.

        Raises:
            InputError: what the file gives is no map of its logits.
        """
        logits, features = self._session.run((batch,))
        maps = self._plan.maps(features)
        found = HeadScores(logits.reshape(len(maps), -1).astype(np.float32), maps.astype(np.float32))
        what = f"{self._path}: of {self._plan.features!r} and the output {self._plan.logits!r}"
        require_map_of(found, float(np.finfo(logits.dtype).eps), what)
        return found


def _hint(spec: InputSpec, given: Shapes, size: ImageSize | None) -> Hint | None:
    """The input's shape as the user says it."""
    if given:
        return Hint(shapes=given, origin="--input-shape")
    if size is None or spec.shape is None or len(spec.shape) != 3:
        return None
    extents = size.of_input(*spec.shape[1:]).extents
    return Hint(shapes=((1, spec.shape[0] or 3, *extents),), origin="--size")


def _chosen(subject: OnnxSubject, wanted: str | None, where: str) -> tuple[str, _Plan]:
    """The name of a head and its plan: a file with one map, or the outputs that come from a pool.

    Raises:
        InputError: there are several and none is wanted, or something stands between map and output.
    """
    mapped = _mapped(subject)
    if mapped is not None:
        return mapped.logits, mapped
    names = [name for name, _ in subject.graph.outputs]
    if len(names) == 1 or wanted is not None:
        index = choose_head(names, wanted)
        return names[index], _planned(*subject.graph.outputs[index], where)
    plans: dict[str, _Plan] = {}
    problems: list[InputError] = []
    for name, term in subject.graph.outputs:
        try:
            plans[name] = _planned(name, term, where)
        except InputError as error:
            problems.append(error)
    if not plans:
        raise problems[0]
    name = [*plans][choose_head([*plans], wanted)]
    return name, plans[name]


def _mapped(subject: OnnxSubject) -> _Plan | None:
    """The plan of a file with a map beside its logits, as ``export_onnx`` calls them; or None."""
    maps = [name for name in subject.output_names if is_map_name(name)]
    others = [name for name in subject.output_names if not is_map_name(name)]
    return _Plan(logits=others[0], features=maps[0], sites=()) if maps and others else None


def _planned(output: str, term: Term, where: str) -> _Plan:
    """The plan of a classifier: from an output down to its pool.

    Raises:
        InputError: something that is not affine stands between, or there is no average pool.
    """
    sites: list[SiteWeights] = []
    while term.function in _AFTER_LOGITS and len(term.operands) == 1:
        term = term.operands[0]
    logits = term
    while term.kind is Kind.AFFINE:
        sites.append(affine_of(term))
        (term,) = term.operands
    if term.kind is not Kind.POOL or term.function is not None or len(logits.operands) != 1:
        what = f"output {output!r} is no affine function of a pooled map: {term.node!r} stands between"
        raise InputError(what, where=where, fix=_FIX)
    (features,) = term.operands
    if features.shape is None or len(features.shape) != 3:
        raise InputError(f"the pool {term.node!r} reads no map of an image", where=where, fix=_FIX)
    return _Plan(logits=_named(logits), features=_named(features), sites=tuple(reversed(sites)))


def _named(term: Term) -> str:
    if not term.value:
        raise CheckError("a value has no name to be tapped by", where=term.node, fix=_FIX)
    return term.value
