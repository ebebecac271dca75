"""``fxhead rewrite`` end to end: files, exit codes, all or nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fxexport.results import Verdict
from fxpasses import WeightPlan

Run = Callable[..., Any]
Written = Callable[[], set[str]]

ALL = {
    "model.conv.pt",
    "model.linear.onnx",
    "model.conv.onnx",
    "model.conv.plan.json",
    "model.conv.certificate.json",
}
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")


def load(path: str) -> torch.nn.Module:
    module: torch.nn.Module = torch.load(path, weights_only=False)
    return module


def test_everything_is_written_next_to_the_input(run: Run, net: Path, written: Written) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", *SMALL)
    assert done.code == 0, done.err
    assert written() == ALL
    for expected in ("Linear(8, 5)", "Conv2d(8, 5, kernel_size=(1, 1))", "5x8 → 5x8x1x1", "verdict: ", *ALL):
        assert expected in done.out
    original, rewritten = load("model.pt").eval(), load("model.conv.pt")
    assert list(rewritten.state_dict()) == list(original.state_dict())
    x = torch.randn(3, 3, 9, 11)
    torch.testing.assert_close(rewritten(x), original(x))


def test_the_json_document_says_it_all(run: Run, net: Path, written: Written) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--json", *SMALL)
    document = done.document
    assert document["schema_version"] == 1
    assert document["model"]["class"] == "Net"
    assert document["model"]["input_shapes"] == [[1, 3, 16, 16]]
    assert [item["site"]["name"] for item in document["report"]["rewrites"]] == ["fc"]
    assert {Path(item["path"]).name: item["size_bytes"] for item in document["files"]} == {
        name: Path(name).stat().st_size for name in ALL
    }
    assert document["verdict"] in set(Verdict) - {Verdict.BROKEN}
    assert len(document["checks"]) == 3
    # and so do the plan and the certificate
    plan = WeightPlan.from_dict(json.loads(Path("model.conv.plan.json").read_text()))
    converted = plan.apply(load("model.pt").state_dict())
    expected = load("model.conv.pt").state_dict()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())
    certificate = json.loads(Path("model.conv.certificate.json").read_text())
    assert certificate["verdict"] == document["verdict"]
    assert certificate["checks"] == document["checks"]


def test_and_back_again(run: Run, net: Path, written: Written) -> None:
    assert run("rewrite", "model.pt", "--to", "conv", "--no-onnx").code == 0
    done = run("rewrite", "model.conv.pt", "--to", "linear", "--no-onnx", "-o", "again.pt")
    assert done.code == 0, done.err
    original, again = load("model.pt").state_dict(), load("again.pt").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in original.items())
    assert written() >= {"again.pt", "again.plan.json"}


def test_without_onnx_there_is_no_check_and_it_says_so(run: Run, net: Path, written: Written) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--no-onnx")
    assert written() == {"model.conv.pt", "model.conv.plan.json"}
    assert "not checked" in done.out


@pytest.mark.parametrize("option", [("--providers", "cpu"), ("--opset", "18")])
def test_options_about_onnx_without_onnx_are_refused(
    run: Run, net: Path, written: Written, option: tuple[str, str]
) -> None:
    assert run("rewrite", "model.pt", "--to", "conv", "--no-onnx", *option).code == 2
    assert written() == set()


def test_the_same_command_gives_the_same_bytes(run: Run, spawn: Run, net: Path, folder: Path) -> None:
    """In a process of its own, with another hash seed, and in this one, where much ran before it."""
    command = ("rewrite", "nets:build", "--to", "conv", *SMALL, "-o")
    for done in (spawn(*command, "one/"), run(*command, "two/")):
        assert done.code == 0, done.err
    contents = [{path.name: path.read_bytes() for path in Path(out).iterdir()} for out in ("one", "two")]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_two_sources_with_the_same_module_give_the_same_bytes_under_other_names(run: Run, net: Path) -> None:
    for out in ("one.pt", "two.pt"):
        assert run("rewrite", "model.pt", "--to", "conv", "--no-onnx", "-o", out).code == 0
    assert Path("one.pt").read_bytes() == Path("two.pt").read_bytes()


def test_nothing_to_rewrite_is_exit_code_1_and_says_why(run: Run, folder: Path, written: Written) -> None:
    done = run("rewrite", "nets:NoHead", "--to", "conv", "--no-onnx")
    assert done.code == 1
    assert "nothing to rewrite" in done.out
    assert written() == set()


def test_every_miss_and_its_reason_are_shown(run: Run, folder: Path, written: Written) -> None:
    done = run("rewrite", "nets:Hooked", "--to", "conv", *SMALL)
    assert done.code == 1
    assert "skipped 'fc'" in done.out
    assert "HOOKED" in done.out
    assert "nets.py:" in done.out
    document = run("rewrite", "nets:Hooked", "--to", "conv", "--json", *SMALL).document
    assert {miss["code"] for miss in document["report"]["misses"]} == {"HOOKED"}
    assert document["files"] == []
    assert written() == set()


def test_a_head_in_the_asked_form_already_is_named(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "linear", "--no-onnx")
    assert done.code == 1
    assert "fc has the linear form already" in done.out


def test_nothing_is_written_when_the_verdict_is_broken(
    run: Run, net: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fxexport.certificate import Certifier

    certify = Certifier.certify

    def broken(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(certify(*arguments, **options), verdict=Verdict.BROKEN)

    monkeypatch.setattr(Certifier, "certify", broken)
    done = run("rewrite", "model.pt", "--to", "conv", *SMALL, "-o", "new/")
    assert done.code == 1
    assert "verdict: broken" in done.out
    assert "nothing was written" in done.out
    assert written() == set()
    done = run("rewrite", "model.pt", "--to", "conv", *SMALL, "-o", "new/", "--html", "--attest", "--json")
    assert (done.code, done.document["verdict"]) == (1, "broken")
    # but for the page that was asked for, which names no file that is not there
    assert [Path(file["path"]).name for file in done.document["files"]] == ["model.conv.html"]
    assert [path.name for path in Path("new").iterdir()] == ["model.conv.html"]
    assert "SHA-256" not in Path("new/model.conv.html").read_text()


def test_nothing_is_written_when_the_export_fails(
    run: Run, net: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fxexport

    def failing(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fxexport, "export_onnx", failing)
    done = run("rewrite", "model.pt", "--to", "conv", *SMALL)
    assert done.code == 2
    assert "No space left" in done.err
    assert written() == set()


def test_existing_files_are_kept_unless_forced(run: Run, net: Path) -> None:
    Path("model.conv.pt").write_text("precious")
    done = run("rewrite", "model.pt", "--to", "conv", "--no-onnx")
    assert done.code == 2
    assert "--force" in done.err
    assert Path("model.conv.pt").read_text() == "precious"
    assert run("rewrite", "model.pt", "--to", "conv", "--no-onnx", "--force").code == 0
    assert isinstance(load("model.conv.pt"), torch.fx.GraphModule)


def test_the_input_is_never_overwritten(run: Run, net: Path) -> None:
    before = net.read_bytes()
    assert run("rewrite", "model.pt", "--to", "conv", "--no-onnx", "-o", "model.pt", "--force").code == 2
    assert net.read_bytes() == before


def test_a_file_in_place_of_the_output_folder_is_refused(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--no-onnx", "-o", "model.pt/deeper/")
    assert done.code == 2
    assert "is not a folder" in done.err


@pytest.mark.parametrize(("provider", "says"), [("gpu", "no such provider"), ("", "no such provider")])
def test_an_unknown_provider_is_refused_before_the_work(
    run: Run, net: Path, written: Written, provider: str, says: str
) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--providers", provider)
    assert done.code == 2
    assert says in done.err
    assert "loading" not in done.err
    assert written() == set()


def test_a_provider_that_is_not_here_is_an_error_never_a_fall_back(run: Run, net: Path) -> None:
    from fxexport.providers import available_providers

    if "cuda" in available_providers():
        pytest.skip("CUDA is here")
    done = run("rewrite", "model.pt", "--to", "conv", "--providers", "cpu,cuda")
    assert done.code == 2
    assert "ProviderError" in json.dumps(
        run("rewrite", "model.pt", "--to", "conv", "--providers", "cuda", "--json").document
    )


def test_without_onnxruntime_it_says_which_extra_to_install(
    run: Run, net: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = run("rewrite", "model.pt", "--to", "conv")
    assert done.code == 2
    assert "pip install 'fxhead[cpu]'" in done.err
    assert run("rewrite", "model.pt", "--to", "conv", "--no-onnx").code == 0


def test_the_opset_asked_for_is_what_the_file_has(run: Run, net: Path) -> None:
    import onnx

    assert run("rewrite", "model.pt", "--to", "conv", "--opset", "18", *SMALL).code == 0
    for name in ("model.linear.onnx", "model.conv.onnx"):
        model = onnx.load(name)
        assert [item.version for item in model.opset_import if item.domain == ""] == [18]


def test_weights_beyond_the_limit_of_a_file_lie_beside_it(
    run: Run, net: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beyond 2 GB, which protobuf cannot hold: each file names its own data, and all appear or none."""
    import onnx

    monkeypatch.setattr("fxexport.to_onnx.write._INLINE_LIMIT_BYTES", 100)
    done = run("rewrite", "model.pt", "--to", "conv", *SMALL)
    assert done.code == 0, done.err
    names = {f"model.{form}.onnx" for form in ("linear", "conv")}
    assert names | {f"{name}.data" for name in names} <= written()
    assert {Path(file).name for file in done.out.split() if file.endswith(".data")} == {
        f"{name}.data" for name in names
    }
    for name in names:
        tensors = onnx.load(name, load_external_data=False).graph.initializer
        entries = [entry for tensor in tensors for entry in tensor.external_data]
        assert {entry.value for entry in entries if entry.key == "location"} == {f"{name}.data"}
    for name in written() - {f"{name}.data" for name in names}:
        Path(name).unlink()
    before = {name: Path(name).read_bytes() for name in written()}
    assert run("rewrite", "model.pt", "--to", "conv", *SMALL).code == 2
    assert {name: Path(name).read_bytes() for name in written()} == before
