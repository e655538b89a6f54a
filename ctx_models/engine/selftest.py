"""Whether steering reaches the keys: one short prompt under two masks, in every engine.

Without the plugin everything runs, the texts are those of the unsteered model and the results
would say alpha 0.3. If only the core lacks it, every key gets the same bias and softmax cancels it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vllm import SamplingParams

from ctx_tasks.errors import UserError

from . import wire
from .engines import Engines

_TOKENS = 16
_ALPHA = 0.1


def require_steering(engines: Engines, layers: int, heads: int, vocabulary: int) -> None:
    """Run the test; the engines stay in an arm of its own, to be set to another.

    Raises:
        UserError: layers that are not steered, or masks that change nothing.
    """
    _require_layers(engines.ask("ctx_report"))
    bias = {str(layer): [math.log(_ALPHA)] * heads for layer in range(layers)}
    engines.ask("ctx_set", bias, True)
    first = vocabulary // 2
    prompt = list(range(first, first + _TOKENS))
    begin, end = [True] * (_TOKENS // 2), [False] * (_TOKENS // 2)
    masks = (begin + end, begin + end, end + begin)
    outputs = [engines.everywhere([prompt], _probe(mask)) for mask in masks]
    for number, (one, again, other) in enumerate(zip(*outputs, strict=True)):
        noise = _apart(one[0], again[0])
        if not _apart(one[0], other[0]) > 4 * noise:
            raise UserError(
                f"Steering does not reach the keys of engine {number}: a prompt has the same "
                "log-probabilities under two masks. Is lm-eval-ctx installed on every node, and "
                "does VLLM_PLUGINS, where it is set, name ctx? Else use hf-ctx."
            )


def _require_layers(reports: Sequence[dict[str, Any]]) -> None:
    unsteered = sorted({name for report in reports for name in report["unsteered"]})
    if unsteered or not all(report["layers"] for report in reports):
        raise UserError(
            f"vllm-ctx cannot steer this model: it has layers ({', '.join(unsteered) or 'none'}) "
            "that are not softmax attention as steering needs it; use hf-ctx, or alpha=1."
        )


def _probe(user: Sequence[bool]) -> SamplingParams:
    return SamplingParams(
        temperature=0,
        prompt_logprobs=0,
        max_tokens=1,
        detokenize=False,
        extra_args={wire.NAME: wire.request(user, True, "selftest")},
    )


def _apart(one: Any, other: Any) -> float:
    """How far the log-probabilities of a prompt's tokens are apart."""
    return max(
        abs(next(iter(a.values())).logprob - next(iter(b.values())).logprob)
        for a, b in zip(one.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True)
    )
