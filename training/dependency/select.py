"""`ctx-train select`: mark the instructions of context-dependent turns with `[IND]`.

Section 4.1 of arXiv 2411.02688: a turn whose context-dependency score (eq. 2, the column
`context_dependency`, one number or null per assistant turn) is above beta belongs to the subset
S-hat, and ` [IND]` is appended to its user instruction. All rows are written, marked or not: the
model learns from the contrast. `top` takes a share of the highest scores instead of a threshold.

Prints Table 1's last column and draws Figures 6 to 8 (instruction lengths, full set against S-hat)
beside the scores with the threshold.
The released code writes scores into the prompt text and parses them back; here the text is only
ever appended to.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctx_models.indicator import INDICATOR, append_indicator
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable, whole_file
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import Row, read_rows
from training import files
from training.data.messages import messages_of
from training.data.prepare import token_counts

SCORES = "context_dependency"
# The paper's threshold, for every model and dataset.
BETA = 0.6
# Its shares of selected instructions (Table 1), in percent.
PAPER_SHARES = {"ShareGPT": 11.6, "UltraChat-200k": 16.5, "WizardLM-70K": 22.5}
_BINS = 40
_SHOWN_IDS = 5


@dataclass(frozen=True)
class Cutoff:
    """Selects scores above `threshold`, and the first `ties` that equal it, in file order."""

    threshold: float
    ties: int = 0


@dataclass
class Selection:
    """What was selected: counts in turns, and how long the instructions are.

    `turns` = `scored` + `unscored` assistant turns; `selected` of the `scored` are in S-hat.
    `containing` conversations had the indicator's string in their text before, `containing_ids`
    are the first five. `all_lengths` and `selected_lengths` count instructions by length, in `unit`
    (tokens or words), over the scored turns; `scores` counts these turns by hundredths of a score.
    """

    cutoff: Cutoff
    unit: str
    conversations: int = 0
    turns: int = 0
    scored: int = 0
    unscored: int = 0
    selected: int = 0
    without_instruction: int = 0
    containing: int = 0
    containing_ids: list[str] = field(default_factory=list)
    all_lengths: Counter[int] = field(default_factory=Counter)
    selected_lengths: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)

    def counts(self) -> dict[str, Any]:
        """The numbers as JSON values, the lengths as their medians."""
        values = {k: v for k, v in vars(self).items() if not isinstance(v, Counter | Cutoff)}
        return {
            **values,
            "threshold": self.cutoff.threshold,
            "median_length": median(self.all_lengths),
            "median_length_selected": median(self.selected_lengths),
        }


def median(lengths: Counter[int]) -> float | None:
    """The median of a histogram {value: count}; None if it is empty."""
    if not lengths:
        return None
    values = sorted(lengths)
    cumulative = np.cumsum([lengths[value] for value in values])
    middle = (cumulative[-1] - 1) / 2
    low, high = np.searchsorted(cumulative, [math.floor(middle), math.ceil(middle)], side="right")
    return (values[low] + values[high]) / 2


def turn_scores(row: Row, index: int) -> list[float | None]:
    """The checked scores of a row: one finite number in [0, 1] or null per assistant turn.

    Raises UserError naming the row (`index` from 0, told from 1) and what is wrong with it.
    """
    name = f"Row {index + 1} (id {row.get('id', 'none')})"
    messages = messages_of(row, name)
    if SCORES not in row:
        raise UserError(
            f"{name} has the columns {', '.join(row)} but needs {SCORES} too: run ctx-train score "
            "on the dataset first."
        )
    scores = row[SCORES]
    turns = sum(message["role"] == "assistant" for message in messages)
    if not isinstance(scores, list) or len(scores) != turns:
        held = f"{len(scores)} scores" if isinstance(scores, list) else repr(scores)
        raise UserError(
            f"{name} holds {held} in {SCORES} for {turns} assistant turns: score this very "
            "dataset again, with ctx-train score."
        )
    for score in scores:
        _check_score(score, name)
    return scores


def _check_score(score: object, name: str) -> None:
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if score is not None and not (number and 0 <= score <= 1 + 1e-3):  # type: ignore[operator]
        raise UserError(
            f"{name} holds the score {score!r} in {SCORES}: allowed are null and numbers from 0 "
            "to 1; score the dataset again, with ctx-train score."
        )


def top_cutoff(scores: Iterable[float], share: float) -> Cutoff:
    """The cutoff that selects `share` of the scores, rounded to a whole number of them.

    Among equal scores at the edge the earlier ones are taken, so the choice is deterministic.
    """
    values = np.fromiter(scores, dtype=np.float64)
    wanted = round(share * len(values))
    if wanted == 0:
        return Cutoff(math.inf)
    threshold = float(np.partition(values, -wanted)[-wanted])
    return Cutoff(threshold, ties=wanted - int((values > threshold).sum()))


class Selector:
    """Marks row after row; remembers how many ties are left to give, and the counts."""

    def __init__(self, cutoff: Cutoff, indicator: str, tokenizer: Any = None) -> None:
        self._indicator = indicator
        self._tokenizer = tokenizer
        self._ties = cutoff.ties
        self.result = Selection(cutoff, unit="words" if tokenizer is None else "tokens")

    def mark(self, row: Row) -> Row:
        """A copy of `row` with the indicator after each selected turn's instruction."""
        index = self.result.conversations
        scores = turn_scores(row, index)
        self._note_indicator(row, index)
        messages = [dict(message) for message in row["messages"]]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for turn, score in zip(turns, scores, strict=True):
            self._mark_turn(messages, turn, score)
        self.result.conversations += 1
        return {**row, "messages": messages}

    def _mark_turn(self, messages: list[dict[str, Any]], turn: int, score: float | None) -> None:
        result = self.result
        result.turns += 1
        if score is None:
            result.unscored += 1
            return
        result.scored += 1
        if turn == 0 or messages[turn - 1]["role"] != "user":
            result.without_instruction += 1
            return
        instruction = messages[turn - 1]["content"]
        length = self._length(instruction)
        result.all_lengths[length] += 1
        result.scores[math.floor(100 * score)] += 1
        if self._selects(score):
            result.selected += 1
            result.selected_lengths[length] += 1
            messages[turn - 1]["content"] = append_indicator(instruction, self._indicator)

    def _selects(self, score: float) -> bool:
        threshold = self.result.cutoff.threshold
        if score == threshold and self._ties > 0:
            self._ties -= 1
            return True
        return score > threshold

    def _length(self, instruction: str) -> int:
        if self._tokenizer is None:
            return len(instruction.split())
        return token_counts(self._tokenizer, [instruction])[0]

    def _note_indicator(self, row: Row, index: int) -> None:
        if any(self._indicator in message["content"] for message in row["messages"]):
            self.result.containing += 1
            if len(self.result.containing_ids) < _SHOWN_IDS:
                self.result.containing_ids.append(str(row.get("id", f"row-{index}")))


