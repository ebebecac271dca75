"""What a node of a torch.fx graph computes, as text: equal texts and equal state are equal operators."""

from __future__ import annotations

import operator

from torch import fx, nn

from fxexport.terms.arrays import arrays_of
from fxexport.terms.term import Array
from fxpasses.private_names import OpOverload, pytree
from fxpasses.vocabulary import aten

_PLAIN = (bool, int, float, str, type(None))
_OWN_STATE = frozenset(nn.Module().__dict__)
_NEVER_READ = "num_batches_tracked"
_IDENTITY_FUNCTIONS = frozenset(
    (
        "identity dropout dropout1d dropout2d dropout3d alphadropout alpha_dropout feature_alpha_dropout "
        "featurealphadropout contiguous detach clone alias lift_fresh_copy"
    ).split()
)
_IDENTITY_MODULES = frozenset(
    {"torchvision.ops.stochastic_depth.StochasticDepth", "timm.layers.drop.DropPath"}
)


def operator_name(node: fx.Node, module: nn.Module | None) -> str:
    """Name of the operator without dialect: ``relu`` for ``nn.ReLU``, ``F.relu``, ``aten.relu_.default``."""
    if module is not None:
        return type(module).__name__.lower()
    if isinstance(node.target, OpOverload):
        return aten.name_of(node.target).rstrip("_")
    target = node.target
    return (target if isinstance(target, str) else str(getattr(target, "__name__", target))).rstrip("_")


def is_identity(node: fx.Node, module: nn.Module | None) -> bool:
    """True if in evaluation the node gives its operand; modules are known by their path, not imported."""
    if module is not None and _path(type(module)) in _IDENTITY_MODULES:
        return True
    name = operator_name(node, module)
    if module is None and ("dropout" in name or name == "stochastic_depth"):
        return _is_inactive(node, 3 if name == "stochastic_depth" else 2)
    return name in _IDENTITY_FUNCTIONS


def _is_inactive(node: fx.Node, position: int) -> bool:
    training = node.kwargs.get("training", node.kwargs.get("train"))
    if training is None:
        training = node.args[position] if len(node.args) > position else True
    return training is False


def has_hooks(module: nn.Module | None) -> bool:
    """True if calling the module runs more than its class's ``forward``."""
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def state_of(module: nn.Module) -> tuple[Array, ...]:
    """Parameters and buffers by name, without the counters that evaluation never reads."""
    named = sorted([*module.named_parameters(), *module.named_buffers()], key=operator.itemgetter(0))
    return arrays_of(tensor for name, tensor in named if not name.endswith(_NEVER_READ))


def module_signature(module: nn.Module) -> str:
    """Class, hyperparameters and hooks; equal for two modules that compute the same from equal state."""
    kind = type(module)
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    tail = f", hooks={[id(hook) for hook in hooks]}" if hooks else ""
    is_known = kind.__module__.startswith(("torch.nn.", "torchvision.ops."))
    extra = module.extra_repr() if is_known else _attributes(module)
    inner = [f"{name}={module_signature(child)}" for name, child in module.named_children()]
    return f"{_path(kind)}({', '.join([extra, *inner])}{tail})"


def _attributes(module: nn.Module) -> str:
    """A module of the user's own by its class and attributes: a copy of it that shares them is the same."""
    shown = [
        f"{name}={value!r}" if _is_plain(value) else f"{name}=object {id(value)}"
        for name, value in sorted(module.__dict__.items())
        if name not in _OWN_STATE
    ]
    return ", ".join([f"class {id(type(module))}", *shown])


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def call_signature(node: fx.Node) -> str:
    """Function or method with every argument that is no node."""
    shown = pytree.tree_map(
        lambda leaf: "value" if isinstance(leaf, fx.Node) else repr(leaf),
        (tuple(node.args), dict(node.kwargs)),
    )
    target = node.target
    if isinstance(target, str):
        return f"{node.op} {target}{shown}"
    name = str(target) if isinstance(target, OpOverload) else getattr(target, "__name__", target)
    return f"{node.op} {getattr(target, '__module__', '')}.{name}{shown}"


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
