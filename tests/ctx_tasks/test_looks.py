"""The file of where answers looked: what is written is read, what is malformed is refused."""

from __future__ import annotations

import json

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.looks import Look, Piece, Totals, read, write

LOOK = Look(
    "abc", 4, Totals(0.5, 0.0, 0.25, 0.125, 0.125), (Piece(3, 9, 2, 0.25), Piece(9, 12, 1, 0.25))
)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "looks.jsonl", [LOOK])
    assert read(tmp_path / "looks.jsonl") == {"abc": LOOK}
    write(tmp_path / "looks.jsonl", [])
    assert read(tmp_path / "looks.jsonl") == {}
    assert read(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"doc_hash": 7}, "str"),
        ({"totals": {"user": 0.5}}, "system"),
        ({"totals": {"user": -1, "system": 0, "template": 0, "special": 0, "answer": 0}}, "-1"),
        ({"pieces": [[0, 5, 1, 2.0]]}, "a share of 2.0"),
        ({"pieces": [[0, 5, 1, "x"]]}, "float"),
        ({"pieces": [[0, 5, 1]]}, "length"),
        ({"pieces": [[0, 5, 1, 0.1], [4, 6, 1, 0.1]]}, "a piece from 4 to 6"),
        ({"pieces": [[5, 5, 1, 0.1]]}, "a piece from 5 to 5"),
        ({"pieces": [[-5, 5, 1, 0.1]]}, "a piece from -5 to 5"),
        ({"pieces": [[0, 5, 0, 0.1]]}, "0 tokens"),
        ({"more": 1}, "more"),
    ],
)
def test_a_malformed_line_is_one_sentence_with_its_place(tmp_path, change, said):
    write(tmp_path / "looks.jsonl", [LOOK])
    line = {**json.loads((tmp_path / "looks.jsonl").read_text()), **change}
    with (tmp_path / "looks.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="line 2 does not say where an answer looked") as raised:
        read(tmp_path / "looks.jsonl")
    assert said in str(raised.value)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"1e999", b"NaN"])
def test_what_is_no_such_object_is_refused(tmp_path, text):
    (tmp_path / "looks.jsonl").write_bytes(text + b"\n")
    with pytest.raises(UserError, match="run the sweep again, or remove the file"):
        read(tmp_path / "looks.jsonl")
