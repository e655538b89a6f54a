"""Where single answers looked: against the model's own attention, in pieces of the user's text."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from msgspec.structs import astuple

from ctx_models.allocation.looks import (
    ANSWER_TOKENS,
    DOCUMENTS,
    PIECES,
    _chosen,
    _groups,
    looks,
    require_measurable,
)
from ctx_models.arm import read_arm
from ctx_models.lm import CtxLM
from ctx_models.spans import Segment, raw, tokenize
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from tests import tiny

QUESTION = "The Tarvo tower is red. What colour is the Tarvo tower?"
ANSWER = " It is red, as far as I know."


@pytest.fixture(scope="module")
def lm() -> CtxLM:
    return CtxLM("nano-chat", device="cpu")


def sample(prompt: str, **changes: object) -> dict[str, object]:
    given = {"doc_hash": "d", "doc": {}, "arguments": [(prompt, {})], "resps": [[ANSWER]]}
    return {**given, **changes}


def asked(lm: CtxLM, **arm: object) -> str:
    """The question in the chat template, as the harness hands it to the model."""
    lm.set_arm(read_arm(Arm(chat=True, **arm)))
    lm.keeps_messages = True
    return lm.apply_chat_template([{"role": "user", "content": QUESTION}])


def test_shares_are_the_models_own_attention(lm):
    """Against `output_attentions` of the eager model in float64: last row and answer's first."""
    prompt = asked(lm)
    [look] = looks(lm, [sample(prompt)], None)
    assert look.tokens == 1 + ANSWER_TOKENS
    prompt_ids = lm.tok_encode(prompt)
    answer = lm.tok_encode(ANSWER, add_special_tokens=False)[:ANSWER_TOKENS]
    eager = CtxLM("nano-chat", device="cpu").model.double()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        found = eager(torch.tensor([[*prompt_ids, *answer]]), output_attentions=True).attentions
    shares = torch.stack(found)[:, 0, :, -look.tokens :].mean(dim=(0, 1, 2)).numpy()
    assert look.totals.answer == pytest.approx(shares[len(prompt_ids) :].sum(), rel=1e-3)
    offsets = np.array(lm._tokens(lm.segments_of(prompt)).offsets)
    for piece in look.pieces:
        inside = (offsets[:, 0] >= piece.start) & (offsets[:, 1] <= piece.end)
        inside &= offsets[:, 0] < offsets[:, 1]
        assert piece.tokens == inside.sum()
        expected = shares[: len(prompt_ids)][inside].sum()
        assert piece.share == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_pieces_are_the_users_text_and_totals_are_all(lm):
    prompt = asked(lm)
    [look] = looks(lm, [sample(prompt)], None)
    assert "".join(prompt[piece.start : piece.end] for piece in look.pieces) == QUESTION
    assert sum(piece.share for piece in look.pieces) == pytest.approx(look.totals.user, rel=1e-2)
    assert sum(astuple(look.totals)) == pytest.approx(1, abs=1e-3)
    assert look.totals.template > 0.01


def test_a_steered_answer_is_measured_steered(lm):
    [plain] = looks(lm, [sample(asked(lm))], None)
    [steered] = looks(lm, [sample(asked(lm, alpha=0.01))], None)
    assert steered.totals.user > 2 * plain.totals.user
    assert steered.totals.template < plain.totals.template / 2


@pytest.mark.parametrize("begun", ["It is", "beginning", "{{beginning}}"])
def test_a_begun_answer_without_template_is_no_text_of_the_user(lm, begun):
    lm.set_arm(read_arm(Arm(chat=False)))
    one = sample(f"{QUESTION} It is", doc={"beginning": "It is"})
    [look] = looks(lm, [one], begun)
    shown = "".join(str(one["arguments"][0][0])[p.start : p.end] for p in look.pieces)
    assert shown == QUESTION
    [whole] = looks(lm, [one], None)
    assert look.totals.answer > whole.totals.answer
    assert look.totals.user < whole.totals.user


def test_an_answer_that_was_only_scored_is_looked_at_from_the_prompt(lm):
    prompt = asked(lm)
    [look] = looks(lm, [sample(prompt, arguments=[(prompt, " red")], resps=[[(-1.0, True)]])], None)
    assert (look.tokens, look.totals.answer) == (1, 0)


def test_what_was_cut_or_is_not_known_has_no_look(lm, caplog):
    lm.set_arm(read_arm(Arm(chat=False)))
    long = sample(QUESTION, arguments=[("word " * lm.max_length, {"max_gen_toks": 8})])
    assert looks(lm, [long], None) == []
    asked(lm)
    assert looks(lm, [sample("changed after the template")], None) == []
    assert "Where the answer to d looked is not known" in caplog.text


def test_the_same_documents_are_drawn_whatever_their_order():
    samples = [sample(QUESTION, doc_hash=f"{n}") for n in range(200)]
    drawn = [one["doc_hash"] for one in _chosen(samples)]
    again = [one["doc_hash"] for one in _chosen([*samples[::-1], *samples])]
    assert drawn == again
    assert len(set(drawn)) == DOCUMENTS


@pytest.mark.parametrize(
    "text", ["a b  c\n\nd", "word " * 1000, "字" * 700, "🙂🙂 é", " ", "", "x" * 900]
)
def test_pieces_follow_each_other_and_are_not_too_many(text):
    tokens = tokenize(tiny.tokenizer(), raw(text))
    places = [place for place, kind in enumerate(tokens.segments) if kind is Segment.USER]
    groups = _groups(tokens, places)
    assert len(groups) <= PIECES
    spans = [(tokens.offsets[g[0]][0], tokens.offsets[g[-1]][1]) for g in groups]
    assert all(start < end for start, end in spans)
    assert "".join(text[start:end] for start, end in spans) == text


def test_a_plain_prompt_is_the_same_text_and_keeps_its_messages_when_pickled(lm):
    """Other processes' answers come to the first one pickled."""
    prompt = asked(lm)
    lm.keeps_messages = False
    assert lm.apply_chat_template([{"role": "user", "content": QUESTION}]) == prompt
    again = pickle.loads(pickle.dumps(prompt))
    assert lm.segments_of(again) == lm.segments_of(prompt)
    assert lm.tok_encode(again) == lm.tok_encode(str(prompt))


def test_a_thinking_model_is_refused_before_it_runs(lm):
    lm.thinking = object()  # type: ignore[assignment]
    try:
        with pytest.raises(UserError, match="thoughts are not saved"):
            require_measurable(lm)
    finally:
        lm.thinking = None
    require_measurable(lm)
