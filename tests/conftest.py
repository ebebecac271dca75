"""Settings that hold for every test."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from hypothesis import settings

from once import work_out_once

# one thread a process: xdist already has a process a core, and sums are then the same everywhere
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# the first example of a property may import torch machinery, which is no property of the example
settings.register_profile("fxhead", deadline=None)
settings.load_profile("fxhead")

work_out_once()

# graphs are made of many small objects, few of which are garbage before a test ends
gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands first: they take longest, and no other test could run beside them at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_collection_finish() -> None:
    """Eleven thousand tests stay to the end: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What fxhead keeps for a user is kept apart for these tests, in processes that they start too."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def pytest_unconfigure() -> None:
    """What is frozen is never freed, and triton, which torch imports, lists its types that were not."""
    gc.unfreeze()
