"""A class is named by the module that defines it, and no other module is imported to look for one."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from fxexport.untrusted import allowed
from fxexport.untrusted.pickle_records import Global


@pytest.mark.parametrize(
    "module",
    ["timm.models.__main__", "torchvision.models.__init__", "os", "torch.nn", "torch.nn.modules_evil",
     "torchvision.models.feature_extraction", "timm.models/../x", "timm"],
)  # fmt: skip
def test_nothing_but_model_packages_is_imported(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(name: str, package: Any = None) -> Any:
        asked.append(name)
        raise ImportError(name)

    asked: list[str] = []
    monkeypatch.setattr(importlib, "import_module", imported)
    assert allowed.model_class.__wrapped__(Global(module, "Net")) is None
    assert not asked


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.modules.linear", "Parameter"),
        ("torch.nn.modules.linear", "init"),
        ("torch.nn.modules.linear", "Module"),
    ],
)
def test_a_class_is_looked_up_where_it_is_defined(module: str, name: str) -> None:
    assert allowed.model_class(Global(module, name)) is None
    assert allowed.model_class(Global("torch.nn.modules.linear", "Linear")) is not None
