"""How a node of a torch.fx graph is told, and which of them give their operand."""

from __future__ import annotations

from torch import fx, nn

from fxpasses.private_names import OpOverload, pytree
from fxpasses.vocabulary import aten

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
    if module is not None and path_of(type(module)) in _IDENTITY_MODULES:
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


def path_of(kind: type) -> str:
    """The class by its module and name."""
    return f"{kind.__module__}.{kind.__qualname__}"
