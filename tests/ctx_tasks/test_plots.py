"""Figures for papers: the right colour in the right place, readable, the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from ctx_tasks.columns import LINES
from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard.curves import Curve, Point
from ctx_tasks.plots import alpha_curve, change_bars, nih_heatmap, recall_curve
from ctx_tasks.statistics import Difference
from tests.commands import as_process, ctx_eval
from tests.ctx_tasks.report import report_data
from tests.ctx_tasks.result_files import write_run

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
    with pytest.raises(UserError, match="without a change"):
        change_bars([], tmp_path / "bars.png", "x")
    assert not list(tmp_path.iterdir())


# ---- bars, curves and the command ----------------------------------------------------------------

CLEAR = Difference(0.2, 0.02, 0.15, 0.25, 40, 20, 19)
UNCLEAR = Difference(-0.1, 0.1, -0.3, 0.1, 40, 9, 8)
BAR = matplotlib.colors.to_rgb("#1d4fa5")


def svg(draw: Any, *arguments: Any) -> str:
    """The figure's text, which an SVG keeps as text under this setting."""
    path: Path = arguments[-2] if isinstance(arguments[-2], Path) else arguments[-1]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(*arguments)
    return path.read_text(encoding="utf-8")


def test_recall_over_length_names_its_arms_and_points_at_the_mean_of_a_length(
    tmp_path: Path,
) -> None:
    found = {(depth, length): [1.0] for depth in (0, 100) for length in (200, 1000)}
    lost = {**found, (0, 1000): [0.0]}
    paths = [tmp_path / name for name in ("one.svg", "two.svg", "other.svg")]
    for path, arms in zip(
        paths, ({"raw": found, "chat": lost},) * 2 + ({"raw": found},), strict=True
    ):
        recall_curve(arms, path, "a$model: nih_recall_prefix")
    one, two, other = (path.read_text() for path in paths)
    assert one == two != other
    texts = ("raw", "chat", "a$model: nih_recall_prefix", "document length (tokens)")
    assert all(f"<!-- {text} -->" in one for text in texts)
    assert "<!-- chat -->" not in other


def test_a_long_document_that_is_lost_is_low_at_the_right(tmp_path: Path) -> None:
    lost = {(depth, length): [float(length < 500)] for depth in (0, 100) for length in (200, 1000)}
    recall_curve({"chat": lost}, tmp_path / "recall.png", "a model")
    line = pixels(tmp_path / "recall.png", matplotlib.colors.to_rgb("#0069a8"))
    inside = line[line[:, 1] > 0.15]
    left, right = (inside[inside[:, 1].argsort()][place] for place in (0, -1))
    assert left[0] < 0.3
    assert right[0] > 0.6


def test_bars_start_at_zero_and_are_pale_where_the_interval_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "bars.png"
    change_bars([("a", CLEAR), ("b", UNCLEAR)], path, "Template tax")
    full = pixels(path, BAR)
    pale = pixels(path, tuple(0.35 * part + 0.65 for part in BAR))
    assert len(full) > 1000
    assert len(pale) > 1000
    # The first is above and to the right of zero, the second below and to its left.
    assert full[:, 0].mean() < pale[:, 0].mean()
    assert full[:, 1].min() > pale[:, 1].max() - 0.02
    # Twice as large, twice as long.
    lengths = [np.ptp(found[:, 1]) for found in (full, pale)]
    assert lengths[0] / lengths[1] == pytest.approx(2.0, rel=0.05)


def test_bars_name_each_change_and_its_number(tmp_path: Path) -> None:
    changes = [("cost <b>$x_1$</b>", CLEAR)]
    text = svg(change_bars, changes, tmp_path / "bars.svg", "Gain $ and $")
    for words in ("cost &lt;b&gt;$x_1$&lt;/b&gt;, n = 40", "Gain $ and $", "95 % interval"):
        assert words in text


def test_a_curve_names_its_lines_and_axes(tmp_path: Path) -> None:
    lines = {"NIH recall": [Point(0.9, CLEAR)], "MT-Bench ÷ 9": [Point(0.9, UNCLEAR)]}
    text = svg(alpha_curve, Curve("model", "compound", lines), tmp_path / "curve.svg")
    for words in (
        *("NIH recall, n = 40", "MT-Bench ÷ 9, n = 40", "model: compound"),
        *("alpha (smaller steers more)", "difference to alpha 1, 95 % interval"),
    ):
        assert words in text


def test_a_curve_of_every_line_can_be_drawn(tmp_path: Path) -> None:
    curve = Curve("model", "constant", {name: [Point(0.9, CLEAR)] for name in LINES})
    alpha_curve(curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_an_unknown_interval_is_left_out(tmp_path: Path) -> None:
    nan = float("nan")
    change_bars([("a", Difference(0.2, nan, nan, nan, 1, 1, nan))], tmp_path / "bars.png", "x")
    assert len(pixels(tmp_path / "bars.png", BAR)) == 0
    assert len(pixels(tmp_path / "bars.png", tuple(0.35 * part + 0.65 for part in BAR))) > 1000


@pytest.mark.parametrize("format", ["png", pytest.param("svg", marks=pytest.mark.slow)])
def test_the_command_draws_all_there_is(tmp_path: Path, format: str) -> None:
    runs = report_data.write(
        tmp_path / "runs", checkpoints=["../m$a$", "m a", "é" * 300], begun=True
    )
    done = ctx_eval("plots", runs, "--output", tmp_path / "figures", "--format", format)
    assert done.code == 0, done.err
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {path.parent for path in tmp_path.rglob(f"*.{format}")} == {tmp_path / "figures"}
    assert {f"template-tax.{format}", f"gains.{format}", f"alpha-m-a-constant.{format}"} <= files
    # Two checkpoints whose names make one file name have a file each.
    assert f"alpha-m-a-constant-2.{format}" in files
    assert len(files) == 2 + 3 * 2 + 3 * 7 + 3 * 2
    assert done.out.count("Wrote ") == len(files)


def test_gains_over_other_tasks_are_a_figure_of_their_own(tmp_path: Path) -> None:
    report_data.write(tmp_path / "runs", checkpoints=["m"])
    needles = [report_data.line("nih_recall", "alpha 0.5", number) for number in range(12)]
    settings = {"model": "m", "chat": True, "config": {"ctx": {"alpha": 0.7}}}
    write_run(tmp_path / "runs" / "one", {"nih_recall": needles}, **settings)
    done = ctx_eval("plots", tmp_path / "runs", "--output", tmp_path / "figures")
    assert done.code == 0, done.err
    names = {path.name for path in (tmp_path / "figures").glob("gains*")}
    assert names == {"gains-NIH-recall.png", "gains-NIH-recall-SQuAD-QuAC-DROP.png"}


def test_mistakes_with_the_command_are_one_sentence(tmp_path: Path) -> None:
    line = report_data.line("squad_contains", "raw", 1)
    write_run(tmp_path / "bare", {"squad_contains": [line]}, model="m")
    report_data.write(tmp_path / "runs", checkpoints=["m"])
    (tmp_path / "file").write_text("")
    for arguments, said in (
        ((tmp_path / "bare", "-o", tmp_path / "figures"), "have nothing to draw"),
        ((tmp_path / "none", "-o", tmp_path / "figures"), "does not exist"),
        ((tmp_path / "runs", "-o", tmp_path / "file" / "x"), "cannot be written"),
    ):
        done = ctx_eval("plots", *arguments)
        assert done.code == 2
        assert said in done.err
        assert done.err.count("\n") == 1
    assert as_process("ctx_models.cli", "plots", *arguments) == done
