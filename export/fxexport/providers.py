"""ONNX Runtime sessions that run where they were asked to run, strict or with a provider's own defaults.

A *target* is the name of a provider, for strict sessions, or that name with ``:defaults`` behind it, for
sessions as they are made without a word about precision. On CUDA, for instance, these use TF32 and any
convolution algorithm. The CPU provider and others that are not listed below have no options that loosen
fp32: there strict sessions are what the defaults give, but for deterministic kernels where some are not, and
for quantised files, which by default run on integer kernels.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from fxpasses.errors import ProviderError, first_line, suggest
from fxpasses.wall.clock import require_room, stopped_by
from fxpasses.wall.wall import lowered

if TYPE_CHECKING:
    import onnxruntime

_KNOWN = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
_STRICT: Mapping[str, Mapping[str, str]] = {
    # DEFAULT is cuDNN's implicit GEMM, a direct sum; the others may pick Winograd or FFT, and by timing
    "cuda": {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "DEFAULT",
        "cudnn_conv_use_max_workspace": "0",
        "enable_cuda_graph": "0",  # a graph that was captured is replayed, whatever the next shapes are
        "arena_extend_strategy": "kSameAsRequested",
    },
    "tensorrt": {"trt_fp16_enable": "0", "trt_bf16_enable": "0", "trt_int8_enable": "0"},
    "openvino": {"precision": "ACCURACY"},
    "migraphx": {"migraphx_fp16_enable": "0", "migraphx_int8_enable": "0"},
    "coreml": {"AllowLowPrecisionAccumulationOnGPU": "0"},
    "qnn": {"enable_htp_fp16_precision": "0"},
}
"""Options under which fp32 stays fp32, of providers whose defaults loosen it.

Source:
    ONNX Runtime's documentation of each execution provider, *Configuration options*.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Plugin:
    """A provider that comes in a package of its own, which is loaded into any onnxruntime.

    Attributes:
        options: the function of the package that gives the value, by option that every session needs.
    """

    package: str
    options: Mapping[str, str]

    @property
    def is_installed(self) -> bool:
        """Whether the package is there; it is not imported."""
        return importlib.util.find_spec(self.package) is not None


_PLUGINS = {"qnn": _Plugin(package="onnxruntime_qnn", options={"backend_path": "get_qnn_htp_path"})}
"""Source: ONNX Runtime's documentation, *Plugin Execution Provider Libraries*."""

UNFUSED = ("session.disable_quant_qdq", "1")
"""The option without which operators between DequantizeLinear and QuantizeLinear run on integers.

Those kernels round once where the file says twice, and results may be a step apart from what it says.

Source:
    ``onnxruntime_session_options_config_keys.h``, ``kOrtSessionOptionsDisableQuantQDQ``.
"""
UNPAIRED = ("DoubleQDQPairsRemover",)
"""The optimiser without which a value that a file quantises twice in turn, by other scales, is so once.

Source:
    ``onnxruntime/core/optimizer/double_qdq_pairs_remover.cc``.
"""
_DEFAULTS = ":defaults"
_SILENT = 4
_BFLOAT16 = 16
"""``onnx.TensorProto.BFLOAT16``."""

Array = NDArray[Any]


def runtime_domains() -> frozenset[str] | None:
    """Domains in which ONNX Runtime has operators of its own; None where it does not tell.

    It runs those, whatever a function of the same name in a file says.
    """
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return None
    return frozenset(str(schema.domain) for schema in get_all_operator_schema())


