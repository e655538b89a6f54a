"""SQuAD, QuAC and DROP questions in one shape, and their scores.

Source: arXiv 2411.02688, measurements. SQuAD v1.1: answerable validation questions. QuAC: the first
question of each validation dialog, the CANNOTANSWER at the end of the passage removed, questions
whose only reference is CANNOTANSWER kept (the paper's n is 1000). DROP: all validation questions.

Each benchmark is read from the columns of its hub dataset or from the JSON of its original release;
both give the same documents and so the same hash. Divergences:
- QuAC's default is the release's own file: `allenai/quac` is a script, which `datasets` no longer
  runs, and `lighteval/quac_helm` holds a random turn of each dialog, not the first.
- SQuAD's `answer_start` is never read; equal references are counted once; empty ones are dropped.
- DROP's `contains` accepts any annotator's answer and wants all its spans, as the paper words it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm import tqdm

from ctx_tasks import hub, metrics
from ctx_tasks import paper as versions
from ctx_tasks.errors import UserError
from ctx_tasks.reading_rows import DROP, QUAC, SQUAD, Benchmark, titled
from ctx_tasks.rows import Record, fetch, listed, read_file, read_files

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def squad(
    *, squad_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """SQuAD v1.1 as the harness wants it: `{"validation": Dataset}` of `ReadingRow` columns.

    Args:
        squad_files: a path, folder, URL or list of these; None for `rajpurkar/squad`.
        data_used: filled with `source`, `sha256` and `rows`. The task's YAML puts an empty one into
            its metadata, which the harness hands on and writes into the results.

    Raises:
        UserError: data that cannot be fetched or read, lacks a column, or holds no question.
    """
    return load(SQUAD, squad_files, data_used)


def quac(
    *,
    quac_files: Any = None,
    quac_prompt: Any = None,
    paper: Any = None,
    data_used: dict[str, Any] | None = None,
    **_unused: Any,
) -> dict[str, Dataset]:
    """QuAC's first questions, like `squad`; None for the release's `val_v0.2.json`.

    Args:
        quac_prompt: "context" (default) or "title_background", see `reading_rows.titled`.
        paper: a version of the paper that decides where `quac_prompt` does not.
    """
    prompt = versions.setting("quac_prompt", {"quac_prompt": quac_prompt, "paper": paper})
    if prompt == "context":
        return load(QUAC, quac_files, data_used)
    loaded = load(titled(QUAC), quac_files, data_used)
    if data_used is not None:
        data_used.update(quac_prompt=prompt)
    return loaded


def drop(
    *, drop_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """DROP, like `squad`; None for `EleutherAI/drop`."""
    return load(DROP, drop_files, data_used)


def squad_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The scores of one output, each 0.0 or 1.0, of what stands before its first ". ".

    `contains`, `contains_words`, `contains_verbatim`, `score` (= contains), and `empty` with its
    part `dangling`, which are never 1 where the answer holds a reference.
    """
    prediction = metrics.first_sentence(results[0])
    verbatim = metrics.contains_verbatim(prediction, doc["references"])
    return {**_scores(doc, prediction), "contains_verbatim": float(verbatim)}


def quac_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As `squad_scores`, with `contains_answerable` where the question has an answer.

    The harness takes a metric's mean over the documents that report it. The partial key comes last,
    so that every process of a distributed run lists the metrics in one order.
    """
    scores = squad_scores(doc, results)
    if doc["answerable"]:
        scores["contains_answerable"] = scores["contains"]
    return scores


def drop_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As `squad_scores`, but the published rule is `contains_released`, not `contains_verbatim`."""
    prediction = metrics.first_sentence(results[0])
    released = metrics.contains_released(prediction, doc["references"])
    return {**_scores(doc, prediction), "contains_released": float(released)}


def _scores(doc: dict[str, Any], prediction: str) -> dict[str, float]:
    contained = metrics.contains_all(prediction, doc["references"])
    words = metrics.contains_all(prediction, doc["references"], whole_words=True)
    return {
        "contains": float(contained),
        "contains_words": float(words),
        "score": float(contained),
        **metrics.unanswered(prediction, answered=contained),
    }


