"""What a module computes that no graph of it shows: hooks, shadowed methods, code that is not the graph's."""

from __future__ import annotations

from torch import fx, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_METHODS = ("forward", "__call__", "_call_impl")


def outside_graph(module: nn.Module) -> str | None:
    """What a trace of ``module`` may not show, as a clause; None where nothing is seen."""
    checking = _only_checking(module)
    for name, part in module.named_modules():
        where = repr(name) if name else type(module).__name__
        if any(_is_own(hook) for hooks in _HOOKS for hook in getattr(part, hooks, {}).values()):
            return f"{where} has hooks, which no graph shows"
        if name in checking:
            continue
        shadowed = next((method for method in _METHODS if method in vars(part)), None)
        if shadowed is not None:
            return f"{where} has a {shadowed} of its own in place of its class's"
        if isinstance(part, fx.GraphModule) and is_stale(part):
            return f"the graph of {where} was edited, and its code was not made again"
    return None


def _only_checking(module: nn.Module) -> set[str]:
    """Parts of an exported program that give nothing: they check the inputs."""
    if not isinstance(module, fx.GraphModule):
        return set()
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    return {str(node.target) for node in calls} - {str(node.target) for node in calls if node.users} - {""}


def _is_own(hook: object) -> bool:
    """True unless it is that of an exported program, which checks the inputs and changes nothing."""
    home = getattr(hook, "__module__", "")
    return not home.startswith(("torch.export", "torch._export"))


def is_stale(module: fx.GraphModule) -> bool:
    """True if the code that runs is not that of the graph."""
    code = getattr(module, "_code", None)
    return code is not None and module.graph.python_code("self").src != code
