"""What forbids a rewrite of one affine op: the op's own numbers, its module, its weights.

Each guard gives a ``Problem`` (a miss code, the reason, what would allow the rewrite) or None. The
order is that of the questions a person would ask: is it an ordinary layer, are its weights ordinary,
are they used once, does the arithmetic fit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.fx import Node
from torch.nn.utils import parametrize

from fxpasses.engine.match import Match
from fxpasses.engine.uses import Uses
from fxpasses.graph.tree import attribute, is_uninitialized
from fxpasses.miss_codes import MissCode
from fxpasses.report import Problem, Scope
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.modules import is_its_class
from fxpasses.vocabulary.ops import Affine, WeightSource
from fxpasses.vocabulary.vocabulary import Vocabulary

_EXACT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}
)


def module_problem(op: Affine) -> Problem | None:
    """Why the op's module cannot be replaced by another class."""
    module = op.module
    if module is None:
        return None
    kind = type(module).__name__
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return Problem(
            MissCode.UNINITIALIZED, f"{kind} has no weights yet", "run one batch through the model first"
        )
    if op.weight_source is WeightSource.PACKED or "quantized" in type(module).__module__:
        return Problem(
            MissCode.QUANTIZED,
            f"{type(module).__module__}.{kind} holds packed weights",
            "rewrite the float model, then quantise",
        )
    pruned = any(name.endswith("_orig") for name in module._parameters)
    if parametrize.is_parametrized(module) or pruned or _has_weight_hook(module):
        return Problem(
            MissCode.PARAMETRIZED,
            "its weight is computed by a parametrization (weight_norm, spectral_norm, pruning, …)",
            "bake it in first: torch.nn.utils.parametrize.remove_parametrizations(module, 'weight'), "
            "remove_weight_norm or prune.remove",
        )
    if type(module) not in _EXACT and not op.transposed:
        return Problem(
            MissCode.SUBCLASS,
            f"{type(module).__module__}.{kind} is a subclass and may compute something else",
            "replace it by the plain layer, or merge its adapter, first",
        )
    if "forward" in module.__dict__:
        return Problem(
            MissCode.SUBCLASS,
            f"this {kind} has a forward of its own, which may compute something else",
            "remove what was put around it first",
        )
    if has_hooks(module):
        return Problem(
            MissCode.HOOKED,
            "it has hooks, which would see tensors of another rank",
            "remove the hooks and register them again after the rewrite",
        )
    return None


