"""How deeply a JSON text nests, whatever its strings hold and wherever it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_tasks.nesting import Nesting

TRICKY = st.text(alphabet='"\\[]{}\né', max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
)


def depth(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inside = value if isinstance(value, list) else value.values()
    return 1 + max(map(depth, inside), default=0)


@given(st.lists(VALUES), st.booleans(), st.integers(1, 8))
def test_it_is_what_the_parsed_value_has(value, ascii_only, size):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    allowed, less = Nesting(depth(value)), Nesting(depth(value) - 1)
    assert not any(allowed.exceeded(piece) for piece in pieces)
    assert any(less.exceeded(piece) for piece in pieces)


@pytest.mark.parametrize("texts", [[b"[" * 3, b"]" * 3, b"[" * 3], [b'"[[[[" ', b'"[', b'[[["']])
def test_what_is_closed_or_text_does_not_count(texts):
    nesting = Nesting(3)
    assert [nesting.exceeded(text) for text in texts] == [False] * len(texts)
