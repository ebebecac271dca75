"""The two things under comparison, run alike: a module in eager mode, an ONNX file on a provider."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx, nn

from export.example import leaf_names
from export.module_affine import read_affine, run_affine
from export.module_terms import module_terms, numpy_of, trace_module
from export.onnx_export import evaluation_mode
from export.terms import Array, Term, TermGraph, affine_of
from fxpasses.errors import InternalError

EAGER = "eager"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One run: the outputs of the model as it is, and values tapped inside a copy of it."""

    outputs: tuple[Array, ...]
    taps: dict[str, Array]


class Subject(Protocol):
    """A model that can be run whole, tapped, and run one site at a time."""

    name: str
    dialect: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    graph: TermGraph

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it runs at, or None where any will do."""
        ...

    def run(self, feeds: Sequence[Array], taps: Sequence[str], provider: str) -> Run:
        """Outputs and tapped values for one batch."""
        ...

    def run_site(self, site: Term, features: Array, weight: Array | None, provider: str) -> Array:
        """``[N, O]`` of the site alone on ``[N, K]``; with ``weight`` in place of its own, and no bias."""
        ...


class ModuleSubject:
    """A module in eager mode.

    Args:
        module: the module; its training flags are restored after every run.
        feeds: inputs of batch 2 or more, from which shapes are taken.
    """

    dialect = "module"

    def __init__(self, module: nn.Module, feeds: Sequence[Array]) -> None:
        self.name = type(module).__name__
        self._module = module
        self._traced = trace_module(module)
        self.input_names = tuple(node.target for node in self._traced.graph.nodes if node.op == "placeholder")
        self._device, self._dtype = _home(module)
        recorder = _Recorder(self._traced, None)
        with evaluation_mode(self._traced), torch.no_grad():
            result = recorder.run(*self._tensors(feeds))
        leaves = [(name, leaf) for name, leaf in leaf_names(result) if isinstance(leaf, torch.Tensor)]
        self.output_names = tuple(name for name, _ in leaves)
        self.graph = module_terms(self._traced, recorder.shapes)

    @property
    def fixed_batch(self) -> int | None:
        """None: a module runs at any batch size, or fails."""
        return None

    def run(self, feeds: Sequence[Array], taps: Sequence[str], provider: str) -> Run:
        """Outputs of the module itself and values tapped in its traced graph, for one batch."""
        recorder = _Recorder(self._traced, frozenset(taps))
        with evaluation_mode(self._traced), evaluation_mode(self._module), torch.no_grad():
            result = recorder.run(*self._tensors(feeds))
            if self._traced is not self._module:
                result = self._module(*self._tensors(feeds))
        leaves = [leaf for _, leaf in leaf_names(result) if isinstance(leaf, torch.Tensor)]
        return Run(outputs=tuple(numpy_of(leaf) for leaf in leaves), taps=recorder.kept)

    def run_site(self, site: Term, features: Array, weight: Array | None, provider: str) -> Array:
        """``[N, O]`` of the site's own operator on features that are put into its operand's shape."""
        node = next(node for node in self._traced.graph.nodes if node.name == site.value)
        found, affine = read_affine(node, self._traced), affine_of(site)
        if found is None:
            raise InternalError(f"{site.node!r} was read as an affine site, and is none")
        rows = features if affine.columns is None else features[:, affine.columns]
        shaped = torch.from_numpy(np.ascontiguousarray(rows)).reshape(-1, *affine.operand)
        own, bias = found.weight, found.bias
        if weight is not None:
            raw = weight if affine.columns is None else weight[:, affine.columns]
            own, bias = torch.from_numpy(np.ascontiguousarray(raw)).reshape(own.shape).to(own), None
        with torch.no_grad():
            zero = None if found.bias is None else torch.zeros_like(found.bias)
            given = bias if weight is None else zero
            result = run_affine(node, self._traced, shaped.to(own), own, given)
        return numpy_of(result).reshape(len(features), -1)

    def features64(self, feeds: Sequence[Array], taps: Sequence[str]) -> dict[str, Array]:
        """Tapped values of the model computed in float64."""
        import copy

        wide = copy.deepcopy(self._traced).double()
        recorder = _Recorder(wide, frozenset(taps))
        tensors = [t.double() if t.is_floating_point() else t for t in self._tensors(feeds)]
        with evaluation_mode(wide), torch.no_grad():
            recorder.run(*tensors)
        return recorder.kept

    def _tensors(self, feeds: Sequence[Array]) -> list[torch.Tensor]:
        tensors = [torch.from_numpy(np.array(feed)).to(self._device) for feed in feeds]
        return [t.to(self._dtype) if t.is_floating_point() else t for t in tensors]


class _Recorder(fx.Interpreter):
    """Runs a graph, noting every tensor's shape and keeping copies of the values asked for.

    Copies, because an in-place operator further on would change a kept tensor.
    """

    def __init__(self, module: fx.GraphModule, wanted: frozenset[str] | None) -> None:
        super().__init__(module)
        self._wanted = wanted
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kept: dict[str, Array] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's result, after its shape was noted."""
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shapes[n.name] = tuple(result.shape)
            if self._wanted is not None and n.name in self._wanted:
                self.kept[n.name] = numpy_of(result.clone())
        return result


def _home(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()
