"""Files and folders appear whole or not at all: killed, refused a second writer, without room."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import ctx_models
import ctx_tasks
import training
from ctx_tasks import files
from ctx_tasks.errors import UserError
from ctx_tasks.files import (
    move_into,
    require_writable,
    whole_file,
    whole_folder,
    write_text,
    writing_into,
)
from ctx_tasks.row_writer import write_rows


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(path: Path) -> dict[str, str]:
    """What stands under a name: the files of a folder, or one file under ''."""
    if path.is_file():
        return {"": path.read_text()}
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


@given(old=st.none() | st.text(), new=st.text())
def test_a_text_replaces_the_old_one_whole(tmp_path_factory, old: str | None, new: str) -> None:
    path = tmp_path_factory.mktemp("x") / "deep" / "x.txt"
    if old is not None:
        write_text(path, old)
    write_text(path, new)
    assert path.read_bytes() == new.encode("utf-8", "replace")
    assert names(path.parent) == ["x.txt"]


def half_a_file(path: Path, error: type[BaseException]) -> None:
    with whole_file(path) as partial:
        partial.write_text("half")
        raise error


def half_a_folder(path: Path, error: type[BaseException]) -> None:
    with whole_folder(path) as partial:
        (partial / "b").write_text("half")
        raise error


def test_an_error_leaves_the_old_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "folder" / "a", "old")
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            half_a_file(tmp_path / "file", error)
        with pytest.raises(error):
            half_a_folder(tmp_path / "folder", error)
    assert names(tmp_path) == ["file", "folder"]
    assert content(tmp_path / "file") == {"": "old"}
    assert content(tmp_path / "folder") == {"a": "old"}


@pytest.mark.parametrize("swap", [True, False], ids=["exchanged", "in two steps"])
def test_a_folder_takes_the_place_of_all_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    if not swap:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    for inside in ("old/a", "new/b/c"):
        with whole_folder(tmp_path / "x") as partial:
            write_text(partial / inside, inside)
        assert content(tmp_path / "x") == {inside: inside}
    assert names(tmp_path) == ["x"]


def test_staged_files_are_moved_in_beside_what_is_there(tmp_path: Path) -> None:
    for name in ("kept", "replaced", "staged/replaced", "staged/new"):
        write_text(tmp_path / name, name)
    move_into(tmp_path, tmp_path / "staged")
    assert names(tmp_path / "staged") == []
    texts = {name: (tmp_path / name).read_text() for name in ("kept", "new", "replaced")}
    assert texts == {"kept": "kept", "new": "staged/new", "replaced": "staged/replaced"}


# A killed process.

# Replaces the file and the folder, and ends itself by SIGKILL before the step of that number: a
# step is whatever of the system's calls changes something.
KILLED = """
import os, signal, sys
from pathlib import Path
from ctx_tasks import files

left = int(sys.argv[1])

def counted(call):
    def step(*arguments, **keywords):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*arguments, **keywords)
    return step

os.replace, os.truncate, os.fsync = map(counted, (os.replace, os.truncate, os.fsync))
os.unlink, os.rmdir, os.close = map(counted, (os.unlink, os.rmdir, os.close))
files._exchange = counted(files._exchange)
Path.touch, Path.mkdir = counted(Path.touch), counted(Path.mkdir)
Path.write_text = counted(Path.write_text)

files.write_text("file", "new")
with files.whole_folder("folder") as partial:
    for name in ("b", "c"):
        (partial / name).write_text("new")
