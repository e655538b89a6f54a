"""What a leaderboard's numbers do not say by themselves, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ctx_tasks import columns as table
from ctx_tasks.arm import CHAT, RAW

if TYPE_CHECKING:
    from ctx_tasks.leaderboard.board import Row

# More empty or unfinished answers than this, and a score is marked.
MOST_EMPTY = 0.05


def meanings(rows: Sequence[Row]) -> list[str]:
    """The notes that rows need, each once."""
    notes = []
    if any(cell.unanswered for row in rows for cell in row.cells.values()):
        notes.append(
            f"∅: more than {MOST_EMPTY:.0%} of the answers are empty (no word, or none after a "
            "colon): the score says how answers begin, not what was read; compare arms whose "
            "answer is begun (prefix)."
        )
    signs = {sign for row in rows for cell in row.cells.values() for sign in cell.signs}
    if "⊣" in signs:
        notes.append(
            "⊣: prompts were longer than the window and lost tokens (`cut`), mostly of the context "
            "that is asked about; where two arms cut different documents, differences are over "
            "those that neither cut."
        )
    if "…" in signs:
        notes.append(
            f"…: more than {MOST_EMPTY:.0%} of the answers met the token limit before they ended "
            "(`unfinished`); raise max_gen_toks, or think_tokens of a model that thinks."
        )
    if "?" in signs:
        notes.append(
            "?: documents are missing whose prompt could not be told from its chat template "
            "(`unsegmented`); their samples say why."
        )
    untaxed = {row.checkpoint for row in rows if row.arm == RAW}
    untaxed &= {row.checkpoint for row in rows if row.arm == CHAT}
    untaxed -= {row.checkpoint for row in rows if row.tax or row.unbegun_tax}
    untaxed &= {row.checkpoint for row in rows if not table.TASKS.keys().isdisjoint(_tasks(row))}
    if untaxed:
        notes.append(
            f"No template tax of {', '.join(sorted(untaxed))}: it is taken between arms whose "
            "answer is begun (run raw+prefix and chat+prefix, or see --unbegun-tax)."
        )
    gains = {(row.checkpoint, row.arm): row.gain.difference for row in rows if row.gain}
    for (checkpoint, arm), unbegun in gains.items():
        begun = gains.get((checkpoint, replace(arm, prefix=True)))
        if not arm.prefix and begun is not None and unbegun.clear and not begun.clear:
            notes.append(
                f"{checkpoint}, {arm.name}: only the unbegun gain moves ({unbegun.mean:+.3f}; "
                f"begun {begun.mean:+.3f}, unclear): it changes how answers begin rather than what "
                "is read."
            )
    return notes


def _tasks(row: Row) -> set[str]:
    return {result.task for result in row.results.values()}
