"""A prompt's token ids, through the hands of the harness's `vllm` model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ctx_models.spans import Segment


class Row(list[int]):
    """Token ids that know which are the user's, also where the harness cuts or joins them.

    Attributes:
        user: of each token, whether it is the user's.
        prompt: the text they are of.
        whole: how many there were before any cut.
    """

    user: list[bool]
    prompt: str
    whole: int

    @classmethod
    def of(cls, ids: Iterable[int], user: Iterable[bool], prompt: str = "", whole: int = 0) -> Row:
        """Ids with all that is known of them."""
        row = cls(ids)
        row.user, row.prompt, row.whole = list(user), prompt, whole
        assert len(row) == len(row.user)
        return row

    @classmethod
    def segmented(
        cls, ids: Sequence[int], segments: Iterable[Segment], prompt: str = "", whole: int = 0
    ) -> Row:
        """Ids whose segments are known."""
        return cls.of(ids, (one == Segment.USER for one in segments), prompt, whole)

    @property
    def cut(self) -> int:
        """How many tokens are lost."""
        return self.whole - len(self)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if not isinstance(key, slice):
            return found
        return Row.of(found, self.user[key], self.prompt, self.whole)

    def __add__(self, other: Sequence[int]) -> Row:  # type: ignore[override]
        """With `other` behind; plain ids are the model's."""
        user = other.user if isinstance(other, Row) else [False] * len(other)
        return Row.of([*self, *other], self.user + user, self.prompt, self.whole)


class Ready(str):
    """A prompt on its way through the harness that knows its tokens as they will be run."""

    row: Row

    @classmethod
    def of(cls, row: Row) -> Ready:
        """The prompt of these tokens."""
        ready = cls(row.prompt)
        ready.row = row
        return ready
