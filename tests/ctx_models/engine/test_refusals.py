"""What `vllm-ctx` refuses by name before an engine starts; none of it needs vLLM."""

from __future__ import annotations

import json
import re

import pytest
from transformers import AutoConfig

from ctx_models.engine import refusals
from ctx_tasks.errors import UserError
from tests.commands import ctx_eval


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speculative_config": {"model": "draft"}}, "speculative_config cannot be combined"),
        ({"kv_transfer_config": {"kv_connector": "X"}}, "kv_transfer_config cannot be combined"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2 cannot be combined"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype=fp8 cannot be combined.*round the bias"),
        ({"enable_dbo": True}, "enable_dbo cannot be combined"),
        ({"logits_processors": ["mine:Mine"]}, "logits_processors cannot be combined"),
    ],
)
def test_an_engine_argument(arguments, message):
    with pytest.raises(UserError, match=f"{message}.*leave it out, or run with alpha=1"):
        refusals.check_arguments(arguments)


def test_arguments_that_change_nothing_are_fine():
    refusals.check_arguments(
        {"pipeline_parallel_size": 1, "kv_cache_dtype": "auto", "tensor_parallel_size": 8}
    )


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("deepseek_v3", {}, "MLA"),
        ("gemma2", {}, "soft-capped"),
        ("qwen3_next", {}, "layers of linear_attention"),
        ("t5", {}, "an encoder with a decoder"),
        ("mamba", {}, "no layer with attention"),
        ("llama4_text", {}, "layers of chunked_attention"),
    ],
)
def test_a_model(family, settings, reason):
    config = AutoConfig.for_model(family, **settings)
    with pytest.raises(UserError, match=rf"vllm-ctx cannot steer {family}: .*{reason}"):
        refusals.check_config(config)


@pytest.mark.parametrize(
    "family",
    ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt_neox", "olmo2", "mixtral"],
)
def test_families_that_are_steered_are_not_refused(family):
    refusals.check_config(AutoConfig.for_model(family))


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.1}, {"presence_penalty": 0.5}, {"frequency_penalty": 1}]
)
def test_a_penalty(penalty):
    [(name, value)] = penalty.items()
    with pytest.raises(UserError, match=re.escape(f"{name}={value} counts token ids")):
        refusals.check_generation(penalty)
    refusals.check_generation({**penalty, name: refusals.PENALTIES[name]})


def test_an_adapter_with_trained_token_rows(tmp_path):
    config = {"trainable_token_indices": {"embed_tokens": [4]}, "modules_to_save": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"\(trainable_token_indices\).*ctx-train merge"):
        refusals.check_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    refusals.check_adapter(str(tmp_path))


def test_without_vllm_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("ctx_models.registry.find_spec", lambda name: None)
    done = ctx_eval("run", "--model", "vllm-ctx", "--tasks", "nih_recall")
    assert done.code == 2
    assert (
        "vllm-ctx needs vLLM, which is not installed: pip install 'lm-eval-ctx[vllm]'" in done.err
    )
