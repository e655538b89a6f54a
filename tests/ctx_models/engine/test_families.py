"""Families of models that vLLM runs and `vllm-ctx` steers, tiny and random, against `hf-ctx`."""

from __future__ import annotations

import re
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
    control = re.compile(r"<pad>|</?s>|<\|endoftext\|>")
    return [control.sub("", text).rstrip("\ufffd") for text in generations(model, TEXTS)]


def said(model: Any) -> tuple[list[str], list[float]]:
    """What a model generates, and how likely it finds an answer."""
    found = log_likelihoods(model, TEXTS, ["lamp"] * 3)
    return written(model), [value for value, _ in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_says_what_hf_ctx_says(family, tmp_path):
    from ctx_models.engine.lm import CtxVLLM

    tiny.model(family, **FAMILIES[family]).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    # First: where vLLM has no model of its own it changes the classes of transformers' one.
    hf = CtxLM(str(tmp_path), **HF)
    plain = log_likelihoods(hf, TEXTS, ["lamp"] * 3)
    expected = [said(put(hf, **arm)) for arm in ARMS]
    ours = CtxVLLM(str(tmp_path), steerable=True, **IN_PROCESS)
    for arm, (texts, values) in zip(ARMS, expected, strict=True):
        found, likelihoods = said(put(ours, **arm))
        assert found == texts
        assert likelihoods == pytest.approx(values, abs=1e-4)
        assert max(abs(a[0] - b) for a, b in zip(plain, values, strict=True)) > 0.01
