"""A module as a subject: traced to a graph, run in eager mode, tapped in its graph."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from fxexport.language import Graph, NotRead, graph_of_module
from fxexport.language.calls import Calls
from fxexport.language.memory import Memory
from fxexport.language.reads_values import ReadsValues
from fxexport.language.recording import ANY_MEMORY, RECORDING_S, TOO_SLOW
from fxexport.module_graph.affine import FxAffine, read_affine
from fxexport.module_graph.naming import ModuleNaming
from fxexport.module_graph.outside_graph import changed_state, is_stale, opaque_states, outside_graph
from fxexport.module_graph.own_code import OwnCode
from fxexport.module_graph.terms import graph_terms
from fxexport.onnx_graph.evaluated import is_float
from fxexport.subjects.many_places import collected, spread
from fxexport.subjects.subject import EAGER, Adjustment, BatchError, Feed, Feeds, Run, Subject
from fxexport.subjects.wide import InFloat64, Kept, wide
from fxexport.terms.arrays import nudge, numpy_of, tensor_of
from fxexport.terms.term import Array, HeadTerm, affine_of
from fxexport.to_onnx.example_call import leaf_names
from fxexport.to_onnx.write import evaluation_mode
from fxexport.untrusted.programs import batches_within, fixed_batch, is_program
from fxexport.untrusted.tensor_budget import require_small_tensors
from fxpasses.engine.outputs import count_maps
from fxpasses.errors import CheckError, InternalError, TraceError, brief
from fxpasses.graph.arguments import with_defaults
from fxpasses.graph.export_trace import export_module
from fxpasses.graph.held import Change, Held
from fxpasses.graph.quiet import quiet_export, quiet_failure
from fxpasses.graph.shapes import Runner
from fxpasses.graph.trace import trace
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.wall.clock import SlowError, in_budget

_FIRST_SIZE = 2
_MOST_WIDE = 2**28
"""Parameters of larger modules are not copied in float64."""
_MOST_KEPT = 2**24
"""So many values inside are kept at once."""
_IMAGE = 4
_RECORDED = 2.0**-8
"""Difference over the largest value that other kernels may leave, in any type."""


class _Way(NamedTuple):
    """How a run is made to see whether it matters.

    Attributes:
        where: in words.
        is_strided: whether the inputs lie otherwise in memory.
        has_gradients: whether gradients are recorded.
    """

    where: str
    is_strided: bool
    has_gradients: bool


class _Look(NamedTuple):
    """What a run gave, what it called, and what its own code asked."""

    gave: tuple[Array, ...]
    calls: ReadsValues
    code: OwnCode


_AS_GIVEN = _Way("as given", is_strided=False, has_gradients=False)
_OTHERWISE = (
    _Way("where gradients are recorded", is_strided=False, has_gradients=True),
    _Way("of inputs that lie otherwise in memory", is_strided=True, has_gradients=False),
)


class ModuleSubject(Subject):
    """A module in eager mode.

    Args:
        module: the module; its training flags are restored after every run.
        feeds: inputs of batch 2 or more, from which shapes are taken.
    """

    dialect = "module"
    taps_in_place = True

    def __init__(self, module: nn.Module, feeds: Sequence[Array]) -> None:
        self.name = type(module).__name__
        if isinstance(module, fx.GraphModule) and not is_stale(module):
            module = with_defaults(module, len(feeds))
        self.module = module
        self._example = feeds
        self._device, self._dtype = _home(module, feeds)
        self._traced = _traced(module, self._tensors(feeds))
        with evaluation_mode(module):
            self._found = Held(module)
        self._later: Sequence[Change] = ()
        self._calls: list[Calls] = []
        self._graphs: dict[tuple[torch.Size, ...], fx.GraphModule] = {}
        self.input_names = tuple(node.target for node in self._traced.graph.nodes if node.op == "placeholder")
        recorder = _Recorder(self._traced)
        try:
            with evaluation_mode(self._traced), torch.no_grad(), quiet_failure():
                if is_program(module):  # which nobody has tried out yet
                    require_small_tensors(self._traced, self._tensors(feeds))
                result = recorder.run(*self._tensors(feeds))
        except Exception as error:  # a model runs code of its own, and fails with anything
            raise CheckError(
                f"it does not run on its samples ({brief(error)})",
                where=self.name,
                fix="give a model that runs, or samples that it takes",
            ) from error
        vocabulary = Vocabulary(self._traced)
        maps = count_maps(self._traced.graph, vocabulary)
        leaves = _leaves(result, maps)
        self.others = tuple(
            name for name, leaf in leaf_names(result, maps) if not isinstance(leaf, torch.Tensor)
        )
        self.output_names = tuple(name for name, _ in leaves)
        self.output_ranks: tuple[int | None, ...] = tuple(leaf.dim() for _, leaf in leaves)
        self.kinds = frozenset(recorder.kinds)
        self.parameter_count = sum(tensor.numel() for tensor in module.parameters())
        self.cell_count = sum(map(math.prod, recorder.shapes.values())) // max(len(feeds[0]), 1)
        graph = graph_terms(
            self._traced.graph,
            vocabulary,
            ModuleNaming(vocabulary),
            recorder.shapes,
            recorder.results,
            recorder.written,
        )
        self._hold(graph)
        self.doubt = outside_graph(module)

    @functools.cached_property
    def language(self) -> Graph | str:
        """The module in the closed language, as ``torch.export`` records it, or why it is not.

        Recorded with sizes that are free it is so at its own, too.
        """
        wide = vars(self).get("language_at_all_sizes")
        if self._unseen is None and self._is_filled and self.has_sizes and self.runs_at_other_sizes:
            return self.language_at_all_sizes  # else a run of another size decides what it is at this one
        return wide if isinstance(wide, Graph) else self._recorded(free_sizes=False)

    @property
    def _is_filled(self) -> bool:
        """Whether its runs have left something in it."""
        with evaluation_mode(self.module):
            return bool(self._found.changes())

    @functools.cached_property
    def language_at_all_sizes(self) -> Graph | str:
        """The same with height and width free, or why that cannot be recorded."""
        try:
            with in_budget(self.name, RECORDING_S, ANY_MEMORY):
                return self._recorded(free_sizes=True)
        except SlowError:
            return TOO_SLOW

    def _recorded(self, *, free_sizes: bool) -> Graph | str:
        if self._unseen is not None:
            return self._unseen
        try:
            with quiet_export(), evaluation_mode(self.module):
                return graph_of_module(
                    self.module,
                    tuple(self._tensors(self._example)),
                    free_sizes=free_sizes,
                    memory=Memory(found=self._found, later=self._later, runs=self._calls),
                )
        except NotRead as unread:
            return unread.reason

    @functools.cached_property
    def _unseen(self) -> str | None:
        """What a run does that no recording of one shows, or why there is no run."""
        try:
            return self._unseen_in_runs()
        except BatchError as error:  # a trace may run where the call that it was made of does not
            return str(error)

    def _unseen_in_runs(self) -> str | None:
        states = opaque_states(self.module)
        # of the batch that is recorded: what is asked of another one no recording grants
        first = again = self._read(_AS_GIVEN)
        if first.calls.by is not None:
            return f"a run asks for values of tensors ({first.calls.by}), and no graph shows what for"
        if first.code.foreign is not None:
            return f"a run asks {first.code.foreign}, and no graph shows what for"
        held, moved = Held(self.module), None  # a cache is filled by the first run
        registered = _registered(self.module)
        for way in _OTHERWISE:  # both at once would not show what asks for one and not the other
            try:
                later = self._read(way)
            except BatchError:  # weights changed in place, which only inference permits, or such views
                continue
            moved = moved or first.code.changed(later.code)
            if again.calls.difference(later.calls) is not None:
                again = self._read(_AS_GIVEN)  # the first one may have filled a cache
            found = _difference(again, later, way)
            if found is not None:
                return found
        if first.code.remembers and moved is None:
            second, third = (self._read(_AS_GIVEN) for _ in range(2))
            moved = second.code.remembers_otherwise(third.code)
        self._later, self._calls = held.changes(), [again.calls, *self._alone()]
        changed = changed_state(states, opaque_states(self.module)) or moved
        changed = changed or next(iter(_registered(self.module) ^ registered), None) or first.code.stray
        return None if changed is None else f"a run changes {changed}, which no graph shows"

    def _alone(self) -> list[Calls]:
        """What a run of one sample calls, where it takes one."""
        if self.fixed_batch is not None or 1 not in self.batches((1,)):
            return []
        try:
            return [self._read(_AS_GIVEN, [rows[:1] for rows in self._example]).calls]
        except BatchError:
            return []

    @property
    def has_sizes(self) -> bool:
        """Whether it may take inputs of other sizes."""
        return any(rows.ndim > _FIRST_SIZE for rows in self._example)

    @functools.cached_property
    def runs_at_other_sizes(self) -> bool:
        """Whether it does."""
        return any(map(self._runs_at, ((2, 1), (1, 2), (5, 4))))

    def _runs_at(self, factor: tuple[int, int]) -> bool:
        def resized(rows: Array) -> Array:
            for axis in range(_FIRST_SIZE, rows.ndim):
                extent = rows.shape[axis]
                rows = rows.take(np.arange(max(1, extent * factor[0] // factor[1])) % extent, axis)
            return rows

        try:
            self._guarded(self._run_module, tuple(map(resized, self._example)))
        except BatchError:
            return False
        return True

    def _read(self, way: _Way, feed: Sequence[Array] | None = None) -> _Look:
        """What a run gives, of the example where nothing else is given, and what it does on the way."""
        found: _Look = self._guarded(self._run_reading, self._example if feed is None else feed, way)
        return found

    def _run_reading(self, feed: Sequence[Array], way: _Way) -> _Look:
        tensors = self._tensors(feed)
        with torch.set_grad_enabled(way.has_gradients):
            if way.has_gradients:  # a leaf may not be changed in place
                tensors = [
                    item.requires_grad_().clone() if item.is_floating_point() else item for item in tensors
                ]
            if way.is_strided:
                tensors = [item.mT.contiguous().mT if item.dim() > 1 else item for item in tensors]
                tensors = [
                    item.to(memory_format=torch.channels_last) if item.dim() == _IMAGE else item
                    for item in tensors
                ]
                tensors = [torch.cat([item[:1], item])[1:] if item.dim() else item for item in tensors]
        calls, code = ReadsValues(self.module, tensors), OwnCode(Held(self.module))
        with torch.set_grad_enabled(way.has_gradients), calls, code:
            result = self.module(*tensors)
        calls.gave(result)
        return _Look(_arrays(result), calls, code)

    def is_on_cpu(self, target: str) -> bool:
        """Whether the module lies there."""
        return self._device.type == "cpu"

    @property
    def fixed_batch(self) -> int | None:
        """The batch of a graph that was exported for one; None for others: they run at any, or fail."""
        return fixed_batch(self.module)

    def batches(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Of an exported graph batch sizes within its range; of others those wanted."""
        return batches_within(self.module, wanted)

    def _whole(self, provider: str) -> Callable[[Feed], tuple[Array, ...]]:
        return functools.partial(self._guarded, self._run_module)

    def _tapping(self, names: Sequence[str], provider: str) -> Callable[[Feed], Run]:
        return lambda feed: self._guarded(self._run_graph, feed, names)

    def runs_on(self, target: str) -> str:
        """What runs modules, wherever the other model runs."""
        return EAGER

    def _guarded(self, run: Callable[..., Any], feed: Sequence[Array], *rest: Any) -> Any:
        try:
            with (
                evaluation_mode(self._traced),
                evaluation_mode(self.module),
                torch.no_grad(),
                quiet_failure(),
            ):
                return run(feed, *rest)
        except CheckError:
            raise
        except Exception as error:  # of the model's own
            raise BatchError(len(feed[0]), error) from error

    def _run_graph(self, feed: Sequence[Array], taps: Sequence[str]) -> Run:
        tensors = self._tensors(feed)
        shapes = tuple(item.shape for item in tensors)
        recorder = _Recorder(self._graphs.get(shapes, self._traced), frozenset(taps))
        try:
            result = recorder.run(*tensors)
        except AssertionError:  # a guard of a graph that was recorded at other extents
            if shapes in self._graphs or isinstance(self.module, fx.GraphModule):
                raise
            other = _traced(self.module, tensors)
            if _above(other, taps) != _above(self._traced, taps):
                self.is_misread = True
            if not {*taps} <= {node.name for node in other.graph.nodes}:
                own, batch = len(self._example[0]), len(feed[0])
                raise CheckError(
                    f"its features are computed otherwise at batch {batch} than at {own}",
                    where=self.name,
                    fix="compare the two models exported to ONNX instead, one file for each way",
                ) from None
            self._graphs[shapes] = other
            return self._run_graph(feed, taps)
        return Run(outputs=tuple(numpy_of(leaf) for _, leaf in _leaves(result)), taps=recorder.kept)

    def _run_module(self, feed: Sequence[Array]) -> tuple[Array, ...]:
        return _arrays(self.module(*self._tensors(feed)))

    def run_site(
        self, site: HeadTerm, features: Array, weight: Array | None, provider: str, *, has_bias: bool = True
    ) -> Array:
        """``[N, O]`` of the site's own operator on features that are put into its operand's shape."""
        affine = affine_of(site)
        name = site.value if affine.spots is None else affine.spots.result
        node = next(node for node in self._traced.graph.nodes if node.name == name)
        found = read_affine(Vocabulary(self._traced).classify(node), self._traced)
        if found is None:
            raise InternalError(f"{site.node!r} was read as an affine site, and is none")
        rows = features if affine.columns is None else features[:, affine.columns]
        shaped = tensor_of(rows if affine.spots is None else spread(affine, rows))
        shaped = shaped.reshape(-1, *affine.operand)
        own, bias = found.weight, found.bias
        if weight is not None:
            raw = weight if affine.columns is None else weight[:, affine.columns]
            own = tensor_of(raw).reshape(own.shape).to(own)
        if bias is not None and (weight is not None or not has_bias):
            bias = torch.zeros_like(bias)
        with torch.no_grad():
            result = numpy_of(self._affine(node, found, shaped.to(own), own, bias))
        if affine.spots is not None:
            return collected(affine, result, len(features))
        return result.reshape(len(features), -1)

    def _affine(
        self,
        node: fx.Node,
        site: FxAffine,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the operator that a node calls makes of these."""
        module, part = site.op.module, _Part(self._traced)
        if module is not None:
            state = {"weight": weight} | ({} if bias is None else {"bias": bias})
            result: torch.Tensor = torch.func.functional_call(module, state, (features,))
            return result
        given = ((site.op.source, features), (site.op.weight_node, weight), (site.op.bias_node, bias))
        part.env |= {known: value for known, value in given if known is not None}
        computed: torch.Tensor = part.value(node)
        return computed

    def run_part(self, result: HeadTerm, source: HeadTerm, values: Array, provider: str) -> Array:
        """``result`` where ``source`` has these values."""
        nodes = {node.name: node for node in self._traced.graph.nodes}
        if result.value not in nodes or source.value not in nodes:
            raise RuntimeError("a permuted value has no node")
        part = _Part(self._traced)
        given = tensor_of(values.copy())  # an operator in place would change the caller's
        part.env[nodes[source.value]] = self._typed(given.to(self._device))
        with evaluation_mode(self._traced), torch.no_grad():
            return numpy_of(part.value(nodes[result.value]))

    def nudged(self, feeds: Feeds, provider: str, by: float, seed: int) -> tuple[Array, ...]:
        """Outputs with parameters, buffers and inputs changed by a relative ``by``."""
        rng = np.random.Generator(np.random.PCG64(seed))
        tensors = (*self.module.named_parameters(), *self.module.named_buffers())
        state = {name: _nudged(tensor, by, rng) for name, tensor in tensors if tensor.numel() > 1}

        def run(feed: Sequence[Array]) -> tuple[Array, ...]:
            return _arrays(torch.func.functional_call(self.module, state, tuple(self._tensors(feed))))

        return self.joined([self._guarded(run, [nudge(x, by, rng) for x in feed]) for feed in feeds])

    def outputs64(
        self, feeds: Feeds, adjust: Adjustment | None = None, *, rounding: float = 0.0
    ) -> tuple[Array, ...] | None:
        """Outputs with weights and inputs in float64; None where the module mixes types.

        It is the module itself that runs: a copy may be another function (a GraphModule's code is made anew
        from its graph when it is copied, whatever the code was that ran).
        """
        try:
            found = self.joined([self._guarded(self._run_wide, feed, adjust, rounding) for feed in feeds])
        except BatchError:
            return None
        return found if all(x.dtype == np.float64 for x in found if is_float(x)) else None

    def _run_wide(
        self, feed: Sequence[Array], adjust: Adjustment | None, rounding: float = 0.0
    ) -> tuple[Array, ...]:
        if self.parameter_count > _MOST_WIDE:
            raise TypeError("it is too large to be copied")

        def adjusted(name: str | None, tensor: torch.Tensor) -> torch.Tensor:
            if adjust is None or tensor.dtype is not torch.float64:
                return tensor
            return tensor_of(adjust(name, numpy_of(tensor))).to(tensor.device)

        tensors = (*self.module.named_parameters(), *self.module.named_buffers())
        state = {name: adjusted(name, wide(tensor.detach())) for name, tensor in tensors}
        inputs = tuple(adjusted(None, wide(tensor)) for tensor in self._tensors(feed))
        with InFloat64(rounding):
            return _arrays(torch.func.functional_call(self.module, state, inputs))

    def values(self, feed: Feed, provider: str) -> dict[str, Array] | None:
        """What every operator gives that the module calls, by its place; None where that is too much."""
        return self._kept(self._run_module, feed)

    def values64(self, feed: Feed, adjust: Adjustment | None = None) -> dict[str, Array] | None:
        """The same in float64."""
        try:
            return self._kept(self._run_wide, feed, adjust)
        except BatchError:
            return None

    def _kept(self, run: Callable[..., object], feed: Feed, *rest: object) -> dict[str, Array] | None:
        if self.cell_count * len(feed[0]) > _MOST_KEPT:
            return None
        kept = Kept()

        def keeping(feed: Feed) -> None:
            with kept:
                run(feed, *rest)

        self._guarded(keeping, feed)
        return kept.values

    def tensors(self) -> Iterator[tuple[str, Callable[[], Array]]]:
        """Parameters and buffers of floats."""
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if tensor.is_floating_point():
                yield name, functools.partial(numpy_of, tensor)

    def _tensors(self, feeds: Sequence[Array]) -> list[torch.Tensor]:
        tensors = [tensor_of(np.array(feed)).to(self._device) for feed in feeds]
        return [self._typed(t) if t.is_floating_point() else t for t in tensors]

    def _typed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._dtype is None else tensor.to(self._dtype)


class _Recorder(Runner):
    """Runs a graph, noting every tensor's shape and keeping copies of the values asked for.

    Copies, because an in-place operator further on would change a kept tensor. Who reads one that was changed
    by then, through whatever view, reads another value than its node computed: ``written`` has the reader and
    what it reads.
    """

    def __init__(self, module: fx.GraphModule, wanted: frozenset[str] = frozenset()) -> None:
        super().__init__(module)
        self._wanted = wanted
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: set[str] = set()
        self.results: dict[str, list[tuple[int, ...]]] = {}
        self.kept: dict[str, Array] = {}
        self.written: set[tuple[str, str]] = set()
        self._versions: dict[fx.Node, int | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's result, after its shape was noted."""
        for read in n.all_input_nodes:
            if read in self._versions and self._versions[read] != _version(self.env[read]):
                self.written.add((n.name, read.name))
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self._versions[n] = _version(result)
            self.shapes[n.name] = tuple(result.shape)
            if n.op != "get_attr":
                self.kinds.add(str(result.dtype).removeprefix("torch."))
            if n.name in self._wanted:
                self.kept[n.name] = numpy_of(result.clone())
        elif isinstance(result, tuple | list) and any(isinstance(part, torch.Tensor) for part in result):
            self.results[n.name] = [tuple(part.shape) for part in result if isinstance(part, torch.Tensor)]
        return result


def _version(tensor: torch.Tensor) -> int | None:
    """How often the memory was written to, through any view of it; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


class _Part(Runner):
    """Computes one node from those that ``env`` holds already."""

    def value(self, node: fx.Node) -> Any:
        """The node's value.

        Raises:
            RuntimeError: it needs an input of the model.
        """
        if node not in self.env:
            if node.op == "placeholder":
                raise RuntimeError(f"it needs the input {node.name!r}")
            for source in node.all_input_nodes:
                self.value(source)
            self.env[node] = self.run_node(node)
        return self.env[node]


def _nudged(tensor: torch.Tensor, by: float, rng: np.random.Generator) -> torch.Tensor:
    is_known = tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return tensor_of(nudge(numpy_of(tensor), by, rng)).to(tensor.device) if is_known else tensor


def _traced(module: nn.Module, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """``module`` as a graph in evaluation mode; a GraphModule is taken as it is."""
    if isinstance(module, fx.GraphModule):
        return module
    try:
        with evaluation_mode(module):
            try:
                return trace(module, lambda: inputs).close()
            except TraceError as error:
                return export_module(module, inputs, error.what).close()
    except TraceError as error:
        raise CheckError(
            str(error), where=type(module).__name__, fix="compare the two models exported to ONNX instead"
        ) from error


def _above(module: fx.GraphModule, names: Sequence[str]) -> dict[str, str]:
    """What computes these values: of each node above them the operator."""
    pending = [node for node in module.graph.nodes if node.name in names]
    found: dict[str, str] = {}
    while pending:
        node = pending.pop()
        if node.name not in found:
            found[node.name] = str(node.target)
            pending.extend(node.all_input_nodes)
    return found


def _registered(module: nn.Module) -> set[str]:
    """The names of its modules, parameters and buffers, under each name."""
    parts = module.named_modules(remove_duplicate=False)
    held = ((name, registry) for name, part in parts for registry in (part._parameters, part._buffers))
    names = {f"{name}.{own}".lstrip(".") for name, registry in held for own in registry}
    return names | {name for name, _ in module.named_modules(remove_duplicate=False)}


def _arrays(result: object) -> tuple[Array, ...]:
    return tuple(numpy_of(leaf) for _, leaf in _leaves(result))


def _difference(run: _Look, later: _Look, way: _Way) -> str | None:
    if not are_about(later.gave, run.gave):
        return f"it gives other values {way.where}"
    name = run.calls.difference(later.calls)
    return None if name is None else f"it calls other functions {way.where} ({name})"


def are_about(found: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether a run gave these values, up to what other kernels may leave."""
    return len(found) == len(expected) and all(map(_is_about, found, expected))


def _is_about(found: Array, expected: Array) -> bool:
    first, second = found.astype(np.float64), expected.astype(np.float64)
    largest = np.abs(second[np.isfinite(second)]).max(initial=1.0)
    return first.shape == second.shape and np.allclose(
        first, second, _RECORDED, _RECORDED * largest, equal_nan=True
    )


def _leaves(result: object, maps: int = 0) -> list[tuple[str, torch.Tensor]]:
    return [(name, leaf) for name, leaf in leaf_names(result, maps) if isinstance(leaf, torch.Tensor)]


def _home(module: nn.Module, feeds: Sequence[Array]) -> tuple[torch.device, torch.dtype | None]:
    """Where a module lies, and the type that it computes in; None leaves samples of few bits as they are."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    is_short = any(rows.dtype.name in ("float16", "bfloat16") for rows in feeds)
    return torch.device("cpu"), None if is_short else torch.get_default_dtype()
