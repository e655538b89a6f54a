"""Rows in three formats, told apart by content, and back."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import Row, hub_file, hub_rows, is_hub_name, read_files, read_rows

ROWS = [
    {"id": "a", "messages": [{"role": "user", "content": "Grüße 😀"}], "n": 1},
    {"id": "b", "messages": [{"role": "user", "content": "line\u2028break"}], "n": 2},
]
# Without a time of its own, so that every process collects the same tests.
CUT_GZIP = gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-20]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_rows_survive_writing_and_reading(tmp_path: Path, name: str) -> None:
    assert write_rows(tmp_path / name, iter(ROWS)) == 2
    assert list(read_rows(tmp_path / name)) == ROWS
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("head", ["", "\ufeff", "\n  "])
def test_json_is_read_as_an_array_or_as_lines(tmp_path: Path, head: str) -> None:
    (tmp_path / "array.json").write_text(head + json.dumps(ROWS, indent=1), encoding="utf-8")
    (tmp_path / "lines.json").write_text(
        head + "\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8"
    )
    assert list(read_rows(tmp_path / "array.json")) == ROWS
    assert list(read_rows(tmp_path / "lines.json")) == ROWS


def test_a_folder_is_read_in_name_order_without_meta_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.json").write_text('[{"name": "sub/c.json"}]')
    for name in ("b.jsonl", "a.parquet"):
        write_rows(tmp_path / name, [{"name": name}])
    (tmp_path / ".d.jsonl.partial").write_text("{")
    (tmp_path / ".e.jsonl").write_text("{")
    (tmp_path / "b.jsonl.meta.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    names = [row["name"] for row in read_rows(tmp_path)]
    assert names == ["a.parquet", "b.jsonl", "sub/c.json"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize(("end", "codec"), [(".gz", "gzip"), (".zst", "zstd")])
def test_packed_files_are_read_alone_and_in_a_folder(
    tmp_path: Path, name: str, end: str, codec: str
) -> None:
    text = json.dumps(ROWS) if name.endswith(".json") else "\r\n".join(map(json.dumps, ROWS))
    with pa.CompressedOutputStream(str(tmp_path / f"{name}{end}"), codec) as file:
        file.write(text.encode())
    assert list(read_rows(tmp_path / f"{name}{end}")) == ROWS
    assert list(read_rows(tmp_path)) == ROWS


def test_a_packed_file_in_two_parts_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(f"{json.dumps(row)}\n".encode()) for row in ROWS))
    assert list(read_rows(path)) == ROWS


def test_objects_over_several_lines_are_rows(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(row, indent=2) for row in ROWS)
    (tmp_path / "x.json").write_bytes(text.replace("\n", "\r\n").encode())
    assert list(read_rows(tmp_path / "x.json")) == ROWS


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_half_an_emoji_becomes_a_question_mark(tmp_path: Path, name: str) -> None:
    text = '{"t": "a \\ud83d b \\ud83d\\ude00"}'
    (tmp_path / name).write_text(f"[{text}]" if name.endswith("json") else text)
    assert list(read_rows(tmp_path / name)) == [{"t": "a ? b 😀"}]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": ', "x.jsonl, line 2 is not valid JSON"),
        ("x.jsonl", b"[1, 2]\n", "x.jsonl, item 1 is a JSON int"),
        ("x.json", b'[{"a": 1}, {"a', "x.json, line 1 is not valid JSON"),
        ("x.json", b"[1]", "item 1 is a JSON int"),
        ("x.parquet", b"PAR1 no", "neither UTF-8 JSON nor parquet"),
        (
            "x.jsonl",
            b'{"a": 1}\n{"a": "\xe9"}',
            r"x.jsonl, line 2 is not UTF-8 \(byte 0xe9, column 8\)",
        ),
        ("x.json", b'[{"a": "\xe9"}]', "x.json, line 1 is not valid JSON .*UTF"),
        ("x.jsonl", b'{"a": 1}\n' + b'{"a":' * 100_000, "x.jsonl nests lists or objects too"),
        ("x.json", b'[{"a":\n' + b"[" * 9999 + b"]" * 9999 + b"}]", "x.json, line 2 nests .* 500 "),
        # A hundred thousand, and the parser that streams would take all of the memory.
        ("x.json", b"[" * 10**6, "x.json, line 1 nests lists or objects more than 500 deep"),
        ("x.json", b'{\n"a":' + b"[" * 10**6, "x.json, line 2 nests lists or objects more than"),
        (
            "x.json.gz",
            gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-20],
            "x.json.gz cannot be read",
        ),
        ("x.json.zst", b"\x28\xb5\x2f\xfd no", "x.json.zst cannot be read"),
        ("x.csv", b"a,b", "line 1 is not valid JSON .*; convert it to"),
    ],
)
def test_broken_data_is_one_sentence_that_names_the_file(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        list(read_rows(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_array_is_named_by_its_line(tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=1)
    number = text[: text.index('"b"')].count("\n") + 1
    (tmp_path / "x.json").write_text(text.replace('"b"', "b"))
    with pytest.raises(UserError, match=rf"x\.json, line {number} is not valid JSON"):
        list(read_rows(tmp_path / "x.json"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.parquet", "x.txt", "x"])
def test_the_content_tells_the_format_whatever_the_name(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "rows.parquet", ROWS)
    contents = [
        json.dumps(ROWS).encode(),
        "\n".join(map(json.dumps, ROWS)).encode(),
        (tmp_path / "rows.parquet").read_bytes(),
    ]
    for content in contents:
        (tmp_path / name).write_bytes(content)
        assert list(read_rows(tmp_path / name)) == ROWS


def test_an_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"version": 1, "data": ROWS}, indent=2))
    assert list(read_rows(tmp_path / "x.json")) == [{"version": 1, "data": ROWS}]


def test_benchmarks_and_training_read_a_folder_alike(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "sub/a.jsonl", "b.jsonl.meta.json", ".hidden.jsonl"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
    found = [record.value for record in read_files(str(tmp_path), "files")]
    assert found == list(read_rows(tmp_path)) == [{"name": "b.jsonl"}, {"name": "sub/a.jsonl"}]


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        list(read_rows(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UserError, match=r"holds no file ending in \.jsonl"):
        list(read_rows(tmp_path))


def test_a_large_json_array_is_not_loaded_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write("[" + ",".join(json.dumps({"t": "x" * 1000}) for _ in range(20_000)) + "]")
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < path.stat().st_size / 10


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_rows(path, ROWS)
    before = path.read_bytes()

    def interrupted() -> Iterator[Row]:
        yield ROWS[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(path, interrupted())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_final_file_and_a_rerun_cleans_up(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from ctx_tasks.row_writer import row_writer\n"
        "with row_writer(sys.argv[1]) as w:\n"
        "    w.write({'a': 1}); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "x.jsonl"
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -9
    assert not path.exists()
    write_rows(path, ROWS)
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_keeps_null_scores_and_the_same_bytes_twice(tmp_path: Path) -> None:
    rows = [{"id": None, "context_dependency": [None]}] * 1000
    rows += [{"id": "x", "context_dependency": [0.25, None]}, {"id": "y"}]
    for name in ("a.parquet", "b.parquet"):
        write_rows(tmp_path / name, rows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    read = list(read_rows(tmp_path / "a.parquet"))
    assert read[0] == rows[0]
    assert read[1000] == rows[1000]
    assert read[1001] == {"id": "y", "context_dependency": None}


@pytest.mark.parametrize(
    "late", [{"a": 1, "b": 2}, {"a": "text"}, {"a": [1]}], ids=["column", "type", "nested"]
)
def test_rows_that_fit_no_schema_are_an_error_not_a_loss(
    tmp_path: Path, late: dict[str, object]
) -> None:
    with pytest.raises(UserError, match=r"write to a \.jsonl file"):
        write_rows(tmp_path / "x.parquet", [{"a": 1}] * 1000 + [late])
    assert list(tmp_path.iterdir()) == []


def test_an_extra_key_in_a_late_message_is_not_dropped_silently(tmp_path: Path) -> None:
    plain = {"messages": [{"role": "user", "content": "x"}]}
    named = {"messages": [{"role": "user", "content": "x", "name": "n"}]}
    with pytest.raises(UserError, match=r"\.jsonl"):
        write_rows(tmp_path / "x.parquet", [plain] * 1000 + [named])


def test_an_empty_parquet_file_is_readable(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.parquet", [])
    assert list(read_rows(tmp_path / "x.parquet")) == []


def test_only_jsonl_and_parquet_are_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.jsonl or \.parquet"):
        write_rows(tmp_path / "x.json", ROWS)


def test_a_damaged_parquet_page_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"a": [f"{i} text" * 9 for i in range(5000)]})
    pq.write_table(table, path, write_page_checksum=True)
    whole = path.read_bytes()
    for place in range(4, len(whole) - 2000, len(whole) // 12):
        path.write_bytes(whole[:place] + bytes(200) + whole[place + 200 :])
        with pytest.raises(UserError, match=r"x\.parquet (cannot be read|is neither)"):
            list(read_rows(path))


def test_a_foreign_parquet_file_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(2500))}), tmp_path / "x.parquet", row_group_size=700)
    assert [row["a"] for row in read_rows(tmp_path / "x.parquet")] == list(range(2500))


def test_hub_names_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "chats").mkdir(parents=True)
    assert is_hub_name("HuggingFaceH4/ultrachat_200k")
    assert not is_hub_name("data/chats")
    assert not is_hub_name("data/chats.jsonl")
    assert not is_hub_name("/data/chats")
    assert not is_hub_name("chats")


def test_hub_rows_come_through_the_streaming_reader_of_datasets(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", ROWS)
    rows = list(hub_rows("json", data_files=str(tmp_path / "x.jsonl")))
    assert rows == ROWS


def test_an_unreachable_hub_dataset_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'nobody/nothing' could not be opened") as caught:
        hub_file("nobody/nothing", "x.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="'json' could not be opened"):
        list(hub_rows("json", data_files=str(tmp_path / "nowhere.jsonl")))
