"""The plot of size against divergence: every label is inside, whatever its length and place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwen35_gguf.evaluation import size_plot
from qwen35_gguf.evaluation.size_plot import Point, draw

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.mark.parametrize("length", [4, 30, 200])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_labels_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, number: int) -> None:
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    points = [
        Point(f"{i}" + "M" * length, 2.5 + i, 0.5 / 10**i, 0.4 / 10**i, 0.7 / 10**i, "ab"[i % 2]) for i in range(number)
    ]
    made = draw(points, tmp_path / "plot.png", "A title")
    assert [path.name for path in made] == ["plot.png", "plot.svg"]
    (figure,) = kept
    monkeypatch.undo()
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    texts = [text for text in axes.texts if text.get_text()]
    assert len(texts) == number
    for text in texts:
        extent = text.get_window_extent()
        assert frame.x0 <= extent.x0 < extent.x1 <= frame.x1
        assert frame.y0 <= extent.y0 < extent.y1 <= frame.y1
    pyplot.close(figure)
    assert len(re.findall(r">\dM+<", made[1].read_text())) == number


def test_names_cover_neither_each_other_nor_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    values = {"Q2_K": (4.2, 2e-2), "Q3_K_M": (4.9, 5e-3), "IQ4_XS": (5.1, 2.6e-3), "Q4_K_M": (5.5, 1.6e-3)}
    groups = {"importance": 1.0, "block": 0.7, "sequential": 0.62}
    points = [
        Point(name, bits, ratio * value, 0.9 * ratio * value, 1.1 * ratio * value, group)
        for group, ratio in groups.items()
        for name, (bits, value) in values.items()
    ]
    draw(points, tmp_path / "plot")
    (figure,) = kept
    monkeypatch.undo()
    (axes,) = figure.axes
    extents = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == sorted(values)  # each name once, at its highest point
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])
    places = [axes.transData.transform((point.bits, point.divergence)) for point in points]
    assert not any(extent.contains(*place) for extent in extents for place in places)
    pyplot.close(figure)


@pytest.mark.filterwarnings("error")
def test_a_file_that_is_compared_with_itself_is_drawn_without_a_warning(tmp_path: Path) -> None:
    made = draw([Point("same", 8.5, 0.0, 0.0, 0.0, "")], tmp_path / "plot.png", "A title")
    assert all(path.stat().st_size for path in made)


def test_the_files_are_known_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert size_plot.check_plot(tmp_path / "a.b.svg") == [tmp_path / "a.b.png", tmp_path / "a.b.svg"]
    assert size_plot.check_plot(tmp_path / "a.b") == [tmp_path / "a.b.png", tmp_path / "a.b.svg"]
    monkeypatch.setattr(size_plot.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(size_plot.MissingDependencyError, match="matplotlib is needed"):
        size_plot.check_plot(tmp_path / "a")
