"""Tiny random models of every causal family that the installed transformers registers, judged.

The settings go by name: whatever of `_SMALL` a family's default text configuration has is set to
the small value, so that a family that a later transformers adds is met without a line here. A few
families need more (`_ALSO`).

A family is *right* if every generated token's logits, with its cache, equal those of the naive
float64 model without one; *refused* if steering says in a UserError that it cannot; *not built* if
these settings give no model of it. Anything else is *wrong*.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ctx_models.steering import steer
from ctx_tasks.errors import UserError
from tests.ctx_models import naive

VOCABULARY = 128
WINDOW = 8
LAYERS = 4
STEPS = 10
ALPHA = 0.4

_SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ["vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"], VOCABULARY
    ),
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"], 32),
    **dict.fromkeys(["embedding_dim", "word_embed_proj_dim", "lru_width"], 32),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "d_inner", "dff", "ffn_hidden_size"], 48),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim", "intermediate_size_mlp", "dim_ff"], 48),
    **dict.fromkeys(["dense_intermediate_size", "feed_forward_size", "n_inner"], 48),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["shared_intermediate_size", "expert_ffn_hidden_size"], 16),
    **dict.fromkeys(["moe_shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], LAYERS),
    **dict.fromkeys(["decoder_layers", "encoder_layers"], LAYERS),
    **dict.fromkeys(["num_encoder_layers", "num_decoder_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads", "encoder_attention_heads"], 4),
    **dict.fromkeys(["num_encoder_attention_heads", "num_decoder_attention_heads"], 4),
    **dict.fromkeys(["swa_num_attention_heads", "attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads"], 2),
    **dict.fromkeys(["num_global_key_value_heads", "num_query_groups"], 2),
    **dict.fromkeys(["head_dim", "global_head_dim", "swa_head_dim", "kv_channels", "dim_head"], 8),
    **dict.fromkeys(["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"], 8),
    **dict.fromkeys(["attention_head_dim", "d_head", "attention_head_size"], 8),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "laurel_rank"], 16),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "num_experts_per_token", "moe_k"], 2),
    **dict.fromkeys(["n_group", "topk_group", "num_expert_group"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"], 128),
    **dict.fromkeys(["max_target_positions", "max_source_positions"], 128),
    **dict.fromkeys(["sliding_window", "attention_chunk_size", "window_size"], WINDOW),
    **dict.fromkeys(["sliding_window_size", "local_attention", "attention_window_size"], WINDOW),
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "type_vocab_size": 2,
    # Large weights: attention far from uniform, so that a wrong bias or mask shows.
    **dict.fromkeys(["initializer_range", "init_std"], 0.3),
}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
_SHARED_KEYS = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "head_dim": 8,
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
}
# What a family's own checks ask for beside that.
_ALSO: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA,
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4},
    "gemma4": _SHARED_KEYS,
    "gemma4_text": _SHARED_KEYS,
    "gemma4_unified": _SHARED_KEYS,
    "gemma4_unified_text": _SHARED_KEYS,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": _MAMBA,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "n_groups": 1, "state_size": 8},
    # With larger weights its recurrence magnifies rounding a hundred thousand times: float32 is off
    # by 2e-2, unsteered by 1e-2, float64 throughout by 3e-11 (`test_families_rounding.py`).
    "hrm_text": {"initializer_range": 0.05},
    "longcat_flash": {"head_dim": 8},
    "phi4_multimodal": {
        "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        "audio_config": {"hidden_size": 32, "intermediate_size": 48, "num_blocks": 1},
    },
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, 16]},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "dots3_note_text": {"num_key_value_heads": 4},
    "prophetnet": {"num_hidden_layers": None},
}


_HUGE = {"blt": "its hash tables and its four models have no small form by these settings"}


class Verdict(NamedTuple):
    """What steering does to a family, and why where it does nothing."""

    family: str
    kind: Literal["right", "refused", "not built", "wrong"]
    reason: str = ""


def causal_families() -> list[str]:
    """Every model type of transformers' causal registry, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def judge(family: str) -> Verdict:
    """Steer a tiny model of `family` through a padded batch past its window and chunk."""
    try:
        model = build(family)
    except Exception as error:  # whatever a configuration or a constructor may raise
        return Verdict(family, "not built", _sentence(error))
    try:
        return Verdict(family, *_compared(model))
    except UserError as error:
        return Verdict(family, "refused", str(error))
    except Exception as error:
        return Verdict(family, "wrong", _sentence(error))


def _compared(model: PreTrainedModel) -> tuple[Literal["right", "wrong"], str]:
    error, effect, largest = measured(model)
    allowed = 1e-4 * max(1.0, largest)
    if effect < 20 * allowed:
        return "wrong", f"steering moves its logits by {effect:.0e} only, which proves nothing"
    if error > allowed:
        return "wrong", f"its logits are off by {error:.0e} where steering moves them {effect:.0e}"
    return "right", ""


def measured(model: PreTrainedModel) -> tuple[float, float, float]:
    """How far the logits are off, how far steering moves them, and the largest of the judge's."""
    ids, attention, user = _batch()
    with steer(model, user, alpha=ALPHA), torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=attention,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    found = torch.stack(output.logits, dim=1).double()
    user = torch.nn.functional.pad(user, (0, STEPS), value=False)
    expected, plain = (
        naive.step_logits(model, output.sequences, attention, user, torch.full((256, 1), alpha))
        for alpha in (ALPHA, 1.0)
    )
    error, effect = (float((expected - other).abs().max()) for other in (found, plain))
    return error, effect, float(expected.abs().max())


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention and user mask [2, 24]: three windows long, one row padded."""
    ids = torch.randint(5, VOCABULARY - 8, (2, 24), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids)
    ids[1, :5] = attention[1, :5] = 0
    user = torch.zeros(2, 24, dtype=torch.bool)
    user[:, 8:14] = user[:, 19:22] = True
    return ids, attention, user


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:160]}".strip(": ")


def build(family: str) -> PreTrainedModel:
    """A float32 model of `family` with random weights."""
    if family in _HUGE:
        raise ValueError(_HUGE[family])
    kind = CONFIG_MAPPING[family]
    nested = "text_config" in kind.sub_configs
    small = _small(kind.sub_configs["text_config"] if nested else kind)
    settings = {**small, **_IDS, **_ALSO.get(family, {})}
    settings = {name: value for name, value in settings.items() if value is not None}
    config = kind(text_config=settings) if nested else kind(**settings)
    config.is_encoder_decoder, config.is_decoder = False, True
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(torch.float32).eval()


def _small(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """The small settings that a configuration takes, without those it computes."""
    known = set(dir(kind()))
    computed = {name for name, value in vars(kind).items() if getattr(value, "fset", 0) is None}
    small = {name: value for name, value in _SMALL.items() if name in known - computed}
    if "qk_rope_head_dim" in known:  # latent attention: one width, no fewer key heads
        small = {k: v for k, v in small.items() if k not in ("head_dim", "num_key_value_heads")}
    return small
