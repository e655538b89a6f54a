"""How deeply a JSON text nests, told from its bytes before a parser sees them.

A parser that streams keeps the path to where it is: a text of 100,000 open brackets costs it all of
the memory, or the process.
"""

from __future__ import annotations

_BRACKETS = b"[{]}"
_OTHERS = bytes(byte for byte in range(256) if byte not in _BRACKETS)


class Nesting:
    """The brackets that are open, piece by piece; those within strings are text."""

    def __init__(self, limit: int) -> None:
        """`limit`: how many may be open at once."""
        self._limit = limit
        self._depth = 0
        # What stands before the next piece: nothing, or within a string `"`, or `"\`.
        self._before = b""

    def exceeded(self, piece: bytes) -> bool:
        """Whether more brackets than allowed are open at once within the next piece of the text."""
        text = (self._before + piece).replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = text.split(b'"')
        within = len(parts) % 2 == 0
        self._before = (b'"\\' if text.endswith(b"\\") else b'"') if within else b""
        brackets = b"".join(parts[::2]).translate(None, _OTHERS)
        return self._passed(brackets)

    def _passed(self, brackets: bytes) -> bool:
        opened = brackets.count(b"[") + brackets.count(b"{")
        before, self._depth = self._depth, self._depth + 2 * opened - len(brackets)
        if before + opened <= self._limit:
            return False
        for bracket in brackets:
            before += 1 if bracket in b"[{" else -1
            if before > self._limit:
                return True
        return False
