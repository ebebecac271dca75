"""torch.fx graph → terms: views dropped, Linear and covering convolutions read as one affine site."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from export.module_affine import FxAffine, covers_map, read_affine
from export.onnx_export import evaluation_mode
from export.terms import Affine, Array, Kind, Shape, Term, TermGraph
from fxpasses.errors import CheckError

_VIEW_NAMES = {"flatten", "view", "reshape", "squeeze", "unsqueeze", "getitem", "contiguous", "unflatten"}
_VIEW_MODULES = (nn.Flatten, nn.Unflatten)
_SAME_MODULES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_ELEMENTWISE_MODULES: dict[type[nn.Module], str | None] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    **dict.fromkeys((nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.Mish, nn.Softplus, nn.Hardtanh)),
}
_ELEMENTWISE_NAMES: dict[str, str | None] = {
    **{name: name for name in ("relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu")},
    **{"relu_": "relu", "sigmoid_": "sigmoid", "tanh_": "tanh"},
    **dict.fromkeys(("gelu", "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "hardtanh")),
}
_NORMS = {nn.BatchNorm1d: 2, nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """A node's value as a term and the order in which it reads the term's elements (None: the same)."""

    term: Term
    shape: Shape | None
    order: NDArray[np.int64] | None = None


def trace_module(module: nn.Module) -> fx.GraphModule:
    """``module`` as a torch.fx graph in evaluation mode; a GraphModule is taken as it is.

    Raises:
        CheckError: the model cannot be traced symbolically.
    """
    if isinstance(module, fx.GraphModule):
        return module
    try:
        with evaluation_mode(module):
            return fx.symbolic_trace(module)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckError(
            f"torch.fx cannot trace the model ({type(error).__name__}: {first})",
            where=type(module).__name__,
            fix="compare the two models exported to ONNX instead",
        ) from error


def module_terms(graph_module: fx.GraphModule, shapes: dict[str, tuple[int, ...]]) -> TermGraph:
    """The graph as terms, given the shape of every tensor node at some batch size.

    The output terms are named by their position; the caller knows their names.
    """
    reader = _Reader(graph_module, shapes)
    outputs: tuple[tuple[str, Term], ...] = ()
    for node in graph_module.graph.nodes:
        if node.op == "output":
            leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(node.args[0]) if leaf is not None]
            outputs = tuple(
                (str(index), reader.read(leaf).term)
                for index, leaf in enumerate(leaves)
                if isinstance(leaf, fx.Node)
            )
        else:
            reader.add(node)
    return TermGraph(dialect="module", outputs=outputs)


class _Reader:
    """Reads nodes in order; holds the term of every node read so far."""

    def __init__(self, module: fx.GraphModule, shapes: dict[str, tuple[int, ...]]) -> None:
        self._module = module
        self._shapes = shapes
        self._seen: dict[fx.Node, _Seen] = {}
        self._inputs = 0

    def read(self, node: fx.Node) -> _Seen:
        return self._seen[node]

    def add(self, node: fx.Node) -> None:
        seen = self._leaf(node) or self._view(node) or self._permutation(node) or self._affine(node)
        self._seen[node] = seen or self._pool(node) or self._elementwise(node) or self._operator(node)

    def _shape(self, node: object) -> Shape | None:
        full = self._shapes.get(node.name) if isinstance(node, fx.Node) else None
        return None if full is None or not full else tuple(full[1:])

    def _called(self, node: fx.Node) -> nn.Module | None:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _source(self, node: fx.Node) -> fx.Node | None:
        first = node.args[0] if node.args else node.kwargs.get("input")
        return first if isinstance(first, fx.Node) and self._shape(first) is not None else None

    def _leaf(self, node: fx.Node) -> _Seen | None:
        if node.op == "placeholder":
            signature = f"input {self._inputs}"
            self._inputs += 1
            shape = self._shape(node)
            term = Term(kind=Kind.INPUT, value=node.name, node=node.name, signature=signature, shape=shape)
            return _Seen(term=term, shape=shape)
        if node.op == "get_attr":
            constants = _arrays([operator.attrgetter(str(node.target))(self._module)])
            term = Term(
                kind=Kind.CONSTANT,
                value=node.name,
                node=str(node.target),
                signature="constant",
                constants=constants,
            )
            return _Seen(term=term, shape=None)
        return None

    def _view(self, node: fx.Node) -> _Seen | None:
        source, module = self._source(node), self._called(node)
        if source is None or self._seen[source].term.kind is Kind.CONSTANT or _has_hooks(module):
            return None
        if type(module) in _SAME_MODULES or _is_inactive_dropout(node) or _is_stochastic_depth(module):
            return self._seen[source]
        if type(module) not in _VIEW_MODULES and not (module is None and _name(node) in _VIEW_NAMES):
            return None
        before, after = self._shapes[source.name], self._shapes.get(node.name)
        if after is None or len(after) < 2 or before[0] != after[0] or math.prod(before) != math.prod(after):
            return None
        return dataclasses.replace(self._seen[source], shape=tuple(after[1:]))

    def _permutation(self, node: fx.Node) -> _Seen | None:
        source = self._source(node)
        before = self._shape(source)
        if source is None or before is None or _name(node) not in ("permute", "transpose", "movedim"):
            return None
        if node.op == "call_module":
            return None
        labels = torch.empty(2, *before, device="meta")
        args = [labels if arg is source else arg for arg in node.args]
        moved = _apply(node, args)
        if moved.shape[0] != 2 or moved.stride(0) != labels.stride(0):
            return None
        seen = self._seen[source]
        grid = torch.arange(math.prod(before)) if seen.order is None else torch.from_numpy(seen.order)
        placed = torch.stack([grid, grid]).view(2, *before)
        flat = _apply(node, [placed if arg is source else arg for arg in node.args])[0]
        order = flat.reshape(-1).numpy()
        is_same = bool((order == np.arange(order.size)).all())
        return _Seen(term=seen.term, shape=tuple(flat.shape), order=None if is_same else order)

    def _affine(self, node: fx.Node) -> _Seen | None:
        found = read_affine(node, self._module)
        source = None if found is None else found.source
        before = self._shape(source)
        if found is None or source is None or before is None or not covers_map(found, before):
            return None
        seen, shape = self._seen[source], self._shape(node)
        affine = _normalized(found, before, seen.order, source.name)
        return _Seen(term=self._term(node, Kind.AFFINE, "affine", (seen,), shape, affine=affine), shape=shape)

    def _pool(self, node: fx.Node) -> _Seen | None:
        from export.module_pools import averages_map

        source = self._source(node)
        before, after = self._shape(source), self._shape(node)
        if source is None or before is None or after is None:
            return None
        seen = self._seen[source]
        if seen.order is not None or seen.term.shape != before:
            return None
        if not averages_map(node, self._called(node), before, after):
            return None
        return _Seen(term=self._term(node, Kind.POOL, "average over the map", (seen,), after), shape=after)

    def _elementwise(self, node: fx.Node) -> _Seen | None:
        source, module = self._source(node), self._called(node)
        if source is None or _has_hooks(module) or self._shape(node) != self._shape(source):
            return None
        seen, name = _materialized(self._seen[source]), _name(node)
        if seen.shape is None:
            return None
        signature, function = "", None
        constants: tuple[Array, ...] = ()
        if module is not None and type(module) in _ELEMENTWISE_MODULES:
            signature, function = _module_signature(module), _ELEMENTWISE_MODULES[type(module)]
        elif module is not None and type(module) in _NORMS and _is_per_channel(seen.shape):
            signature, constants = f"BatchNorm({module.extra_repr()})", _state(module)
        elif module is None and name in _ELEMENTWISE_NAMES and len(list(node.all_input_nodes)) == 1:
            signature, function = _call_signature(node), _ELEMENTWISE_NAMES[name]
        if not signature:
            return None
        term = self._term(
            node, Kind.ELEMENTWISE, signature, (seen,), seen.shape, constants, function=function
        )
        return _Seen(term=term, shape=seen.shape)

    def _operator(self, node: fx.Node) -> _Seen:
        module = self._called(node)
        seen = tuple(_materialized(self._seen[source]) for source in node.all_input_nodes)
        constants = () if module is None else _state(module)
        signature = _call_signature(node) if module is None else _module_signature(module)
        shape = self._shape(node)
        return _Seen(term=self._term(node, Kind.OP, signature, seen, shape, constants), shape=shape)

    def _term(
        self,
        node: fx.Node,
        kind: Kind,
        signature: str,
        operands: tuple[_Seen, ...],
        shape: Shape | None,
        constants: tuple[Array, ...] = (),
        affine: Affine | None = None,
        function: str | None = None,
    ) -> Term:
        return Term(
            kind=kind,
            value=node.name,
            node=str(node.target) if node.op == "call_module" else node.name,
            signature=signature,
            operands=tuple(seen.term for seen in operands),
            operand_shapes=tuple(seen.shape for seen in operands),
            shape=shape,
            constants=constants,
            affine=affine,
            function=function,
        )


def _apply(node: fx.Node, args: Sequence[Any]) -> torch.Tensor:
    """The permutation that ``node`` calls, applied to other tensors."""
    if node.op == "call_method":
        moved: torch.Tensor = getattr(args[0], str(node.target))(*args[1:], **node.kwargs)
        return moved
    function: Callable[..., torch.Tensor] = node.target  # type: ignore[assignment]
    return function(*args, **node.kwargs)


def _materialized(seen: _Seen) -> _Seen:
    """A permuted value as a term of its own, for operators that care for the order."""
    if seen.order is None:
        return seen
    term = Term(
        kind=Kind.OP,
        value="",
        node=f"permuted {seen.term.node}",
        signature="permute",
        operands=(seen.term,),
        operand_shapes=(seen.term.shape,),
        shape=seen.shape,
        constants=(seen.order,),
    )
    return _Seen(term=term, shape=seen.shape)


def _normalized(found: FxAffine, operand: Shape, order: NDArray[np.int64] | None, reads: str) -> Affine:
    matrix = numpy_of(found.weight).reshape(found.weight.shape[0], -1)
    if order is not None:
        plain = np.empty_like(matrix)
        plain[:, order] = matrix
        matrix = plain
    return Affine(
        weight=matrix,
        bias=None if found.bias is None else numpy_of(found.bias),
        weight_name=found.weight_name,
        bias_name=found.bias_name,
        kernel_size=found.kernel_size,
        operand=operand,
        reads=reads,
        columns=order,
    )


def numpy_of(tensor: torch.Tensor) -> Array:
    """The tensor's values as an array on the host, sharing memory where NumPy has the type.

    bfloat16, which NumPy lacks, becomes float32 (exactly).
    """
    host = tensor.detach().cpu()
    array: Array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    return array


def _arrays(tensors: Sequence[object]) -> tuple[Array, ...]:
    return tuple(numpy_of(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor))


def _state(module: nn.Module) -> tuple[Array, ...]:
    """Parameters and buffers by name, without the counters that evaluation never reads."""
    named = sorted([*module.named_parameters(), *module.named_buffers()], key=operator.itemgetter(0))
    return _arrays([tensor for name, tensor in named if not name.endswith("num_batches_tracked")])


def _name(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _is_inactive_dropout(node: fx.Node) -> bool:
    position = {"stochastic_depth": 3}.get(_name(node), 2)
    is_dropout = _name(node) == "stochastic_depth" or _name(node).endswith("dropout")
    training = node.kwargs.get("training", node.args[position] if len(node.args) > position else True)
    return node.op == "call_function" and is_dropout and training is False


def _is_stochastic_depth(module: nn.Module | None) -> bool:
    """Torchvision's StochasticDepth, known by its path so that torchvision need not be there."""
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}" == "torchvision.ops.stochastic_depth.StochasticDepth"


def _is_per_channel(shape: Shape | None) -> bool:
    return shape is not None and all(extent == 1 for extent in shape[1:])


def _module_signature(module: nn.Module) -> str:
    """Class, hyperparameters and hooks; equal for two modules that compute the same from equal state."""
    kind = type(module)
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    tail = f", hooks={[id(hook) for hook in hooks]}" if hooks else ""
    known = kind.__module__.startswith(("torch.nn.", "torchvision.ops."))
    extra = module.extra_repr() if known else f"object {id(module)}"
    inner = [f"{name}={_module_signature(child)}" for name, child in module.named_children()] if known else []
    return f"{kind.__module__}.{kind.__qualname__}({', '.join([extra, *inner])}{tail})"


def _call_signature(node: fx.Node) -> str:
    shown = torch.utils._pytree.tree_map(
        lambda leaf: "value" if isinstance(leaf, fx.Node) else repr(leaf),
        (tuple(node.args), dict(node.kwargs)),
    )
    where = "" if isinstance(node.target, str) else f"{getattr(node.target, '__module__', '')}."
    return f"{node.op} {where}{_name(node)}{shown}"
