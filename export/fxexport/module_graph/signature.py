"""How a node of a torch.fx graph is told, and which of them give their operand."""

from __future__ import annotations

from torch import fx, nn

from fxpasses.private_names import OpOverload, pytree
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Elementwise, FeatureNorm, Op, Role

_COPIES = frozenset("identity contiguous detach clone alias lift_fresh_copy".split())


def operator_name(node: fx.Node, module: nn.Module | None) -> str:
    """Name of the operator without dialect: ``relu`` for ``nn.ReLU``, ``F.relu``, ``aten.relu_.default``."""
    if module is not None:
        return type(module).__name__.lower()
    if isinstance(node.target, OpOverload):
        return aten.name_of(node.target).rstrip("_")
    target = node.target
    return (target if isinstance(target, str) else str(getattr(target, "__name__", target))).rstrip("_")


def is_identity(node: fx.Node, op: Op, module: nn.Module | None) -> bool:
    """True if in evaluation the node gives its operand."""
    if isinstance(op, Elementwise | FeatureNorm) and op.role is Role.DROPOUT:
        return module is not None or not op.trains
    return operator_name(node, module) in _COPIES


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
