"""How far `prepare` is: the bytes of the input that were read, with the time that is left.

How many conversations a file holds is known at its end. A dataset that the hub streams has no
length: its conversations are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

from ctx_tasks.rows import is_hub_name, local_files

Item = TypeVar("Item")


class Progress:
    """A bar on the terminal while it is entered."""

    def __init__(self, source: str) -> None:
        self._local = not is_hub_name(source)
        measure: dict[str, Any] = {"unit": " conversations"}
        if self._local:
            total = sum(file.stat().st_size for file in local_files(source))
            measure = {"total": total, "unit": "B", "unit_scale": True}
        self._bar: tqdm[Any] = tqdm(desc="prepare", **measure)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def bytes_read(self, count: int) -> None:
        """Of a local source, since the last time."""
        self._bar.update(count)

    def of(self, conversations: Iterable[Item]) -> Iterator[Item]:
        """`conversations`, counted."""
        for number, conversation in enumerate(conversations, start=1):
            if self._local:
                self._bar.set_postfix_str(f"{number} conversations", refresh=False)
            else:
                self._bar.update()
            yield conversation
