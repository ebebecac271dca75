"""An ONNX file as a subject: its head found, tapped, and cut out as a model of its own."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from fxexport.language import Graph, NotRead, graph_of_onnx
from fxexport.module_graph.of_file import file_terms
from fxexport.onnx_dialect.arrays import OnnxFile, WeightPool, read_onnx
from fxexport.onnx_dialect.broken import BrokenGraph, checked
from fxexport.onnx_dialect.extents import Extent, element_type, shape_of, shapes_in
from fxexport.onnx_graph.evaluated import FLOATS, evaluated64, with_dequantized
from fxexport.onnx_graph.normalised import as_default_domain, with_free_batch
from fxexport.onnx_graph.shapes import BATCH, with_shapes
from fxexport.onnx_node import array_of, inputs_of, replace, sort_nodes
from fxexport.providers import Session, runtime_domains
from fxexport.subjects.many_places import collected, spread
from fxexport.subjects.samples import InputSpec
from fxexport.subjects.subject import Adjustment, BatchError, Feed, Feeds, Run, Subject
from fxexport.terms.arrays import nudge
from fxexport.terms.term import Array, HeadTerm, Kind, Shape, TermGraph, affine_of
from fxexport.to_onnx.write import NATIVE_SIZE
from fxexport.untrusted.inline import inlined
from fxexport.untrusted.limits import MAX_WINDOW
from fxpasses.errors import CheckError, FileError, ProviderError, first_line
from fxpasses.wall.clock import require_room

_FREE_BATCH = "batch"
_SIZES = re.compile(r"[0-9]{1,6}(x[0-9]{1,6})*")
_SUMS = frozenset(
    "Conv ConvTranspose Gemm MatMul Add Sub Mul BatchNormalization LayerNormalization FusedConv".split()
)
"""Operators whose constant operands are weights, and no limits, exponents or scales of sizes."""
_SAME_NUMBERS = frozenset("Cast Expand Identity Reshape Squeeze Transpose Unsqueeze".split())
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")


class OnnxSubject(Subject):
    """An ONNX file on ONNX Runtime.

    Args:
        pool: weights of files read before, which this one may share.
        extents: for each input its shape without the batch, where the file may leave it open.

    Attributes:
        is_quantised: whether values or weights in it are quantised.

    Raises:
        CheckError: the file is no ONNX model, or has no inputs or outputs.
    """

    dialect = "onnx"

    def __init__(
        self,
        path: str | os.PathLike[str],
        pool: WeightPool | None = None,
        extents: Sequence[Shape] = (),
    ) -> None:
        self._path = Path(path)
        self.name = self._path.name
        self._whole_file, file = _load(self._path, WeightPool() if pool is None else pool)
        self._weights = file.weights
        self.is_quantised = any(node.op_type in _QUANTISED for node in file.proto.graph.node)
        self._proto, shaped = _read_graph(file, extents, self._path)
        self._shapes = shapes_in(shaped.graph)
        self._row_bytes, self._fixed_bytes = _largest(self._shapes.values())
        given = (self._shapes.get(name, (0,))[0] for node in file.proto.graph.node for name in node.output)
        self.kinds = frozenset(kind.name for code in given if (kind := element_type(code)) is not None)
        graph, self.doubt = _read(
            lambda: file_terms(shaped, file.weights, self._shapes), self._proto, self._path
        )
        self._hold(graph)
        self.native_size = _native_size(self._proto)
        self.parameter_count = sum(math.prod(tensor.dims) for tensor in self._proto.graph.initializer)
        self.cell_count = _cells(self._shapes.values())
        values = inputs_of(self._proto.graph)
        self.inputs = tuple(map(self._declared, values))
        batches = [shape[1][0] for value in values[:1] if (shape := shape_of(value)) and shape[1]]
        self._declared_batch = next((batch for batch in batches if isinstance(batch, int)), None)
        self.input_names = tuple(item.name for item in self.inputs)
        self.output_names = tuple(value.name for value in self._proto.graph.output)
        known = [self._shapes.get(name) for name in self.output_names]
        self.output_ranks = tuple(None if shape is None else len(shape[1]) for shape in known)
        self.input_shapes = tuple(item.shape or () for item in self.inputs)
        self._cut: tuple[tuple[str, ...], tuple[Session, int | None]] | None = None

    @functools.cached_property
    def language(self) -> Graph | str:
        """The file in the closed language, or why it is not."""
        try:
            return graph_of_onnx(self._whole_file, self._weights)
        except NotRead as unread:
            return unread.reason

    @property
    def language_at_all_sizes(self) -> Graph | str:
        """The same: what a file declares as free is."""
        return self.language

    @property
    def has_sizes(self) -> bool:
        """Whether an axis behind the channels is free."""
        return any(None in shape[1:] for shape in self.input_shapes)

    @property
    def runs_at_other_sizes(self) -> bool:
        """Whether it takes them."""
        return self.has_sizes

    def _declared(self, value: onnx.ValueInfoProto) -> InputSpec:
        shape, kind = shape_of(value), element_type(value.type.tensor_type.elem_type)
        dims = None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape[1][1:])
        dtype = None if kind is None else kind.name
        return InputSpec(name=value.name, shape=dims, dtype=dtype, limit=self._limit(value.name))

    def _limit(self, name: str) -> int | None:
        """The number of embeddings where an input selects some, as it is, viewed or cast.

        Where it is only compared with several numbers, as a one-hot code is written, one beyond the largest.
        """
        stored = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        names, limits, compared = {name}, [], []
        for node in self._proto.graph.node:
            if node.op_type == "Gather" and not names.isdisjoint(node.input[1:2]):
                table = node.input[0]
                dims = stored[table].dims if table in stored else self._shapes.get(table, (0, ()))[1]
                axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
                limits.append(dims[axis] if -len(dims) <= axis < len(dims) else None)
            elif node.op_type == "Equal" and not names.isdisjoint(node.input):
                codes = [stored[other] for other in node.input if other in stored]
                held = [self._weights[c.name] if c.name in self._weights else array_of(c) for c in codes]
                compared += [
                    int(code.max()) + 1 for code in held if code.size > 1 and code.dtype.kind in "iu"
                ]
            elif node.op_type in _SAME_NUMBERS and not names.isdisjoint(node.input[:1]):
                names.update(node.output)
        numbers = [limit for limit in limits if isinstance(limit, int)]
        return min(numbers, default=max(compared, default=None))

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file declares, or None where it is symbolic."""
        return self._declared_batch

    def batches(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Those wanted: a file says nothing of a range."""
        return tuple(wanted)

    def _whole(self, provider: str) -> Callable[[Feed], tuple[Array, ...]]:
        session = self._session(self._whole_file, provider)
        return lambda feed: self._on(session, self._cast(feed))

    def _tapping(self, names: Sequence[str], provider: str) -> Callable[[Feed], Run]:
        session, count = self._session(self._tapped(names), provider), len(self.output_names)

        def run(feed: Feed) -> Run:
            found = self._on(session, self._cast(feed))
            return Run(outputs=found[:count], taps=dict(zip(names, found[count:], strict=True)))

        return run

    def _known(self, feed: Feed, outputs: tuple[Array, ...]) -> dict[str, Array]:
        """Those of its outputs and inputs."""
        names = (*self.output_names, *self.input_names)
        return dict(zip(names, (*outputs, *self._cast(feed)), strict=True))

    def _is_known(self, name: str) -> bool:
        return name in self.output_names or name in self.input_names

    def as_written(self, feed: Feed, provider: str) -> tuple[Array, ...]:
        """Outputs where ONNX Runtime fuses and folds nothing."""
        data = bytes(self._whole_file.SerializeToString())
        session = Session(data, provider, self._weights, name=self.name, is_optimised=False)
        return self._on(session, self._cast(feed))

    def nudged(self, feeds: Feeds, provider: str, by: float, seed: int) -> tuple[Array, ...]:
        """Outputs with the weights of sums and products, and the inputs, changed by a relative ``by``."""
        rng = np.random.Generator(np.random.PCG64(seed))
        weights = {name: nudge(array, by, rng) for name, array in self._weights_of(self._proto).items()}
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        for tensor in proto.graph.initializer:
            if tensor.name not in weights and tensor.name in self._summed and math.prod(tensor.dims) > 1:
                array = nudge(array_of(tensor), by, rng)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        session = Session(bytes(proto.SerializeToString()), provider, weights, name=self.name)
        return self.joined(
            [self._on(session, [nudge(x, by, rng) for x in self._cast(feed)]) for feed in feeds]
        )

    @functools.cached_property
    def _summed(self) -> frozenset[str]:
        """Names that operators of sums and products read."""
        nodes = [node for node in self._proto.graph.node if node.op_type in _SUMS]
        return frozenset(name for node in nodes for name in node.input)

    def outputs64(
        self, feeds: Feeds, adjust: Adjustment | None = None, *, rounding: float = 0.0
    ) -> tuple[Array, ...] | None:
        """Outputs that ONNX's reference evaluator computes in float64, if the file is small."""
        parts = []
        for feed in feeds:
            found = evaluated64(self._proto, self._weights, self._cast(feed), adjust, rounding=rounding)
            if found is None:
                return None
            parts.append(tuple(found[name] for name in self.output_names))
        return self.joined(parts)

    def values(self, feed: Feed, provider: str) -> dict[str, Array] | None:
        """What every operator gives in the file's own types, by name; None if some have subgraphs."""
        if any(item.HasField("g") for node in self._proto.graph.node for item in node.attribute):
            return None
        names = [name for node in self._proto.graph.node for name in node.output if name]
        try:
            return dict(self._tapping(names, provider)(feed).taps)
        except ProviderError as error:  # a sequence is no tensor
            raise BatchError(len(feed[0]), error) from error

    def values64(self, feed: Feed, adjust: Adjustment | None = None) -> dict[str, Array] | None:
        """The same in float64; None as ``outputs64``."""
        return evaluated64(self._proto, self._weights, self._cast(feed), adjust)

    def is_weight(self, name: str) -> bool:
        """Whether it is an operand of sums and products."""
        return name in self._summed

    def tensors(self) -> Iterator[tuple[str, Callable[[], Array]]]:
        """Initialisers and constants of floats."""

        def numbers(tensor: onnx.TensorProto) -> Array:
            return self._weights[tensor.name] if tensor.name in self._weights else array_of(tensor)

        for tensor in self._proto.graph.initializer:
            if tensor.data_type in FLOATS:
                yield tensor.name, functools.partial(numbers, tensor)

    def _cast(self, feed: Feed) -> list[Array]:
        pairs = zip(feed, self.inputs, strict=True)
        return [x if item.dtype is None else x.astype(item.dtype, copy=False) for x, item in pairs]

    def _session(self, proto: onnx.ModelProto, provider: str) -> Session:
        self._cut = None
        require_room(self._fixed_bytes)  # constants are folded
        return Session(bytes(proto.SerializeToString()), provider, self._weights_of(proto), name=self.name)

    def _on(self, session: Session, feed: Sequence[Array]) -> tuple[Array, ...]:
        rows = len(feed[0]) if feed else 1
        require_room(max(self._fixed_bytes, rows * self._row_bytes))
        try:
            return session.run(feed)
        except ProviderError as error:
            raise BatchError(rows, error) from error

    def run_site(
        self, site: HeadTerm, features: Array, weight: Array | None, provider: str, *, has_bias: bool = True
    ) -> Array:
        """``[N, O]`` of the site and the views before it, cut out of the file as a model of their own."""
        affine = affine_of(site)
        if affine.spots is None:
            rows = np.ascontiguousarray(features).reshape(-1, *_shape_of(site.operands[0]))
        else:
            rows = spread(affine, features)
        feeds = (rows,) if weight is None else (rows, self._stored_weight(site, weight))
        name = site.value if affine.spots is None else affine.spots.result
        key = (provider, name, str(weight is None), str(has_bias))
        if self._cut is None or self._cut[0] != key:
            # one at a time: each session holds its own copy of the weights
            self._cut = None
            proto = self.cut_site(site, is_weight_fed=weight is not None, has_bias=has_bias)
            self._cut = (key, self._cut_session(proto, provider))
        result = _run_cut(self._cut[1], feeds)
        if affine.spots is not None:
            return collected(affine, result, len(features))
        return result.reshape(len(features), -1)

    def _stored_weight(self, site: HeadTerm, weight: Array) -> Array:
        """``[O, K]`` in the layout in which the file stores the site's weight."""
        affine = affine_of(site)
        stored = next(t for t in self._proto.graph.initializer if t.name == affine.weight_name)
        raw = weight if affine.columns is None else weight[:, affine.columns]
        return np.ascontiguousarray(raw.T if affine.is_transposed else raw).reshape(tuple(stored.dims))

    def cut_site(
        self, site: HeadTerm, *, is_weight_fed: bool = False, has_bias: bool = True
    ) -> onnx.ModelProto:
        """A model of the site alone, from the value before any view to its result.

        Shapes:
            its input: that of the value before the views, with a free batch.

        Args:
            site: an affine term of ``graph``.
            is_weight_fed: whether the weight becomes a second input, and the bias zero.
            has_bias: whether the bias keeps its values; else it is zero.
        """
        affine = affine_of(site)
        if affine.spots is None:
            source = site.operands[0]
            model = self._cut_out(site.value, source.value, [_FREE_BATCH, *_shape_of(source)])
        else:
            spots = affine.spots
            free = [f"extent_{axis}" for axis in range(len(spots.extents))]
            dims: list[int | str] = [*free[: spots.axis], spots.extents[spots.axis], *free[spots.axis + 1 :]]
            model = self._cut_out(spots.result, affine.reads, dims)
        if is_weight_fed:
            tensors = model.graph.initializer
            weight = next(t for t in tensors if t.name == affine.weight_name)
            kind = model.graph.input[0].type.tensor_type.elem_type
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(affine.weight_name, kind, list(weight.dims))
            )
        if is_weight_fed or not has_bias:
            dropped = affine.weight_name if is_weight_fed else None
            kept = [_zeroed(t, affine.bias_name) for t in model.graph.initializer if t.name != dropped]
            replace(model.graph.initializer, kept)
        return model

    def run_part(self, result: HeadTerm, source: HeadTerm, values: Array, provider: str) -> Array:
        """``result`` where ``source`` has these values, in a model cut out of the file."""
        if not result.value or not source.value:
            raise ProviderError("a permuted value has no name to be tapped by", where=result.node)
        proto = self._cut_out(result.value, source.value, [_FREE_BATCH, *_shape_of(source)])
        return _run_cut(self._cut_session(proto, provider), (values.astype(self._type_of(source.value)),))

    def _cut_session(self, proto: onnx.ModelProto, provider: str) -> tuple[Session, int | None]:
        """A session of a part with a free batch, or with the file's own, which is then given too.

        Some providers have no free axes (Qualcomm's): there the part is run as the file is.
        """
        weights = self._weights_of(proto)
        try:
            return Session(bytes(proto.SerializeToString()), provider, weights), None
        except ProviderError:
            batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
            if self._declared_batch is None or batch.dim_param != _FREE_BATCH:
                raise
            batch.dim_value = self._declared_batch
            return Session(bytes(proto.SerializeToString()), provider, weights), self._declared_batch

    def _type_of(self, name: str) -> np.dtype[Any]:
        return element_type(self._shapes.get(name, (0,))[0]) or np.dtype(np.float32)

    def _cut_out(self, result: str, source: str, dims: Sequence[int | str]) -> onnx.ModelProto:
        producers = {name: node for node in self._proto.graph.node for name in node.output}
        stored = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        nodes: dict[int, onnx.NodeProto] = {}
        names, pending = set(), [result]
        while pending:
            name = pending.pop()
            if name == source or name in names:
                continue
            names.add(name)
            if name in producers:
                nodes[id(producers[name])] = producers[name]
                pending.extend(item for item in producers[name].input if item)
        kind = onnx.helper.np_dtype_to_tensor_dtype(self._type_of(source))
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [node for node in self._proto.graph.node if id(node) in nodes],
            "head",
            [value(source, kind, list(dims))],
            [onnx.helper.make_empty_tensor_value_info(result)],
            [stored[name] for name in sorted(names) if name in stored],
        )
        return onnx.helper.make_model(
            graph, opset_imports=list(self._proto.opset_import), ir_version=self._proto.ir_version
        )

    def _weights_of(self, proto: onnx.ModelProto) -> dict[str, Array]:
        external = onnx.TensorProto.EXTERNAL  # a cut may have put zeros in the place of a bias
        names = {tensor.name for tensor in proto.graph.initializer if tensor.data_location == external}
        return {name: array for name, array in self._weights.items() if name in names}

    def _tapped(self, taps: Sequence[str]) -> onnx.ModelProto:
        """The file with further outputs behind its own."""
        tapped = onnx.ModelProto()
        tapped.CopyFrom(self._proto)
        tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in taps)
        return tapped


