"""An ONNX file as a subject: its head found, tapped, and cut out as a model of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from export.canonical_head import static_dims
from export.onnx_file import OnnxFile, read_onnx
from export.onnx_terms import onnx_terms
from export.providers import Session
from export.subjects import BatchError, Feed, Feeds, Run, joined, same_bits, tapped
from export.terms import Array, Shape, Term, affine_of, find_head
from export.weight_pool import WeightPool
from fxpasses.errors import CheckError, InternalError, ProviderError


class OnnxSubject:
    """An ONNX file on ONNX Runtime.

    Args:
        path: the file.
        pool: weights of files read before, which this one may share.

    Raises:
        CheckError: the file is no ONNX model, or has no inputs or outputs.
    """

    dialect = "onnx"

    def __init__(self, path: str | os.PathLike[str], pool: WeightPool | None = None) -> None:
        self._path = Path(path)
        self.name = self._path.name
        file = _load(self._path, WeightPool() if pool is None else pool)
        self._proto, self._weights = _with_initializers(file.proto), file.weights
        self._model = ir.from_proto(self._proto)
        for name, array in self._weights.items():
            self._model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
        self.graph = onnx_terms(self._model)
        self.head = find_head(self.graph)
        self.inputs = tuple(value for value in self._model.graph.inputs if not value.is_initializer())
        self.input_names = tuple(str(value.name) for value in self.inputs)
        self.output_names = tuple(str(value.name) for value in self._model.graph.outputs)
        self._outputs: dict[tuple[object, ...], tuple[Array, ...]] = {}
        self._runs: dict[tuple[object, ...], Run] = {}
        self._repeats: dict[str, bool] = {}
        self._cut: tuple[tuple[str, ...], Session] | None = None

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file declares, or None where it is symbolic."""
        dims = static_dims(self.inputs[0]) if self.inputs else None
        return dims[0] if dims else None

    def outputs(self, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        """Outputs of the file as it is."""
        key = (provider, *(len(feed[0]) for feed in feeds))
        if key not in self._outputs:
            self._outputs[key] = joined(self._run(self._proto, self._cast(feeds), provider))
        return self._outputs[key]

    def observe(self, feeds: Feeds, provider: str) -> Run:
        """Outputs of the file as it is, and values tapped in a copy with further outputs."""
        key = (provider, *(len(feed[0]) for feed in feeds))
        if key not in self._runs:
            outputs, cast = self.outputs(feeds, provider), self._cast(feeds)
            kept = dict(zip(self.output_names, outputs, strict=True))
            kept |= dict(zip(self.input_names, joined(cast), strict=True))
            names = tapped(self.head)
            missing = tuple(name for name in names if name not in kept)
            if missing:
                kept |= dict(
                    zip(missing, joined(self._run(self._tapped(missing), cast, provider)), strict=True)
                )
            self._runs[key] = Run(outputs=outputs, taps={name: kept[name] for name in names})
        return self._runs[key]

    def runner(self, provider: str, *, is_tapped: bool) -> Callable[[Feed], Run]:
        """Runs the file as it is, and a copy with further outputs; the sessions live as long as it does."""
        names = tapped(self.head) if is_tapped else ()
        known = (*self.output_names, *self.input_names)
        missing = tuple(name for name in names if name not in known)
        whole = self._session(self._proto, provider)
        inner = self._session(self._tapped(missing), provider) if missing else None

        def run(feed: Feed) -> Run:
            (cast,) = self._cast([feed])
            outputs = _on(whole, cast)
            kept = dict(zip(known, (*outputs, *cast), strict=True))
            kept |= {} if inner is None else dict(zip(missing, _on(inner, cast), strict=True))
            return Run(outputs=outputs, taps={name: kept[name] for name in names})

        return run

    def _cast(self, feeds: Feeds) -> list[list[Array]]:
        return [[_cast(x, value) for x, value in zip(feed, self.inputs, strict=True)] for feed in feeds]

    def _run(
        self, proto: onnx.ModelProto, feeds: Sequence[Sequence[Array]], provider: str
    ) -> list[tuple[Array, ...]]:
        """Outputs for each batch; the session, with its copies of the weights, does not outlive the call."""
        self._cut = None
        session = self._session(proto, provider)
        results = [_on(session, feed) for feed in feeds]
        smallest = min(range(len(feeds)), key=lambda index: len(feeds[index][0]))
        is_same = same_bits(session.run(feeds[smallest]), results[smallest])
        self._repeats[provider] = self._repeats.get(provider, True) and is_same
        return results

    def _session(self, proto: onnx.ModelProto, provider: str) -> Session:
        return Session(bytes(proto.SerializeToString()), provider, self._weights, name=self.name)

    def repeats(self, provider: str) -> bool | None:
        """Whether a second run of the smallest batch gave the same bits."""
        return self._repeats.get(provider)

    def run_site(
        self, site: Term, features: Array, weight: Array | None, provider: str, *, has_bias: bool = True
    ) -> Array:
        """``[N, O]`` of the site and the views before it, cut out of the file as a model of their own."""
        rows = np.ascontiguousarray(features).reshape(-1, *_shape_of(site.operands[0]))
        feeds = (rows,) if weight is None else (rows, self._stored_weight(site, weight))
        key = (provider, site.value, str(weight is None), str(has_bias))
        if self._cut is None or self._cut[0] != key:
            # one at a time: each session holds its own copy of the weights
            self._cut = None
            proto = self.cut_site(site, is_weight_fed=weight is not None, has_bias=has_bias)
            self._cut = (key, Session(bytes(proto.SerializeToString()), provider, self._weights_of(proto)))
        (result,) = self._cut[1].run(feeds)
        return result.reshape(len(features), -1)

    def _stored_weight(self, site: Term, weight: Array) -> Array:
        """``[O, K]`` in the layout in which the file stores the site's weight."""
        affine = affine_of(site)
        stored = next(t for t in self._proto.graph.initializer if t.name == affine.weight_name)
        raw = weight if affine.columns is None else weight[:, affine.columns]
        return np.ascontiguousarray(raw.T if affine.is_transposed else raw).reshape(tuple(stored.dims))

    def cut_site(self, site: Term, *, is_weight_fed: bool = False, has_bias: bool = True) -> onnx.ModelProto:
        """A model of the site alone, from the value before any view to its result.

        Shapes:
            its input: that of the value before the views, with a free batch.

        Args:
            site: an affine term of ``graph``.
            is_weight_fed: whether the weight becomes a second input, and the bias zero.
            has_bias: whether the bias keeps its values; else it is zero.
        """
        affine, source = affine_of(site), site.operands[0]
        producers = {name: node for node in self._proto.graph.node for name in node.output}
        stored = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        nodes: dict[int, onnx.NodeProto] = {}
        names, pending = set(), [site.value]
        while pending:
            name = pending.pop()
            if name == source.value or name in names:
                continue
            names.add(name)
            if name in producers:
                nodes[id(producers[name])] = producers[name]
                pending.extend(item for item in producers[name].input if item)
        tensors = [stored[name] for name in sorted(names) if name in stored]
        kind = onnx.helper.np_dtype_to_tensor_dtype(affine.weight.dtype)
        value = onnx.helper.make_tensor_value_info
        inputs = [value(source.value, kind, ["batch", *_shape_of(source)])]
        if is_weight_fed:
            inputs.append(value(affine.weight_name, kind, list(stored[affine.weight_name].dims)))
            tensors = [t for t in tensors if t.name != affine.weight_name]
        if is_weight_fed or not has_bias:
            tensors = [_zeroed(t, affine.bias_name) for t in tensors]
        graph = onnx.helper.make_graph(
            [node for node in self._proto.graph.node if id(node) in nodes],
            "head",
            inputs,
            [value(site.value, kind, None)],
            tensors,
        )
        return onnx.helper.make_model(
            graph, opset_imports=list(self._proto.opset_import), ir_version=self._proto.ir_version
        )

    def _weights_of(self, proto: onnx.ModelProto) -> dict[str, Array]:
        external = onnx.TensorProto.EXTERNAL  # a cut may have put zeros in the place of a bias
        names = {tensor.name for tensor in proto.graph.initializer if tensor.data_location == external}
        return {name: array for name, array in self._weights.items() if name in names}

    def _tapped(self, taps: tuple[str, ...]) -> onnx.ModelProto:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(self._proto)
        del tapped.graph.output[:]
        tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in taps)
        return tapped


