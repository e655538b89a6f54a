"""Eq. 2 equals a naive float64 computation, whatever the turns, the template and the batch."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

import training
from ctx_models.spans import Segment, segment
from ctx_tasks.errors import UserError
from ctx_tasks.rows import read_rows
from tests import tiny
from tests.ctx_models import chats, naive
from tests.training.dependency.conversations import CONVERSATIONS, conversation, turn
from training.data.formats import to_conversation
from training.dependency.equation import default_layer, encode, score_batch, score_conversation
from training.dependency.run import bucketed


@torch.no_grad()
def eager_scores(model, tokenizer, messages, layer) -> list[float]:
    """Eq. 2 as it is printed: loops over turns and tokens on the full float64 matrix."""
    segmented = segment(tokenizer, messages)
    twin = tiny.model(model.config.model_type).double()
    twin.load_state_dict(model.state_dict())
    twin.set_attn_implementation("eager")
    ids = torch.tensor([segmented.input_ids])
    attention = twin(ids, output_attentions=True).attentions[layer][0]
    scores = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        strongest = []
        for y, owner in enumerate(segmented.messages):
            if owner != number:
                continue
            user = [
                x
                for x, kind in enumerate(segmented.segments)
                if kind is Segment.USER and segmented.messages[x] < number
            ]
            strongest.append(max(head[y, user].sum().item() for head in attention))
        scores.append(sum(strongest) / len(strongest))
    return scores


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("layer", [0, 2])
def test_scores_equal_eager_float64(name, layer):
    model, tokenizer = tiny.model(), tiny.tokenizer()
    expected = eager_scores(model, tokenizer, CONVERSATIONS[name], layer)
    found = training.score_conversation(model, tokenizer, CONVERSATIONS[name], layer=layer)
    assert found == pytest.approx(expected, abs=1e-5)
    assert all(0.01 < number < 1 for number in expected)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral", "gpt_neox"])
def test_scores_of_other_families_equal_the_naive_float64_run(family):
    """Sliding windows and soft-capped logits have paths of their own."""
    model, tokenizer = tiny.model(family), tiny.tokenizer()
    messages = CONVERSATIONS["several turns"]
    segmented = segment(tokenizer, messages)
    ids, kinds = torch.tensor([segmented.input_ids]), torch.tensor([segmented.segments])
    ones = torch.ones(3, 4)
    mass = naive.mass(model, ids, torch.ones_like(ids), torch.ones_like(ids).bool(), ones, kinds)
    strongest = mass[0, 1, :, :, Segment.USER].amax(0)
    owners = torch.tensor(segmented.messages)
    expected = [strongest[owners == number].mean().item() for number in (1, 3, 5, 7)]
    assert score_conversation(model, tokenizer, messages, layer=1) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("template", ["llama-2", "zephyr", "llama-3", "gemma"])
def test_scores_follow_the_template(template):
    tokenizer = chats.with_template("byte_level", template)
    model = tiny.model(vocab_size=600)
    twin = tiny.model(vocab_size=600).double()
    twin.set_attn_implementation("eager")
    messages = CONVERSATIONS["several turns"]
    segmented = segment(tokenizer, messages)
    with torch.no_grad():
        attentions = twin(torch.tensor([segmented.input_ids]), output_attentions=True).attentions
    user = torch.tensor([kind is Segment.USER for kind in segmented.segments])
    strongest = attentions[1][0][..., user].sum(-1).amax(0)
    owners = torch.tensor(segmented.messages)
    expected = [strongest[owners == number].mean().item() for number in (1, 3, 5, 7)]
    assert score_conversation(model, tokenizer, messages, layer=1) == pytest.approx(
        expected, abs=1e-5
    )


def test_a_batch_gives_what_single_conversations_give():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    batch = [encode(tokenizer, conversation(seed, 1 + seed % 4)) for seed in range(9)]
    together = score_batch(model, batch, layers=[2, 0])
    for encoded, found in zip(batch, together, strict=True):
        alone = score_batch(model, [encoded], layers=[2, 0])[0]
        assert found == [pytest.approx(layer, abs=1e-5) for layer in alone]


def test_a_response_without_tokens_is_null_and_counted():
    messages = [*conversation(4, 1), turn("user", "And?"), turn("assistant", "")]
    tokenizer = tiny.tokenizer()
    first, empty = score_conversation(tiny.model(), tokenizer, messages, layer=1)
    assert first is not None
    assert empty is None
    assert encode(tokenizer, messages).fates == {"scored": 1, "empty": 1}


def test_a_response_before_any_user_text_scores_zero():
    messages = [turn("assistant", "Welcome to the lighthouse."), *conversation(5, 1)]
    greeting, answer = score_conversation(tiny.model(), tiny.tokenizer(), messages, layer=1)
    assert greeting == 0
    assert answer > 0


def test_a_conversation_without_responses_has_no_scores():
    assert score_conversation(tiny.model(), tiny.tokenizer(), [turn("user", "a")], layer=1) == []


def test_a_turn_that_does_not_end_inside_the_window_is_null():
    """The limit moves over the last token of the second response, one token at a time."""
    model, tokenizer, messages = tiny.model(), tiny.tokenizer(), conversation(6, 3)
    whole = score_conversation(model, tokenizer, messages, layer=1)
    owners = segment(tokenizer, messages).messages
    first, last = owners.index(3), len(owners) - 1 - owners[::-1].index(3)

    def cut_at(length):
        scores = score_conversation(model, tokenizer, messages, layer=1, max_length=length)
        return scores, encode(tokenizer, messages, length).fates

    scores, fates = cut_at(last + 1)
    assert scores[:2] == pytest.approx(whole[:2], abs=1e-5)
    assert scores[2] is None
    assert fates == {"scored": 2, "beyond": 1}
    for length, fate in ((last, "cut"), (first + 1, "cut"), (first, "beyond")):
        scores, fates = cut_at(length)
        assert scores == [pytest.approx(whole[0], abs=1e-5), None, None]
        assert fates["scored"] == 1
        assert fates[fate] == 3 - fates["scored"] - (fate == "cut")
    assert cut_at(1)[0] == [None, None, None]


def test_nothing_after_the_last_scored_response_is_run():
    tokenizer = tiny.tokenizer()
    answered = conversation(7, 1)
    encoded = encode(tokenizer, [*answered, turn("user", "And the lamp?")])
    assert encoded.input_ids == encode(tokenizer, answered).input_ids
    assert encoded.turns[0][-1] == len(encoded.input_ids) - 1


def test_the_default_limit_is_the_window_of_the_model():
    model = tiny.model(max_position_embeddings=100)
    scores = score_conversation(model, tiny.tokenizer(), conversation(8, 6), layer=1)
    assert scores[0] is not None
    assert scores[-1] is None


@pytest.mark.parametrize(("depth", "layer"), [(22, 15), (32, 22), (80, 55), (3, 2), (2, 1), (1, 0)])
def test_the_default_layer_is_scaled_to_the_depth(depth, layer):
    assert default_layer(depth) == layer


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(UserError, match="has 100 embedding rows"):
        score_conversation(
            tiny.model(vocab_size=100), tiny.tokenizer(), conversation(1, 1), layer=1
        )


def test_buckets_hold_every_item_once_within_the_limit():
    draw = random.Random(0)
    lengths = [draw.randint(0, 50) for _ in range(200)]
    buckets = list(bucketed(range(200), lengths.__getitem__, 120))
    assert sorted(item for bucket in buckets for item in bucket) == list(range(200))
    assert all(len(b) * max(lengths[item] for item in b) <= 120 for b in buckets)
    assert list(bucketed([7, 3], lambda item: item, 5)) == [[7], [3]]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["tinyllama-1.1b-chat-v1.0", "qwen2.5-instruct"])
def test_every_turn_of_the_sharegpt_sample_is_scored_or_beyond_the_window(folder):
    """Real chats: HTML, code, CJK, chunks that begin with the assistant."""
    tokenizer, fates, turns = chats.real_tokenizer(folder), Counter(), 0
    for index, row in enumerate(read_rows(chats.real_data() / "sft/sharegpt_sample.json")):
        messages = to_conversation(row, index).messages
        fates += encode(tokenizer, messages, 2047).fates
        turns += sum(message["role"] == "assistant" for message in messages)
    assert fates.total() == turns > 250
    assert fates["scored"] > 0.6 * turns
    assert fates["empty"] < 0.02 * turns