def altered_problem(node: Node, vocabulary: Vocabulary) -> Problem | None:
    """What is around a module of torch's, where that is why nothing tells what a node computes; or None."""
    module = vocabulary.module(str(node.target)) if node.op == "call_module" else None
    if module is None or is_its_class(module) or not type(module).__module__.startswith("torch."):
        return None
    what = f"{node.name!r} ({type(module).__name__}), which leads to it, has"
    if "forward" in module.__dict__:
        return Problem(
            MissCode.SUBCLASS,
            f"{what} a forward of its own, which may compute something else",
            "remove what was put around it first",
        )
    return Problem(
        MissCode.HOOKED,
        f"{what} hooks, which may change what it gives",
        "remove the hooks and register them again after the rewrite",
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether anything looks at what a module takes, gives or stores."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS)


def _has_weight_hook(module: nn.Module) -> bool:
    """Old-style weight_norm and spectral_norm recompute ``weight`` in a forward pre-hook."""
    return any(hasattr(hook, "compute_weight") for hook in module._forward_pre_hooks.values())


def quantized_problem(op: Affine) -> Problem | None:
    """Why an operator of a quantised graph keeps its form: its scales belong to what it reads now."""
    if not (aten.is_dequantized(op.weight_node) or aten.is_dequantized(op.source)):
        return None
    return Problem(
        MissCode.QUANTIZED,
        "what it reads is quantised in the graph, with scales of its own",
        "rewrite the float model, then quantise",
    )


def weight_problem(op: Affine, root: nn.Module) -> Problem | None:
    """Why the op's parameters cannot become views of another shape."""
    problem = quantized_problem(op)
    if problem is not None:
        return problem
    if op.weight_source is WeightSource.COMPUTED:
        what = "weight" if op.weight is None else "bias"
        return Problem(
            MissCode.COMPUTED_WEIGHT,
            f"its {what} is computed in the graph or an input, and is no parameter",
            f"store the {what} as a parameter first",
        )
    if op.weight_source is WeightSource.INPUT:
        return None
    for name in (op.weight, op.bias):
        tensor = attribute(root, name)
        if name is None:
            continue
        if is_uninitialized(tensor):
            return Problem(
                MissCode.UNINITIALIZED, f"{name} has no shape yet", "run one batch through the model first"
            )
        if (
            type(tensor) not in (nn.Parameter, torch.Tensor, nn.Buffer)
            or type(tensor.data) is not torch.Tensor
        ):
            return Problem(
                MissCode.WEIGHT_TYPE,
                f"{name} is a {type(tensor).__name__}, which may not allow views",
                "convert it to a plain parameter first",
            )
        if not tensor.numel():
            return Problem(
                MissCode.WEIGHT_TYPE, f"{name} is empty, which convolutions do not take", "remove the layer"
            )
        if tensor.dtype not in _DTYPES or tensor.is_sparse or tensor.is_quantized:
            return Problem(
                MissCode.DTYPE,
                f"{name} is {tensor.dtype}, which convolutions do not take",
                "cast the model first",
            )
    return None


def bias_problem(op: Affine, vocabulary: Vocabulary, features: int) -> Problem | None:
    """Why the op's bias is not one number a feature, as a convolution takes it."""
    bias = vocabulary.bias(op)
    if bias is None or tuple(bias.shape) == (features,):
        return None
    return Problem(
        MissCode.MATRIX_PRODUCT,
        f"its bias has the shape {tuple(bias.shape)} and is broadcast, which no convolution does",
        f"expand the bias to ({features},)",
    )


def sharing_problem(op: Affine, root: nn.Module, uses: Uses, alike: dict[Node, Affine]) -> Problem | None:
    """Why the op's weight is not this op's alone to reshape.

    Several uses are fine where all of them are reshaped alike: a head called twice, two layers with
    one tied weight. ``alike`` holds the sites that pass every other guard with this op's shapes.
    """
    if op.weight_source is WeightSource.INPUT:
        return None  # the graph will view it in place
    weight = attribute(root, op.weight)
    calls = uses.calls.get(id(op.module), []) if op.module is not None else []
    strangers = [call for call in calls if call not in alike]
    if strangers:
        return Problem(
            MissCode.SHARED_MODULE,
            f"its module is also called as {strangers[0].name!r}, which cannot be rewritten with it",
            "clone the module to allow the rewrite",
        )
    modules = {id(other.module) for other in alike.values() if other.module is not None}
    parameters = {other.weight for other in alike.values() if other.module is None} - uses.called
    others = [
        name
        for owner, name in uses.owners.get(id(weight), [])
        if id(owner) not in modules and name not in parameters and type(owner) is not nn.Module
    ]
    others += [
        reader.name
        for read in uses.reads.get(id(weight), [])
        for user in read.users
        for reader in (user.users if aten.untransposed(user) is read else (user,))
        if reader not in alike
    ]
    if others:
        return Problem(
            MissCode.TIED_WEIGHT,
            f"its weight is also used by {others[0]!r}, which cannot be rewritten with it",
            "clone the parameter to allow the rewrite",
        )
    return None


def sharing_problems(matches: Mapping[Node, Match], root: nn.Module, uses: Uses) -> dict[Node, Problem]:
    """The sites whose weight something else needs as it is, or needs in another shape, and why."""
    groups: dict[tuple[object, ...], dict[Node, Affine]] = {}
    for node, match in matches.items():
        groups.setdefault(_shared(match, root), {})[node] = match.op
    refused: dict[Node, Problem] = {}
    for alike in groups.values():
        problems: dict[int, Problem | None] = {}  # one for all calls of a module
        for node, op in alike.items():
            key = id(op.module)
            if key not in problems:
                problems[key] = sharing_problem(op, root, uses, alike)
            if (problem := problems[key]) is not None:
                refused[node] = problem
    return refused


def _shared(match: Match, root: nn.Module) -> tuple[object, ...]:
    """What sites that share a weight have to agree in, and the weight."""
    move = match.move
    is_pooled = match.site.scope is not Scope.ALL
    weight = id(attribute(root, match.op.weight))
    return (match.op.form, move.linear_shape, move.conv_shape, move.order, is_pooled, weight)
