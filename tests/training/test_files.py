"""What a step leaves beside its output: inputs by hash, settings, counts, versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256
from ctx_tasks.row_writer import write_rows
from training import files

ROWS = [
    {"id": "a", "messages": [{"role": "user", "content": "Grüße 😀"}], "n": 1},
    {"id": "b", "messages": [{"role": "user", "content": "line\u2028break"}], "n": 2},
]


def test_meta_names_inputs_by_hash_and_is_the_same_twice(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(source, ROWS)
    write_rows(output, ROWS)
    texts = []
    for _ in range(2):
        path = files.write_meta(
            output, command="t", inputs=[source], settings={"p": tmp_path}, counts={"n": 2}
        )
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]
    assert path.name == "out.jsonl.meta.json"
    meta = json.loads(texts[0])
    assert meta["inputs"][0]["sha256"] == sha256(source) == meta["output_sha256"]
    assert meta["settings"] == {"p": str(tmp_path)}
    assert "transformers" in meta["versions"]


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", ROWS)
    with pytest.raises(UserError, match="also the input"):
        files.refuse_overwrite(tmp_path / "x.jsonl", tmp_path)
    files.refuse_overwrite(tmp_path / "y.jsonl", tmp_path)
