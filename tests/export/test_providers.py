"""Sessions run where they were asked to run; what is missing is an error with a fix."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from export import Verdict, available_providers, certify, export_onnx
from export.providers import REQUIRE_CUDA_VARIABLE, Session, require_provider
from fxpasses.errors import ProviderError
from tests.export.pairs import small_pair


@pytest.fixture
def files(tmp_path):
    return [
        export_onnx(m, torch.randn(1, 3, 9, 9), tmp_path / f"{i}.onnx") for i, m in enumerate(small_pair())
    ]


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
    code = "import sys, export; print([m for m in ('onnxruntime', 'onnxscript') if m in sys.modules])"
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


def test_a_session_that_fell_back_is_an_error(files, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherProvider"])
    with pytest.raises(ProviderError, match="the session has OtherProvider"):
        Session(files[0], "cpu")


def test_cuda_is_strict(files):
    require_cuda()
    certificate = certify(*files, providers=("cpu", "cuda"))
    assert certificate.verdict is Verdict.PROVED
    assert {record.provider for record in certificate.statistics} == {"cpu", "cuda"}