def require_onnxruntime() -> Any:
    """The ``onnxruntime`` module, which tells its maker nothing unless the user's environment wants it.

    It reports over the network and keeps a database below ``~/.cache``, from machine code, where no wall sees
    it: https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md.

    Raises:
        ProviderError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError("onnxruntime is not installed", fix="run pip install 'fxhead[cpu]'") from error
    return onnxruntime


def available_providers() -> tuple[str, ...]:
    """Those of ``cpu`` and ``cuda`` that work here; empty without onnxruntime.

    That a build has the CUDA provider does not mean that its libraries load or that there is a GPU, so
    CUDA is tried on a graph of one node.
    """
    try:
        installed = require_onnxruntime().get_available_providers()
    except ProviderError:
        return ()
    names = ["cpu"] if _KNOWN["cpu"] in installed else []
    if _KNOWN["cuda"] in installed and _works("cuda"):
        names.append("cuda")
    return tuple(names)


def _works(provider: str) -> bool:
    from onnx import parser

    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> probe (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    try:
        Session(model.SerializeToString(), provider).run((np.ones(1, np.float32),))
    except ProviderError:
        return False
    return True


def by_default(provider: str) -> str:
    """The target of sessions as they are made without a word, of any provider."""
    return f"{provider}{_DEFAULTS}"


def targets_of(provider: str) -> tuple[str, ...]:
    """The targets of a provider: strict, and its own defaults where they differ in more than determinism."""
    return (provider, by_default(provider)) if provider in _STRICT else (provider,)


def short_name(provider: str) -> str:
    """The name as it is written here, ``cpu``, for it or ONNX Runtime's own ``CPUExecutionProvider``."""
    return next((key for key, full in _KNOWN.items() if full == provider), provider)


def is_defaults(target: str) -> bool:
    """True for a provider's own defaults."""
    return target.endswith(_DEFAULTS)


def provider_of(target: str) -> str:
    """The provider's name, without the mode."""
    return target.removesuffix(_DEFAULTS)


def provider_options(target: str) -> dict[str, str]:
    """Options of the provider for a target; none for its own defaults."""
    return dict(_STRICT.get(target, {}))


def require_known(names: Sequence[str]) -> None:
    """Nothing, if ONNX Runtime has providers of all these names, in this build or another.

    Raises:
        ProviderError: a name is unknown.
    """
    for name in names:
        if name not in _KNOWN and name not in _KNOWN.values():
            raise ProviderError("no such provider", where=name, fix=suggest(name, _KNOWN))


def require_provider(name: str) -> str:
    """ONNX Runtime's own name of the provider, e.g. ``CPUExecutionProvider`` for ``cpu``.

    Raises:
        ProviderError: the name is unknown, or the installed build lacks the provider.
    """
    installed = require_onnxruntime().get_available_providers()
    require_known([name])
    full = _KNOWN[short_name(name)]
    plugin = _PLUGINS.get(short_name(name))
    if full not in installed and not (plugin and plugin.is_installed):
        has = ", ".join(key for key, value in _KNOWN.items() if value in installed)
        fix = "run pip install 'fxhead[gpu]' in place of the cpu extra" if name == "cuda" else None
        if plugin:
            fix = f"run pip install {plugin.package.replace('_', '-')}"
        raise ProviderError(
            f"the installed onnxruntime has no {full} (it has {has})",
            where=name,
            fix=fix or f"install a build of onnxruntime that has it, or ask for {has}",
        )
    return full


