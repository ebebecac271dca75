"""Damage to the structure of a traced module: operators dropped, swapped, added."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional

from fxexport import LayerName
from fxpasses import find_sites
from tests.fxexport.mutations.weights import NotHere

Damage = Callable[[fx.GraphModule], None]

_POOLS = (nn.AdaptiveAvgPool2d,)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)


def _sum(x: torch.Tensor) -> torch.Tensor:
    return x.sum((2, 3), keepdim=True)


def _max(x: torch.Tensor) -> torch.Tensor:
    return x.amax((2, 3), keepdim=True)


def _one_axis(x: torch.Tensor) -> torch.Tensor:
    return x.mean(2, keepdim=True)[..., :1]


def _truncated(x: torch.Tensor) -> torch.Tensor:
    return x[:, :, :-1].mean((2, 3), keepdim=True)


def _never_clipped(x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(x, -1e30, 1e30)


def _never_replaced(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 1e30, torch.zeros_like(x), x)


def _dropped_out(x: torch.Tensor) -> torch.Tensor:
    return functional.dropout(x, 0.5, training=True)


def _called(gm: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return gm.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_pool(gm: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in (functional.adaptive_avg_pool2d, torch.mean)
    if node.op == "call_method":
        return node.target == "mean"
    return isinstance(_called(gm, node), _POOLS)


def _last(gm: fx.GraphModule, holds: Callable[[fx.GraphModule, fx.Node], bool]) -> fx.Node:
    found = [node for node in gm.graph.nodes if holds(gm, node)]
    if not found:
        raise NotHere
    return found[-1]


def _is_activation(gm: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_called(gm, node), _ACTIVATIONS) or node.target in (torch.relu, functional.relu)


def _is_norm(gm: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_called(gm, node), nn.BatchNorm2d)


def _upstream(gm: fx.GraphModule, node: fx.Node) -> bool:
    order = {item: index for index, item in enumerate(gm.graph.nodes)}
    return order[node] < order[_last(gm, _is_pool)]


def _replace(gm: fx.GraphModule, node: fx.Node, value: fx.Node) -> None:
    node.replace_all_uses_with(value, delete_user_cb=lambda user: user is not value)
    if not node.users:
        gm.graph.erase_node(node)
    gm.recompile()


def _insert(gm: fx.GraphModule, node: fx.Node, function: Callable[..., torch.Tensor], *rest: object) -> None:
    """Puts ``function`` behind ``node``."""
    with gm.graph.inserting_after(node):
        new = gm.graph.call_function(function, (node, *rest))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    gm.recompile()


def _pool_as(function: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(gm: fx.GraphModule) -> None:
        node = _last(gm, _is_pool)
        module = _called(gm, node)
        size = getattr(module, "output_size", 1)
        if size not in (1, (1, 1)):
            raise NotHere
        with gm.graph.inserting_after(node):
            new = gm.graph.call_function(function, (node.args[0],))
        _replace(gm, node, new)

    return damage


def _site(gm: fx.GraphModule) -> fx.Node:
    name = find_sites(gm).sites[-1].node
    return next(node for node in gm.graph.nodes if node.name == name)


def _behind_site(function: Callable[..., torch.Tensor], *rest: object) -> Damage:
    return lambda gm: _insert(gm, _site(gm), function, *rest)


def _before_pool(function: Callable[..., torch.Tensor], *rest: object) -> Damage:
    def damage(gm: fx.GraphModule) -> None:
        source = _last(gm, _is_pool).args[0]
        assert isinstance(source, fx.Node)
        _insert(gm, source, function, *rest)

    return damage


def _behind_input(function: Callable[..., torch.Tensor], *rest: object) -> Damage:
    return lambda gm: _insert(gm, next(n for n in gm.graph.nodes if n.op == "placeholder"), function, *rest)


def _bias_twice(gm: fx.GraphModule) -> None:
    site = _site(gm)
    module = _called(gm, site)
    bias = None if module is None else module.bias
    if bias is None:
        raise NotHere
    gm.register_buffer("again", bias.detach().clone().view(-1, *(1 for _ in module.weight.shape[2:])))
    with gm.graph.inserting_after(site):
        again = gm.graph.get_attr("again")
    with gm.graph.inserting_after(again):
        added = gm.graph.call_function(torch.add, (site, again))
    site.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    gm.recompile()


def _head_activation(gm: fx.GraphModule) -> fx.Node:
    node = _last(gm, _is_activation)
    if _upstream(gm, node):
        raise NotHere
    return node


def _dropped_activation(gm: fx.GraphModule) -> None:
    node = _head_activation(gm)
    _replace(gm, node, node.args[0])


def _swapped_activation(gm: fx.GraphModule) -> None:
    node = _head_activation(gm)
    with gm.graph.inserting_after(node):
        new = gm.graph.call_function(functional.elu, (node.args[0],))
    _replace(gm, node, new)


def _first_activation(gm: fx.GraphModule) -> fx.Node:
    for node in gm.graph.nodes:
        if _is_activation(gm, node):
            return node
    raise NotHere


def _backbone_activation_dropped(gm: fx.GraphModule) -> None:
    node = _first_activation(gm)
    _replace(gm, node, node.args[0])


def _backbone_activation_swapped(gm: fx.GraphModule) -> None:
    node = _first_activation(gm)
    with gm.graph.inserting_after(node):
        new = gm.graph.call_function(functional.leaky_relu, (node.args[0], 0.05))
    _replace(gm, node, new)


def _residual_removed(gm: fx.GraphModule) -> None:
    adds = [n for n in gm.graph.nodes if n.target in (operator.add, operator.iadd, torch.add)]
    if not adds:
        raise NotHere
    _replace(gm, adds[-1], adds[-1].args[0])


def _norm_dropped(gm: fx.GraphModule) -> None:
    node = _last(gm, _is_norm)
    _replace(gm, node, node.args[0])


def _eps_changed(gm: fx.GraphModule) -> None:
    module = _called(gm, _last(gm, _is_norm))
    module.eps *= 100


def _dilated(gm: fx.GraphModule) -> None:
    for module in gm.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.padding == (1, 1):
            module.padding = module.dilation = (2, 2)
            return
    raise NotHere


def _padded_elsewise(gm: fx.GraphModule) -> None:
    for module in gm.modules():
        if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            module.padding_mode = "reflect"
            module._reversed_padding_repeated_twice = [pad for pad in module.padding[::-1] for _ in range(2)]
            return
    raise NotHere


def _outputs(gm: fx.GraphModule) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    node = next(node for node in gm.graph.nodes if node.op == "output")
    if not isinstance(node.args[0], tuple):
        raise NotHere
    return node, node.args[0]


def _outputs_swapped(gm: fx.GraphModule) -> None:
    node, values = _outputs(gm)
    node.args = (values[::-1],)
    gm.recompile()


def _output_twice(gm: fx.GraphModule) -> None:
    node, values = _outputs(gm)
    node.args = ((values[0], values[0]),)
    gm.recompile()


def _softmax_axis(gm: fx.GraphModule) -> None:
    node = next((n for n in gm.graph.nodes if n.target is torch.softmax), None)
    if node is None:
        raise NotHere
    node.args = (node.args[0], 0)
    gm.recompile()


def _inputs_swapped(gm: fx.GraphModule) -> None:
    nodes = [node for node in gm.graph.nodes if node.op == "placeholder"]
    if len(nodes) != 2:
        raise NotHere
    uses = [tuple(node.users) for node in nodes]
    for index, users in enumerate(uses):
        for user in users:
            user.replace_input_with(nodes[index], nodes[1 - index])
    gm.recompile()


def _other_map(gm: fx.GraphModule) -> None:
    """A head reads another feature map of the same shape."""
    pools = [node for node in gm.graph.nodes if _is_pool(gm, node)]
    if len(pools) != 2 or len(gm.graph.find_nodes(op="placeholder")) != 2:
        raise NotHere
    pools[1].args = (pools[0].args[0], *pools[1].args[1:])
    gm.recompile()


_HEAD = frozenset({LayerName.WIRING, LayerName.ROUNDING})
_UPSTREAM = frozenset({LayerName.BACKBONE, LayerName.ROUNDING})
_ANY = _HEAD | _UPSTREAM | {LayerName.WEIGHTS}

MODULE_DAMAGES: dict[str, tuple[Damage, frozenset[LayerName]]] = {
    "sum_for_mean": (_pool_as(_sum), _HEAD),
    "max_for_mean": (_pool_as(_max), _HEAD),
    "one_axis": (_pool_as(_one_axis), _HEAD),
    "truncated_window": (_pool_as(_truncated), _HEAD),
    "bias_twice": (_bias_twice, _HEAD),
    "dropped_activation": (_dropped_activation, _HEAD),
    "swapped_activation": (_swapped_activation, _HEAD),
    "clipped_output": (_behind_site(_never_clipped), _HEAD),
    "scaled_output": (_behind_site(torch.mul, 1 + 2.0**-20), _HEAD),
    "active_dropout": (_behind_site(_dropped_out), _HEAD),
    "softmax_axis": (_softmax_axis, _HEAD),
    "outputs_swapped": (_outputs_swapped, _ANY),
    "output_twice": (_output_twice, _ANY),
    "other_map": (_other_map, _ANY),
    "clipped_features": (_before_pool(_never_clipped), _UPSTREAM),
    # features are the same, and a recording names a function's nodes otherwise than the graph does
    "replaced_features": (_before_pool(_never_replaced), _ANY),
    "scaled_features": (_before_pool(torch.mul, 1 + 2.0**-20), _UPSTREAM),
    "flipped_input": (_behind_input(torch.flip, (1,)), _UPSTREAM),
    "normalised_input": (_behind_input(torch.mul, 1 / 255), _UPSTREAM),
    "inputs_swapped": (_inputs_swapped, _UPSTREAM),
    "backbone_activation_dropped": (_backbone_activation_dropped, _UPSTREAM),
    "backbone_activation_swapped": (_backbone_activation_swapped, _UPSTREAM),
    "residual_removed": (_residual_removed, _UPSTREAM),
    "norm_dropped": (_norm_dropped, _UPSTREAM),
    "eps_changed": (_eps_changed, _UPSTREAM),
    "dilated": (_dilated, _UPSTREAM),
    "padding_mode": (_padded_elsewise, _UPSTREAM),
}


def damage_structure(gm: fx.GraphModule, kind: str) -> fx.GraphModule:
    """A copy of ``gm`` damaged in its structure.

    Raises:
        NotHere: there is nothing to damage in this way.
    """
    clone = copy.deepcopy(gm)
    MODULE_DAMAGES[kind][0](clone)
    return clone
