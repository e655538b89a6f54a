"""`ctx-train score`: eq. 2 for every assistant turn of a dataset, in a column of its own.

The equation is in `dependency`, the sharded and resumable run in `scoring_run`. The released code
writes scores into the prompt text; here the text is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import Row, read_rows
from training.dependency.equation import Scores, default_layer
from training.dependency.run import ScoringRun, Seed
from training.dependency.select import BETA, SCORES

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ScoreSummary:
    """What `score` did, in conversations and assistant turns.

    `turns` = `scored` + `empty` + `cut` + `beyond` + `refused`; all but the first are null.
    `quantiles` are those of the scores at `QUANTILES`, and `above_beta` scores exceed the paper's
    beta.
    """

    conversations: int
    layer: int
    layers: int
    max_length: int
    turns: int = 0
    scored: int = 0
    empty: int = 0
    cut: int = 0
    beyond: int = 0
    refused: int = 0
    above_beta: int = 0
    quantiles: Sequence[float] = ()


def score(
    source: str | Path,
    output: str | Path,
    *,
    model: str,
    tokenizer: str | None = None,
    revision: str | None = None,
    layer: int | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    device: str | None = None,
) -> ScoreSummary | None:
    """Write `source` to `output` with the column `context_dependency`: one score a turn, or null.

    Rows keep their order and other columns. Leaves `OUTPUT.meta.json`. Call it in every process of
    an `accelerate launch` (on CPUs with `--multi_gpu`, without which it starts one process). A
    killed run continues where it was, with any number of processes; a finished one returns at once.

    Args:
        source: local `.jsonl`, `.json`, `.parquet` or a folder, with a `messages` column.
        output: `.jsonl` or `.parquet`.
        model: seed model, a folder or hub name; `revision` and `tokenizer` (default: of the model).
        layer: scored layer, from 0; default `default_layer`.
        max_length: tokens read of each conversation; default the model's window.
        batch_tokens: tokens of a batch, padding included; default 16384 on a GPU, 2048 on the CPU.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: the checkpoint's own, on the CPU
            float32. The scored layer's attention is computed in float32 whatever this is.
        quantize: `4bit` (nf4) or `8bit`, through bitsandbytes.
        device: `cpu`, `cuda`, ...; default the process's GPU if there is one.

    Returns:
        The account, in the main process; None in the others.

    Raises:
        UserError: arguments or data that do not fit, or parts of a run with other settings.
    """
    if Path(output).suffix not in (".jsonl", ".parquet"):
        raise UserError(f"The output {output} must end in .jsonl or .parquet: rename it.")
    require_writable(output)
    seed = Seed(model, tokenizer, revision, dtype, quantize, device)
    depth = seed.depth()
    chosen = default_layer(depth) if layer is None else layer
    run = ScoringRun(
        source, output, seed, [chosen], max_length, batch_tokens, command="ctx-train score"
    )
    run.say(
        f"Scoring layer {chosen} of {depth} (from 0) on the first {run.max_length} tokens, in "
        f"{run.processes} process(es)."
    )
    if run.start():
        run.work()
    if not run.is_main:
        return None
    if not run.finished:
        scores, fates = run.results()
        write_rows(output, _with_scores(source, scores))
        account = ScoreSummary(
            conversations=len(scores),
            layer=chosen,
            layers=depth,
            max_length=run.max_length,
            turns=fates.total(),
            **{**fates, **_spread(scores)},
        )
        run.finish(vars(account))
    return ScoreSummary(**run.counts())


def _spread(scores: Mapping[int, list[Scores]]) -> dict[str, Any]:
    """How the scores lie, in the words of `ScoreSummary`."""
    values = [score for [turns] in scores.values() for score in turns if score is not None]
    quantiles = np.quantile(values, QUANTILES).round(6).tolist() if values else []
    return {"above_beta": sum(score > BETA for score in values), "quantiles": quantiles}


def _with_scores(source: str | Path, scores: Mapping[int, list[Scores]]) -> Iterator[Row]:
    for index, row in enumerate(read_rows(source)):
        yield {**row, SCORES: scores[index][0]}


def summary(account: ScoreSummary) -> str:
    """The account in lines for the terminal."""
    said = (
        f"{account.conversations} conversations, {account.turns} turns: {account.scored} scored on "
        f"layer {account.layer} of {account.layers}, the others null:\n"
        f"  {account.cut} cut by the window of {account.max_length} tokens, {account.beyond} "
        f"beyond it, {account.empty} without tokens, {account.refused} refused by the template."
    )
    if account.quantiles:
        spread = zip(QUANTILES, account.quantiles, strict=True)
        shown = ", ".join(f"{value:.3f} ({share:.0%})" for share, value in spread)
        said += f"\n  Scores (quantiles): {shown}; {account.above_beta} above {BETA}."
    return said
