"""Files that appear whole, or not at all.

`NAME` is written as the hidden `.NAME.partial` beside it and renamed once its bytes are on the
disk: a process killed at any moment leaves the old or the new. What it leaves besides, the next
writer empties. While it is written the partial is locked, and a second writer refused. Whatever
keeps a file from being written (no such folder, no permission, a full disk) is one `UserError`.

A folder that replaces another is swapped with it in one system call, on Linux. Where the system
cannot, neither stands there between two renames; on file systems without locks, two writers of one
file meet in its partial.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctx_tasks.errors import UserError

logger = logging.getLogger(__name__)

# What is wrong with the place, and not with what was to be written there.
_PLACE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
_FULL = os.strerror(errno.ENOSPC)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole; what UTF-8 cannot hold (half an emoji) becomes `?`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace", newline="\n")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """An empty file to write to; it becomes `path` on success and is removed on an error.

    Raises:
        UserError: `path` cannot be written, or another process is writing it.
    """
    path = Path(path)
    with _partial(path, Path.touch) as partial:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file; name another output.")
        os.truncate(partial, 0)
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to write to; it takes the place of `path` on success, and of all in it.

    Raises:
        UserError: as `whole_file`.
    """
    path = Path(path)
    with _partial(path, lambda partial: partial.mkdir(exist_ok=True)) as partial:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is no folder; name another output.")
        for left in partial.iterdir():
            _remove(left)
        yield partial
        for inside in (*partial.rglob("*"), partial):
            _sync(inside)
        _put(partial, path)
        _sync(path.parent)


def move_into(folder: Path, staged: Path) -> None:
    """Move what was written to the folder `staged` into `folder`, each file whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(staged.iterdir()):
            _sync(path)
            os.replace(path, folder / path.name)
        _sync(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """`UserError` for whatever keeps a library from writing files below `folder` in the body."""
    with _sentence(folder, folder):
        yield


def require_writable(path: str | Path) -> None:
    """Raise `UserError` unless a file `path` could be made now; leaves nothing behind.

    For the start of what takes long: the folders above it need not be there yet.
    """
    path = Path(path)
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=above) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> UserError:
    """The sentence for what keeps `path` from being written."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        said = "a file lies where a folder should be"
    reason = " ".join(said.split())[:200]
    return UserError(f"{path} cannot be written ({reason}); mend that, or name another output.")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _partial(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """The hidden `.NAME.partial` beside `path`, locked; removed on an error."""
    partial = path.with_name(f".{path.name}.partial")
    with _sentence(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(partial, make)
        try:
            yield partial
        except BaseException:
            _remove(partial)
            raise
        finally:
            os.close(lock)


def _lock(partial: Path, make: Callable[[Path], object]) -> int:
    """A descriptor that holds the lock on `partial`, made where there is none."""
    while True:
        make(partial)
        with suppress(FileNotFoundError):
            descriptor = _locked(partial)
            # Else another writer has renamed its partial, and we hold what is no longer one.
            if os.path.samestat(os.fstat(descriptor), partial.stat()):
                return descriptor
            os.close(descriptor)


def _locked(partial: Path) -> int:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"Another process is writing {partial}; wait until it is done, or name another output."
        ) from None
    except OSError as error:
        # Some clusters' file systems have no locks.
        logger.debug("%s cannot be locked: %s", partial, error)
    return descriptor


@contextmanager
def _sentence(path: Path, partial: Path) -> Iterator[None]:
    """One `UserError` for whatever keeps `path` from being written, in the body too."""
    try:
        yield
    except Exception as error:
        if _is_of_place(error, path, partial):
            raise cannot_write(path, error) from error
        raise


def _is_of_place(error: Exception, path: Path, partial: Path) -> bool:
    """Whether the place is to blame; an input that cannot be read names another file."""
    if isinstance(error, OSError) and error.filename is not None:
        named = Path(os.fsdecode(error.filename))
        return error.errno in _PLACE and (
            named.is_relative_to(partial) or path.is_relative_to(named)
        )
    # Libraries tell of a full disk in errors of their own.
    return getattr(error, "errno", None) in _PLACE or _FULL in str(error)


def _put(partial: Path, path: Path) -> None:
    """Rename a folder to `path`, and remove what was there."""
    if not path.exists():
        os.replace(partial, path)
        return
    # What was there becomes the partial, which no one shall write to before it is gone.
    lock = _locked(path)
    try:
        if not _exchange(partial, path):
            _put_in_two_steps(partial, path)
        _remove(partial)
    finally:
        os.close(lock)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        swap = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return bool(swap(*names, _RENAME_EXCHANGE) == 0)


def _put_in_two_steps(partial: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    os.replace(path, old)
    os.replace(partial, path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems cannot sync a folder.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
