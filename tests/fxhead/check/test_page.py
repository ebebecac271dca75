"""The page of a certificate: one file, in words first, and nothing on it is markup of a model."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from fxhead.page.plot import plot
from tests.fxhead.check.test_witness import written as good_and_limited

Run = Callable[..., Any]
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")


def words(page: Path) -> str:
    """What a person reads, without the style sheet and the script."""
    text = page.read_text(encoding="utf-8")
    body = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_a_rewrite_writes_its_page_with_the_rest(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--html", *SMALL, "--json")
    assert done.code == 0, done.err
    assert done.document["files"][-1]["path"] == "model.conv.html"
    read = words(Path("model.conv.html"))
    certificate = json.loads(Path("model.conv.certificate.json").read_text())
    told = [
        "proved They are the same function of every input",
        "Linear(8, 5) Conv2d(8, 5, kernel_size=(1, 1))",
        "GlobalAveragePool Flatten axis 1 Gemm 5×8",
        "GlobalAveragePool Conv 5×8×1×1",
        "fxhead check --replay model.conv.certificate.json",
        *(model["file"]["sha256"] for model in certificate["recipe"]["models"]),
        *certificate["environment"].values(),
        *(check["reason"] for check in certificate["checks"]),
    ]
    assert [sentence for sentence in told if sentence not in read] == []
    # from the file, it says the same but for what was rewritten, which the certificate does not have
    done = run("report", "model.conv.certificate.json", "-o", "page.html", "--json")
    assert (done.code, done.document["verdict"]) == (0, "proved")
    again = words(Path("page.html"))
    start = read.index("What changed")
    assert again == read[:start] + read[read.index("The head") :]
    assert run("report", "model.conv.certificate.json", "-o", "page.html").code == 2  # not without --force


def test_a_head_is_drawn_from_the_file_that_the_certificate_is_about(run: Run, net: Path) -> None:
    assert run("rewrite", "model.pt", "--to", "conv", *SMALL).code == 0
    model = onnx.load("model.conv.onnx")
    model.doc_string = "another file"
    onnx.save(model, "model.conv.onnx")
    assert run("report", "model.conv.certificate.json").code == 0
    read = words(Path("model.conv.certificate.html"))
    assert "Gemm 5×8" in read
    assert "Conv 5×8" not in read


def test_a_refused_model_has_a_page_that_says_why(
    run: Run, folder: Path, written: Callable[[], set[str]]
) -> None:
    done = run("rewrite", "nets:NoHead", "--to", "conv", "--html", *SMALL, "-o", "out/")
    assert done.code == 1
    assert [path.name for path in Path("out").iterdir()] == ["NoHead.conv.html"]
    assert done.out.splitlines()[-1].startswith("out/NoHead.conv.html")
    read = words(Path("out/NoHead.conv.html"))
    assert "not rewritten There was nothing to rewrite" in read
    assert "NOT_POOLED" in read


def test_a_broken_pair_has_its_witness_on_the_page(run: Run, folder: Path) -> None:
    good_and_limited(folder)
    done = run("check", "good.onnx", "limited.onnx", "-o", "c.json", "--html")
    assert done.code == 1
    read = words(Path("c.html"))
    witness = json.loads(Path("c.json").read_text())["checks"][0]["witness"]
    assert "broken They are not the same function." in read
    assert f"{witness['expected']:.9g} {witness['found']:.9g}" in read
    assert "c.witness.npz has the input, c.witness.py shows it" in read
    assert run("check", "good.onnx", "limited.onnx", "--html").code == 2  # beside which certificate?


def test_nothing_on_a_page_is_markup_of_a_model_and_nothing_comes_from_elsewhere(
    run: Run, folder: Path
) -> None:
    good_and_limited(folder)
    assert run("check", "good.onnx", "good.onnx", "-o", "c.json").code == 0
    whole = json.loads(Path("c.json").read_text())
    payload = "<img src=https://there/x onerror=alert(1)>\u202e</script>"
    whole["checks"][0] |= {"candidate": payload, "reason": payload, "heads": [payload], "scope": [payload]}
    whole["checks"][0]["statistics"][0]["output"] = payload
    whole["environment"][payload] = payload
    whole["recipe"]["models"][0]["name"] = payload
    Path("c.json").write_text(json.dumps(whole))
    assert run("report", "c.json", "--force").code == 0
    text = Path("c.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "\u202e" not in text
    assert text.count("</script>") == 1
    assert r"<img src=https://there/x onerror=alert(1)>\u202e</script>" in html.unescape(text)
    assert not re.search(r"(src|href)=|url\(|@import", text.replace(html.escape(payload[:9]), ""))
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (
            ("checks", 0, "statistics", 0, "flips"),
            "many",
            r"checks\[0\]\.statistics\[0\]\.flips is no integer",
        ),
        (("checks", 0, "weights"), None, r"checks\[0\]\.weights is no object"),
        (("checks", 0, "witness"), [], r"checks\[0\]\.witness is no object"),
        (("checks", 0, "providers"), "cpu", r"checks\[0\]\.providers is no list"),
        (("schema_version",), 1, "was written by an older fxhead"),
        (("schema_version",), 3, "was written by a newer fxhead"),
    ],
)
def test_a_certificate_that_is_none_is_one_line(
    run: Run, certificate: str, where: tuple[Any, ...], value: Any, says: str
) -> None:
    whole = json.loads(certificate)
    parent = whole
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = value
    Path("spoilt.json").write_text(json.dumps(whole))
    done = run("report", "spoilt.json")
    assert (done.code, done.out) == (2, "")
    assert re.search(says, done.err), done.err
    assert not Path("spoilt.html").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, made once."""
    from fxhead import cli

    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good_and_limited(folder)
        assert cli.main(("check", "good.onnx", "good.onnx", "-o", "c.json")) == 0
    return folder / "c.json"


@pytest.fixture
def certificate(folder: Path, made: Path) -> str:
    return made.read_text()


def test_a_plot_puts_differences_and_bounds_on_one_scale() -> None:
    found = plot([("a", 1e-6, 1e-4), ("b", 1e-2, 1e-3), ("c", 0.0, None), ("d", float("nan"), 1e-3)])
    assert found is not None
    assert (found.low, found.high) == (-7, -2)
    assert [round(bar.length, 3) for bar in found.bars] == [0.2, 1.0, 0.0, 1.0]
    assert [None if bar.mark is None else round(bar.mark, 3) for bar in found.bars] == [0.6, 0.8, None, 0.8]
    assert [bar.is_over for bar in found.bars] == [False, True, False, True]
    assert plot([]) is None


def test_a_folder_is_no_certificate(run: Run) -> None:
    assert [run("report", name).code for name in (".", "//")] == [2, 2]
