"""The picture: what has to be on it, and that it repeats."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from fxhead.study.outcome import StudyOutcome
from fxhead.study.picture import draw, picture


@pytest.fixture
def drawn(outcome: StudyOutcome) -> Figure:
    return picture(outcome)


def test_the_same_study_gives_the_same_bytes(outcome: StudyOutcome, tmp_path: Path) -> None:
    for name in ("first.png", "again.png"):
        draw(outcome, tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / "first.png").stat().st_size < 200_000
    assert outcome.files[0].path.read_bytes() == (tmp_path / "first.png").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        assert (image.size, image.format) == ((1150, 900), "PNG")


def test_every_panel_says_what_it_shows(drawn: Figure) -> None:
    assert len(drawn.axes) == 4
    for axes in drawn.axes:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_legend() is not None
        assert axes.get_ylabel() or len(axes.get_yticklabels()) > 1
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in drawn.axes)
    for unit in ("(%)", "(percentage points)", "epoch", "training step"):
        assert unit in labels


def test_no_text_is_small(drawn: Figure) -> None:
    sizes = [
        text.get_fontsize()
        for axes in drawn.axes
        for text in (axes.title, axes.xaxis.label, *axes.texts, *axes.get_legend().get_texts())
    ]
    assert min(sizes) >= 10  # points at 100 a inch; half of it is 7 pixels high


def test_lines_differ_by_more_than_colour(drawn: Figure) -> None:
    for axes in drawn.axes[:2]:
        handles = axes.get_legend().legend_handles
        assert len({(handle.get_linestyle(), handle.get_marker()) for handle in handles}) == len(handles)


def test_the_points_and_intervals_are_the_study_s(outcome: StudyOutcome, drawn: Figure) -> None:
    points, differences = drawn.axes[2:]
    found = outcome.findings
    shown = sorted(x for line in points.lines if line.get_marker() != "None" for x in line.get_xdata())
    assert shown == sorted(value for group in found.groups for value in group.accuracy_pp)
    ends = [tuple(line.get_xdata()) for line in differences.lines if line.get_marker() == "None"]
    assert [comparison.interval_pp for comparison in found.comparisons] == [
        pair for pair in ends if pair != (0, 0)
    ] or {comparison.interval_pp for comparison in found.comparisons} <= {*ends}
    assert [text.get_text().rpartition(": ")[2] for text in differences.texts] == [
        comparison.verdict for comparison in found.comparisons
    ]
