"""Families of models that vLLM runs and `vllm-ctx` steers, tiny and random, against `hf-ctx`."""

from __future__ import annotations

from typing import Any

import pytest

from ctx_models.lm import CtxLM
from tests import tiny
from tests.ctx_models.engine.asking import HF, IN_PROCESS, generations, log_likelihoods, put

pytestmark = pytest.mark.vllm

WINDOW = {"head_dim": 16, "sliding_window": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {**WINDOW, "query_pre_attn_scalar": 16},
    "phi3": {},
    "gpt_neox": {},
    "olmo2": {},
}
TEXTS = [" ".join(tiny.CORPUS[:many]) for many in (1, 2, 4)]
ARMS: tuple[dict[str, Any], ...] = (
    {"alpha": 0.3},
    {"alpha": 0.6, "schedule": "compound", "steer_generated": False},
)


def written(model: Any) -> list[str]:
    """What a model generates, but for what the harness's two models decode otherwise.

    Those are control tokens, and bytes at the end that are no whole character.
    """
    texts = generations(model, TEXTS)
    return [text.replace("<|endoftext|>", "").rstrip("\ufffd") for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_says_what_hf_ctx_says(family, tmp_path):
    from ctx_models.engine.lm import CtxVLLM

    tiny.model(family, **FAMILIES[family]).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    ours = CtxVLLM(str(tmp_path), steerable=True, **IN_PROCESS)
    theirs = CtxLM(str(tmp_path), **HF)
    plain = log_likelihoods(theirs, TEXTS, ["lamp"] * 3)
    for arm in ARMS:
        put(ours, **arm)
        put(theirs, **arm)
        assert written(ours) == written(theirs)
        found, expected = (log_likelihoods(one, TEXTS, ["lamp"] * 3) for one in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert max(abs(a[0] - b[0]) for a, b in zip(plain, expected, strict=True)) > 0.01
