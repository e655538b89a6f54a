"""SQuAD, QuAC and DROP files of every format become the same documents; bad files are named."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctx_tasks import reading
from ctx_tasks.errors import UserError
from tests.ctx_tasks import reading_data as data

LOADERS = {"squad": reading.squad, "quac": reading.quac, "drop": reading.drop}
each_benchmark = pytest.mark.parametrize("name", sorted(LOADERS))


def load(name: str, files: Any) -> list[dict[str, Any]]:
    return LOADERS[name](**{f"{name}_files": files})["validation"].to_list()


def as_json(path: Path, value: Any, indent: int | None = None) -> str:
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    return str(path)


def test_squad_documents(tmp_path: Path) -> None:
    loaded = load("squad", data.write_lines(tmp_path / "a.jsonl", data.SQUAD))
    assert [row["references"] for row in loaded] == [
        [["Ada"], ["by Ada"]],
        [["1999"], ["in 1999"]],
        [["Three"]],
    ]
    assert [row["id"] for row in loaded] == ["s1", "s2", "s3"]
    assert loaded[0]["passage_id"] == loaded[1]["passage_id"] != loaded[2]["passage_id"]
    assert loaded[0]["context"] == data.LAMP
    assert loaded[0]["target"] == "Ada"


def test_quac_keeps_first_questions_and_cuts_the_marker(tmp_path: Path) -> None:
    loaded = load("quac", data.write_lines(tmp_path / "a.jsonl", data.QUAC))
    assert [row["question"] for row in loaded] == ["Who lit it?", "Who sank?"]
    assert [row["context"] for row in loaded] == [data.LAMP, data.HARBOUR]
    assert [row["references"] for row in loaded] == [[["by Ada"], ["Ada"]], [["CANNOTANSWER"]]]
    assert [row["answerable"] for row in loaded] == [True, False]


def test_drop_answers_are_number_date_or_spans(tmp_path: Path) -> None:
    loaded = load("drop", data.write_lines(tmp_path / "a.jsonl", data.DROP))
    assert [row["references"] for row in loaded] == [
        [["3"], ["Three"]],
        [["4 May 1820"], ["1820"]],
        [["Wren", "Gull"]],
    ]


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ({"day": "4", "month": "May", "year": "1820"}, "4 May 1820"),
        ({"day": "", "month": "May", "year": "1820"}, "May 1820"),
        ({"day": "4", "month": "", "year": "1820"}, "4 1820"),
        ({"day": None, "month": None, "year": 1820}, "1820"),
    ],
)
def test_a_date_is_its_parts_with_single_spaces(
    tmp_path: Path, date: dict[str, Any], expected: str
) -> None:
    answer = {"number": "", "date": date, "spans": []}
    row = data.drop_row("d", data.HARBOUR, "When?", answer)
    assert load("drop", as_json(tmp_path / "a.json", row))[0]["references"] == [[expected]]


@each_benchmark
@pytest.mark.parametrize("indent", [None, 2])
def test_the_release_gives_the_same_documents_and_hash(
    tmp_path: Path, name: str, indent: int | None
) -> None:
    rows = load(name, data.write_lines(tmp_path / "hub.jsonl", data.ROWS[name]))
    nested = data.release(name, data.ROWS[name])
    assert load(name, as_json(tmp_path / "release.json", nested, indent)) == rows


@each_benchmark
def test_every_format_gives_the_same_documents_and_hash(tmp_path: Path, name: str) -> None:
    rows = data.ROWS[name]
    expected = load(name, data.write_lines(tmp_path / "a.jsonl", rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert load(name, str(tmp_path / "a.parquet")) == expected
    assert load(name, as_json(tmp_path / "list.json", rows)) == expected
    assert load(name, as_json(tmp_path / "pretty.json", rows, indent=1)) == expected
    assert load(name, data.write_lines(tmp_path / "lines.json", rows)) == expected
    with_bom = tmp_path / "bom.jsonl"
    with_bom.write_text((tmp_path / "a.jsonl").read_text(), encoding="utf-8-sig")
    assert load(name, with_bom) == expected


def test_lists_and_folders_are_read_in_order(tmp_path: Path) -> None:
    first = data.write_lines(tmp_path / "a.jsonl", data.SQUAD[:1])
    second = as_json(tmp_path / "b.json", data.squad_release(data.SQUAD[1:]))
    (tmp_path / "notes.txt").write_text("not data")
    assert [row["id"] for row in load("squad", [second, first])] == ["s2", "s3", "s1"]
    assert [row["id"] for row in load("squad", str(tmp_path))] == ["s1", "s2", "s3"]


def test_the_hash_follows_the_content_not_the_path(tmp_path: Path) -> None:
    one = load("squad", data.write_lines(tmp_path / "a.jsonl", data.SQUAD))
    same = load("squad", data.write_lines(tmp_path / "b.jsonl", data.SQUAD))
    fewer = load("squad", data.write_lines(tmp_path / "c.jsonl", data.SQUAD[:2]))
    assert one == same
    assert one[0]["data_hash"] != fewer[0]["data_hash"]


def test_which_data_it_was_is_handed_back(tmp_path: Path) -> None:
    used: dict[str, Any] = {}
    path = data.write_lines(tmp_path / "a.jsonl", data.SQUAD)
    rows = reading.squad(squad_files=path, data_used=used, version=1.0)["validation"]
    assert used == {"source": path, "sha256": rows[0]["data_hash"], "rows": 3}


def test_questions_without_an_answer_are_left_out(tmp_path: Path) -> None:
    rows = [data.squad_row("none", data.LAMP, "Why?"), *data.SQUAD]
    assert len(load("squad", data.write_lines(tmp_path / "a.jsonl", rows))) == 3


def test_a_row_without_id_gets_one_from_its_text(tmp_path: Path) -> None:
    rows = [{**row, "id": None} for row in data.SQUAD]
    loaded = load("squad", data.write_lines(tmp_path / "a.jsonl", rows))
    assert len({row["id"] for row in loaded}) == 3


def test_special_text_is_kept_as_it_is(tmp_path: Path) -> None:
    context = "\u2028 <|user|> {{ context }} </s> 灯台 🕯 \x0b done. "
    row = data.squad_row("x", context, " Why? ", "灯台")
    loaded = load("squad", data.write_lines(tmp_path / "a.jsonl", [row]))[0]
    assert (loaded["context"], loaded["question"]) == (context, " Why? ")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of `tmp_path` on a local web server; downloads go to a cache of their own."""
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    # Tests run in the hub's offline mode, which refuses every address, this machine's too.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_url_is_downloaded(tmp_path: Path, served: str) -> None:
    path = data.write_lines(tmp_path / "a.jsonl", data.SQUAD)
    assert load("squad", f"{served}/a.jsonl") == load("squad", path)


