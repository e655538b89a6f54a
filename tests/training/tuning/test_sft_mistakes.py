"""Data and recipes that cannot be tuned with are told in a sentence."""

from __future__ import annotations

import json

import pytest

from ctx_tasks.errors import UserError
from tests.training.tuning import inputs as tuning
from training import files
from training.tuning import sft


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "hello"}], r"Row 1 of .* \(columns text\) has no `messages`"),
        ([{"messages": [{"role": "user", "content": 3}]}], "Row 1 of .* has no `messages`"),
        ([], "holds no conversation"),
        (
            [{"messages": [{"role": "critic", "content": "3"}]}],
            "Row 1 of the data: .*role 'critic'",
        ),
        ([{"messages": tuning.conversations(2)[1]}], "ends no user turn"),
    ],
)
def test_unusable_data_is_told_in_a_sentence(setting, rows, message):
    folder, base, data = setting
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        sft.run(tuning.recipe(folder, base, data))


def test_marked_data_in_a_vanilla_recipe_is_refused(setting):
    folder, base, data = setting
    meta = {"settings": {"beta": 0.6, "indicator": "[IND]"}}
    files.meta_path(data).write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match=r"is marked with '\[IND\]' but indicator=null"):
        sft.run(tuning.recipe(folder, base, data, indicator=None))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.model_name_or_path=/nowhere", "'/nowhere' could not be loaded"),
        ("lora.target_modules=[query]", r"Recipe .*recipe.yaml: Target modules .*query"),
        ("lora.target_modules=[lm_head, q_proj]", "`lora.target_modules` has lm_head"),
        (
            "training.report_to=wandb",
            "training.report_to=wandb cannot be used: .*pip install wandb",
        ),
        ("training.report_to=nowhere", "nowhere is not supported"),
        ("training.bf16=maybe", "`training.bf16` is 'maybe', expected bool or null"),
    ],
)
def test_what_the_libraries_refuse_is_a_sentence(setting, override, message):
    with pytest.raises(UserError, match=message):
        sft.run(tuning.recipe(*setting), [override])


def test_a_chat_template_that_is_nowhere_names_the_bundled_ones(setting):
    file = tuning.recipe(*setting)
    with pytest.raises(UserError, match=r"tinyllama.jinja, tinyllama_no_system.jinja"):
        sft.run(file, ["training.chat_template_path=none.jinja"])