def _native_size(proto: onnx.ModelProto) -> tuple[int, ...] | None:
    """What ``export_onnx`` wrote of a fully convolutional head."""
    found = {entry.key: entry.value for entry in proto.metadata_props}.get(NATIVE_SIZE, "")
    return tuple(map(int, found.split("x"))) if _SIZES.fullmatch(found) else None


def _shape_of(term: HeadTerm) -> Shape:
    if term.shape is None:
        raise CheckError(
            f"the shape of {term.node!r} is unknown, and yet a site reads it",
            where=term.node,
            fix="check the file with onnx.checker.check_model",
        )
    return term.shape


def _load(path: Path, pool: WeightPool) -> tuple[onnx.ModelProto, OnnxFile]:
    """The file as it is run, and without those functions that are sure to be run as what they hold."""
    fix = "give a file that export_onnx or another exporter wrote"
    try:
        whole = read_onnx(path, pool)
        as_default_domain(whole.proto)
        sort_nodes(whole.proto.graph)
        with_free_batch(whole.proto)
        file = OnnxFile(proto=inlined(whole.proto, runtime_domains() or ()), weights=whole.weights)
        for node in file.proto.graph.node:
            "".join((node.name, node.op_type, *node.input, *node.output)).encode()  # runtimes expect UTF-8
            for item in node.attribute:
                if item.name in ("strides", "dilations") and min(item.ints, default=1) < 1:
                    raise ValueError(f"{node.name or node.op_type!r} has {item.name} of {min(item.ints)}")
                widest = max(item.ints, default=item.i)
                if item.name in ("pads", "kernel_shape", "size") and widest > MAX_WINDOW:
                    what = f"{item.name} of {widest}, more than the limit of {MAX_WINDOW:,}"
                    raise ValueError(f"{node.name or node.op_type!r} has {what}")
    except FileError:
        raise
    except Exception as error:  # protobuf's and onnx's errors share no base class but Exception
        raise CheckError(f"cannot read it as ONNX ({error})", where=str(path), fix=fix) from error
    if not file.proto.graph.output or not file.proto.graph.node:
        raise CheckError("the ONNX graph has no nodes or no outputs", where=str(path), fix=fix)
    return whole.proto, file