class Session:
    """One ONNX model on one target; every node runs on its provider.

    Args:
        model: path of an ONNX file, or its bytes.
        target: ``cpu``, ``cuda``, another name that the installed build has, or one with ``:defaults``.
        weights: values of the initialisers that bytes mark as external data; they are not copied.
        name: what to call the model in messages.
        is_optimised: whether ONNX Runtime may fuse and fold operators, as it does by default.

    Raises:
        ProviderError: the provider is missing, does not load, or would leave a node to another one.

    Source:
        ONNX Runtime: ``session.disable_cpu_ep_fallback``, ``session.record_ep_graph_assignment_info``,
        ``SessionOptions.use_deterministic_compute``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        target: str,
        weights: Mapping[str, Array] | None = None,
        *,
        name: str | None = None,
        is_optimised: bool = True,
    ) -> None:
        runtime = require_onnxruntime()
        provider = provider_of(target)
        full = require_provider(provider)
        if provider == "cuda" and hasattr(runtime, "preload_dlls"):
            with lowered():  # the libraries that it loads are the user's
                runtime.preload_dlls()
        options = _session_options(runtime, target)
        if not is_optimised:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if weights:
            require_room(sum(array.nbytes for array in weights.values()))  # it packs them anew
            values = [ort_value(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
        source = model if isinstance(model, bytes) else os.fspath(model)
        called = name if isinstance(source, bytes) else Path(source).name
        self._where = target if called is None else f"{called} on {target}"
        try:
            with stopped_by(lambda: options.set_load_cancellation_flag(True)):
                session = _session(runtime, source, options, target)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ProviderError(
                f"no session ({first_line(error)})", where=self._where, fix=_fix_for(provider, error)
            ) from error
        self._session: onnxruntime.InferenceSession = session
        self._weights = weights  # the session reads them in place
        self._require_placement(full, provider, source)
        self.input_names = tuple(item.name for item in session.get_inputs())
        self.output_names = tuple(item.name for item in session.get_outputs())
        ends = (*session.get_inputs(), *session.get_outputs())
        self._has_bfloat16 = any(item.type == "tensor(bfloat16)" for item in ends)

    def _require_placement(self, full: str, provider: str, source: str | bytes) -> None:
        """Nothing, if the session has the provider and every node was placed on it.

        Nodes that only compute sizes may be on the CPU: ONNX Runtime places them there by design, since their
        results are needed on the host, and they hold no value of the model.
        """
        ran_on = self._session.get_providers()
        if not ran_on or ran_on[0] != full:
            raise ProviderError(
                f"asked for {full}, the session has {', '.join(ran_on)}",
                where=self._where,
                fix=_fix_for(provider),
            )
        elsewhere = [(node, other) for other, node in placements(self._session) if other != full]
        sizes = size_nodes(source) if elsewhere else frozenset()
        strays = [
            f"{node} on {other}" for node, other in elsewhere if other != _KNOWN["cpu"] or node not in sizes
        ]
        if strays:
            raise ProviderError(
                f"{len(strays)} nodes do not run on {full} ({', '.join(strays[:4])})",
                where=self._where,
                fix=_fix_for(provider),
            )

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """All outputs, in the order of the graph, for ``inputs`` in the order of the graph.

        Raises:
            ProviderError: the run failed.
        """
        options = require_onnxruntime().RunOptions()
        try:
            with stopped_by(lambda: setattr(options, "terminate", True)):
                if self._has_bfloat16:
                    values = dict(zip(self.input_names, map(ort_value, inputs), strict=True))
                    found = self._session.run_with_ort_values(None, values, options)
                    return tuple(_array(value) for value in found)
                given = dict(zip(self.input_names, inputs, strict=True))
                outputs = self._session.run(None, given, options)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ProviderError(
                f"the run failed ({first_line(error)})",
                where=self._where,
                fix="check that the inputs have the shapes and types that the graph declares",
            ) from error
        return tuple(np.asarray(output) for output in outputs)


def _session_options(runtime: Any, target: str) -> Any:
    options = runtime.SessionOptions()
    options.use_deterministic_compute = not is_defaults(target)
    options.log_severity_level = _SILENT
    # an arena grows by powers of two and pays off after many runs; a session here makes few
    options.enable_cpu_mem_arena = False
    # where a size is left open, it looks for one to reuse among all buffers before, for each node; without,
    # each is given back all the same, and neither time nor peak of a run differ
    options.enable_mem_reuse = False
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not is_defaults(target):
        options.add_session_config_entry(*UNFUSED)
    # nor do its threads keep a core busy while they wait, which others may want
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider_of(target) != "cpu" and not hasattr(
        runtime.InferenceSession, "get_provider_graph_assignment_info"
    ):
        # where placements are not told (< 1.24); size nodes, which belong on the CPU, are refused then too
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


_SIZES = frozenset({"Shape", "Size"})
_OF_SIZES = frozenset(
    (
        "Abs Add And Cast Ceil Concat Constant ConstantOfShape Div Equal Expand Floor Gather Greater "
        "GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin "
        "ReduceProd ReduceSum Reshape ScatterND Slice Split Squeeze Sub Tile Unsqueeze Where"
    ).split()
)
"""Operators by which shapes are computed from shapes."""


def size_nodes(source: str | bytes) -> frozenset[str]:
    """Names of the nodes of an ONNX model that only compute sizes, from ``Shape``, ``Size`` and constants."""
    import onnx

    if isinstance(source, bytes):
        model = onnx.load_from_string(source)
    else:
        model = onnx.load(source, load_external_data=False)
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    found = set()
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        reads_sizes = node.op_type in _OF_SIZES and known.issuperset(node.input)
        if node.op_type in _SIZES or reads_sizes:
            known.update(node.output)
            found.add(node.name)
    return frozenset(found - {""})


def _session(runtime: Any, source: str | bytes, options: Any, target: str) -> Any:
    """A session on one provider: one of this build, or one that a package of its own brings."""
    provider = provider_of(target)
    full, chosen = _KNOWN[short_name(provider)], provider_options(target)
    without: list[str] = [] if is_defaults(target) else list(UNPAIRED)
    plugin = _PLUGINS.get(short_name(provider))
    if plugin is None or not plugin.is_installed:
        return runtime.InferenceSession(
            source, options, providers=[(full, chosen)], disabled_optimizers=without
        )
    with lowered():
        package = importlib.import_module(plugin.package)
    with lowered(), _stdout_to_stderr():  # such a library may print a banner
        if full not in runtime.get_available_providers():
            runtime.register_execution_provider_library(full, package.get_library_path())
        needed = {option: getattr(package, function)() for option, function in plugin.options.items()}
        devices = [device for device in runtime.get_ep_devices() if device.ep_name == full]
        options.add_provider_for_devices(devices[:1], needed | chosen)
        return runtime.InferenceSession(source, options, disabled_optimizers=without)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What a C library prints meanwhile goes to stderr: stdout is for results."""
    library, standard = ctypes.CDLL(None), sys.__stdout__
    if standard is not None:
        standard.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        library.fflush(None)  # its buffer is written where stdout is now
        os.dup2(kept, 1)
        os.close(kept)


