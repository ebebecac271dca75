"""Linear and convolution calls of a torch.fx graph, as a weight, a bias and what they read."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from export.terms import Shape

_CONVS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_FUNCTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FxAffine:
    """An affine call of a torch.fx graph.

    Attributes:
        source: the node that it reads.
        weight: weight as it is stored, ``[O, K]`` or ``[O, C, *k]``.
        bias: ``[O]`` or None.
        weight_name: state-dict name of the weight.
        bias_name: state-dict name of the bias, or None.
        kernel_size: kernel of a convolution; empty for a linear.
    """

    source: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    weight_name: str
    bias_name: str | None
    kernel_size: tuple[int, ...]


def read_affine(node: fx.Node, root: nn.Module) -> FxAffine | None:
    """The affine call that ``node`` is, or None.

    Cases: exactly ``nn.Linear`` or ``nn.Conv1d/2d/3d`` without hooks, groups, padding or dilation (a
    subclass may compute something else); ``F.linear`` and ``F.conv*`` on parameters with default options.
    """
    if node.op == "call_module":
        return _from_module(node, root.get_submodule(str(node.target)))
    if node.op == "call_function":
        return _from_function(node, root)
    return None


def covers_map(site: FxAffine, operand: Shape) -> bool:
    """True if the site reads all of a sample of shape ``operand`` at once.

    Shapes:
        operand: (K,) for a linear, (C, *k) with the kernel's own extents for a convolution.
    """
    if not site.kernel_size:
        return len(operand) == 1
    return operand == (site.weight.shape[1], *site.kernel_size)


def run_affine(
    node: fx.Node, root: nn.Module, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Result of the operator that ``node`` calls, with these features, weight and bias."""
    if node.op == "call_module":
        state: dict[str, Any] = {"weight": weight} | ({} if bias is None else {"bias": bias})
        module = root.get_submodule(str(node.target))
        result: torch.Tensor = torch.func.functional_call(module, state, (features,))
    else:
        function: Callable[..., torch.Tensor] = node.target  # type: ignore[assignment]
        result = function(features, weight, bias)
    return result


def _from_module(node: fx.Node, module: nn.Module) -> FxAffine | None:
    source = node.args[0] if node.args else node.kwargs.get("input")
    kind = type(module)
    if not isinstance(source, fx.Node) or (kind is not nn.Linear and kind not in _CONVS):
        return None
    if module._forward_hooks or module._forward_pre_hooks or "weight" not in module._parameters:
        return None
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not _is_plain(module):
        return None
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    if weight is None:
        return None
    return FxAffine(
        source=source,
        weight=weight,
        bias=bias,
        weight_name=f"{node.target}.weight",
        bias_name=None if bias is None else f"{node.target}.bias",
        kernel_size=() if kind is nn.Linear else tuple(weight.shape[2:]),
    )


def _is_plain(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    if module.groups != 1 or isinstance(module.padding, str) or any(module.padding):
        return False
    steps = zip(module.dilation, module.kernel_size, strict=True)
    return all(step == 1 or extent == 1 for step, extent in steps)


def _from_function(node: fx.Node, root: nn.Module) -> FxAffine | None:
    is_linear = node.target is torch.nn.functional.linear
    if not is_linear and node.target not in _FUNCTIONS:
        return None
    named = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
    if len(node.args) > 3 or set(named) - {"input", "weight", "bias"}:
        return None
    source, weight, bias = named.get("input"), named.get("weight"), named.get("bias")
    tensor, offset = _parameter(weight, root), _parameter(bias, root)
    if not isinstance(source, fx.Node) or tensor is None or (bias is not None and offset is None):
        return None
    return FxAffine(
        source=source,
        weight=tensor,
        bias=offset,
        weight_name=str(weight.target) if isinstance(weight, fx.Node) else "",
        bias_name=str(bias.target) if isinstance(bias, fx.Node) else None,
        kernel_size=() if is_linear else tuple(tensor.shape[2:]),
    )


def _parameter(argument: object, root: nn.Module) -> torch.Tensor | None:
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    found = operator.attrgetter(str(argument.target))(root)
    return found if isinstance(found, torch.Tensor) else None
