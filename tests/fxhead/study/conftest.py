"""The smallest study there is, run once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxhead.study.data import Images, load_digits
from fxhead.study.outcome import StudyOutcome
from fxhead.study.run import run_study
from fxhead.study.settings import Optimizer, Rules, StudyOptions, Training

# four steps
SHORT = Training(optimizer=Optimizer.SGD, learning_rate=0.05, epochs=1, batch_size=256)
RULES = Rules(alpha=0.01, margin_pp=1.0)


class Silence:
    """Progress that nobody watches."""

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def count(self, text: str, total: int | None) -> Iterator[Callable[[], None]]:
        yield lambda: None

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="session")
def digits() -> Images:
    return load_digits(0)


@pytest.fixture
def short() -> Training:
    return SHORT


@pytest.fixture
def rules() -> Rules:
    return RULES


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> StudyOutcome:
    """Two seeds a head, one epoch."""
    options = StudyOptions(
        data=None,
        image_size=32,
        training=SHORT,
        rules=RULES,
        seeds=2,
        seed=0,
        jobs=1,
        out=tmp_path_factory.mktemp("study") / "out",
    )
    return run_study(options, Silence())


@pytest.fixture
def finished(outcome: StudyOutcome) -> Path:
    """The folder of the finished study; whoever changes it works on a copy."""
    return outcome.options.out


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of eight images, of several sizes and modes."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(8):
            pixels = random.integers(128 * label, 128 * label + 100, (12 + index, 20, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            image.convert("L" if index % 2 else "RGB").save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"