def placements(session: Any) -> tuple[tuple[str, str], ...]:
    """Provider and name of every node that was placed; empty where ONNX Runtime does not tell (< 1.24)."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    return tuple(
        (str(part.ep_name), str(node.name or node.op_type))
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def ort_value(array: Array) -> Any:
    """The array as a value that ONNX Runtime reads in place; NumPy's own types lack bfloat16."""
    kind = require_onnxruntime().OrtValue
    if array.dtype.name != "bfloat16":
        return kind.ortvalue_from_numpy(array)
    return kind.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)


def _array(value: Any) -> Array:
    """An output as an array; NumPy's own types lack bfloat16, so its bits are copied."""
    if value.element_type() != _BFLOAT16:
        return np.asarray(value.numpy())
    size = int(np.prod(value.shape()))
    buffer = (ctypes.c_uint16 * size).from_address(value.data_ptr())
    bits: Array = np.ctypeslib.as_array(buffer).copy()
    values: Array = bits.view(ml_dtypes.bfloat16)
    return values.reshape(value.shape())


_NO_KERNEL = ("NOT_IMPLEMENTED", "Could not find an implementation", "Type Error: Type")


def _fix_for(provider: str, error: Exception | None = None) -> str:
    said = str(error)
    if "exceeds the 2147483648 byte limit" in said:
        return "ONNX Runtime keeps no weight of 2 GB inside a node: check the linear form, or give --no-onnx"
    if "is not a registered function/op" in said:
        return "onnxruntime has no such operator, and no library of it is loaded: rewrite with --no-check"
    if any(text in said for text in _NO_KERNEL):
        return f"{provider!r} has no kernel for a node of these types: ask for a provider that has one"
    if provider == "cpu":
        return "check the file with onnx.checker.check_model"
    return f"check that the libraries and the device of {provider!r} are there, or leave the provider out"