def test_a_url_that_is_not_there_is_named(served: str) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl could not be downloaded .* local copy"):
        load("squad", f"{served}/none.jsonl")


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


QUAC_TEXTS = {**data.QUAC[0], "answers": {"texts": ["Ada"]}}
SQUAD_RELEASE = data.squad_release(data.SQUAD)
SQUAD_TURN = {"context": "c", "qas": [{"id": "1", "answers": []}]}
UNEVEN = {"number": ["1", "2"], "date": [], "spans": []}
BAD_ROWS = [
    ("squad", without(data.SQUAD[0], "context"), "has no 'context' (found: id, title, question,"),
    ("squad", without(data.SQUAD[0], "question"), "has no 'question'"),
    ("squad", without(data.SQUAD[0], "answers"), "but SQuAD needs id, context, question, answers"),
    ("squad", {**data.SQUAD[0], "answers": {"answer": []}}, "has no 'text' (found: answer)"),
    ("squad", {**data.SQUAD[0], "answers": {"text": [1]}}, "has 'text' is int"),
    ("squad", {**data.SQUAD[0], "context": None}, "has 'context' is NoneType"),
    ("squad", {**data.SQUAD[0], "answers": "Ada"}, "has 'answers' is str"),
    ("squad", {"data": [{"title": "T"}]}, "a.json, data 1 has no 'paragraphs' (found: title)"),
    ("squad", {"data": [{"paragraphs": [SQUAD_TURN]}]}, "paragraphs 1, qas 1 has no 'question'"),
    ("squad", {}, "(found: nothing)"),
    ("squad", data.DROP[0], "pass other files as squad_files"),
    ("quac", without(data.QUAC[0], "questions"), "has no 'questions'"),
    ("quac", QUAC_TEXTS, "has 'texts' is str"),
    ("quac", SQUAD_RELEASE | {"data": [{}]}, "has no 'paragraphs'"),
    ("drop", without(data.DROP[0], "answer"), "has no 'answer'"),
    ("drop", {**data.DROP[0], "answer": {"number": "", "spans": []}}, "has no 'date'"),
    ("drop", {**data.DROP[0], "validated_answers": {"number": []}}, "has no 'date'"),
    ("drop", {**data.DROP[0], "validated_answers": UNEVEN}, "of unequal lengths [2, 0, 0]"),
    ("drop", {"h_1": {"qa_pairs": []}}, "a.json, h_1 has no 'passage'"),
    ("drop", [1], "item 1 is a JSON int, but a row must be an object"),
    ("squad", [], "holds no SQuAD question with an answer"),
    ("squad", [data.squad_row("x", "c", "q")], "holds no SQuAD question with an answer"),
    ("quac", {"data": []}, "holds no QuAC question with an answer"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_ROWS)
def test_a_wrong_row_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(name, as_json(tmp_path / "a.json", content))


BAD_FILES = [
    (b"", "holds no SQuAD question"),
    (b"\n \n", "holds no SQuAD question"),
    (b'{"id": 1}\n{"id": \n', "a.jsonl, line 1 has no 'context'"),
    (b"not json\n", "a.jsonl, line 1 is not valid JSON"),
    (b"\x1f\x8b\x08\x00\xff", "a.jsonl cannot be read (Compressed file ended"),
    (b"PAR1 and then nothing", "a.jsonl is neither UTF-8 JSON nor parquet"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        load("squad", str(path))


def test_a_malformed_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in data.SQUAD]
    path.write_text(f"{lines[0]}\n\n{lines[1]}\n{lines[2][:-9]}\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 4 is not valid JSON"):
        load("squad", str(path))


def test_a_malformed_release_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n "data": [\n  {"title": }\n ]\n}\n')
    with pytest.raises(UserError, match=r"a\.json, line 3 is not valid JSON"):
        load("squad", str(path))


@pytest.mark.parametrize("files", ["", [], 5, {"path": "x"}, [["x"]], [""]])
def test_what_is_no_path_is_refused(files: Any) -> None:
    with pytest.raises(UserError, match="squad_files must be a path, a URL or a list of these"):
        load("squad", files)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"drop_files names .*none, which does not exist"):
        load("drop", str(tmp_path / "none"))


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names the folder .*, which holds no file ending in"):
        load("drop", str(tmp_path))


