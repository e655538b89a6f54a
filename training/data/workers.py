"""A function over a stream, by several processes, with the results in the order of the stream."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Fewer items are sooner done than processes are started.
_ALONE = 512
_CHUNK = 64
# Chunks on their way for each process: what is read ahead of the slowest.
_AHEAD = 4

_function: Callable[[Any], Any]


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """`map(function, items)` by up to `processes` processes; `function` must be picklable."""
    stream = iter(items)
    yield from map(function, itertools.islice(stream, _ALONE))
    chunks = iter(lambda: list(itertools.islice(stream, _CHUNK)), [])
    first = next(chunks, None)
    if first is None:
        return
    chunks = itertools.chain([first], chunks)
    if processes == 1:
        yield from map(function, itertools.chain.from_iterable(chunks))
        return
    with ProcessPoolExecutor(processes, initializer=_start, initargs=(function,)) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_apply, chunk))
            if len(waiting) == _AHEAD * processes:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()


def cores() -> int:
    """How many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    # The parent tells of an interrupt; the processes are the parallelism.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _apply(chunk: list[Any]) -> list[Any]:
    return [_function(item) for item in chunk]
