"""A journal goes on behind its last whole line, for one process and one run at a time."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctx_tasks
from ctx_tasks.errors import UserError
from ctx_tasks.journal import Journal, lines, read

SETTINGS = {"layer": 1, "rows": [1, 2]}
OBJECTS = st.lists(
    st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.floats(allow_nan=False)))
)


def write(path: Path, objects: list[dict[str, Any]], run: dict[str, Any] | None = None) -> None:
    with Journal(path, run) as journal:
        for one in objects:
            journal.add(one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


@settings(max_examples=30)
@given(parts=st.lists(OBJECTS, max_size=3), run=st.none() | st.just(SETTINGS))
def test_what_was_added_is_read_whoever_adds_more(
    folder: Path, parts: list[list[dict[str, Any]]], run: dict[str, Any] | None
) -> None:
    path = folder / "deep" / "x.jsonl"
    path.unlink(missing_ok=True)
    for part in parts:
        write(path, part, run)
    assert list(read(path, run)) == [one for part in parts for one in part]


@pytest.mark.parametrize("run", [None, SETTINGS], ids=["anybody's", "of a run"])
def test_a_journal_torn_at_any_byte_keeps_its_whole_lines_and_goes_on(
    tmp_path: Path, run: dict[str, Any] | None
) -> None:
    path = tmp_path / "x.jsonl"
    objects = [{"text": "Grüße 😀\n"}, {"n": 12}, {}, {"last": [0.5, None]}]
    write(path, objects, run)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        # Of an object nothing but the line feed is missing.
        whole += content[size : size + 1] == b"\n"
        kept = objects[: max(0, whole - (run is not None))]
        assert list(read(path, run)) == kept
        write(path, [{"new": size}], run)
        assert list(read(path, run)) == [*kept, {"new": size}]
        assert all(json.loads(line) is not None for line in path.read_bytes().splitlines())


ADDING = """
import sys
from pathlib import Path
from ctx_tasks.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    number = 0
    while True:
        journal.add({"number": number, "text": "x" * 5000})
        number += 1
        print(number, flush=True)
"""


@contextmanager
def another_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that adds without end, and says how many lines it has added."""
    environment = {**os.environ, "PYTHONPATH": str(Path(ctx_tasks.__file__).parents[1])}
    words = [sys.executable, "-c", ADDING, str(path)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_in_a_sentence_until_the_first_is_killed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    with another_writer(path) as process:
        with pytest.raises(UserError, match="Another process is writing .*x.jsonl; wait"):
            Journal(path).__enter__()
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        said = [1, *map(int, process.stdout.read().split())]
    kept = list(read(path))
    # The line that was on the disk may not have been told any more.
    assert [one["number"] for one in kept][: said[-1]] == list(range(said[-1]))
    assert len(kept) - said[-1] in (0, 1)
    write(path, [{"number": -1}])
    assert list(read(path)) == [*kept, {"number": -1}]


def test_threads_add_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with Journal(path) as journal:
        threads = [
            threading.Thread(target=lambda: [journal.add({"x": "y" * 9000}) for _ in range(10)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(read(path)) == [{"x": "y" * 9000}] * 80


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write(path, [{"a": 1}], SETTINGS)
    before = path.read_bytes()
    other = {"layer": 2, "rows": (1, 2)}
    for attempt in (lambda: write(path, [], other), lambda: list(read(path, other))):
        with pytest.raises(UserError, match=r"other settings: layer 1 \(now 2\); run") as caught:
            attempt()
        assert "rows" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_with_settings_alone_is_anybodys(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write(path, [], SETTINGS)
    write(path, [{"a": 1}], {"layer": 2})
    assert list(read(path, {"layer": 2})) == [{"a": 1}]


def test_a_file_that_says_not_whose_it_is_is_refused_to_a_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write(path, [{"a": 1}, {"a": 2}])
    with pytest.raises(UserError, match="does not say which run it belongs to"):
        write(path, [], SETTINGS)


@pytest.mark.parametrize("text", ["notes", "a\nb", '{\n "a": 1\n}', "[1]\n", "\0\0\0"])
def test_a_file_of_another_kind_is_not_cut(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="another kind of file"):
        write(path, [{"a": 1}])
    assert path.read_text() == text


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write(path, [{"a": 1}, {"a": 2}, {"a": 3}])
    path.write_bytes(path.read_bytes().replace(b"2}", b"2"))
    with pytest.raises(UserError, match=r"Line 2 of .*x\.jsonl is damaged: delete"):
        list(read(path))
    assert [number for number, _ in lines(path)] == [1, 2, 3]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "x", tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            write(path, [])


def add_without_end(journal: Journal) -> None:
    for number in itertools.count():
        journal.add({"number": number, "text": "x" * 5000})


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_whole_lines(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        path = tmp_path / "x.jsonl"
        with Journal(path) as journal:
            with pytest.raises(UserError, match="cannot be written .No space left on device"):
                add_without_end(journal)
            kept = list(read(path))
            journal.add({"number": -1})
        assert path.read_bytes().endswith(b'}\n{"number": -1}\n')
        assert list(read(path)) == [*kept, {"number": -1}]
        assert [one["number"] for one in kept] == list(range(len(kept)))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
