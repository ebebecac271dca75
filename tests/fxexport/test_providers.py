"""Sessions run where they were asked to run; what is missing is an error with a fix."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from fxexport import Verdict, available_providers, certify, export_onnx
from fxexport.providers import (
    Session,
    is_defaults,
    placements,
    provider_of,
    provider_options,
    require_provider,
    short_name,
    size_nodes,
    targets_of,
)
from fxpasses.errors import ProviderError
from tests.fxexport.pairs import small_pair

REQUIRE_CUDA_VARIABLE = "FXHEAD_REQUIRE_CUDA"
"""Environment variable: with ``1``, tests that need a CUDA provider fail where it is missing."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, example = tmp_path_factory.mktemp("files"), torch.randn(1, 3, 9, 9)
    return [export_onnx(m, example, folder / f"{i}.onnx") for i, m in enumerate(small_pair())]


def require_cuda() -> None:
    """Skips without CUDA, unless the environment says that it must be there."""
    if "cuda" in available_providers():
        return
    reason = "no CUDA provider works here"
    if os.environ.get(REQUIRE_CUDA_VARIABLE) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_CUDA_VARIABLE}=1")
    pytest.skip(reason)


def test_cpu_is_available():
    assert available_providers()[0] == "cpu"


def test_a_result_in_bfloat16_is_given_though_no_input_is():
    """NumPy lacks the type: a file that computes in it somewhere was told not to run."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)]
    ends = [
        helper.make_tensor_value_info(name, kind, [2])
        for name, kind in (("x", TensorProto.FLOAT), ("y", TensorProto.BFLOAT16))
    ]
    graph = helper.make_graph(nodes, "cast", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (found,) = Session(model.SerializeToString(), "cpu").run([np.array([0.5, 3.0], np.float32)])
    assert found.dtype.name == "bfloat16"
    assert found.astype(np.float32).tolist() == [0.5, 3.0]


def test_names():
    assert require_provider("cpu") == "CPUExecutionProvider"
    assert require_provider("CPUExecutionProvider") == "CPUExecutionProvider"
    with pytest.raises(ProviderError, match="did you mean 'cuda'"):
        require_provider("cudaa")


def test_a_missing_provider_says_how_to_get_it():
    if "cuda" in available_providers():
        pytest.skip("CUDA is here")
    with pytest.raises(ProviderError, match=r"fxhead\[gpu\]"):
        require_provider("cuda")


def test_without_onnxruntime(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert available_providers() == ()
    with pytest.raises(ProviderError, match=r"pip install 'fxhead\[cpu\]'"):
        require_provider("cpu")


def test_importing_export_loads_no_runtime():
    code = "import sys, fxexport; print([m for m in ('onnxruntime', 'onnxscript') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_session_runs(files):
    session = Session(files[0], "cpu")
    (logits,) = session.run((np.zeros((2, 3, 9, 9), np.float32),))
    assert logits.shape == (2, 5)
    with pytest.raises(ProviderError, match="the run failed"):
        session.run((np.zeros((2, 4, 9, 9), np.float32),))


def test_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ProviderError, match="no session"):
        Session(path, "cpu")


def test_an_operator_of_others_is_told_as_one():
    node = helper.make_node("Mixer", ["x"], ["y"], domain="com.example")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid(*known) for known in (("", 20), ("com.example", 1))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ProviderError, match=r"com.example:Mixer.*no such operator.*--no-check"):
        Session(model.SerializeToString(), "cpu")


def test_a_session_that_fell_back_is_an_error(files, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherProvider"])
    with pytest.raises(ProviderError, match="the session has OtherProvider"):
        Session(files[0], "cpu")


def test_targets():
    assert targets_of("cpu") == ("cpu",)
    assert targets_of("xnnpack") == ("xnnpack",)
    assert targets_of("cuda") == ("cuda", "cuda:defaults")
    assert is_defaults("cuda:defaults")
    assert not is_defaults("cuda")
    assert provider_of("cuda:defaults") == "cuda"
    assert short_name("CUDAExecutionProvider") == short_name("cuda") == "cuda"


def test_options_of_strict_targets_and_of_defaults():
    strict = provider_options("cuda")
    assert strict["use_tf32"] == "0"
    assert strict["cudnn_conv_algo_search"] == "DEFAULT"
    assert strict["enable_cuda_graph"] == "0"
    assert strict["arena_extend_strategy"] == "kSameAsRequested"
    assert strict["cudnn_conv_use_max_workspace"] == "0"
    assert provider_options("cuda:defaults") == {}
    assert provider_options("cpu") == {}
    assert provider_options("tensorrt")["trt_fp16_enable"] == "0"


def recorded(monkeypatch):
    """Sessions as they are asked for: options, providers and their options."""
    import onnxruntime

    made = []

    class Recorded:
        def __init__(self, model, options, providers, disabled_optimizers):
            made.append((options, providers))
            self._full = providers[0][0]

        def get_providers(self):
            return [self._full, "CPUExecutionProvider"]

        def get_inputs(self):
            return []

        get_outputs = get_provider_graph_assignment_info = get_inputs

    names = ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    return made


@pytest.mark.parametrize("target", ["cuda", "cuda:defaults", "tensorrt", "cpu"])
def test_a_session_asks_for_what_its_target_says(target, monkeypatch):
    made = recorded(monkeypatch)
    Session(b"", target)
    ((options, ((full, chosen),)),) = made
    assert full.lower().startswith(provider_of(target))
    assert chosen == provider_options(target)
    assert options.use_deterministic_compute is not is_defaults(target)
    assert options.enable_cpu_mem_arena is options.enable_mem_reuse is False
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_where_placements_are_not_told_the_runtime_itself_refuses_a_fall_back(monkeypatch):
    import onnxruntime

    made = recorded(monkeypatch)
    monkeypatch.delattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    Session(b"", "cuda")
    assert made[0][0].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def dynamic_reshape(name: str = "sizes") -> bytes:
    """``x`` as ``[N, -1]`` by way of its own shape: four nodes of sizes, and the Reshape that is none."""
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Gather", ["shape", "zero"], ["batch"], name="batch"),
            helper.make_node("Unsqueeze", ["batch", "zeros"], ["batches"], name="batches"),
            helper.make_node("Concat", ["batches", "rest"], ["target"], name="target", axis=0),
            helper.make_node("Reshape", ["x", "target"], ["y"], name="reshape"),
        ],
        name,
        [value("x", TensorProto.FLOAT, ["N", 3, 4])],
        [value("y", TensorProto.FLOAT, ["N", 12])],
        [
            numpy_helper.from_array(np.array(0), "zero"),
            numpy_helper.from_array(np.array([0]), "zeros"),
            numpy_helper.from_array(np.array([-1]), "rest"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def test_nodes_that_only_compute_sizes_may_be_on_the_cpu(monkeypatch):
    import fxexport.providers

    assert size_nodes(dynamic_reshape()) == {"shape", "batch", "batches", "target"}
    recorded(monkeypatch)
    placed = [("CPUExecutionProvider", name) for name in ("batch", "batches", "target")]
    placed += [("CUDAExecutionProvider", name) for name in ("shape", "reshape")]
    monkeypatch.setattr(fxexport.providers, "placements", lambda session: tuple(placed))
    Session(dynamic_reshape(), "cuda")
    placed[-1] = ("CPUExecutionProvider", "reshape")
    with pytest.raises(ProviderError, match=r"1 nodes do not run on CUDAExecutionProvider \(reshape on"):
        Session(dynamic_reshape(), "cuda")


def test_a_provider_that_fails_to_start_is_no_session_on_the_cpu(files, monkeypatch):
    """ONNX Runtime says so in a warning only."""
    import onnxruntime

    recorded(monkeypatch)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="asked for CUDAExecutionProvider, the session has CPU"):
        Session(files[0], "cuda")


def test_every_node_is_placed(files):
    session = Session(files[0], "cpu")
    placed = placements(session._session)
    assert {provider for provider, _ in placed} == {"CPUExecutionProvider"}
    assert len(placed) >= 4


def test_a_node_on_another_provider_is_an_error(files, monkeypatch):
    import fxexport.providers

    real = fxexport.providers.placements

    def stray(session):
        return (*real(session), ("OtherExecutionProvider", "node_conv"))

    monkeypatch.setattr(fxexport.providers, "placements", stray)
    with pytest.raises(ProviderError, match=r"1 nodes do not run on CPUExecutionProvider \(node_conv on"):
        Session(files[0], "cpu")


@pytest.mark.parametrize("name", ["tensorrt", "openvino", "dnnl", "xnnpack", "coreml", "migraphx", "qnn"])
def test_other_providers_are_known_by_name_and_say_what_there_is(name, files):
    import onnxruntime

    full = {"tensorrt": "Tensorrt", "openvino": "OpenVINO"}.get(name, "")
    if any(item.startswith(full) for item in onnxruntime.get_available_providers() if full):
        pytest.skip(f"{name} is here")
    with pytest.raises(ProviderError, match=r"the installed onnxruntime has no .*it has .*cpu"):
        certify(*files, providers=(name,))


def test_full_names_and_short_names_are_one_provider(files):
    certificate = certify(*files, providers=("cpu", "CPUExecutionProvider"))
    assert certificate.providers == ("cpu",)


def test_cuda_is_strict_and_seen_with_its_defaults(files):
    require_cuda()
    certificate = certify(*files, providers=("cpu", "cuda"))
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    runs = {(target.provider, str(target.mode)): target for target in certificate.targets}
    assert set(runs) == {("cpu", "strict"), ("cuda", "strict"), ("cuda", "defaults")}
    assert runs["cuda", "strict"].verdict is Verdict.PROVED
    assert runs["cuda", "defaults"].verdict in (Verdict.PROVED, Verdict.AGREES)
    assert runs["cuda", "strict"].is_repeatable


def test_cuda_in_fp16(tmp_path):
    require_cuda()
    example = torch.randn(1, 3, 9, 9).half()
    halves = [export_onnx(m.half(), example, tmp_path / f"{i}.onnx") for i, m in enumerate(small_pair())]
    assert certify(*halves, providers=("cuda",)).is_accepted


def test_cuda_tests_fail_where_cuda_is_required(monkeypatch):
    if "cuda" in available_providers():
        pytest.skip("CUDA is here")
    monkeypatch.setenv(REQUIRE_CUDA_VARIABLE, "1")
    with pytest.raises(pytest.fail.Exception, match=REQUIRE_CUDA_VARIABLE):
        require_cuda()


@pytest.mark.parametrize("given", [None, "0"])
def test_onnxruntime_reports_to_nobody(tmp_path: Path, given: str | None) -> None:
    """It keeps what it has to report in a database in the user's cache, opened as soon as it is imported."""
    code = "from fxexport.providers import require_onnxruntime; require_onnxruntime()"
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "LOCALAPPDATA": str(tmp_path)}
    environment = dict(os.environ) | places
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    found = [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
    if given is None:
        assert not found, "nobody asked onnxruntime to report"
    elif not found:
        pytest.skip("onnxruntime reports nothing here by itself, as on machines that it takes for a CI's")
