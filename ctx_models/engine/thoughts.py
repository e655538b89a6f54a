"""Thoughts on vLLM, which has no stopping rule of ours: up to the tag, then the blanks behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from vllm import SamplingParams

from ctx_models.prompts import PromptText
from ctx_models.thinking import BLANKS, Thinking

from .rows import Row

# Prompts and how each is to be continued -> vLLM's outputs.
Run = Callable[[Sequence[Row], Sequence[SamplingParams]], list[Any]]


@dataclass(frozen=True)
class _Text:
    text: str = ""
    finish_reason: str = "length"


@dataclass(frozen=True)
class Unclosed:
    """The output of a prompt whose thought never closed, as the harness reads one."""

    outputs: tuple[_Text, ...] = (_Text(),)


def closed_thoughts(
    thinking: Thinking, rows: Sequence[Row], params: Sequence[SamplingParams], run: Run
) -> list[list[int] | None]:
    """The thought of each row with its tag and blanks; None where it does not close."""
    tag = thinking.tag
    stop = {"stop_token_ids": [tag]} if isinstance(tag, int) else {"stop": [tag]}
    begun = [_changed(one, thinking.tokens, stop) for one in params]
    found: list[list[int]] = [list(one.outputs[0].token_ids) for one in run(rows, begun)]
    ends = [thinking.closed(ids) for ids in found]
    more = [
        place
        for place, end in enumerate(ends)
        if end is not None and len(found[place]) < thinking.tokens
    ]
    behind = run(
        [rows[place] + found[place] for place in more],
        [
            _changed(params[place], min(BLANKS, thinking.tokens - len(found[place])), {})
            for place in more
        ],
    )
    for place, one in zip(more, behind, strict=True):
        found[place] += one.outputs[0].token_ids
        ends[place] = thinking.closed(found[place])
    return [None if end is None else ids[:end] for ids, end in zip(found, ends, strict=True)]


def _changed(params: SamplingParams, tokens: int, stop: dict[str, Any]) -> SamplingParams:
    """As `params`, but for what ends it."""
    ends = {"stop": [], "stop_token_ids": [], "_all_stop_token_ids": set(), **stop}
    return msgspec.structs.replace(params, max_tokens=tokens, **ends)


def answer_rows(
    thinking: Thinking, rows: Sequence[Row], thoughts: Sequence[list[int]], kept: bool
) -> list[Row]:
    """Prompts followed by their thoughts and what begins the answer.

    Args:
        kept: whether thoughts keep their weight (`steer_generated` is false).
    """
    found = []
    for row, thought in zip(rows, thoughts, strict=True):
        begun = row.prompt.prefix if isinstance(row.prompt, PromptText) else ""
        user = Row.of(thought, [kept] * len(thought))
        found.append(row + user + thinking.prefix(begun))
    return found
