"""A module or program that gives its map of scores: the dense form of its head, run forward once."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from fxexport.subjects.samples import InputSpec
from fxexport.untrusted.programs import as_module
from fxhead.inputs.input_shapes import InputShapes
from fxhead.inputs.specs import module_specs
from fxhead.rewriting.both_forms import take_graph
from fxpasses import find_sites
from fxpasses.errors import InputError
from fxpasses.graph.maps import KEY
from fxpasses.report import Form, Miss, Scope

Scores = NDArray[np.float32]


class Scorer(Protocol):
    """What gives maps of scores.

    Attributes:
        spec: its one input.
        fixed_batch: the only batch size that it takes, or None.
    """

    spec: InputSpec
    fixed_batch: int | None

    def __call__(self, batch: NDArray[Any], /) -> Scores:
        """The maps of all classes.

        Shapes:
            batch: [N, C, H, W]; result: [N, K, h, w], whose mean over h and w are the logits [N, K].
        """
        ...


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
    """A module whose output has maps beside what it gave before."""

    def __init__(self, module: nn.Module, spec: InputSpec, fixed_batch: int | None) -> None:
        self._module = module
        self.spec = spec
        self.fixed_batch = fixed_batch

    def __call__(self, batch: NDArray[Any], /) -> Scores:
        """The maps of the first head.

        Raises:
            InputError: the model does not run on a batch of this shape, or the map is none of an image.
        """
        try:
            with torch.inference_mode():
                maps = _map_of(self._module(self._cast(torch.from_numpy(batch))))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            shape = "x".join(map(str, batch.shape))
            first = next(iter(str(error).strip().splitlines()), "")
            what = f"the model does not run on a batch of {shape} ({type(error).__name__}: {first[:200]})"
            raise InputError(what, fix="give another --size") from error
        if maps.dim() != 4:
            raise InputError(f"the model's map has {maps.dim() - 2} axes, an image has two")
        scores: Scores = maps.float().numpy()
        return scores

    def _cast(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch in the type of the first weights: NumPy has no bfloat16."""
        first = next((p for p in self._module.parameters() if p.is_floating_point()), batch)
        return batch.to(first.dtype) if batch.is_floating_point() else batch


def find_scorer(model: nn.Module | ExportedProgram, shapes: InputShapes, way: str) -> FoundHead:
    """The model with its map as an output, or why it has none.

    Raises:
        TraceError: the model cannot be traced.
        InputError: the model has several inputs, or an option does not go with it.
    """
    examples = shapes.examples(2)
    outputs = ("logits", "map")
    graphs = take_graph(
        model, to=Form.DENSE, scope=Scope.HEAD, way=way, examples=examples, as_program=None, outputs=outputs
    )
    report = graphs.result.report
    if not report.rewrites:
        # a head that has its map as an output already is left as it is, and is no miss
        standing = find_sites(model, example_inputs=examples, way=way, to=Form.DENSE).sites
        if report.misses or not standing:
            return FoundHead(scorer=None, misses=report.misses)
    specs = module_specs(graphs.original, shapes)
    if len(specs) != 1:
        raise InputError(f"the model has {len(specs)} inputs, an image is one", fix="give a model of images")
    scorer = ModuleScorer(as_module(graphs.result.module), specs[0], graphs.fixed_batch)
    return FoundHead(scorer=scorer)


def _map_of(output: Any) -> torch.Tensor:
    """The map, or of several heads the first one's, in what a dense form with maps gives."""
    maps = output[KEY] if isinstance(output, dict) else output[-1]
    found = maps[0] if isinstance(maps, tuple | list) else maps
    assert isinstance(found, torch.Tensor)
    return found
