"""Figure 5 of arXiv 2411.02688: do two layers select the same turns?

Eq. 2 is computed on every layer, in one pass, over a sample of conversations. A layer's S-hat is
the top share of the scored turns (the paper: 10 %). The disagreement of two layers is

    1 - |A and B| / |A|        A, B: their S-hat, of equal size

that is, the part of a selection that the other layer does not select: 0 to 1. The paper's "ratio of
non-overlapped conversation turns in their selected S-hat" names no denominator. This one is the
released code's, which however keeps the top 90 % (its figure ends at 0.09, and cannot exceed 0.11):
`share=0.9` is comparable with it. As a part of *all* turns, multiply by `share`.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable, whole_file, write_text
from ctx_tasks.rows import read_rows
from training.dependency.run import ScoringRun, Seed

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def top_turns(scores: Sequence[float], share: float) -> set[int]:
    """Indices of the `share` highest scores (rounded, at least one); of equal scores the first."""
    count = max(1, round(share * len(scores)))
    return set(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])


def disagreement(scores: Sequence[Sequence[float]], share: float = 0.1) -> Matrix:
    """How much the selections of two layers differ.

    Args:
        scores: [layers][turns], without nulls.
        share: part of the turns a layer selects, above 0 and at most 1.

    Returns:
        float64 [layers, layers], symmetric, zeros on the diagonal.
    """
    chosen = [top_turns(layer, share) for layer in scores]
    return np.array([[1 - len(a & b) / len(a) for b in chosen] for a in chosen])


@dataclass(frozen=True)
class Agreement:
    """What `agreement` measured; `mean` and `highest` are over pairs of different layers."""

    conversations: int
    turns: int
    selected: int
    layers: int
    mean: float
    highest: float


def agreement(
    source: str | Path,
    output: str | Path,
    *,
    model: str,
    tokenizer: str | None = None,
    revision: str | None = None,
    conversations: int = 500,
    seed: int = 0,
    share: float = 0.1,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    device: str | None = None,
    figure: str | Path | None = None,
) -> Agreement | None:
    """Write the disagreement of all pairs of layers to `output` (`.csv`) and as a heatmap.

    Sharded and continued like `scoring.score`, whose arguments the others are.

    Args:
        conversations: how many are drawn (all, if there are fewer), by `seed`.
        share: part of the scored turns that a layer selects.
        figure: the heatmap; default `OUTPUT` with the suffix `.png`.

    Returns:
        The account, in the main process; None in the others.

    Raises:
        UserError: as `scoring.score`; a share or number out of range; no turn with a score.
    """
    _check(output, conversations, share)
    figure = figure or Path(output).with_suffix(".png")
    for written in (output, figure):
        require_writable(written)
    loaded = Seed(model, tokenizer, revision, dtype, quantize, device)
    sample = _sample(source, conversations, seed)
    options = {"conversations": conversations, "seed": seed, "share": share}
    run = ScoringRun(
        source,
        output,
        loaded,
        range(loaded.depth()),
        max_length,
        batch_tokens,
        command="ctx-train agreement",
        rows=sample,
        options=options,
    )
    if run.start():
        run.work()
    if not run.is_main:
        return None
    if not run.finished:
        scores = _by_layer(run.results()[0])
        matrix = disagreement(scores, share)
        write_csv(output, matrix)
        draw(figure, matrix, share, len(scores[0]))
        run.finish(vars(_account(matrix, len(scores[0]), share, len(sample))))
    return Agreement(**run.counts())


def _check(output: str | Path, conversations: int, share: float) -> None:
    if Path(output).suffix != ".csv":
        raise UserError(f"The output {output} must end in .csv: rename it.")
    if not 0 < share <= 1:
        raise UserError(f"share is {share}: give a part above 0 and at most 1, such as 0.1.")
    if conversations < 1:
        raise UserError(f"conversations is {conversations}: draw at least one.")


def _sample(source: str | Path, count: int, seed: int) -> frozenset[int]:
    """Row numbers of the conversations that are drawn."""
    total = sum(1 for _ in read_rows(source))
    return frozenset(random.Random(f"agreement {seed}").sample(range(total), min(count, total)))


def _by_layer(scores: dict[int, list[list[float | None]]]) -> list[list[float]]:
    """[layers][turns] of all scored turns, in row order, from [layers][turns] of each row."""
    rows = [scores[row] for row in sorted(scores)]
    layers = [
        [score for turns in layer for score in turns if score is not None]
        for layer in zip(*rows, strict=True)
    ]
    if not layers or not layers[0]:
        raise UserError(
            f"None of the {len(rows)} conversations has a turn with a score: see whether they have "
            "assistant turns that fit --max-length."
        )
    return layers


def _account(matrix: Matrix, turns: int, share: float, conversations: int) -> Agreement:
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    mean, highest = (float(pairs.mean()), float(pairs.max())) if pairs.size else (0.0, 0.0)
    selected = max(1, round(share * turns))
    return Agreement(conversations, turns, selected, len(matrix), round(mean, 6), round(highest, 6))


def write_csv(path: str | Path, matrix: Matrix) -> None:
    """The matrix with `layer` and the layer numbers as header and first column, six decimals."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["layer", *range(len(matrix))])
    table.writerows([layer, *(f"{value:.6f}" for value in row)] for layer, row in enumerate(matrix))
    write_text(path, text.getvalue())


def draw(path: str | Path, matrix: Matrix, share: float, turns: int) -> None:
    """The matrix as a heatmap with its values, a PNG; of `turns` scored turns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = 3 + 0.4 * len(matrix)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="viridis", vmin=0)
    middle = matrix.max() / 2
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)
    _label(axes, len(matrix), share, turns)
    figure.colorbar(image, label="part of a selection the other layer does not make")
    with whole_file(path) as partial:
        # Without metadata, which names the library's version, the same matrix is the same bytes.
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})


def _label(axes: Any, layers: int, share: float, turns: int) -> None:
    ticks: Iterable[int] = range(layers)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set_xlabel("layer")
    axes.set_ylabel("layer")
    axes.set_title(f"Disagreement on the top {share:.0%} of {turns} turns")


def summary(account: Agreement) -> str:
    """The account in a line for the terminal."""
    return (
        f"{account.conversations} conversations, {account.turns} scored turns, {account.selected} "
        f"selected on each of {account.layers} layers: two layers disagree on "
        f"{account.mean:.1%} of a selection on average, {account.highest:.1%} at most."
    )