def select(
    source: str,
    output: str | Path,
    *,
    beta: float | None = BETA,
    top: float | None = None,
    indicator: str = INDICATOR,
    tokenizer: Any = None,
    figure: str | Path | None = None,
) -> Selection:
    """Write the scored dataset `source` to `output` with its context-dependent turns marked.

    A turn is selected if its score is strictly above `beta`, or, with `top` (and `beta` None), if
    it is among that share of the scored turns (those with an instruction). `figure`: a PNG of the
    instruction lengths, counted in tokens of `tokenizer`, or in words without one. Leaves
    `OUTPUT.meta.json`. Raises UserError for settings out of range and for rows without fitting
    scores.
    """
    _check_settings(beta, top, indicator)
    for written in (output, figure):
        if written is not None:
            files.refuse_overwrite(written, source)
            require_writable(written)
    cutoff = Cutoff(beta) if beta is not None else top_cutoff(_all_scores(source), top or 0.0)
    selector = Selector(cutoff, indicator, tokenizer)
    with tqdm(read_rows(source), desc="select", unit=" conversations") as rows:
        write_rows(output, map(selector.mark, rows))
    if figure is not None:
        draw(selector.result, figure)
    files.write_meta(
        output,
        command="ctx-train select",
        inputs=[source],
        settings={
            "beta": beta,
            "top": top,
            "indicator": indicator,
            "tokenizer": getattr(tokenizer, "name_or_path", None),
        },
        counts=selector.result.counts(),
    )
    return selector.result


def _check_settings(beta: float | None, top: float | None, indicator: str) -> None:
    if (beta is None) == (top is None):
        raise UserError(f"beta={beta} and top={top}: give exactly one of --beta and --top.")
    if beta is not None and not 0 <= beta <= 1:
        raise UserError(f"--beta {beta} is outside 0 to 1: the paper takes {BETA}.")
    if top is not None and not 0 < top <= 1:
        raise UserError(f"--top {top} is not a share above 0 and up to 1: try 0.1.")
    if not indicator or indicator != indicator.strip():
        raise UserError(
            f"--indicator {indicator!r} is empty or has spaces around it: give a word such as "
            f"{INDICATOR}."
        )


def _all_scores(source: str) -> array[float]:
    """The scores of the turns that can be selected, 8 bytes each, in file order."""
    scores = array("d")
    with tqdm(read_rows(source), desc="rank", unit=" conversations") as rows:
        for index, row in enumerate(rows):
            scores.extend(_selectable_scores(row, index))
    return scores


