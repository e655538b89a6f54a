"""What can be seen to be wrong with a run over an API, before anything is asked of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

# What the harness's API models import when they are made.
_PACKAGES = ("aiohttp", "requests", "tenacity", "tqdm")
# vLLM's and SGLang's names for a last message that goes on, sent along from --gen_kwargs.
_GOES_ON = "continue_final_message"


def is_api(model: str) -> bool:
    """Whether a model type of the harness speaks OpenAI's completions or chat completions."""
    return model.endswith("-completions")


def check(model: str, gen_kwargs: Mapping[str, Any], entries: Iterable[Entry]) -> None:
    """Refuse a run over an API that cannot start, or would measure something else.

    A chat endpoint takes messages: an answer that the task begins is one more message to it, after
    which it opens a new turn, so that the model answers beside the beginning instead of going on.

    Raises:
        UserError: packages that are missing; a begun answer over chat completions.
    """
    if not is_api(model):
        return
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--model {model} asks an endpoint with the packages {', '.join(missing)}, which are "
            "not installed: pip install 'lm_eval[api]'."
        )
    begun = [entry.name for entry in entries if (entry.cfg or {}).get("gen_prefix")]
    if begun and "chat-completions" in model and not gen_kwargs.get(_GOES_ON):
        raise UserError(
            f"{begun[0]} begins the answer, but {model} would open a new turn after it and measure "
            "something else: use --model local-completions with tokenizer=NAME and "
            "--apply_chat_template, or, where the server knows it (vLLM, SGLang), add --gen_kwargs "
            f"{_GOES_ON}=True,add_generation_prompt=False."
        )