@pytest.mark.parametrize("name", ["squad", "drop"])
def test_without_files_the_hub_dataset_is_loaded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder with a parquet split stands in for the hub's repository: the same `load_dataset`.
    repository = tmp_path / "repository"
    repository.mkdir()
    pq.write_table(pa.Table.from_pylist(data.ROWS[name]), repository / "validation.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    benchmark = dataclasses.replace(getattr(reading, name.upper()), hub=(str(repository),))
    monkeypatch.setattr(reading, name.upper(), benchmark)
    used: dict[str, Any] = {}
    loaded = LOADERS[name](data_used=used)["validation"].to_list()
    assert loaded == load(name, str(repository))
    assert used["source"] == f"{repository}@unknown"


def test_a_hub_that_cannot_be_reached_asks_for_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DROP", dataclasses.replace(reading.DROP, hub=("./no-such",)))
    asked = r"could not be loaded from the Hugging Face hub .* --metadata '\{\"drop_files\""
    with pytest.raises(UserError, match=asked):
        reading.drop()


def test_a_release_that_cannot_be_fetched_asks_for_a_local_copy(
    monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    unreachable = dataclasses.replace(reading.QUAC, url=f"{served}/val_v0.2.json")
    monkeypatch.setattr(reading, "QUAC", unreachable)
    with pytest.raises(UserError, match=r"val_v0\.2\.json could not be .*\"quac_files\": \"PATH\""):
        reading.quac()


def test_without_files_the_release_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: str
) -> None:
    path = as_json(tmp_path / "val_v0.2.json", data.quac_release(data.QUAC))
    monkeypatch.setattr(
        reading, "QUAC", dataclasses.replace(reading.QUAC, url=f"{served}/val_v0.2.json")
    )
    assert reading.quac()["validation"].to_list() == load("quac", path)


def test_many_rows_are_read_in_seconds(tmp_path: Path) -> None:
    lines = (
        json.dumps(data.squad_row(str(i), f"{i // 5} {data.LAMP}", "Who?", "Ada"))
        for i in range(20_000)
    )
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = reading.squad(squad_files=str(tmp_path / "a.jsonl"))["validation"]
    assert len(rows) == 20_000
    assert len(set(rows["passage_id"])) == 4000


REAL = [
    ("squad", "validation_sample", 400, 400),
    ("drop", "validation_sample", 381, 381),
    ("drop", "original_schema", 19, 19),
    ("quac", "validation_sample", 200, 200),
    ("quac", "original_schema", 5, 5),
]


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "file", "rows", "documents"), REAL)
def test_real_samples_load_and_their_release_nesting_is_the_same(
    tmp_path: Path, name: str, file: str, rows: int, documents: int
) -> None:
    path = Path(os.environ["CTX_REAL_DATA"]) / name / f"{file}.jsonl"
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    loaded = load(name, str(path))
    assert (len(raw), len(loaded)) == (rows, documents)
    ordered = sorted(raw, key=lambda row: row.get("passage", row.get("context")))
    hub = load(name, data.write_lines(tmp_path / "hub.jsonl", ordered))
    nested = data.release(name, ordered)
    assert load(name, as_json(tmp_path / "release.json", nested)) == hub


@pytest.mark.realdata
def test_real_quac_contexts_lose_their_marker() -> None:
    loaded = load("quac", str(Path(os.environ["CTX_REAL_DATA"]) / "quac"))
    assert len(loaded) == 205
    assert not any(row["context"].endswith("CANNOTANSWER") for row in loaded)
    assert 0 < sum(not row["answerable"] for row in loaded) < 25
