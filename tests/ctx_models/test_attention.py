"""Attention mass equals the naive float64 computation; the attention function is fast."""

from __future__ import annotations

import pytest
import torch

from ctx_models.attention import Intervention, intervening, key_mass, segment_mass
from ctx_models.attention.paths import _cpu_kernel_adds_row
from ctx_models.spans import Segment
from ctx_models.steering import steer
from ctx_tasks.errors import UserError
from tests import tiny
from tests.ctx_models import naive
from tests.ctx_models.test_steering import FAMILIES, left_padded_batch

pytestmark = pytest.mark.usefixtures("prefill_path")
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def batch_with_segments():
    ids, attention, user = left_padded_batch()
    segments = torch.randint(0, len(Segment), ids.shape, generator=torch.Generator().manual_seed(3))
    return ids, attention, user, segments


def expected_mass(model, ids, attention, user, segments, alpha):
    config = model.config
    table = torch.full((config.num_hidden_layers, config.num_attention_heads), alpha)
    return naive.mass(model, ids, attention, user, table, segments)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_mass_equals_the_naive_computation(family: str, alpha: float):
    model = tiny.model(family)
    ids, attention, user, segments = batch_with_segments()
    expected = expected_mass(model, ids, attention, user, segments, alpha)
    with steer(model, user, alpha=alpha):
        found = segment_mass(model, ids, segments, layers=[0, 1, 2], attention_mask=attention)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 4, 13, len(Segment))
    real = attention.bool()[:, None, None, :, None].expand_as(found)
    torch.testing.assert_close(found.double()[real], expected[real], **TOLERANCE)


def test_rows_sum_to_one():
    model = tiny.model()
    ids, attention, _, segments = batch_with_segments()
    found = segment_mass(model, ids, segments, layers=[2], attention_mask=attention)
    sums = found.sum(-1)[attention.bool()[:, None, None, :].expand(2, 1, 4, 13)]
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_layers_come_in_the_order_asked():
    model = tiny.model()
    ids, _, _, segments = batch_with_segments()
    both = segment_mass(model, ids, segments, layers=[2, 0])
    torch.testing.assert_close(both[:, :1], segment_mass(model, ids, segments, layers=[2]))
    torch.testing.assert_close(both[:, 1:], segment_mass(model, ids, segments, layers=[0]))


def test_only_the_layers_up_to_the_measured_one_run():
    model = tiny.model()
    ids, _, _, segments = batch_with_segments()
    ran = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda module, _: ran.append(module.self_attn.layer_idx))
    model.lm_head.register_forward_pre_hook(lambda *_: ran.append("head"))
    segment_mass(model, ids, segments, layers=[1])
    assert ran == [0, 1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_the_last_rows_alone_equal_the_whole(family: str):
    model = tiny.model(family)
    ids, attention, _, segments = batch_with_segments()
    everything = segment_mass(model, ids, segments, layers=[0, 2], attention_mask=attention)
    last = segment_mass(
        model, ids, segments, layers=[0, 2], attention_mask=attention, last_tokens=2
    )
    torch.testing.assert_close(last, everything[..., -2:, :], **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_mass_on_each_key_equals_the_naive_computation(family: str, alpha: float):
    """A key by itself is a segment of its own."""
    model = tiny.model(family)
    ids, attention, user, _ = batch_with_segments()
    keys = torch.arange(13).expand(2, 13)
    table = torch.full((3, 4), alpha)
    whole = naive.mass(model, ids, attention, user, table, keys, count=13)
    expected = whole[:, [2, 0], :, -3:].mean(dim=2)
    with steer(model, user, alpha=alpha):
        found = key_mass(model, ids, layers=[2, 0], last_tokens=3, attention_mask=attention)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, **TOLERANCE)


def test_mass_on_each_key_is_what_the_models_own_eager_attention_shows():
    model = tiny.model()
    ids = batch_with_segments()[0][:1]
    found = key_mass(model, ids, layers=[0, 1, 2], last_tokens=2)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        shown = torch.stack(model(input_ids=ids, output_attentions=True).attentions, dim=1)
    torch.testing.assert_close(found, shown[..., -2:, :].mean(dim=2), **TOLERANCE)


def test_steered_mass_follows_the_closed_form():
    """One layer: u becomes u / (u + alpha (1 - u))."""
    model = tiny.model()
    ids, _, user, _ = batch_with_segments()
    segments = torch.where(user, Segment.USER, Segment.TEMPLATE)
    plain = segment_mass(model, ids, segments, layers=[0])[..., Segment.USER]
    with steer(model, user, alpha=0.3):
        steered = segment_mass(model, ids, segments, layers=[0])[..., Segment.USER]
    torch.testing.assert_close(steered, plain / (plain + 0.3 * (1 - plain)), **TOLERANCE)


def test_a_causal_prefill_needs_no_mask_and_a_step_takes_a_row(prefill_path):
    model = tiny.model()
    ids, attention, user, _ = batch_with_segments()
    intervention = Intervention(user, {0: torch.full((4,), -1.0)})
    with intervening(model, intervention):
        model.generate(input_ids=ids, attention_mask=attention, max_new_tokens=2, do_sample=False)
    assert intervention.paths == {prefill_path, "decode"}


def test_this_torch_has_the_cpu_kernel_we_rely_on_for_speed():
    assert _cpu_kernel_adds_row()


def test_the_cpu_kernel_equals_the_channels_over_several_of_its_blocks(monkeypatch):
    """Left padding, a bias of its own for each head, 700 tokens."""
    model = tiny.model(max_position_embeddings=1024)
    ids = torch.randint(3, 500, (2, 700), generator=torch.Generator().manual_seed(0))
    attention, user = torch.ones_like(ids), ids % 3 == 0
    attention[1, :300] = 0
    heads = {0: [0, 2], 1: [1], 2: [3]}
    found = []
    for usable in (True, False):
        monkeypatch.setattr(
            "ctx_models.attention.paths._cpu_kernel_adds_row", lambda usable=usable: usable
        )
        with torch.no_grad(), steer(model, user, alpha=0.2, heads=heads):
            found.append(model(input_ids=ids, attention_mask=attention).logits[attention.bool()])
    torch.testing.assert_close(*found, **TOLERANCE)


def test_long_text_is_processed_in_blocks_without_change(monkeypatch):
    """Soft-capping in blocks of two rows equals one block."""
    model = tiny.model("gemma2")
    ids, attention, user, _ = batch_with_segments()
    with torch.no_grad(), steer(model, user, alpha=0.5):
        whole = model(input_ids=ids, attention_mask=attention).logits
        monkeypatch.setattr("ctx_models.attention.paths._BLOCK_ENTRIES", 2 * 2 * 4 * 13)
        blocks = model(input_ids=ids, attention_mask=attention).logits
    torch.testing.assert_close(whole, blocks, **TOLERANCE)


@pytest.mark.parametrize("layers", [[3], [-1], []])
def test_a_layer_out_of_range_is_refused(layers):
    ids, _, _, segments = batch_with_segments()
    with pytest.raises(UserError, match="one of 0 to 2"):
        segment_mass(tiny.model(), ids, segments, layers=layers)


def test_segments_of_another_shape_are_refused():
    ids, _, _, segments = batch_with_segments()
    with pytest.raises(UserError, match=r"\(2, 12\) but input_ids \(2, 13\)"):
        segment_mass(tiny.model(), ids, segments[:, 1:], layers=[0])
