"""vLLM's plugin (entry point `vllm.general_plugins`): the engine core puts marks into token ids.

vLLM loads it in every process. It leaves requests alone that carry no marks, which are all but
those of `vllm-ctx` with steering. The worker's half is `worker_patch.py`, which only workers of
such an engine import.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from . import wire


def install() -> None:
    """Patch the engine core of this process; again, it changes nothing."""
    from vllm.v1.request import Request

    plain = Request.from_engine_core_request.__func__
    if not isinstance(plain, functools.partial):
        Request.from_engine_core_request = classmethod(functools.partial(_marking, plain))


def _marking(plain: Callable[..., Any], cls: type, request: Any, *args: Any, **kwargs: Any) -> Any:
    sampling = request.sampling_params
    given = (sampling.extra_args or {}).get(wire.NAME) if sampling is not None else None
    if given is not None:
        # The front end of the same process holds the same object.
        request = copy.copy(request)
        request.prompt_token_ids = wire.marked(request.prompt_token_ids, given)
        request.cache_salt = f"{wire.NAME} {given['salt']} {request.cache_salt or ''}"
    return plain(cls, request, *args, **kwargs)
