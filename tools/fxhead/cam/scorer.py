"""A module or program that gives its map of scores: the dense form of its head, run forward once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from fxexport.subjects.samples import InputSpec
from fxexport.untrusted.programs import as_module
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.naturals import natural_in
from fxhead.inputs.specs import module_specs
from fxhead.rewriting.both_forms import take_graph
from fxpasses import find_sites
from fxpasses.engine.outputs import give_scores
from fxpasses.errors import InputError, brief
from fxpasses.heads.score_heads import find_score_heads
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Miss, Scope
from fxpasses.vocabulary.vocabulary import Vocabulary

Scores = NDArray[np.float32]
_SHOWN = 8


class HeadScores(NamedTuple):
    """What a head gives.

    Shapes:
        logits: [N, K], the model's own; maps: [N, K, h, w], whose mean over h and w they are.
    """

    logits: Scores
    maps: Scores


class Scorer(Protocol):
    """What gives logits and maps of one head.

    Attributes:
        fixed_batch: the only batch size that it takes, or None.
    """

    spec: InputSpec
    fixed_batch: int | None
    head: str

    def __call__(self, batch: NDArray[Any], /) -> HeadScores:
        """The scores of images ``[N, C, H, W]``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundHead:
    """A scorer, or why there is none.

    Attributes:
        scorer: None where the head cannot stand before its pool.
        misses: why, then.
    """

    scorer: Scorer | None
    misses: tuple[Miss, ...] = ()


class ModuleScorer:
    """A module that gives the logits of one head, and their map."""

    def __init__(self, module: nn.Module, spec: InputSpec, fixed_batch: int | None, head: str) -> None:
        self._module = module
        self.spec = spec
        self.fixed_batch = fixed_batch
        self.head = head

    def __call__(self, batch: NDArray[Any], /) -> HeadScores:
        """The scores of the head.

        Raises:
            InputError: the model does not run on a batch of this shape, or the map is none of an image.
        """
        try:
            with torch.inference_mode():
                logits, maps = self._module(self._cast(torch.from_numpy(batch)))
        except Exception as error:  # whatever its layers make of what they have
            shape = "x".join(map(str, batch.shape))
            what = f"the model does not run on a batch of {shape} ({brief(error)})"
            raise InputError(what, fix="give another --size") from error
        epsilon = torch.finfo(maps.dtype).eps
        scores = logits.float().numpy().reshape(len(maps), -1)
        found = HeadScores(scores, laid_out(maps.float().numpy(), batch.shape[2:]))
        require_map_of(found, epsilon, f"head {self.head!r}")
        return found

    def _cast(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch in the type of the first weights: NumPy has no bfloat16."""
        first = next((p for p in self._module.parameters() if p.is_floating_point()), batch)
        return batch.to(first.dtype) if batch.is_floating_point() else batch


def laid_out(maps: Scores, size: tuple[int, ...]) -> Scores:
    """A map ``[N, K, h, w]`` of images of a size.

    Of tokens, ``[N, K, h · w]`` or as files have them ``[N, K, 1, h · w]``, these are taken as rows of
    patches; that they are is measured with the places.

    Raises:
        InputError: it has other axes than an image, or no number of tokens that fits its size.
    """
    extents, (height, width) = [extent for extent in maps.shape[2:] if extent > 1], size
    if len(extents) == 1:
        rows = max(1, round((extents[0] * height / width) ** 0.5))
        columns = extents[0] // rows
        if rows * columns == extents[0] and rows * width == columns * height:
            return maps.reshape(*maps.shape[:2], rows, columns)
    if maps.ndim == 4:
        return maps
    shown = "x".join(map(str, maps.shape[1:]))
    raise InputError(f"the model's map is {shown}, not classes by rows of an image", fix="give another model")


def require_map_of(scores: HeadScores, epsilon: float, what: str) -> None:
    """Returns where the mean of the map is the logits, but for rounding.

    Rounding is far below the root of the type's epsilon, another function far above it.

    Raises:
        InputError: it is not.
    """
    tolerance = np.sqrt(epsilon) * max(np.abs(scores.maps).max(initial=0.0), np.finfo(np.float32).tiny)
    means = scores.maps.mean(axis=(2, 3), dtype=np.float64)
    if means.shape == scores.logits.shape:
        off = np.abs(means - scores.logits)
        if not (off > tolerance).any():
            return
    raise InputError(
        f"{what}: the mean of the map is not what the model gives",
        fix="give the model in eval mode, and images as large as it takes",
    )


def find_scorer(
    model: nn.Module | ExportedProgram, shapes: InputShapes, way: str, wanted: str | None = None
) -> FoundHead:
    """The model with the logits and the map of one head as its outputs, or why it has none.

    Raises:
        TraceError: the model cannot be traced.
        InputError: the model has several inputs, or several heads and none of them is wanted; or something
            stands between the head's map and the output.
    """
    examples = shapes.examples(2)
    graphs = take_graph(model, to=Form.DENSE, scope=Scope.HEAD, way=way, examples=examples, as_program=None)
    report = graphs.result.report
    # a head whose pool comes last, as SqueezeNet's, has its map there, whatever is behind the convolution
    misses = tuple(miss for miss in report.misses if miss.code is not MissCode.BEFORE_POOL)
    sites = {entry.site.node for entry in report.rewrites}
    if not sites and not report.misses:  # one that stands before its pool already is left as it is
        sites = {
            site.node for site in find_sites(model, example_inputs=examples, way=way, to=Form.DENSE).sites
        }
    if not sites and len(misses) == len(report.misses):
        return FoundHead(scorer=None, misses=misses)
    specs = module_specs(graphs.original, shapes)
    if len(specs) != 1:
        raise InputError(f"the model has {len(specs)} inputs, an image is one", fix="give a model of images")
    module = as_module(graphs.result.module)
    assert isinstance(module, GraphModule)
    vocabulary = Vocabulary(module)
    heads = find_score_heads(module.graph, vocabulary, {*sites, *(miss.node for miss in report.misses)})
    head = heads[choose_head([head.name for head in heads], wanted)]
    missed = tuple(miss for miss in misses if miss.node in {site.name for site in head.sites})
    if missed:
        return FoundHead(scorer=None, misses=missed)
    if head.blocker is not None:
        raise InputError(
            f"head {head.name!r} has no map: {head.blocker.name!r} stands between the average and the output",
            where="cam",
            fix="give the model without it",
        )
    give_scores(module.graph, vocabulary, head.scores, head.tail, head.maps)
    module.recompile()
    return FoundHead(scorer=ModuleScorer(module, specs[0], graphs.fixed_batch, head.name))


def choose_head(names: Sequence[str], wanted: str | None) -> int:
    """The position of the head that is wanted, by name or number; of the only one where none is.

    Raises:
        InputError: there is no such head, or there are several.
    """
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names[:_SHOWN]))
    listed += ", …" if len(names) > _SHOWN else ""
    if not names:
        raise InputError("the model gives no scores of a head", fix="give a model that returns its logits")
    if wanted is None:
        if len(names) > 1:
            raise InputError(f"the model has {len(names)} heads: {listed}", fix="choose one with --head")
        return 0
    if wanted in names:
        return list(names).index(wanted)
    number = natural_in(wanted)
    if number is not None and number < len(names):
        return number
    raise InputError(f"there is no head {wanted!r}", where="--head", fix=f"the model has {listed}")