def _selectable_scores(row: Row, index: int) -> Iterator[float]:
    scores = turn_scores(row, index)
    roles = [None, *(message["role"] for message in row["messages"])]
    before = [first for first, second in itertools.pairwise(roles) if second == "assistant"]
    for role, score in zip(before, scores, strict=True):
        if role == "user" and score is not None:
            yield score


def draw(selection: Selection, path: str | Path) -> None:
    """A PNG: instruction lengths of all scored turns against the selected, and all scores.

    Each set is drawn as a share of its own turns, so that shapes compare.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "The figure needs matplotlib, which is not installed: pip install 'lm-eval-ctx[train]' "
            "or pass --no-figure."
        ) from error
    chart = Figure(figsize=(11, 4), layout="constrained")
    lengths, scores = chart.subplots(1, 2)
    _draw_lengths(lengths, selection)
    _draw_scores(scores, selection)
    with whole_file(path) as partial:
        chart.savefig(partial, format="png", dpi=150, metadata={"Software": None})


def _draw_lengths(axes: Any, selection: Selection) -> None:
    bins = length_bins(selection.all_lengths)
    for lengths, label in (
        (selection.all_lengths, "all scored turns"),
        (selection.selected_lengths, "selected"),
    ):
        _draw_histogram(axes, lengths, bins, f"{label} (n = {lengths.total()})")
    axes.set(xscale="log", xlabel=f"instruction length ({selection.unit})", ylabel="share of turns")
    axes.legend()


def length_bins(lengths: Counter[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Edges from the shortest to past the longest, evenly spaced on a log scale, at most 40 bins.

    Few turns get few bins (the root of their number); edges are whole numbers, as lengths are.
    """
    values = [max(length, 1) for length in lengths] or [1]
    count = min(_BINS, max(1, math.isqrt(lengths.total())))
    return np.unique(np.geomspace(min(values), max(values) + 1, count + 1).round())


def _draw_scores(axes: Any, selection: Selection) -> None:
    low, high = min(selection.scores, default=0), max(selection.scores, default=100)
    bins = np.arange(low, high + 2) / 100
    centres = Counter({(hundredth + 0.5) / 100: n for hundredth, n in selection.scores.items()})
    _draw_histogram(axes, centres, bins, f"all scored turns (n = {centres.total()})")
    threshold = selection.cutoff.threshold
    if math.isfinite(threshold):
        axes.axvline(threshold, color="black", linestyle="--", label=f"beta = {threshold:.4g}")
    axes.set(xlabel="context-dependency score", ylabel="share of turns")
    axes.legend()


def _draw_histogram(axes: Any, counts: Counter[Any], bins: Any, label: str) -> None:
    total = max(counts.total(), 1)
    values = [max(value, bins[0]) for value in counts]
    weights = [count / total for count in counts.values()]
    axes.hist(values, bins=bins, weights=weights, alpha=0.6, label=label)


def summary(selection: Selection, indicator: str) -> str:
    """The selection in lines for the terminal: Table 1's last column, nulls, what to look at."""
    share = selection.selected / max(selection.scored, 1)
    lines = [
        f"Table 1: {selection.selected} of {selection.scored} scored turns selected "
        f"({100 * share:.1f} %), {_cutoff_text(selection)}, in {selection.conversations} "
        "conversations.",
        f"  The paper, at beta {BETA}: {_paper_shares()}.",
        f"  {selection.unscored} of {selection.turns} turns have no score (null) and are unmarked.",
    ]
    if selection.without_instruction:
        lines.append(
            f"  {selection.without_instruction} scored turns have no instruction before them."
        )
    if selection.scored and not selection.selected:
        lines.append("  No turn is selected: give a lower --beta, or a share such as --top 0.1.")
    if selection.selected:
        lines.append(
            f"  Median instruction: {median(selection.all_lengths):g} {selection.unit}, "
            f"selected {median(selection.selected_lengths):g}."
        )
    if selection.containing:
        lines.append(
            f"  Warning: {selection.containing} conversations contained {indicator} before, first "
            f"{', '.join(selection.containing_ids)}: that text will look like the indicator."
        )
    return "\n".join(lines)


def _paper_shares() -> str:
    return ", ".join(f"{share} % of {name}" for name, share in PAPER_SHARES.items())


def _cutoff_text(selection: Selection) -> str:
    cutoff = selection.cutoff
    if cutoff.ties:
        return f"score at least {cutoff.threshold:.6g}"
    return f"score above {cutoff.threshold:.6g}"
