"""The certificate file: it says enough to be repeated, and repeating it finds what changed."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fxexport import Verdict
from fxhead.check.certificates import read_checks
from fxhead.check.changes import SINCE, check_changes
from fxhead.check.lines import certificate_lines
from fxhead.check.read_artefact import read_artefact

Run = Callable[..., Any]
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")
CERTIFICATE = "model.conv.certificate.json"
FORMS = ("model.linear.onnx", "model.conv.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that ``rewrite`` wrote for a small model, made once."""
    import os
    import sys

    from fxhead import cli
    from tests.fxhead.conftest import NET

    folder = tmp_path_factory.mktemp("made")
    (folder / "nets.py").write_text(NET)
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.modules.pop("nets", None)
    try:
        torch.manual_seed(0)
        torch.save(torch.fx.symbolic_trace(__import__("nets").Net()), "model.pt")
        assert cli.main(("rewrite", "model.pt", "--to", "conv", *SMALL)) == 0
        options = ("--providers", "cpu", "-o", "check.json")
        assert cli.main(("check", *FORMS, *options)) == 0
    finally:
        os.chdir(before)
        sys.path[:] = path
        sys.modules.pop("nets", None)
    return folder


@pytest.fixture
def work(made: Path, folder: Path) -> Path:
    """A copy of it as the working directory."""
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def edited(path: str, change: Callable[[Any], None]) -> None:
    data = read(path)
    change(data)
    Path(path).write_text(json.dumps(data))


