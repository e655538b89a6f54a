"""The study of `[IND]` by user mass: its measure is eq. 2's, its rule and its choice are right."""

from __future__ import annotations

import numpy as np
import pytest

from ctx_models.lm import CtxLM
from training.dependency import default_layer, score_conversation
from training.nano.auto_indicator import BY_HEART, Task, best_tau, changes, user_mass


def test_the_mass_is_the_score_of_a_response_of_one_token():
    """Eq. 2's mean over a response without tokens is its value at the prompt's last token."""
    lm = CtxLM("nano-chat-ind", device="cpu")
    messages = [{"role": "user", "content": "The home of Zaerel is Drina Hill."}]
    prompt = str(lm._render(messages, True).text)
    [found] = user_mass(lm, [prompt])
    layer = default_layer(lm.model.config.num_hidden_layers)
    answer = {"role": "assistant", "content": "Drina"}
    score = score_conversation(lm.model, lm.tokenizer, [*messages, answer], layer=layer)[0]
    assert 0 < found < 1
    # Neighbouring rows of one head's attention: near each other, but not the same row.
    assert found == pytest.approx(score, abs=0.3)
    with pytest.raises(ValueError, match="not one user turn"):
        user_mass(lm, ["a prompt without template"])


def test_the_rule_takes_the_best_of_both_where_the_mass_separates():
    n = 40
    clusters = np.arange(n)
    context = Task(np.zeros(n), np.ones(n), np.full(n, 0.9), clusters)
    heart = Task(np.ones(n), np.zeros(n), np.full(n, 0.1), clusters)
    tasks = {"nano_squad_contains": context, BY_HEART: heart}
    tau = best_tau({name: one.part(0) for name, one in tasks.items()})
    assert 0.1 <= tau < 0.9
    held = {name: one.part(1) for name, one in tasks.items()}
    assert [change.mean for change in changes(held, tau, "never")] == [1.0, 0.0]
    assert [change.mean for change in changes(held, tau, "always")] == [0.0, 1.0]
    assert [change.n for change in changes(held, tau, "always")] == [20, 20]
