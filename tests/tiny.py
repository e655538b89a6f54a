"""Small tokenizers and randomly initialised models of real architectures, without a download."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + eos_token + '\n' }}"
    "{% elif message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CORPUS = [
    "The lighthouse keeper writes the weather in a book every evening before the lamp is lit.",
    "What is the best thing to do in San Francisco? Answer the question according to the passage.",
    "user assistant system instruction question document answer the and of to in is that it was",
] * 20


@functools.cache
def _byte_bpe() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend.to_str()


def tokenizer(
    chat_template: str | None = CHAT_TEMPLATE, extra_special_tokens: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 500 tokens with `<s>`, `</s>`, `<pad>`."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_bpe()),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2048,
    )
    fast.chat_template = chat_template
    if extra_special_tokens:
        fast.add_special_tokens({"additional_special_tokens": list(extra_special_tokens)})
    return fast


# Two key heads under four query heads where the family allows it, so that grouped queries are met.
_SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Large weights: attention far from uniform, so that a wrong bias shows.
    "initializer_range": 0.2,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "phi3": {},
    "gpt_neox": {"num_key_value_heads": None},
}


def model(family: str = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A three-layer model of `family` (a transformers `model_type`) with random float32 weights."""
    settings = {**_SHAPE, **_FAMILIES.get(family, {}), **overrides}
    settings = {key: value for key, value in settings.items() if value is not None}
    torch.manual_seed(seed)
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    return built.to(torch.float32).eval()


def cache_names() -> list[str]:
    """The names under which a model's forward takes its cache, the surest first.

    transformers renames `past_key_values` to `cache` and takes both until 5.40.
    """
    new, old = "cache", "past_key_values"
    names = [new] if new in inspect.signature(LlamaForCausalLM.forward).parameters else []
    both = Version(transformers.__version__) < Version("5.40")
    return [*names, old] if both else names
