"""Several processes of one launch (`accelerate launch`): what becomes of one concerns all.

The harness lets them meet when each has answered its share. One that fails before would leave the
others waiting, or meet them in another place; so all hear of it, and all fail. One that is killed
can say nothing: the others miss it where they meet, or its launcher ends them, and they say why.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from ctx_models.logs import RANK
from ctx_tasks.errors import UserError

Found = TypeVar("Found")

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
# As a shell reports a program that a SIGTERM ended.
_ENDED = 128 + signal.SIGTERM


def together(answer: Callable[..., Found]) -> Callable[..., Found]:
    """A model's method in which what goes wrong in one process goes wrong in all."""

    @functools.wraps(answer)
    def whole(self: Any, *args: Any, **kwargs: Any) -> Found:
        if _by_itself(self):
            return answer(self, *args, **kwargs)
        failed: Exception | None = None
        try:
            found = answer(self, *args, **kwargs)
        except Exception as error:
            failed = error
        _tell(failed)
        return found

    return whole


def everyone(model: Any, found: list[Found]) -> list[Found]:
    """What all processes found, in their order; what this one did, where it is by itself."""
    if _by_itself(model):
        return found
    from accelerate.utils import gather_object

    return list(gather_object(found))


def _by_itself(model: Any) -> bool:
    """Whether the processes of a harness model, if there are more, may not meet.

    With --use_cache a process whose answers are all cached is not asked for any.
    """
    return model.world_size == 1 or model.cache_hook.dbdict is not None


def _tell(failed: Exception | None) -> None:
    """Raise this process's error, or what another one says of its own."""
    from accelerate.utils import gather_object

    said = "" if failed is None else f"{type(failed).__name__}: {failed}".splitlines()[0]
    everywhere = gather_object([said])
    if failed is not None:
        raise failed
    for number, error in enumerate(everywhere):
        if error:
            raise UserError(f"Process {number} of {len(everywhere)} failed: {error}")


def say_when_ended(program: str) -> None:
    """Of several processes, end with a sentence when the launcher ends this one.

    Python runs no handler while a process waits for another in foreign code, so a thread does it.
    """
    if PROCESSES == 1:
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_listen, args=(program, ear, mouth), daemon=True).start()


def _listen(program: str, ear: socket.socket, _mouth: socket.socket) -> None:
    """Wait for the signal; the other end of the pair lives as long as this does."""
    while signal.SIGTERM not in ear.recv(1):
        pass
    _end(program)


@contextmanager
def end_when_alone(program: str) -> Iterator[None]:
    """End as the launcher would when another process is missing where all meet.

    Who waits for a process hears of its death as soon as the launcher does.
    """
    try:
        yield
    except RuntimeError as error:
        if PROCESSES == 1 or not _of_the_wire(error):
            raise
        _end(program)


def _of_the_wire(error: RuntimeError) -> bool:
    """Whether processes do not reach each other; Gloo (on CPUs) has no type of its own for it."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "/gloo/" in str(error)


def _end(program: str) -> NoReturn:
    """End this process now: on its way out it would wait for the one that is gone."""
    print(
        f"{program}: process {RANK} of {PROCESSES} ends: another one died, or the whole launch was "
        "ended. What was answered is kept where results are written; give the same command again "
        "to go on.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(_ENDED)