def documents(benchmark: Benchmark, records: Iterable[Record]) -> Iterator[Mapping[str, Any]]:
    """Parse records of either format; questions that make no document are counted and left out."""
    left_out = 0
    for record in records:
        for row in benchmark.unnest(record):
            document = benchmark.parse(row)
            if document is not None:
                yield document
            left_out += document is None
    if left_out:
        logger.info("%s: left out %d questions %s", benchmark.name, left_out, benchmark.left_out)


def dataset(benchmark: Benchmark, records: Iterable[Record], source: str) -> Dataset:
    """The documents as an in-memory dataset; every row also has `data_hash`.

    `data_hash` is the sha256 of the documents in order, one JSON line each: the same questions from
    another file or format have the same hash. The source's name is left out of the rows, so that
    the harness's `doc_hash` pairs the documents of runs that read the same data by other paths.
    """
    from datasets import Dataset

    digest = hashlib.sha256()
    progress = tqdm(
        documents(benchmark, records), desc=f"Reading {benchmark.name}", unit=" rows", delay=2
    )
    batches = [
        pa.RecordBatch.from_pylist(rows, benchmark.schema)
        for rows in _chunks(_hashed(progress, digest))
    ]
    table = pa.Table.from_batches(batches, benchmark.schema)
    if table.num_rows == 0:
        raise UserError(
            f"{source} holds no {benchmark.name} question with an answer; "
            f'name other files with --metadata \'{{"{benchmark.option}": "PATH"}}\'.'
        )
    data_hash = digest.hexdigest()
    table = table.append_column("data_hash", pa.repeat(data_hash, table.num_rows))
    # A fingerprint of our own: `datasets` would pickle the whole table to make one.
    return Dataset(table, fingerprint=data_hash[:16])


def load(benchmark: Benchmark, files: Any, data_used: dict[str, Any] | None) -> dict[str, Dataset]:
    """`{"validation": Dataset}` of `files`, or of the benchmark's default; fills `data_used`."""
    if files is None:
        records, source = _default_records(benchmark)
    else:
        source = ", ".join(listed(files, benchmark.option))
        records = read_files(files, benchmark.option)
    loaded = dataset(benchmark, records, source)
    if data_used is not None:
        data_used.update(source=source, sha256=loaded[0]["data_hash"], rows=len(loaded))
    return {"validation": loaded}


def bundled(
    benchmark: Benchmark,
    path: Path,
    source: str,
    questions: Any,
    data_used: dict[str, Any] | None,
) -> dict[str, Dataset]:
    """As `load`, of a file that comes with this package.

    Args:
        source: what results call it.
        questions: how many, from the first; None for all.

    Raises:
        UserError: `questions` is no number of them.
    """
    rows = [row for record in read_file(path, path.name) for row in benchmark.unnest(record)]
    alone = replace(benchmark, unnest=lambda row: [row])
    loaded = dataset(alone, _first(rows, questions), source)
    if data_used is not None:
        data_used.update(source=source, sha256=loaded[0]["data_hash"], rows=len(loaded))
    return {"validation": loaded}


def _first(records: list[Record], questions: Any) -> list[Record]:
    if questions is None:
        return records
    if not isinstance(questions, int) or isinstance(questions, bool):
        raise UserError(f"questions must be a whole number, but got {questions!r}.")
    if not 1 <= questions <= len(records):
        raise UserError(
            f"questions {questions} is out of range; ask for 1 to {len(records)}, or leave it out "
            f"for all {len(records)}."
        )
    return records[:questions]


def _default_records(benchmark: Benchmark) -> tuple[Iterable[Record], str]:
    if benchmark.url:
        return read_file(fetch(benchmark.url, benchmark.option), benchmark.url), benchmark.url
    name = benchmark.hub[0]
    instead = (
        f'pass local data with --metadata \'{{"{benchmark.option}": "PATH"}}\' (a folder, jsonl, '
        f"parquet or the original release's JSON)."
    )
    rows, commit = hub.load(*benchmark.hub, split="validation", instead=instead)
    records = (Record(f"{name}, row {index}", row) for index, row in enumerate(rows, start=1))
    return records, f"{name}@{commit}"


def _hashed(rows: Iterable[Mapping[str, Any]], digest: Any) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        yield row


def _chunks(
    rows: Iterable[Mapping[str, Any]], size: int = 5000
) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