def damage(path: str, name: str = "fc.weight") -> None:
    """One weight of an ONNX file off by a percent."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[3] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, path)


@pytest.mark.parametrize("name", [CERTIFICATE, "check.json"])
def test_it_says_what_ran_on_what(work: Path, name: str) -> None:
    certificate = read(name)
    assert certificate["schema_version"] == 2
    assert certificate["kind"] == "fxhead certificate"
    names = {"fxhead", "python", "torch", "torchvision", "numpy", "onnx", "onnxruntime", "onnxscript"}
    assert {*names, "platform", "cpu", "threads"} <= {*certificate["environment"]}
    models = certificate["recipe"]["models"]
    for record in models:
        content = Path(record["file"]["path"]).read_bytes()
        assert record["file"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["file"]["size_bytes"] == len(content)
    assert len(certificate["checks"]) == len(certificate["recipe"]["pairs"])
    assert str(work) not in Path(name).read_text()
    assert "seconds" not in Path(name).read_text()


@pytest.mark.parametrize("name", [CERTIFICATE, "check.json"])
def test_it_can_be_repeated(run: Run, work: Path, name: str) -> None:
    done = run("check", "--replay", name, "--json")
    assert done.code == 0, done.out
    assert done.document["is_reproduced"] is True
    assert done.document["changes"] == []
    assert done.document["verdict"] == read(name)["verdict"]
    assert "reproduced: " in run("check", "--replay", name).out


def test_precision_is_told_compared_and_no_matter_of_older_certificates(run: Run, work: Path) -> None:
    def spoil(data: Any) -> None:
        data["checks"][0]["targets"][0]["measured_precision"] = "bf16"

    def forget(data: Any) -> None:
        for check, name in itertools.product(data["checks"], SINCE):
            check.pop(name, check["targets"][0].pop(name, None))

    edited("check.json", spoil)
    sentence = "cpu was asked for fp32, and takes products in bf16 (measured)"
    (check,) = read_checks(read_artefact(Path("check.json")))
    assert f"precision: {sentence}" in [*certificate_lines(check.certificate)]
    assert run("report", "check.json").code == 0
    assert f"Precision: {sentence}." in Path("check.html").read_text()
    done = run("check", "--replay", "check.json", "--json")
    (change,) = done.document["changes"]
    assert (done.code, change["kind"], change["then"], change["now"]) == (1, "figure", "bf16", "fp32")
    edited("check.json", forget)
    done = run("check", "--replay", "check.json", "--json")
    assert (done.code, done.document["changes"]) == (0, [])


def test_the_same_check_gives_the_same_bytes(run: Run, work: Path) -> None:
    before = Path("check.json").read_bytes()
    assert run("check", *FORMS, "--providers", "cpu", "-o", "again.json").code == 0
    assert Path("again.json").read_bytes() == before


def test_a_moved_folder_is_repeated_from_anywhere(
    run: Run, work: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(work, target)
    for path in work.iterdir():
        if path.is_file() and path.name != "nets.py":
            path.unlink()
    done = run("check", "--replay", str(target / CERTIFICATE), "--json")
    assert done.code == 0, done.out
    assert done.document["changes"] == []
    assert str(target / "model.conv.onnx") in done.err


def test_a_weight_that_was_touched_is_found(run: Run, work: Path) -> None:
    damage("model.conv.onnx")
    done = run("check", "--replay", "check.json")
    assert done.code == 1
    assert "not reproduced: check.json says proved, found now: broken" in done.out
    assert "model.conv.onnx" in done.out
    document = run("check", "--replay", "check.json", "--json").document
    assert document["is_reproduced"] is False
    kinds = {change["kind"]: change for change in document["changes"]}
    assert kinds["file"]["where"] == "model.conv.onnx"
    assert any(change["where"] == "checks[0].weights.status" for change in document["changes"])


def test_the_same_damage_to_both_files_is_another_certificate(run: Run, work: Path) -> None:
    for name in FORMS:
        damage(name, "features.0.bias")
    done = run("check", "--replay", "check.json", "--json")
    assert done.code == 1
    assert done.document["verdict"] == "proved"
    changed = [change for change in done.document["changes"] if change["kind"] == "file"]
    assert [change["where"] for change in changed] == list(FORMS)


def test_another_version_is_named_and_changes_no_result(run: Run, work: Path) -> None:
    edited("check.json", lambda data: data["environment"].update(onnxruntime="1.0.0"))
    done = run("check", "--replay", "check.json", "--json")
    assert done.code == 0
    (change,) = done.document["changes"]
    assert (change["kind"], change["where"], change["then"]) == ("version", "onnxruntime", "1.0.0")
    assert "1.0.0" in run("check", "--replay", "check.json").out


FIGURE = "max_difference"


def test_a_figure_that_was_changed_counts_on_the_same_machine_only(run: Run, work: Path) -> None:
    edited("check.json", lambda data: data["checks"][0]["statistics"][0].update({FIGURE: 1e-3}))
    done = run("check", "--replay", "check.json", "--json")
    assert done.code == 1
    (change,) = done.document["changes"]
    assert (change["kind"], change["where"]) == ("figure", f"checks[0].statistics[0].{FIGURE}")
    edited("check.json", lambda data: data["environment"].update(cpu="another"))
    assert run("check", "--replay", "check.json").code == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(verdict="broken"),
        lambda data: data["checks"][0].update(verdict="broken"),
        lambda data: data["checks"][0]["wiring"].update(status="held"),
        lambda data: data["checks"][0]["wiring"]["covered"].update(probes=10**9),
        lambda data: data["checks"][0]["heads"].append("another"),
        lambda data: data["checks"][0].pop("decision"),
        lambda data: data["recipe"]["models"][0]["file"].update(sha256="0" * 64),
        lambda data: data["recipe"].update(seed=1),
    ],
    ids=["verdict", "check", "layer", "coverage", "heads", "missing", "hash", "seed"],
)
def test_a_certificate_that_says_something_else_is_not_reproduced(
    run: Run, work: Path, change: Callable[[Any], None]
) -> None:
    edited("check.json", change)
    done = run("check", "--replay", "check.json")
    assert done.code == 1, done.out
    assert "not reproduced" in done.out


def test_a_result_counts_on_every_machine() -> None:
    then = [{"verdict": "proved", "statistics": [{"max_difference": 1.0, "flips": 0}]}]
    now = [{"verdict": "proved", "statistics": [{"max_difference": 2.0, "flips": 1}]}]
    changes = check_changes(then, now, is_same_place=False)
    assert [(change.where, change.counts) for change in changes] == [
        ("checks[0].statistics[0].max_difference", False),
        ("checks[0].statistics[0].flips", True),
    ]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BAD: dict[str, tuple[Callable[[Any], Any] | str, str]] = {
    "no JSON": ("{", "is no JSON"),
    "empty": ("", "is no JSON"),
    "nested": (nested(100_000), "nested too deep"),
    "digits": ("[" + "9" * 5000 + "]", "is no JSON"),
    "NaN": ('{"kind": NaN}', "NaN is no number in JSON"),
    "a list": ("[]", "is no certificate"),
    "a plan": ('{"schema_version": 1, "to": "conv", "moves": []}', "is no certificate"),
    "newer": (lambda data: data.update(schema_version=99), "was written by a newer fxhead"),
    "older": (lambda data: data.update(schema_version=0), "schema_version is 0"),
    "version": (lambda data: data.update(schema_version="1"), "schema_version is no integer"),
    "no recipe": (lambda data: data.pop("recipe"), "recipe is missing"),
    "no checks": (lambda data: data.update(checks=[]), "checks is empty"),
    "verdict": (lambda data: data.update(verdict="fine"), "verdict is none of"),
    "models": (lambda data: data["recipe"].update(models={}), "recipe.models is no list"),
    "pairs": (lambda data: data["recipe"].update(pairs=[[0, 7]]), "recipe.pairs[0][1] is no integer from 0"),
    "one of a pair": (lambda data: data["recipe"].update(pairs=[[0]]), "recipe.pairs[0] is no list of 2"),
    "no pairs": (lambda data: data["recipe"].update(pairs=[]), "recipe.pairs is empty"),
    "path": (lambda data: file_of(data).update(path=7), "recipe.models[0].file.path is no text"),
    "null byte": (lambda data: file_of(data).update(path="a\0b"), "file.path is no text"),
    "long": (lambda data: file_of(data).update(path="x" * 300), "which is no name of a file"),
    "long path": (lambda data: data["recipe"]["data"].update(path="x/" * 3000), "which is no name of a file"),
    "half": (lambda data: file_of(data).update(path="\ud800"), "which is no name of a file"),
    "digest": (lambda data: file_of(data).update(sha256="../x"), "is no SHA-256"),
    "kind": (lambda data: model_of(data).update(kind="pickle"), "recipe.models[0].kind is none of"),
    "source": (lambda data: model_of(data).update(source="os:abort"), "goes with another source"),
    "samples": (lambda data: data["recipe"]["data"].update(samples=10**15), "data.samples is no integer"),
    "huge": (lambda data: data["recipe"]["data"].update(samples=10**400), "data.samples is no integer"),
    "many": (
        lambda data: data["recipe"]["data"].update(samples=10**6),
        "more than the 10,000 that are drawn",
    ),
    "names": (
        lambda data: data["environment"].update(dict.fromkeys(map(str, range(200)), "")),
        "of at most 100",
    ),
    "a name": (lambda data: data["environment"].update({"x" * 70_000: ""}), "a name in it has more than the"),
    "a text": (lambda data: data["environment"].update(torch="x" * 2_000), "environment.torch has more than"),
    "float": (lambda data: data["recipe"]["data"].update(samples=8.0), "data.samples is no integer"),
    "bool": (lambda data: data["recipe"]["data"].update(samples=True), "data.samples is no integer"),
    "bomb": (lambda data: input_of(data).update(shape=[99999, 99999]), "larger than any sample"),
    "dtype": (lambda data: input_of(data).update(dtype=[]), "dtype is no text"),
    "provider": (lambda data: data["recipe"].update(providers=[{"name": "tpu"}]), "is no provider"),
    "gone": (lambda data: file_of(data).update(path="gone.onnx"), "gone.onnx: no such file"),
    "a folder": (lambda data: file_of(data).update(path=".."), "no such file"),
}


def model_of(data: Any) -> Any:
    return data["recipe"]["models"][0]


def file_of(data: Any) -> Any:
    return model_of(data)["file"]


def input_of(data: Any) -> Any:
    return data["recipe"]["data"]["inputs"][0]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_certificate_is_refused(run: Run, work: Path, case: str) -> None:
    change, says = BAD[case]
    if isinstance(change, str):
        Path("check.json").write_text(change)
    else:
        edited("check.json", change)
    done = run("check", "--replay", "check.json")
    assert (done.code, done.out) == (2, ""), done.out
    assert says in done.err
    assert "check.json" in done.err
    assert "Traceback" not in done.err


def test_a_certificate_that_cannot_be_read_is_refused(run: Run, work: Path) -> None:
    Path("bytes.json").write_bytes(b"\xff\xfe\x00")
    for path, says in (
        ("gone.json", "cannot be read"),
        (".", "is no regular file"),
        ("bytes.json", "no UTF-8"),
    ):
        done = run("check", "--replay", path)
        assert (done.code, done.out) == (2, "")
        assert says in done.err


def test_what_a_certificate_names_is_said_before_it_is_read(run: Run, work: Path) -> None:
    outside = work.parent / "outside.onnx"
    shutil.copy("model.conv.onnx", outside)
    edited("check.json", lambda data: data["recipe"]["models"][1]["file"].update(path="../outside.onnx"))
    done = run("check", "--replay", "check.json")
    assert done.code == 0, done.out + done.err
    before, _, after = done.err.partition("loading")
    assert "the certificate names ../outside.onnx" in before
    assert after


def test_a_callable_that_a_certificate_names_is_not_run_unasked(run: Run, work: Path) -> None:
    code = "from pathlib import Path\nfrom nets import Net as build\nPath('ran').touch()\n"
    Path("unasked.py").write_text(code)
    options = ("-o", "built.json", *SMALL)
    assert run("check", "nets:build", "nets:build", *options).code == 0

    def point(data: Any) -> None:
        for model in data["recipe"]["models"]:
            model.update(source="unasked:build", name="unasked:build")

    edited("built.json", point)
    done = run("check", "--replay", "built.json")
    assert (done.code, done.out) == (2, "")
    assert "--trust" in done.err
    assert not Path("ran").exists()
    assert run("check", "--replay", "built.json", "--trust").code in (0, 1)
    assert Path("ran").exists()


def test_fresh_weights_are_part_of_it(run: Run, work: Path) -> None:
    assert run("check", "nets:build", "nets:build", "-o", "built.json", *SMALL).code == 0
    assert run("check", "--replay", "built.json", "--trust").code == 0
    text = Path("nets.py").read_text()
    Path("nets.py").write_text(text.replace("return Net()", "net = Net(); net.fc.bias.data += 1; return net"))
    import sys

    sys.modules.pop("nets")
    done = run("check", "--replay", "built.json", "--trust", "--json")
    assert done.code == 1
    assert {change["where"] for change in done.document["changes"]} >= {"weights of nets:build"}


@pytest.mark.parametrize("name", ["data.npz", "data.npy"])
def test_samples_are_part_of_it(run: Run, work: Path, name: str) -> None:
    data = np.random.default_rng(0).standard_normal((20, 3, 16, 16)).astype(np.float32)

    def save(array: np.ndarray) -> None:
        np.save(name, array) if name.endswith("npy") else np.savez(name, x=array)

    save(data)
    assert run("check", *FORMS, "--inputs", name, "--providers", "cpu", "-o", "data.json").code == 0
    assert run("check", "--replay", "data.json").code == 0
    data[13] *= 2
    save(data)
    done = run("check", "--replay", "data.json", "--json")
    assert done.code == 1
    assert done.document["changes"][0]["where"] == name
    Path(name).unlink()
    assert run("check", "--replay", "data.json").code == 2


def test_images_are_part_of_it(run: Run, work: Path) -> None:
    from PIL import Image

    Path("photos").mkdir()
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"photos/{index}.png")
    options = ("--inputs", "photos", "--mean", "0.5", "--std", "0.25", "--providers", "cpu")
    assert run("check", *FORMS, *options, "-o", "photos.json").code == 0
    assert read("photos.json")["recipe"]["data"]["preparation"] == {
        "resize": 18,
        "crop": 16,
        "mean": [0.5],
        "std": [0.25],
        "is_bgr": False,
        "is_truncated": False,
    }
    assert run("check", "--replay", "photos.json").code == 0
    shutil.copy("photos/0.png", "photos/3.png")
    assert run("check", "--replay", "photos.json").code == 1


def test_weights_beside_an_onnx_file_are_part_of_it(run: Run, work: Path) -> None:
    for name in FORMS:
        model = onnx.load(name)
        onnx.save(model, name, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    assert run("check", *FORMS, "--providers", "cpu", "-o", "external.json").code == 0
    (record,) = read("external.json")["recipe"]["models"][1]["data"]
    assert record["path"] == "model.conv.onnx.data"
    content = bytearray(Path(record["path"]).read_bytes())
    content[0] ^= 1
    Path(record["path"]).write_bytes(content)
    done = run("check", "--replay", "external.json", "--json")
    assert done.code == 1
    assert done.document["changes"][0]["where"] == "model.conv.onnx.data"


def test_nothing_is_replaced_unasked(run: Run, work: Path) -> None:
    before = Path("check.json").read_bytes()
    for out, says in (
        ("check.json", "exists already"),
        ("model.conv.onnx", "is no name of a certificate"),
        (".", "is no name of a certificate"),
    ):
        done = run("check", *FORMS, "--providers", "cpu", "-o", out)
        assert done.code == 2
        assert says in done.err
    assert Path("check.json").read_bytes() == before
    damage("model.conv.onnx")
    assert run("check", *FORMS, "--providers", "cpu", "-o", "check.json", "--force").code == 1
    assert read("check.json")["verdict"] == Verdict.BROKEN
    assert run("check", "--replay", "check.json").code == 0


@pytest.mark.parametrize(
    "options", [FORMS, ("--providers", "cpu"), ("--seed", "0"), ("-o", "x.json"), ("--samples", "9")], ids=str
)
def test_replay_takes_nothing_that_the_certificate_says(
    run: Run, work: Path, options: tuple[str, ...]
) -> None:
    done = run("check", "--replay", "check.json", *options)
    assert (done.code, done.out) == (2, "")
    assert "--replay does what the certificate says" in done.err


def test_classes_of_yours_are_imported_on_trust_only(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(work))
    torch.save(__import__("nets").Net(), "own.pt")
    assert run("check", "own.pt", "own.pt", "-o", "own.json", *SMALL).code == 0
    refused = run("check", "--replay", "own.json")
    assert refused.code == 2
    assert "names the classes nets.Net" in refused.err
    assert run("check", "--replay", "own.json", "--trust").code == 0


def test_nothing_is_downloaded_because_a_certificate_says_so(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no_network(url: str, *arguments: object, **options: object) -> None:
        asked.append(url)
        raise OSError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(work / "home"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)

    def name_weights(data: Any) -> None:
        record = data["recipe"]["models"][0]
        built = {"kind": "torchvision", "source": "torchvision:squeezenet1_1", "weights": "DEFAULT"}
        data["recipe"]["models"][0] = record | built | {"file": None}

    edited("check.json", name_weights)
    done = run("check", "--replay", "check.json")
    assert done.code == 2
    assert done.err.splitlines()[-1].endswith("would be downloaded; give --trust to download them")
    assert asked == []
    assert run("check", "--replay", "check.json", "--trust").code == 2
    assert len(asked) == 1, "whoever trusts it downloads"


@pytest.mark.parametrize("name", ["other.pth", "../secret", "A B", ""])
def test_weights_in_a_certificate_are_a_name(run: Run, work: Path, name: str) -> None:
    def name_weights(data: Any) -> None:
        record = data["recipe"]["models"][0]
        built = {"kind": "torchvision", "source": "torchvision:squeezenet1_1", "weights": name}
        data["recipe"]["models"][0] = record | built | {"file": None}

    edited("check.json", name_weights)
    done = run("check", "--replay", "check.json")
    assert (done.code, "is no name of weights" in done.err) == (2, True), done.err


def test_a_certificate_of_the_first_schema_is_read_and_may_get_better(run: Run, work: Path) -> None:
    def as_it_was(verdict: str) -> Callable[[Any], None]:
        def change(data: Any) -> None:
            data.update(schema_version=1, verdict=verdict)
            for check in data["checks"]:
                check.update(schema_version=1, verdict=verdict)
                check.pop("scope", None)
                check.pop("witness", None)

        return change

    for verdict, code in (("within rounding", 0), ("within TF32 rounding", 0), ("proved", 0), ("broken", 1)):
        edited("check.json", as_it_was(verdict))
        done = run("check", "--replay", "check.json", "--json")
        assert done.code == code, done.out + done.err
        assert done.document["verdict"] == "proved"
    edited("check.json", lambda data: data.update(schema_version=0))
    assert run("check", "--replay", "check.json").code == 2
