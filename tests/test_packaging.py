"""What pip installs: every module imports from the wheel alone, and no name of ours hides a user's own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"fxpasses", "fxexport", "fxhead"}
IMPORT_ALL = """
import importlib, pkgutil, sys
folder = sys.argv[1]
sys.path.insert(0, folder)
for package in ("fxpasses", "fxexport", "fxhead"):
    top = importlib.import_module(package)
    for found in pkgutil.walk_packages(top.__path__, package + "."):
        if not found.name.endswith(".__main__"):
            module = importlib.import_module(found.name)
            assert module.__file__.startswith(folder), module.__file__
            print(found.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files beside what it builds
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in ("fxpasses", "export", "tools"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


def modules() -> set[str]:
    """Every module of the checkout, by its dotted name."""
    found = set()
    for top, folder in (("fxpasses", ""), ("fxexport", "export"), ("fxhead", "tools")):
        for path in (ROOT / folder / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            found.add(name.removesuffix(".__init__"))
    return found


def test_every_module_is_in_the_wheel_and_imports_from_there(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(installed), str(wheel)], check=True, timeout=300)
    assert PACKAGES == {
        path.name for path in installed.iterdir() if path.is_dir() and path.name[0] == "f"
    } - {path.name for path in installed.glob("*.dist-info")}
    # neither the checkout nor the working directory is on the path of this process
    command = [sys.executable, "-P", "-c", IMPORT_ALL, str(installed)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    own = {name for name in modules() if "." in name and not name.endswith(".__main__")}
    assert {*ran.stdout.split()} == own


def test_the_wheel_brings_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        typed = {name for name in archive.namelist() if name.endswith("py.typed")}
        templates = {name for name in archive.namelist() if name.endswith(".jinja")}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert typed == {f"{package}/py.typed" for package in PACKAGES}
    assert templates == {f"fxhead/page/{path.name}" for path in (ROOT / "tools").rglob("*.jinja")} != set()


# --- a folder as model repositories have it -----------------------------------------------------------

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""
FOREIGN = "raise SystemExit('a file of the model repository was run')\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("export.py", "utils.py", "tools/__init__.py", "tests/__init__.py", "models/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FOREIGN)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize("command", [["-m", "fxhead"], ["-c", "from fxhead.cli import run; run()"]])
def test_the_command_works_in_a_model_repository(repository: Path, command: list[str]) -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "export", "tools"))
    environment = os.environ | {"PYTHONPATH": paths}
    ran = subprocess.run(
        [sys.executable, *command, "inspect", "net:build"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert "1 site, 0 misses" in ran.stdout


def test_users_import_from_fxhead_there_and_torch_waits_until_it_is_needed(repository: Path) -> None:
    code = (
        "import sys, fxhead; print('torch' in sys.modules);"
        "from fxhead import certify; print(certify.__module__, 'export' in sys.modules)"
    )
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "export", "tools"))
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.stdout.split() == ["False", "fxexport.certificate", "False"], ran.stderr
