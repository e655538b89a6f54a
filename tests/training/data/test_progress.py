"""What `prepare` says of how far it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import read_rows
from training.data.prepare import prepare

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is a heron, {number}?"},
            {"role": "assistant", "content": "A wading bird with long legs."},
        ]
    }
    for number in range(2500)
]


def files(folder: Path) -> Path:
    """The rows in each form: lines, an array, packed, parquet."""
    folder.mkdir()
    write_rows(folder / "a.jsonl", ROWS)
    (folder / "b.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    write_rows(folder / "d.parquet", ROWS)
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "b.json", "c.jsonl.gz", "d.parquet"])
def test_the_bytes_that_were_read_come_to_the_file(tmp_path, name):
    file = files(tmp_path / "raw") / name
    told: list[int] = []
    rows = read_rows(file, told.append)
    next(rows)
    begun = sum(told)
    assert sum(1 for _ in rows) == len(ROWS) - 1
    # Parquet is told by rows, in whole bytes.
    assert file.stat().st_size - 3 <= sum(told) <= file.stat().st_size
    assert begun < sum(told) or name == "c.jsonl.gz"


def test_the_bar_has_an_end_and_counts_conversations(tmp_path, capsys):
    folder = files(tmp_path / "raw")
    prepare(str(folder), tmp_path / "out.jsonl")
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in bar
    assert f"{4 * len(ROWS)} conversations" in bar