def _read_graph(
    file: OnnxFile, extents: Sequence[Shape], path: Path
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graph with its Constant nodes as initialisers, and the same with the shapes of its values.

    Raises:
        CheckError: the message is protobuf, but no graph.
    """
    fix = "give a file that onnx.checker.check_model accepts"
    try:
        proto = with_dequantized(_with_initializers(file.proto), file.weights)
        return proto, with_shapes(proto, extents)
    except onnx.shape_inference.InferenceError as error:
        raise CheckError(f"its shapes contradict each other ({error})", where=str(path), fix=fix) from error
    except Exception as error:  # onnx-ir's errors share no base class but Exception
        raise CheckError(f"is no ONNX graph ({first_line(error)})", where=str(path), fix=fix) from error


def _read(terms: Callable[[], TermGraph], proto: onnx.ModelProto, path: Path) -> tuple[TermGraph, str | None]:
    """The operators as ``terms`` reads them; else outputs of which nothing is known, and why.

    Raises:
        CheckError: ONNX's checker refuses the file.
    """
    try:
        return terms(), None
    except BrokenGraph as error:
        fix = "give a file that onnx.checker.check_model accepts"
        raise CheckError(f"its graph is not valid ({error})", where=str(path), fix=fix) from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        wrong = checked(proto)
        if wrong is not None:
            fix = "export it again with another version of the exporter"
            raise CheckError(f"ONNX's checker refuses it ({wrong})", where=str(path), fix=fix) from error
        signature = f"unread {path}"
        outputs = (
            HeadTerm(kind=Kind.OP, value=value.name, node=value.name, signature=signature)
            for value in proto.graph.output
        )
        told = f"its graph was not read ({type(error).__name__}: {error})"
        return tuple(outputs), told


def _with_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Constant nodes as initialisers, so that a weight is found and replaced in one way."""
    if all(node.op_type != "Constant" for node in proto.graph.node):
        return proto
    model = ir.from_proto(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = ir.to_proto(model)
    lifted.graph.sparse_initializer.extend(proto.graph.sparse_initializer)  # which onnx-ir leaves out
    return lifted


def _cells(shapes: Iterable[tuple[int, tuple[Extent, ...]]]) -> int:
    """How many numbers all values of known shape have together, for each row of a batch."""
    sizes = [[extent for extent in extents if isinstance(extent, int)] for _, extents in shapes]
    return sum(math.prod(size) for size in sizes) // BATCH


def _largest(shapes: Iterable[tuple[int, tuple[Extent, ...]]]) -> tuple[int, int]:
    """Bytes of the largest value: for each row of a batch, and whatever the batch."""
    found = [0], [0]
    for element, extents in shapes:
        sizes = [extent for extent in extents if isinstance(extent, int)]
        if len(sizes) == len(extents):
            size = math.prod(sizes) * (element_type(element) or np.dtype(np.float32)).itemsize
            found[size % BATCH > 0].append(size // BATCH if size % BATCH == 0 else size)
    return max(found[0]), max(found[1])


def _run_cut(cut: tuple[Session, int | None], feeds: Sequence[Array]) -> Array:
    """The one output for all rows of the first feed, in batches of the size that the session takes."""
    session, batch = cut
    rows, *rest = feeds
    if batch is None:
        (result,) = session.run(feeds)
        return result
    missing = -len(rows) % batch
    padded = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
    parts = [session.run((padded[at : at + batch], *rest))[0] for at in range(0, len(padded), batch)]
    return np.concatenate(parts)[: len(rows)]


def _zeroed(tensor: onnx.TensorProto, bias_name: str | None) -> onnx.TensorProto:
    if tensor.name != bias_name:
        return tensor
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return numpy_helper.from_array(np.zeros(tuple(tensor.dims), kind), tensor.name)