print(left)
"""


def killed(folder: Path, step: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(step)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(ctx_tasks.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )


def put_old(folder: Path) -> None:
    write_text(folder / "file", "old")
    with whole_folder(folder / "folder") as partial:
        (partial / "a").write_text("old")


def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    put_old(tmp_path)
    enough = 1000
    done = killed(tmp_path, enough)
    assert done.returncode == 0, done.stderr
    steps = enough - int(done.stdout)
    assert steps > 20
    seen = set()
    for step in range(steps):
        put_old(tmp_path)
        assert killed(tmp_path, step).returncode == -signal.SIGKILL
        shown = [entry for entry in names(tmp_path) if not entry.startswith(".")]
        assert shown == ["file", "folder"]
        file, folder = content(tmp_path / "file")[""], content(tmp_path / "folder")
        assert file in ("old", "new")
        assert folder in ({"a": "old"}, {"b": "new", "c": "new"})
        seen.add((file, len(folder)))
    assert seen == {("old", 1), ("new", 1), ("new", 2)}
    assert killed(tmp_path, enough).returncode == 0
    assert names(tmp_path) == ["file", "folder"]


# A second writer.


@contextmanager
def another_writer(path: Path, kind: str) -> Iterator[None]:
    """A process of its own in the middle of writing `path`."""
    script = (
        "import sys; from ctx_tasks import files\n"
        f"with files.{kind}(sys.argv[1]) as partial:\n"
        "    print('writing', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(ctx_tasks.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield
        process.communicate("")
        assert process.returncode == 0


@pytest.mark.parametrize("kind", ["whole_file", "whole_folder"])
def test_a_second_writer_is_refused_in_a_sentence_and_the_first_goes_on(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x"
    with another_writer(path, kind):
        with (
            pytest.raises(UserError, match="Another process is writing .*x"),
            getattr(files, kind)(path),
        ):
            pytest.fail("two writers")
        assert not path.exists()
    assert names(tmp_path) == ["x"]
    with getattr(files, kind)(path):
        pass


# A place that cannot be written to.


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    write_text(tmp_path / "file", "a file")
    (tmp_path / "folder").mkdir()
    return {
        "below a file": tmp_path / "file" / "deep" / "x",
        "in a file": tmp_path / "file" / "x",
        "too long a name": tmp_path / ("x" * 300),
    }


@pytest.mark.parametrize("place", ["below a file", "in a file", "too long a name"])
@pytest.mark.parametrize("kind", ["whole_file", "whole_folder"])
def test_a_place_that_cannot_be_written_is_one_sentence(
    places: dict[str, Path], place: str, kind: str
) -> None:
    write = getattr(files, kind)
    with pytest.raises(UserError, match="cannot be written") as caught, write(places[place]):
        pytest.fail("written")
    assert str(places[place]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_or_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(UserError, match="is no regular file"):
            write_text(path, "x")
    assert Path("/dev/null").is_char_device()
    write_text(tmp_path / "file", "x")
    with pytest.raises(UserError, match="is no folder"), whole_folder(tmp_path / "file"):
        pytest.fail("written")


def test_what_is_wrong_with_the_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "out"):
        (tmp_path / "in").read_text()
    with pytest.raises(ConnectionError), whole_file(tmp_path / "out"):
        raise ConnectionResetError(104, "Connection reset by peer")


def test_a_writable_place_is_told_before_and_nothing_is_left_there(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    before = names(tmp_path)
    require_writable(tmp_path / "new" / "deep" / "x")
    require_writable(tmp_path / "file")
    assert names(tmp_path) == before
    for place in ("below a file", "in a file"):
        with pytest.raises(UserError, match="cannot be written"):
            require_writable(places[place])


def as_nobody(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`script` run by a user without any rights here."""
    return subprocess.run(
        [sys.executable, "-c", f"import os, sys\n{script}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_folder_of_another_user_is_one_sentence(tmp_path: Path) -> None:
    """Root may write anywhere, so the process gives its rights away once all is imported."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    tmp_path.chmod(0o555)
    done = as_nobody(
        "from ctx_tasks.errors import UserError\n"
        "from ctx_tasks.files import require_writable, write_text\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for write in (require_writable, lambda path: write_text(path, 'x')):\n"
        "    try: write(sys.argv[1]); print('written')\n"
        "    except UserError as error: print(error)\n",
        tmp_path / "x",
    )
    told = f"{tmp_path / 'x'} cannot be written (Permission denied); "
    assert [line.startswith(told) for line in done.stdout.splitlines()] == [True, True], done


# A full disk.


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """64 KiB, with an old file and an old folder."""
    disk = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    put_old(disk)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def unchanged(disk: Path) -> bool:
    both = content(disk / "file"), content(disk / "folder")
    return names(disk) == ["file", "folder"] and both == ({"": "old"}, {"a": "old"})


def some_bytes(path: Path, size: int) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(bytes(size))


def some_folder(path: Path, size: int) -> None:
    with whole_folder(path) as partial:
        (partial / "b").write_bytes(bytes(size))


def some_tensors(path: Path, size: int) -> None:
    with whole_folder(path) as partial:
        save_file({"x": torch.rand(size)}, partial / "model.safetensors")


def some_rows(path: Path, size: int) -> None:
    rows = ({"text": random.Random(index).randbytes(50).hex()} for index in range(size // 10))
    write_rows(path, rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (some_bytes, "file"),
        (some_folder, "folder"),
        (some_tensors, "folder"),
        (some_rows, "x.jsonl"),
        (some_rows, "x.parquet"),
    ],
)
@settings(max_examples=10)
@given(size=st.integers(min_value=65_000, max_value=200_000))
def test_a_full_disk_is_one_sentence_and_the_old_stays(
    small_disk: Path, write: Callable[[Path, int], None], name: str, size: int
) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be written .*No space left") as caught:
        write(small_disk / name, size)
    assert "\n" not in str(caught.value)
    assert unchanged(small_disk)


@pytest.mark.slow
def test_a_full_disk_is_told_before_the_work(small_disk: Path) -> None:
    require_writable(small_disk / "x")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(64 * 1024))
    with pytest.raises(UserError, match="No space left"):
        require_writable(small_disk / "x")
    filler.unlink()
    assert unchanged(small_disk)


@pytest.mark.slow
def test_a_full_disk_is_told_where_a_library_writes(small_disk: Path) -> None:
    run = small_disk / "run"
    run.mkdir()
    with pytest.raises(UserError, match="run cannot be written .*No space left"), writing_into(run):
        save_file({"x": torch.rand(100_000)}, run / "model.safetensors")


# One home.


def test_no_other_file_renames_or_makes_temporary_files() -> None:
    pattern = re.compile(r"os\.(replace|rename)|\.rename\(|mkstemp|NamedTemporaryFile|\.tmp\"")
    sources = [
        path
        for package in (ctx_tasks, ctx_models, training)
        for path in Path(str(package.__file__)).parent.rglob("*.py")
    ]
    assert len(sources) > 50
    found = {path.name for path in sources if pattern.search(path.read_text(encoding="utf-8"))}
    assert found == {"files.py"}
    assert not pattern.search(Path(str(training.__file__)).with_name("files.py").read_text())
