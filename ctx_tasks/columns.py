"""The column a task stands in: its benchmark, and whether the data or the prompt are another.

`BENCHMARKS` is the one table of them. A new benchmark is a row there, its loader and its YAML; the
headings, averages and order of the leaderboard, the lines of the alpha curves, the tasks of a begun
arm, the demo's tasks and what the judge rates follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# The benchmark itself, with the prompt for models tuned on UltraChat, with bundled questions of the
# nano world or on real prose.
Kind = Literal["", "plain", "nano", "prose"]
KINDS: tuple[Kind, ...] = ("", "plain", "nano", "prose")
BUNDLED: tuple[Kind, ...] = ("nano", "prose")
AVERAGE = "Avg."


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of ours.

    Attributes:
        heading: of its column.
        task: its task; of other kinds nano_TASK, prose_TASK and TASK_plain, with the answer begun
            TASK_prefix.
        kinds: the kinds it has.
        option: the --metadata key that names its files.
        context: whether its answers stand in a text; such benchmarks make the average, and have
            tasks that begin the answer (but for the plain prompt).
        needle: whether its documents form a grid of lengths and depths.
        turns: answers of a conversation that a judge rates; 0 for tasks that score themselves.
        line: of the alpha curves; equal names are one line, the mean of them.
        width: of its scale; a line is a share of it.
    """

    heading: str
    task: str
    kinds: tuple[Kind, ...] = ("",)
    option: str | None = None
    context: bool = False
    needle: bool = False
    turns: int = 0
    line: str | None = None
    width: float = 1.0

    def column(self, kind: Kind) -> str:
        """The heading of a kind: "SQuAD (nano)"."""
        return self.heading + suffix(kind)

    def named(self, kind: Kind, begun: bool = False) -> str:
        """The task of a kind."""
        return _named(self.task + ("_prefix" if begun else ""), kind)


NEEDLE = Benchmark(
    *("NIH recall", "nih_recall", ("", *BUNDLED), "needles"),
    context=True,
    needle=True,
    line="NIH recall",
)
SQUAD = Benchmark("SQuAD", "squad_contains", KINDS, "squad_files", context=True, line="SQuAD, QuAC")
QUAC = Benchmark("QuAC", "quac_contains", KINDS, "quac_files", context=True, line="SQuAD, QuAC")
DROP = Benchmark("DROP", "drop_contains", KINDS, "drop_files", context=True, line="DROP")
MT_BENCH = Benchmark(
    *("MT-Bench", "mt_bench", ("",), "mt_bench_files"), turns=1, line="MT-Bench ÷ 9", width=9.0
)
MT_BENCH_2TURN = Benchmark("MT-Bench, 2 turns", "mt_bench_2turn", option="mt_bench_files", turns=2)
BY_HEART = Benchmark("by heart", "by_heart", ("nano",))
CONFLICT = Benchmark("conflict", "conflict_contains", ("", "nano"), "conflict_files")
CLOSED_BOOK = Benchmark("closed book", "conflict_closed_book", ("", "nano"), "conflict_files")
BENCHMARKS = (
    *(NEEDLE, SQUAD, QUAC, DROP, MT_BENCH, MT_BENCH_2TURN),
    *(CONFLICT, CLOSED_BOOK, BY_HEART),
)
CONTEXT = tuple(one for one in BENCHMARKS if one.context)


@dataclass(frozen=True)
class Column:
    """Where a task of ours stands."""

    benchmark: Benchmark
    kind: Kind
    begun: bool

    @property
    def heading(self) -> str:
        """ "SQuAD (nano)"."""
        return self.benchmark.column(self.kind)


def suffix(kind: Kind) -> str:
    """What tells a kind's headings apart: " (nano)"."""
    return f" ({kind})" if kind else ""


def _named(task: str, kind: Kind) -> str:
    return {"": task, "plain": f"{task}_plain"}.get(kind, f"{kind}_{task}")


# Our tasks by name; a begun one stands in the column of its benchmark.
TASKS = {
    one.named(kind, begun): Column(one, kind, begun)
    for one in BENCHMARKS
    for kind in one.kinds
    for begun in ((False, True) if one.context and kind != "plain" else (False,))
}
# Our groups, the means over the context benchmarks, each with its kind and whether the answer is
# begun. The leaderboard takes such means itself.
_KINDS_OF_GROUPS: tuple[Kind, ...] = ("", *BUNDLED)
GROUPS = {
    _named("context_awareness" + ("_prefix" if begun else ""), kind): (kind, begun)
    for kind in _KINDS_OF_GROUPS
    for begun in (False, True)
}
# The lines of the alpha curves.
LINES = tuple(dict.fromkeys(one.line for one in BENCHMARKS if one.line is not None))
TURNS = {task: at.benchmark.turns for task, at in TASKS.items() if at.benchmark.turns}
_BY_HEADING = {column.heading: column for column in TASKS.values()}


def heading(task: str) -> str:
    """The column a task stands in: "SQuAD", "SQuAD (plain)", "SQuAD (nano)", or its own name."""
    return TASKS[task].heading if task in TASKS else task


def is_needle(task: str) -> bool:
    """Whether a task is a needle test."""
    return task in TASKS and TASKS[task].benchmark.needle


def kind_of(heading: str) -> Kind:
    """The kind of a column; of a task that is not ours, that of the benchmarks themselves."""
    return _BY_HEADING[heading].kind if heading in _BY_HEADING else ""


def begun(task: str) -> str | None:
    """The task or group of ours that begins the answer of this one; None where there is none."""
    if task in GROUPS:
        kind, _ = GROUPS[task]
        return next(name for name, at in GROUPS.items() if at == (kind, True))
    if task not in TASKS:
        return None
    at = TASKS[task]
    name = at.benchmark.named(at.kind, begun=True)
    return name if name in TASKS else None


def context(kind: Kind) -> list[str]:
    """The columns of the context benchmarks in one kind of data, as far as they have it."""
    return [one.column(kind) for one in CONTEXT if kind in one.kinds]


def averages(columns: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The averages that can be taken over these columns: name, and what it is the mean of."""
    # The needle test has no other prompt for models tuned on UltraChat.
    sets = [
        (
            AVERAGE + suffix(kind),
            tuple(one.column(kind if kind in one.kinds else "") for one in CONTEXT),
        )
        for kind in KINDS
    ]
    return [(name, parts) for name, parts in sets if set(parts) <= set(columns)]


def ordered(columns: Sequence[str]) -> list[str]:
    """Context columns and their average, kind by kind, then other benchmarks, then other tasks."""
    known = [
        column
        for kind in KINDS
        for column in (*(one.column(kind) for one in CONTEXT), AVERAGE + suffix(kind))
    ]
    known += [one.column(kind) for one in BENCHMARKS if not one.context for kind in one.kinds]
    rank = {name: place for place, name in enumerate(known)}
    return sorted(columns, key=lambda name: (rank.get(name, len(rank)), name))


def lines(kind: Kind) -> dict[str, list[Benchmark]]:
    """The lines of the alpha curves that a kind of data has, each with its benchmarks."""
    found: dict[str, list[Benchmark]] = {}
    for one in BENCHMARKS:
        if one.line is not None and kind in one.kinds:
            found.setdefault(one.line, []).append(one)
    return found
