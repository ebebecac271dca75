"""What an installed package does as it is imported is not held against the file that needs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fxexport.untrusted.allowed import model_class
from fxexport.untrusted.pickle_records import Global
from fxhead.extras import import_extra
from fxpasses.wall.wall import walled


@pytest.mark.parametrize("is_of_a_pickle", [False, True])
def test_a_package_may_look_around(
    is_of_a_pickle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub, which timm imports, starts ldconfig."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "timm").mkdir()
    for name in ("__init__", "models"):
        (tmp_path / "timm" / f"{name}.py").write_text("import subprocess; subprocess.run(['true'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    subprocess.run(["true"], check=True)
    with walled("honest"):
        if is_of_a_pickle:
            assert model_class(Global("timm.models", "Nothing")) is None
        else:
            import_extra("timm", "honest")
    for name in ("timm", "timm.models"):
        sys.modules.pop(name, None)
