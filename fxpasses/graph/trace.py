"""A model in, a graph out, over a copy of the module tree that shares every tensor.

``torch.fx.symbolic_trace`` loses things that users miss later: parameters that the traced path did not
read, the order of parameters, whether ``self.training`` was a constant or a question. This trace keeps
them: the tree below the graph has every name of the original in its order, ``F.dropout(x,
training=self.training)`` still asks, and the caller's modules are never touched.
"""

from __future__ import annotations

import dataclasses
import keyword
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer

from fxpasses.errors import TraceError, first_line
from fxpasses.graph.arguments import bound
from fxpasses.graph.tracing import tracing
from fxpasses.graph.tree import HOOKS, clone_tree, hold
from fxpasses.report import TraceInfo
from fxpasses.wall.clock import SlowError
from fxpasses.wall.marks import walled_for

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OWN = os.path.dirname(__file__) + os.sep
_TRACE = Tracer.trace.__code__
_ENDS_A_TEXT = re.compile(r"[\"\\\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KNOWN_WHOLE = frozenset({"StochasticDepth", "DropPath"})  # saves them the second trace
_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def no_inputs() -> None:
    """Stands for example inputs that nobody gave."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A graph and the module tree that it refers to.

    Attributes:
        root: a tree with every parameter and buffer of the model, sharing their storage.
        extras: what a GraphModule that was given has beside a graph and a tree; its hooks may read it.
    """

    graph: Graph
    root: nn.Module
    info: TraceInfo
    class_name: str
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def lifted(self) -> Mapping[str, str]:
        """No parameter is an input of the graph."""
        return {}

    def close(self) -> GraphModule:
        """The GraphModule of the graph over the tree; compiles once."""
        # over nothing at first: torch would look each node's target up in the tree, which is taken whole
        empty = Graph(tracer_cls=self.graph._tracer_cls, tracer_extras=self.graph._tracer_extras)
        module = GraphModule(nn.Module(), empty, class_name=self.class_name)
        for registry in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            module.__dict__[registry] = self.root.__dict__[registry]
        for hooks in HOOKS:
            if self.root.__dict__.get(hooks):
                module.__dict__[hooks] = self.root.__dict__[hooks]
        module.training = self.root.training
        module.graph = self.graph
        module.__dict__.update(
            {name: value for name, value in self.extras.items() if name not in module.__dict__}
        )
        return module


def trace(model: nn.Module, example_inputs: Callable[[], Sequence[Any] | None] = no_inputs) -> Traced:
    """The model as a graph over a tree of its own.

    Args:
        model: the module; the parameters of its ``forward`` that are not given keep their defaults.
        example_inputs: those that are given, by position; None: those that have no default.

    Raises:
        TraceError: symbolic tracing fails, as on control flow that depends on values.
    """
    if isinstance(model, GraphModule):
        graph = copy_graph(model.graph)
        root = clone_tree(model, keep=_called(graph), path="")
        return dataclasses.replace(given(model), graph=graph, root=root, extras=dict(model.__dict__))
    try:
        with walled_for(model):
            tracer, graph, constants = _traced(model, example_inputs)
    except SlowError:
        raise
    except Exception as error:
        raise TraceError(
            f"torch.fx cannot trace it symbolically ({first_line(error)})",
            where=type(model).__name__,
            fix="remove the control flow that depends on values, or trace the part that can be traced",
        ) from error
    graph._tracer_cls = None  # a pickled GraphModule names its tracer; plain torch must be able to load it
    root = clone_tree(model, keep=_called(graph), path="")
    for name, tensor in constants.items():
        hold(root, name, tensor)
    for name, module in tracer.dropouts.items():
        root.add_module(name, module)
    info = TraceInfo(method="symbolic", mode=_mode(model), notes=tuple(tracer.notes))
    return Traced(graph=graph, root=root, info=info, class_name=type(model).__name__)


def given(model: GraphModule) -> Traced:
    """A GraphModule's own graph over its own tree, to be read and not to be edited."""
    info = TraceInfo(method="given", mode=_mode(model))
    return Traced(graph=model.graph, root=model, info=info, class_name=type(model).__name__)


def _mode(model: nn.Module) -> str:
    return "train" if model.training else "eval"


def _traced(
    model: nn.Module, example_inputs: Callable[[], Sequence[Any] | None]
) -> tuple[HeadTracer, Graph, dict[str, Any]]:
    """The graph and its constants, by names that the model has not.

    Small modules that decide by ``training`` are kept whole, which may take a second trace.
    """
    whole: set[str] = set()
    while True:
        tracer = HeadTracer(whole, example_inputs)
        with tracing(model), _asking_for_training(model, tracer):
            before = set(model.__dict__)
            graph = tracer.trace(model)
            made = (set(model.__dict__) - before) & _called(graph)
            constants = {name: value for name, value in model.__dict__.items() if name in made}
        if not tracer.undecided:
            return tracer, graph, constants
        whole |= tracer.undecided


def _called(graph: Graph) -> set[str]:
    """Paths of what a graph calls, also through torch.cond and its like, which read a module to call."""
    return {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}


def copy_graph(source: Graph) -> Graph:
    """A copy of a graph with the same names, also those that a new graph would avoid (``input``)."""
    graph = Graph(tracer_cls=source._tracer_cls)
    copies: dict[Node, Node] = {}
    result = graph.graph_copy(source, copies)
    end = next(iter(reversed(source.nodes)))
    graph.output(result, type_expr=end.type).meta = dict(end.meta)
    graph.set_codegen(source._codegen)
    for old, new in copies.items():
        if new.name != old.name:
            new.name = old.name
    return graph


# --- tracing --------------------------------------------------------------------------------------


class _Training(int):
    """Stands in for ``module.training`` while tracing; says who asked and how."""

    tracer: HeadTracer
    path: str

    def __bool__(self) -> bool:
        self.tracer.asked(self.path, bool(int(self)))
        return int(self) != 0

    def __deepcopy__(self, memo: object) -> bool:
        """A copy of the module that is made meanwhile, to try an input, is not traced."""
        return int(self) != 0

    __hash__ = int.__hash__


class HeadTracer(Tracer):
    """``torch.fx.Tracer`` that records source lines and keeps ``self.training`` a question."""

    def __init__(self, whole: Collection[str], example_inputs: Callable[[], Sequence[Any] | None]) -> None:
        """Traces with the modules at the paths ``whole`` kept whole; for ``example_inputs`` see ``trace``."""
        super().__init__()
        self.whole = whole
        self.example_inputs = example_inputs
        self.undecided: set[str] = set()
        self.notes: list[str] = []
        self.dropouts: dict[str, nn.Module] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """An input for each parameter that is given; the others keep their defaults."""
        function, values, kept = bound(self, root_fn, self.example_inputs)
        if kept:
            self.notes.append(f"inputs that keep their defaults in the graph: {', '.join(kept)}")
        return function, values

    def asked(self, path: str, answer: bool) -> None:
        """Notes that the traced code branched on ``training``, so that the graph has one branch only."""
        if self._is_bare(path):
            self.undecided.add(path)
            return
        mode = "train" if answer else "eval"
        note = f"{path or 'the model'} branches on self.training; the graph has its {mode} branch"
        if note not in self.notes:
            self.notes.append(note)

    def _is_bare(self, path: str) -> bool:
        """Whether a module has no weights and no children, so that nothing is lost by keeping it whole."""
        module = self.root.get_submodule(path)
        return bool(path) and not (module._modules or module._parameters or module._buffers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own leaves, and small modules that decide by ``training`` (DropPath, StochasticDepth)."""
        kept_whole = type(m).__name__ in _KNOWN_WHOLE or module_qualified_name in self.whole
        return kept_whole or super().is_leaf_module(m, module_qualified_name)

    def create_arg(self, a: Any) -> Any:
        """Keeps a ``training`` argument a question to the module at run time."""
        if isinstance(a, _Training):
            return self.create_node("get_attr", f"{a.path}.training" if a.path else "training", (), {})
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Node:
        """A node with the source line that it came from."""
        if kind == "call_function" and target in _DROPOUTS:
            kind, target, args, kwargs = self._dropout(target, args, kwargs)
        _require_plain_names(target, kwargs)
        node = super().create_node(kind, target, args, kwargs, *rest, **named)
        frame = _user_frame()
        if frame is not None:
            node.meta["stack_trace"] = frame
        return node

    def _dropout(self, target: Any, args: Any, kwargs: Any) -> tuple[str, Any, Any, Any]:
        """A functional dropout that asks for ``training`` as a module, which pickling keeps asking."""
        bound = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | dict(kwargs)
        asks = bound.get("training", True)
        is_question = (
            isinstance(asks, Node) and asks.op == "get_attr" and str(asks.target).endswith("training")
        )
        if not is_question or not isinstance(bound.get("p", 0.5), float | int):
            return "call_function", target, args, kwargs
        asks.graph.erase_node(asks)
        name = _fresh_name(self.root, f"{target.__name__}_functional", self.dropouts)
        self.dropouts[name] = _DROPOUTS[target](bound.get("p", 0.5), bool(bound.get("inplace", False)))
        self.dropouts[name].train(bool(int(self.root.training)))
        return "call_module", name, (bound["input"],), {}


def _require_plain_names(target: Any, kwargs: Mapping[str, Any]) -> None:
    """Returns where a node's strings stay what they are in source text: torch.fx puts quotes around them.

    Raises:
        TraceError: one would end the quotes, a keyword is no identifier, or one is a word of Python's own.
    """
    parts = target.split(".") if isinstance(target, str) else ()
    odd = any(_ENDS_A_TEXT.search(part) or keyword.iskeyword(part) for part in parts)
    wrong = (key for key in kwargs if not key.isidentifier() or keyword.iskeyword(key))
    name = target if odd else next(wrong, None)
    if name is not None:
        raise TraceError(
            f"something is called {name!a}, which cannot be written into a graph's source text",
            fix="give it a name of letters, digits and underscores",
        )


def _fresh_name(root: nn.Module, name: str, taken: dict[str, nn.Module]) -> str:
    candidate, index = name, 0
    while hasattr(root, candidate) or candidate in taken:
        index += 1
        candidate = f"{name}_{index}"
    return candidate


def _user_frame() -> str | None:
    """The innermost frame of the model's own code, as a traceback would print it; None where it has none.

    An ``nn.Sequential`` has none: beyond the tracer's own frame stands whoever asked for the rewrite.
    """
    frame = sys._getframe(2)
    while frame is not None and frame.f_code is not _TRACE:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, _OWN, "<")):
            in_forward = frame.f_code.co_name
            return f'File "{name}", line {frame.f_lineno}, in {in_forward}'
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return None


@contextmanager
def _asking_for_training(model: nn.Module, tracer: HeadTracer) -> Iterator[None]:
    """Replaces every module's ``training`` by a flag that reports being asked, and puts it back."""
    modules = dict(model.named_modules())
    modes = {path: module.__dict__.get("training", True) for path, module in modules.items()}
    try:
        for path, module in modules.items():
            flag = _Training(bool(modes[path]))
            flag.tracer, flag.path = tracer, path
            module.__dict__["training"] = flag
        yield
    finally:
        for path, module in modules.items():
            module.__dict__["training"] = modes[path]
