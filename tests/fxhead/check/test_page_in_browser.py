"""Pages in a real browser: they ask for nothing, complain of nothing, fit a telephone, and sort."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fxhead import cli
from fxhead.batch.process import Done, State
from fxhead.batch.store import Store
from tests.fxhead.check.test_witness import written as good_and_limited
from tests.fxhead.conftest import NET

webdriver = pytest.importorskip("selenium.webdriver", reason="the extra 'test' has it")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no chromium and chromedriver here, as Debian packages them",
)
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")
PAGES = {"proved.conv": "proved", "agrees.fcn": "agrees", "broken": "broken", "refused.conv": "not rewritten"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of every kind."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "nets.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "nets", raising=False)
        good_and_limited(folder)
        for name, model, form in (
            ("proved", "nets:build", "conv"),
            ("agrees", "nets:build", "fcn"),
            ("refused", "nets:NoHead", "conv"),
        ):
            cli.main(("rewrite", model, "--to", form, "-o", f"{name}.{form}.pt", "--html", *SMALL))
        cli.main(("check", "good.onnx", "limited.onnx", "-o", "broken.json", "--html"))
    ends = [(State.DONE, 10.5), (State.FAILED, 9.25), (State.DONE, 100.0)]
    long = "long_" * 20 + "m"
    rows = [
        Done(name=f"<b>m{number}</b>", source=f"{long}{number}.pt", key="", state=state, reason=None,
             exit_code=0, seconds=seconds, peak_bytes=None, document=None)
        for number, (state, seconds) in enumerate(ends)
    ]  # fmt: skip
    Store(folder).finish(rows)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser: Any, path: Path, width: int = 1000) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [path.as_uri()]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_its_verdict_first_and_asks_for_nothing(browser: Any, pages: Path, name: str) -> None:
    opened(browser, pages / f"{name}.html")
    strong = browser.find_element("tag name", "strong")
    assert strong.text == PAGES[name]
    assert strong.location["y"] < 200
    heads = browser.find_elements("css selector", "figure svg[aria-label^='head of']")
    assert len(heads) == (0 if name == "refused.conv" else 2)


@pytest.mark.parametrize("name", [*PAGES, "batch"])
def test_a_page_fits_a_telephone(browser: Any, pages: Path, name: str) -> None:
    opened(browser, pages / f"{name}.html", width=400)
    wide = "return [...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > 400)"
    assert browser.execute_script(f"{wide}.map(e => e.outerHTML.slice(0, 80))") == []
    cut = "return [...document.querySelectorAll('td, p, li')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.execute_script(f"{cut}.map(e => e.outerHTML.slice(0, 80))") == []


def test_a_long_name_leaves_room_for_the_rest(browser: Any, pages: Path) -> None:
    opened(browser, pages / "batch.html")
    cut = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.execute_script(cut) == 0


def test_colours_follow_the_reader_s_choice(browser: Any, pages: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened(browser, pages / "proved.conv.html")
        colour = "getComputedStyle(document.querySelector(name)).color"
        seen.append(browser.execute_script(f"return ['body', 'strong'].map(name => {colour})"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert seen == [["rgb(0, 0, 0)", "rgb(23, 107, 44)"], ["rgb(255, 255, 255)", "rgb(127, 216, 147)"]]


def column(browser: Any, at: int) -> list[str]:
    cells = browser.find_elements("css selector", f"tbody tr td:nth-child({at})")
    return [cell.text for cell in cells]


def test_tables_sort_numbers_as_numbers_and_names_as_text(browser: Any, pages: Path) -> None:
    opened(browser, pages / "batch.html")
    names = ["<b>m0</b>", "<b>m1</b>", "<b>m2</b>"]  # what a row is called is no markup
    assert column(browser, 1) == names
    heads = {head.text: head for head in browser.find_elements("css selector", "th button")}
    heads["seconds"].click()
    assert column(browser, 6) == ["9.2", "10.5", "100.0"]
    heads["seconds"].click()
    assert column(browser, 6) == ["100.0", "10.5", "9.2"]
    heads["name"].click()
    assert column(browser, 1) == names


def test_text_can_be_selected(browser: Any, pages: Path) -> None:
    opened(browser, pages / "proved.conv.html")
    browser.execute_script("getSelection().selectAllChildren(document.body)")
    selected = browser.execute_script("return String(getSelection())")
    digest = json.loads((pages / "proved.conv.certificate.json").read_text())["recipe"]["plan"]["sha256"]
    assert digest in selected
    assert "GlobalAveragePool" in selected