def _shape_of(term: Term) -> Shape:
    if term.shape is None:
        raise InternalError(f"the shape of {term.node!r} is unknown, and yet a site reads it")
    return term.shape


def _load(path: Path, pool: WeightPool) -> OnnxFile:
    fix = "give a file that export_onnx or another exporter wrote"
    try:
        file = read_onnx(path, pool)
    except Exception as error:  # protobuf's and onnx's errors share no base class but Exception
        raise CheckError(f"cannot read it as ONNX ({error})", where=str(path), fix=fix) from error
    if not file.proto.graph.output or not file.proto.graph.node:
        raise CheckError("the ONNX graph has no nodes or no outputs", where=str(path), fix=fix)
    try:
        inferred = onnx.shape_inference.infer_shapes(file.proto, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise CheckError(f"its shapes contradict each other ({error})", where=str(path), fix=fix) from error
    return OnnxFile(proto=inferred, weights=file.weights)


def _with_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Constant nodes as initialisers, so that a weight is found and replaced in one way."""
    if all(node.op_type != "Constant" for node in proto.graph.node):
        return proto
    model = ir.from_proto(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return ir.to_proto(model)


def _on(session: Session, feed: Sequence[Array]) -> tuple[Array, ...]:
    try:
        return session.run(feed)
    except ProviderError as error:
        raise BatchError(len(feed[0]), error) from error


def _cast(feed: Array, value: ir.Value) -> Array:
    return feed if value.dtype is None else feed.astype(value.dtype.numpy(), copy=False)


def _zeroed(tensor: onnx.TensorProto, bias_name: str | None) -> onnx.TensorProto:
    if tensor.name != bias_name:
        return tensor
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return numpy_helper.from_array(np.zeros(tuple(tensor.dims), kind), tensor.name)
