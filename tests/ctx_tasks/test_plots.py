"""The needle heatmap: the right colour in the right cell, readable, the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from ctx_tasks.errors import UserError
from ctx_tasks.plots import nih_heatmap

LOW, HIGH = (matplotlib.colormaps["cividis"](value)[:3] for value in (0.0, 1.0))


def sample(length: int, depth: int, recall: float) -> dict[str, Any]:
    return {"doc": {"length": length, "depth": depth}, "recall": recall}


def pixels(path: Path, colour: tuple[float, ...]) -> np.ndarray:
    """Rows and columns of the pixels with a colour, as shares of the picture."""
    picture = imread(path)[..., :3]
    where = np.argwhere(np.abs(picture - np.array(colour)).max(axis=-1) < 0.01)
    return where / picture.shape[:2]


def plot_area(path: Path, colour: tuple[float, ...]) -> np.ndarray:
    """As `pixels`, without the colour bar at the right edge."""
    found = pixels(path, colour)
    return found[found[:, 1] < 0.75]


def test_a_lost_needle_is_dark_where_its_length_and_depth_are(tmp_path: Path) -> None:
    """Deep needles are at the bottom, long documents at the right."""
    path = tmp_path / "recall.png"
    cells = [(200, 0), (200, 100), (1000, 0), (1000, 100)]
    nih_heatmap([sample(*cell, float(cell != (1000, 100))) for cell in cells], path, "a model")
    row, column = plot_area(path, LOW).mean(axis=0)
    lit_row, lit_column = plot_area(path, HIGH).mean(axis=0)
    assert row > lit_row
    assert column > lit_column


def test_cells_without_a_sample_are_grey(tmp_path: Path) -> None:
    path = tmp_path / "recall.png"
    nih_heatmap([sample(200, 0, 1.0), sample(1000, 100, 1.0)], path, "half a grid")
    grey = matplotlib.colors.to_rgb("lightgrey")
    assert len(plot_area(path, grey)) > 0.8 * len(plot_area(path, HIGH)) > 0


def test_samples_of_one_cell_are_averaged(tmp_path: Path) -> None:
    both, mean = tmp_path / "both.svg", tmp_path / "mean.svg"
    nih_heatmap([sample(200, 0, 0.0), sample(200, 0, 1.0)], both, "x")
    nih_heatmap([sample(200, 0, 0.5), sample(200, 0, 0.5)], mean, "x")
    assert both.read_bytes() == mean.read_bytes()


def test_text_names_axes_mean_and_number(tmp_path: Path) -> None:
    path = tmp_path / "recall.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        nih_heatmap([sample(200, 0, 0.25), sample(1000, 50, 1.0)], path, "nano: [IND] & <chat>")
    text = path.read_text(encoding="utf-8")
    for words in (
        "document length (tokens)",
        "needle depth (% of the document)",
        "mean recall 0.625, n = 2",
        "nano: [IND] &amp; &lt;chat&gt;",
        ">1000<",
    ):
        assert words in text


def test_twenty_lengths_do_not_run_into_each_other(tmp_path: Path) -> None:
    path = tmp_path / "recall.svg"
    samples = [sample(1000 + 10 * step, 5 * step, 1.0) for step in range(20)]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        nih_heatmap(samples, path, "x")
    labels = path.read_text(encoding="utf-8")
    assert sum(f">{1000 + 10 * step}<" in labels for step in range(20)) == 10


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_samples_write_equal_files_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        nih_heatmap([sample(200, 0, 0.3), sample(400, 0, 0.6)], path, "x")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_another_format_and_no_samples_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"end its name in .png or .svg"):
        nih_heatmap([sample(200, 0, 1.0)], tmp_path / "recall.jpeg", "x")
    with pytest.raises(UserError, match="without samples"):
        nih_heatmap([], tmp_path / "recall.png", "x")
    assert not list(tmp_path.iterdir())
