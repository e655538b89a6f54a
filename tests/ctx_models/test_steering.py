"""Steering equals eq. 1 computed naively in float64, in every mode and family."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import (
    CONFIG_MAPPING,
    BartConfig,
    BartForCausalLM,
    BitsAndBytesConfig,
    DynamicCache,
    LlamaForCausalLM,
)

from ctx_models.attention import active_intervention
from ctx_models.steering import Steering, steer
from tests import tiny
from tests.ctx_models import naive

pytestmark = pytest.mark.usefixtures("prefill_path")

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt_neox"]
NEW_TOKENS = 6
# float32 against float64; rounding differs between processors (1.4e-5 was seen on one).
TOLERANCE = {"atol": 3e-5, "rtol": 1e-5}


def left_padded_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two prompts of 13 and 9 tokens, left-padded, with two user turns each.

    Returns input_ids, attention_mask and user_mask, each [2, 13].
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 500, (2, 13), generator=generator)
    attention = torch.ones(2, 13, dtype=torch.long)
    attention[1, :4] = 0
    ids[1, :4] = 0
    user = torch.zeros(2, 13, dtype=torch.bool)
    user[0, 2:5] = user[0, 7:11] = user[1, 6:8] = user[1, 9:11] = True
    return ids, attention, user


def grown(attention: torch.Tensor, user: torch.Tensor, total: int, keep_generated: bool):
    """The masks of a text that has grown to `total` tokens."""
    extra = total - user.shape[1]
    rows = user.shape[0]
    attention = torch.cat([attention, torch.ones(rows, extra, dtype=torch.long)], dim=1)
    return attention, torch.cat([user, torch.full((rows, extra), keep_generated)], dim=1)


def alpha_table(model, steering: Steering) -> torch.Tensor:
    """alpha of every layer and head, computed from the definition."""
    config = model.config
    table = torch.ones(config.num_hidden_layers, config.num_attention_heads, dtype=torch.float64)
    for layer in range(config.num_hidden_layers):
        power = layer + 1 if steering.schedule == "compound" else 1
        if steering.heads is not None:
            table[layer, list(steering.heads.get(layer, ()))] = steering.alpha**power
        elif steering.layers is None or layer in steering.layers:
            table[layer] = steering.alpha**power
    return table


def arguments(steering: Steering) -> dict:
    return {
        "alpha": steering.alpha,
        "schedule": steering.schedule,
        "steer_generated": steering.steer_generated,
        "layers": steering.layers,
        "heads": steering.heads,
    }


def assert_every_step_equals_naive(model, steering: Steering) -> None:
    """Prefill and each greedy decode step against the naive model run on the whole text."""
    ids, attention, user = left_padded_batch()
    with steer(model, user, **arguments(steering)), torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=attention,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    total = ids.shape[1] + NEW_TOKENS
    attention, user = grown(attention, user, total, not steering.steer_generated)
    expected = naive.logits(model, output.sequences, attention, user, alpha_table(model, steering))
    steps = torch.stack(output.logits, dim=1).double()
    assert steps.shape[1] == NEW_TOKENS
    torch.testing.assert_close(steps, expected[:, ids.shape[1] - 1 : -1], **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "steering",
    [
        Steering(0.3),
        Steering(0.6, schedule="compound", steer_generated=False),
        Steering(0.3, heads={0: (1, 2), 2: (3,)}),
    ],
    ids=["constant", "paper mode", "heads"],
)
def test_prefill_and_every_decode_step_equal_the_naive_model(family: str, steering: Steering):
    assert_every_step_equals_naive(tiny.model(family), steering)


@pytest.mark.parametrize(
    "steering",
    [
        Steering(0.3, schedule="compound"),
        Steering(0.3, steer_generated=False),
        Steering(0.3, layers=(1,)),
        Steering(1e-6),
    ],
    ids=["compound", "generated keep weight", "one layer", "nearly zero"],
)
def test_every_setting_equals_the_naive_model(steering: Steering):
    assert_every_step_equals_naive(tiny.model("llama"), steering)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_steering_does_not_depend_on_the_loaded_implementation_and_restores_it(implementation):
    model = tiny.model("llama")
    model.set_attn_implementation(implementation)
    assert_every_step_equals_naive(model, Steering(0.5))
    assert model.config._attn_implementation == implementation


def test_the_unsteered_model_differs_from_the_steered_one():
    model, (ids, attention, user) = tiny.model(), left_padded_batch()
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=attention).logits
        with steer(model, user, alpha=0.3):
            steered = model(input_ids=ids, attention_mask=attention).logits
    assert (plain - steered)[0].abs().max() > 0.1


def test_alpha_one_is_bit_identical():
    model, (ids, attention, user) = tiny.model(), left_padded_batch()
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=attention).logits
        with steer(model, user, alpha=1.0):
            steered = model(input_ids=ids, attention_mask=attention).logits
    assert torch.equal(plain, steered)


def test_alpha_one_through_the_attention_function_equals_the_plain_model():
    """Channels, mask rows and grouping change nothing when the bias is zero."""
    model, (ids, attention, user) = tiny.model(), left_padded_batch()
    real = attention.bool()
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=attention).logits
        with steer(model, user, alpha=0.5, heads={0: []}):
            routed = model(input_ids=ids, attention_mask=attention).logits
    torch.testing.assert_close(plain[real], routed[real], **TOLERANCE)


def test_a_batch_equals_its_rows_alone():
    model, (ids, attention, user) = tiny.model(), left_padded_batch()
    with torch.no_grad(), steer(model, user, alpha=0.4):
        together = model(input_ids=ids, attention_mask=attention).logits
    with torch.no_grad(), steer(model, user[1:, 4:], alpha=0.4):
        alone = model(input_ids=ids[1:, 4:]).logits
    torch.testing.assert_close(together[1:, 4:], alone, **TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_beams_and_several_samples_are_steered_like_single_rows(family: str):
    """Scores of each returned sequence equal the naive model's on that very sequence."""
    model, (ids, attention, user) = tiny.model(family), left_padded_batch()
    ways = [
        {"num_beams": 3, "num_return_sequences": 3, "do_sample": False},
        {"num_return_sequences": 3, "do_sample": True, "top_k": 0},
    ]
    for way in ways:
        torch.manual_seed(1)
        with steer(model, user, alpha=0.4), torch.no_grad():
            output = model.generate(
                input_ids=ids,
                attention_mask=attention,
                max_new_tokens=4,
                min_new_tokens=4,
                output_scores=True,
                return_dict_in_generate=True,
                **way,
            )
        steps = model.compute_transition_scores(
            output.sequences, output.scores, getattr(output, "beam_indices", None), True
        )
        repeated = [x.repeat_interleave(3, dim=0) for x in (attention, user)]
        masks = grown(*repeated, output.sequences.shape[1], False)
        expected = naive.logits(model, output.sequences, *masks, alpha_table(model, Steering(0.4)))[
            :, 12:-1
        ]
        expected[..., model.config.eos_token_id] = -torch.inf  # min_new_tokens forbids the end
        expected = expected.log_softmax(-1)
        chosen = expected.gather(2, output.sequences[:, 13:, None])[..., 0]
        torch.testing.assert_close(steps.double(), chosen, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("name", tiny.cache_names())
def test_several_tokens_on_top_of_a_cache_equal_one_pass(name: str, family: str):
    """What assisted decoding does; these queries see a cache, so causality needs a mask."""
    model, (ids, _, user) = tiny.model(family), left_padded_batch()
    longer = torch.cat([ids, ids[:, :5]], dim=1)
    with torch.no_grad(), steer(model, user, alpha=0.4):
        whole = model(input_ids=longer).logits
        cache = DynamicCache(config=model.config)
        model(input_ids=ids, use_cache=True, **{name: cache})
        rest = model(input_ids=ids[:, :5], **{name: cache}).logits
    torch.testing.assert_close(whole[:, 13:], rest, **TOLERANCE)


def logits_of_generate(model, ids, attention, steps: int) -> torch.Tensor:
    output = model.generate(
        input_ids=ids,
        attention_mask=attention,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(output.logits, dim=1)


# Shared keys and values: the last layers of a prefill see one query row and a window's mask.
GEMMA4 = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "sliding_window": 5,
    "head_dim": 16,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 512,
}
# A chunked cache is no longer than a chunk, whatever the text is.
LLAMA4 = {
    "attention_chunk_size": 5,
    "head_dim": 16,
    "intermediate_size_mlp": 96,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}


_WINDOWED = (("gemma4_text", GEMMA4), ("llama4_text", LLAMA4), ("mistral", {"sliding_window": 5}))
# transformers 5.4, the lowest we take, has no Gemma 4.
PAST_WINDOW = [one for one in _WINDOWED if one[0] in CONFIG_MAPPING]


@pytest.mark.parametrize("generated", [True, False], ids=["all", "generated keep weight"])
@pytest.mark.parametrize(
    ("family", "settings"),
    PAST_WINDOW,
)
def test_text_past_window_and_chunk_equals_the_naive_model(family, settings, generated: bool):
    model = tiny.model(family, **settings)
    assert_every_step_equals_naive(model, Steering(0.3, steer_generated=generated))


@pytest.mark.parametrize(
    ("family", "settings"),
    PAST_WINDOW,
)
def test_steering_towards_every_token_changes_nothing(family, settings):
    """Another judge than ours: transformers' own logits, from the first token to past a chunk."""
    model, (ids, attention, _) = tiny.model(family, **settings), left_padded_batch()
    with torch.no_grad():
        plain = logits_of_generate(model, ids, attention, NEW_TOKENS)
        user = torch.ones_like(attention, dtype=torch.bool)
        with steer(model, user, alpha=0.5, steer_generated=False):
            steered = logits_of_generate(model, ids, attention, NEW_TOKENS)
    torch.testing.assert_close(plain, steered, **TOLERANCE)


def test_a_second_mask_of_a_forward_pass_leaves_the_padding_alone():
    """Bart-like decoders make one for cross attention, too, which has no padding."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=512,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        init_std=0.5,
    )
    config.is_encoder_decoder, config.is_decoder = False, True
    model, (ids, attention, user) = BartForCausalLM(config).eval(), left_padded_batch()
    with torch.no_grad(), steer(model, user, alpha=0.3):
        steered = model(input_ids=ids, attention_mask=attention, use_cache=False).logits
    table = torch.full((2, 4), 0.3)
    expected = naive.logits(model, ids, attention, user, table)
    real = attention.bool()
    torch.testing.assert_close(steered.double()[real], expected[real], **TOLERANCE)


def test_a_prompt_longer_than_the_sliding_window_is_steered_exactly():
    model = tiny.model("mistral", sliding_window=5)
    assert_every_step_equals_naive(model, Steering(0.3))


def test_attention_sinks_are_kept():
    """gpt-oss: the sink takes its share before the bias is applied, as a key of weight one."""
    model = tiny.model(
        "gpt_oss", head_dim=16, num_local_experts=2, num_experts_per_tok=1, sliding_window=128
    )
    ids, _, user = left_padded_batch()
    with torch.no_grad(), steer(model, user, alpha=0.5, heads={0: []}):
        routed = model(input_ids=ids).logits
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, routed, **TOLERANCE)


def test_a_lora_adapter_is_steered():
    model = tiny.model()
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    assert_every_step_equals_naive(get_peft_model(model, config).eval(), Steering(0.4))


def test_four_bit_weights_are_steered(tmp_path):
    """Weights unpacked from nf4 give the naive model the same numbers in higher precision."""
    tiny.model(intermediate_size=128).save_pretrained(tmp_path)
    quantised = LlamaForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
        dtype=torch.float32,
    )
    plain = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, part in quantised.named_modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False  # that kernel rounds to bfloat16
            dense = dequantize_4bit(part.weight.data, part.weight.quant_state)
            plain.get_submodule(name).weight.data = dense
    ids, attention, user = left_padded_batch()
    steered = []
    for model in (quantised, plain):
        with torch.no_grad(), steer(model, user, alpha=0.4):
            steered.append(model(input_ids=ids, attention_mask=attention).logits.double())
    expected = naive.logits(plain, ids, attention, user, alpha_table(plain, Steering(0.4)))
    real = attention.bool()
    torch.testing.assert_close(steered[0][real], steered[1][real], **TOLERANCE)
    # With these weights float32 alone, unsteered and unquantised, is off by 1e-5 on some CPUs.
    torch.testing.assert_close(steered[0][real], expected[real], atol=2e-5, rtol=1e-5)


def test_bfloat16_steers_as_strongly_as_float32():
    """alpha's logarithm is split over two channels: 8 bits alone would be off by 0.3 %."""
    model, (ids, _, user) = tiny.model(initializer_range=0.02).bfloat16(), left_padded_batch()
    from ctx_models.attention import segment_mass

    ids, user = ids[:1], user[:1]
    segments = (~user).long()
    with torch.no_grad(), steer(model, user, alpha=0.9):
        steered = segment_mass(model, ids, segments, layers=[0])
    plain = segment_mass(model, ids, segments, layers=[0])
    inside = plain[..., 0]
    closed_form = inside / (inside + 0.9 * (1 - inside))
    torch.testing.assert_close(steered[..., 0], closed_form, atol=1e-4, rtol=1e-4)


def test_nested_steering_is_refused_and_the_outer_one_survives():
    model, (ids, _, user) = tiny.model(), left_padded_batch()
    with steer(model, user, alpha=0.5):
        intervention = active_intervention(model)
        with pytest.raises(RuntimeError, match="steered already"), steer(model, user, alpha=0.4):
            pass
        assert active_intervention(model) is intervention
        model(input_ids=ids)
    assert active_intervention(model) is None


def test_an_error_inside_restores_the_model():
    model, (_, _, user) = tiny.model(), left_padded_batch()
    with pytest.raises(KeyError), steer(model, user, alpha=0.5):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
    assert active_intervention(model) is None


def test_two_models_are_steered_at_once():
    first, second, (ids, _, user) = tiny.model(), tiny.model(seed=1), left_padded_batch()
    with torch.no_grad(), steer(first, user, alpha=0.5):
        alone = first(input_ids=ids).logits
        with steer(second, user, alpha=0.2):
            assert torch.equal(first(input_ids=ids).logits, alone)
