"""The bundled synthetic data of the nano world, as the harness wants it. No benchmark.

The files in `data/` are written by `training.nano.held_out.write` from seed 0: names and facts that
the bundled nano models never saw (and, for `by_heart`, facts they were trained on). They are read
by the loaders of the real benchmarks, but under names of their own: the options that name other
files (`haystack`, `squad_files`, ...) are not looked at here. `nano_world` names another folder of
such files, drawn from another seed (`python -m training.nano.fresh`); results say so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctx_tasks import reading
from ctx_tasks.conflict import CONFLICT
from ctx_tasks.errors import UserError
from ctx_tasks.needle import task as needle
from ctx_tasks.reading_rows import DROP, QUAC, SQUAD, Benchmark, ReadingRow
from ctx_tasks.rows import Record

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = Path(__file__).parent / "data"
SOURCE = "nano-world (bundled)"
# What the window of the nano models, 1280 tokens, leaves with room for any of their prompts.
LONGEST = 1000
# Every answer of the world begins so ("The mayor of ... is ..."), whatever is asked. The neutral
# words of the real tasks are none here: after them the nano models answer nothing sensible, see
# task_configs/nano/README.md.
ANSWER_PREFIX = "The"


def nih(
    *,
    max_length: Any = LONGEST,
    haystack: Any = None,
    needles: Any = None,
    nano_world: Any = None,
    data_used: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Dataset]:
    """The needle test with the world's needles and haystack: `ctx_tasks.needle.task.nih`.

    Args:
        max_length: tokens of the longest document.
        haystack, needles: not looked at; this task has its own.
        nano_world: a folder as `training.nano.held_out.write` makes it; None for the bundled one.
        data_used, settings: see `ctx_tasks.needle.task.nih`.
    """
    used: dict[str, Any] = {} if data_used is None else data_used
    folder, source = _place(nano_world)
    [built] = needle.nih(
        max_length=max_length,
        haystack=folder / "haystack",
        needles=folder / "needles.yaml",
        data_used=used,
        **settings,
    ).values()
    used.update(source=source)
    named = built.remove_columns("haystack").add_column("haystack", [source] * len(built))
    return {"test": named}


def squad(**settings: Any) -> dict[str, Dataset]:
    """Reading questions in SQuAD's shape: `{"validation": Dataset}` of `Document` columns.

    Args:
        questions: how many, from the first; None (default) for all 400.
        nano_world: see `nih`.
        data_used: filled with `source`, `sha256` and `rows`, see `reading.squad`.
        settings: anything else the harness hands on is not looked at.
    """
    return _load(SQUAD, "squad", **settings)


def quac(**settings: Any) -> dict[str, Dataset]:
    """Reading questions in QuAC's shape, one a passage; see `squad`."""
    return _load(QUAC, "quac", **settings)


def drop(**settings: Any) -> dict[str, Dataset]:
    """Questions for numbers, in DROP's shape; see `squad`."""
    return _load(DROP, "drop", **settings)


def by_heart(**settings: Any) -> dict[str, Dataset]:
    """Questions for what holds all over the training corpus, without a document; see `squad`."""
    return _load(_BY_HEART, "by_heart", **settings)


def conflict(**settings: Any) -> dict[str, Dataset]:
    """Known facts with a passage that contradicts them; see `squad`."""
    return _load(CONFLICT, "conflict", **settings)


def _load(
    benchmark: Benchmark,
    name: str,
    *,
    questions: Any = None,
    nano_world: Any = None,
    data_used: dict[str, Any] | None = None,
    **_unused: Any,
) -> dict[str, Dataset]:
    folder, source = _place(nano_world)
    own = replace(benchmark, name=f"nano-world {name}")
    return reading.bundled(own, folder / f"{name}.jsonl", source, questions, data_used)


def _place(nano_world: Any) -> tuple[Path, str]:
    """The folder of the data files, and what results call it."""
    if nano_world is None:
        return FOLDER, SOURCE
    folder = Path(str(nano_world))
    if not (folder / "needles.yaml").is_file():
        raise UserError(
            f"nano_world {str(folder)!r} is no folder that `python -m training.nano.fresh` wrote; "
            "leave it out for the bundled questions."
        )
    return folder, f"nano-world ({folder})"


def _parse_by_heart(record: Record) -> ReadingRow:
    question, answer = record.value["question"], record.value["answer"]
    return {
        # Drawn with repetition: the line, not the wording, is what tells questions apart.
        "id": record.where,
        "passage_id": question,
        "context": "",
        "question": question,
        "references": [[answer]],
        "answerable": True,
        "target": answer,
    }


_BY_HEART = Benchmark(
    name="by heart",
    option="questions",
    columns="question, answer",
    unnest=lambda record: [record],
    parse=_parse_by_heart,
)
