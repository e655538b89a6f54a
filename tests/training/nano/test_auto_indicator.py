"""The study of `[IND]` by user mass: its measure is eq. 2's, its rule and its choice are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctx_models import Segment, segment
from ctx_models.lm import CtxLM
from training.dependency.equation import default_layer
from training.nano.auto_indicator import BY_HEART, Task, best_tau, changes, user_mass


def test_the_mass_is_that_of_the_whole_attention_matrix():
    lm = CtxLM("nano-chat-ind", device="cpu")
    prompt = segment(
        lm.tokenizer,
        [{"role": "user", "content": "The home of Zaerel is Drina Hill."}],
        add_generation_prompt=True,
    )
    [found] = user_mass(lm, [prompt.text])
    lm.model.set_attn_implementation("eager")
    weights = lm.model(torch.tensor([prompt.input_ids]), output_attentions=True).attentions
    last = weights[default_layer(len(weights))][0, :, -1]
    user = torch.tensor(prompt.segments) == Segment.USER
    assert found == pytest.approx(float(last[:, user].sum(dim=1).max()), abs=1e-5)
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
