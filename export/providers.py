"""ONNX Runtime sessions that run where they were asked to run, in strict fp32."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fxpasses.errors import ProviderError, suggest

if TYPE_CHECKING:
    import onnxruntime

REQUIRE_CUDA_VARIABLE = "FXHEAD_REQUIRE_CUDA"
"""Environment variable: with ``1``, tests that need a CUDA provider fail where it is missing."""

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
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "cudnn_conv_use_max_workspace": "0"},
}
_SILENT = 4

Array = NDArray[Any]


def require_onnxruntime() -> Any:
    """The ``onnxruntime`` module.

    Raises:
        ProviderError: it is not installed.
    """
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
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    try:
        Session(model.SerializeToString(), provider).run((np.ones(1, np.float32),))
    except ProviderError:
        return False
    return True


def provider_options(name: str) -> Mapping[str, str]:
    """The options that sessions on a provider get."""
    return _OPTIONS.get(name, {})


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
    full = _KNOWN.get(name, name)
    if full not in installed:
        has = ", ".join(key for key, value in _KNOWN.items() if value in installed)
        fix = "run pip install 'fxhead[gpu]' in place of the cpu extra" if name == "cuda" else None
        raise ProviderError(
            f"the installed onnxruntime has no {full} (it has {has})",
            where=name,
            fix=fix or f"install a build of onnxruntime that has it, or ask for {has}",
        )
    return full


class Session:
    """One ONNX model on one provider, strict: fp32 stays fp32, and every node runs there.

    Args:
        model: path of an ONNX file, or its bytes.
        provider: ``cpu``, ``cuda`` or another name that the installed build has.
        weights: values of the initialisers that bytes mark as external data; they are not copied.
        name: what to call the model in messages.

    Raises:
        ProviderError: the provider is missing, does not load, or would leave a node to another one.

    Source:
        ONNX Runtime: ``use_tf32`` (CUDA provider options), ``session.disable_cpu_ep_fallback``,
        ``SessionOptions.use_deterministic_compute``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        provider: str,
        weights: Mapping[str, Array] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        runtime = require_onnxruntime()
        full = require_provider(provider)
        if provider == "cuda" and hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls()
        options = runtime.SessionOptions()
        options.use_deterministic_compute = True
        options.log_severity_level = _SILENT
        if provider != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if weights:
            values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
        source = model if isinstance(model, bytes) else os.fspath(model)
        called = name if isinstance(source, bytes) else Path(source).name
        where = provider if called is None else f"{called} on {provider}"
        try:
            session = runtime.InferenceSession(
                source, options, providers=[(full, dict(provider_options(provider)))]
            )
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ProviderError(
                f"no session ({_first_line(error)})", where=where, fix=_fix_for(provider)
            ) from error
        ran_on = session.get_providers()
        if not ran_on or ran_on[0] != full:
            raise ProviderError(
                f"asked for {full}, the session has {', '.join(ran_on)}", where=where, fix=_fix_for(provider)
            )
        self._session: onnxruntime.InferenceSession = session
        self._weights = weights  # the session reads them in place
        self._where = where
        self.input_names = tuple(item.name for item in session.get_inputs())
        self.output_names = tuple(item.name for item in session.get_outputs())

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """All outputs, in the order of the graph, for ``inputs`` in the order of the graph.

        Raises:
            ProviderError: the run failed.
        """
        try:
            outputs = self._session.run(None, dict(zip(self.input_names, inputs, strict=True)))
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ProviderError(
                f"the run failed ({_first_line(error)})",
                where=self._where,
                fix="check that the inputs have the shapes and types that the graph declares",
            ) from error
        return tuple(np.asarray(output) for output in outputs)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _fix_for(provider: str) -> str:
    if provider == "cpu":
        return "check the file with onnx.checker.check_model"
    return f"check that the libraries and the device of {provider!r} are there, or leave the provider out"
