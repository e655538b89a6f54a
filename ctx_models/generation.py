"""Generation arguments: what the harness or transformers would end a run over, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ctx_tasks import harness
from ctx_tasks.errors import UserError

# The harness takes the first of these that is there, and our tasks have the first.
_LIMIT, *_OTHER_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# The harness's own, where neither the task nor the user says how long an answer may be.
DEFAULT_TOKENS = 256


def void(asked: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each of the user's `--gen_kwargs` that a task's `own` arguments overrule."""
    for name in _OTHER_LIMITS:
        if name in asked and _LIMIT in own and _LIMIT not in asked:
            yield (
                f"--gen_kwargs {name}={asked[name]} has no effect, the task's own "
                f"{_LIMIT}={own[_LIMIT]} wins: write {_LIMIT}={asked[name]}."
            )


def check_generation(
    kwargs: Mapping[str, Any], window: int | None, default_tokens: int = DEFAULT_TOKENS
) -> None:
    """Refuse generation arguments that transformers or the harness end a run over.

    Args:
        kwargs: as a task has them, with the user's in place.
        window: tokens of prompt and answer together, where known.
        default_tokens: the longest answer where `kwargs` do not say.

    Raises:
        UserError: sampling without a temperature; an answer as long as the window.
    """
    if kwargs.get("do_sample") is True and not kwargs.get("temperature"):
        raise UserError(
            "do_sample=True samples at a temperature, but there is none: add one, such as "
            "--gen_kwargs do_sample=True,temperature=0.7, or leave do_sample out."
        )
    tokens = harness.answer_tokens(kwargs, default_tokens)
    if window is not None and tokens >= window:
        raise UserError(
            f"max_length={window} leaves no room for a prompt beside an answer of up to "
            f"max_gen_toks={tokens} tokens: raise max_length, or lower the other with --gen_kwargs "
            "max_gen_toks=N."
        )
