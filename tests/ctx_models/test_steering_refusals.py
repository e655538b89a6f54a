"""What cannot be steered exactly is refused in a sentence."""

from __future__ import annotations

import json

import pytest
import torch

from ctx_models.steering import Steering, read_heads, steer
from ctx_tasks.errors import UserError
from tests import tiny
from tests.ctx_models.test_steering import left_padded_batch

pytestmark = pytest.mark.usefixtures("prefill_path")


class TestRefused:
    """Each mistake gets one sentence that names the value and what is allowed."""

    @pytest.mark.parametrize("alpha", [0, -0.1, 1.5, float("nan")])
    def test_alpha_out_of_range(self, alpha):
        with pytest.raises(UserError, match=f"alpha={alpha} .* above 0 and at most 1"):
            Steering(alpha)

    def test_unknown_schedule(self):
        with pytest.raises(UserError, match="schedule='double' .* constant, compound"):
            Steering(0.9, schedule="double")

    def test_layers_and_heads_together(self):
        with pytest.raises(UserError, match="not both"):
            Steering(0.9, layers=(0,), heads={0: (0,)})

    def test_layer_out_of_range(self):
        with pytest.raises(UserError, match=r"layers=\[3\] .* has 3, numbered 0 to 2"):
            Steering(0.9, layers=(3,)).biases(3, 4)

    def test_head_out_of_range(self):
        with pytest.raises(UserError, match=r"heads of layer 1=\[4\] .* numbered 0 to 3"):
            Steering(0.9, heads={1: (4,)}).biases(3, 4)

    @pytest.mark.parametrize("text", ["[1, 2]", '{"a": [0]}', "{"])
    def test_unreadable_head_list(self, tmp_path, text):
        path = tmp_path / "heads.json"
        path.write_text(text)
        with pytest.raises(UserError, match="could not be read"):
            read_heads(path)

    def test_head_list_is_read(self, tmp_path):
        path = tmp_path / "heads.json"
        path.write_text(json.dumps({"1": [0, 3]}))
        assert read_heads(path) == {1: (0, 3)}

    def test_static_cache(self):
        model, (ids, attention, user) = tiny.model(), left_padded_batch()
        with (
            steer(model, user, alpha=0.5),
            pytest.raises(UserError, match="cache_implementation='static'"),
        ):
            model.generate(
                input_ids=ids,
                attention_mask=attention,
                max_new_tokens=2,
                cache_implementation="static",
            )

    def test_linear_attention(self):
        model = tiny.model(
            "mamba", num_attention_heads=None, num_key_value_heads=None, intermediate_size=None
        )
        with (
            pytest.raises(UserError, match="MambaForCausalLM .* without softmax attention"),
            steer(model, torch.ones(1, 2, dtype=torch.bool), alpha=0.5),
        ):
            pass

    def test_mask_shorter_than_the_batch(self):
        model, (ids, _, user) = tiny.model(), left_padded_batch()
        three = torch.cat([ids, ids[:1]])
        with steer(model, user, alpha=0.5), pytest.raises(UserError, match="2 rows .* has 3"):
            model(input_ids=three)

    def test_mask_longer_than_the_prompt(self):
        model, (ids, _, user) = tiny.model(), left_padded_batch()
        with steer(model, user, alpha=0.5), pytest.raises(UserError, match="13 tokens .* got 5"):
            model(input_ids=ids[:, :5])

    def test_a_model_that_computes_with_its_mask(self):
        model = tiny.model("doge", head_dim=16)
        ids, attention, user = left_padded_batch()
        with steer(model, user, alpha=0.5), pytest.raises(UserError, match="doge .* with its atte"):
            model(input_ids=ids, attention_mask=attention)

    def test_a_model_whose_attention_has_another_term(self):
        model = tiny.model()
        ids, attention, user = left_padded_batch()
        with steer(model, user, alpha=0.5), pytest.raises(UserError, match="llama .* position_bi"):
            model(input_ids=ids, attention_mask=attention, position_bias=torch.zeros(1))

    def test_four_dimensional_mask(self):
        model, (ids, _, user) = tiny.model(), left_padded_batch()
        mask = torch.zeros(2, 1, 13, 13)
        with steer(model, user, alpha=0.5), pytest.raises(UserError, match="4-dimensional"):
            model(input_ids=ids, attention_mask=mask)
