"""How an arm is read, named and written."""

from __future__ import annotations

import pytest

from ctx_tasks.arm import CHAT, RAW, SHORTHANDS, Arm, identity, parse_layers
from ctx_tasks.errors import UserError


@pytest.mark.parametrize(
    ("given", "name", "folder"),
    [
        ("raw", "raw", "raw"),
        ("chat", "chat", "chat"),
        ("chat+prefix", "chat, prefix", "chat-prefix"),
        ({"alpha": 0.9}, "chat, α 0.9 constant", "chat-alpha-0.9"),
        (
            {"alpha": "0.9", "schedule": "compound", "steer_generated": False},
            "chat, α 0.9 compound prompt only",
            "chat-alpha-0.9-schedule-compound-steer_generated-False",
        ),
        ({"indicator": "[IND]"}, "chat, [IND]", "chat-indicator-[IND]"),
        (
            {"alpha": 0.5, "layers": [9, 8, 20]},
            "chat, α 0.5 constant layers 8-9+20",
            "chat-alpha-0.5-layers-8-9-20",
        ),
        ({"chat": False, "prefix": True, "name": "b/c α"}, "raw, prefix", "b-c-alpha"),
    ],
)
def test_names_and_folders(given, name, folder):
    arm = Arm.written(given)
    assert (arm.name, arm.folder) == (name, folder)


def test_two_spellings_of_an_arm_are_one():
    constant = Arm.written({"alpha": 0.9, "schedule": "constant"})
    assert constant == Arm.written({"alpha": 0.9, "name": "mine"}) == Arm(alpha=0.9)
    assert constant.folder == Arm(alpha=0.9).folder
    assert Arm.of({"layers": "8-9+20"}) == Arm.of({"layers": ["20", 9, 8]})


def test_settings_without_effect_are_no_part_of_the_arm():
    idle = Arm.of({"schedule": "compound", "layers": 3, "indicator_turns": "all"})
    assert idle.effective == CHAT
    assert idle.folder == "chat"


def test_an_unsteered_arm_keeps_all_but_steering():
    steered = Arm(chat=False, prefix=True, alpha=0.5, steer_generated=False, indicator="[IND]")
    assert steered.unsteered == Arm(chat=False, prefix=True, indicator="[IND]")
    assert steered.setting == "constant, prompt only, raw, prefix, [IND]"


@pytest.mark.parametrize("given", ["cooked", 3, None, ["raw"]])
def test_what_is_no_arm_is_refused_with_what_is(given):
    with pytest.raises(
        UserError, match=f"must be {', '.join(SHORTHANDS)} or a mapping".replace("+", r"\+")
    ):
        Arm.written(given)


def test_an_unknown_key_is_named_with_the_one_meant_or_those_known():
    with pytest.raises(UserError, match="unknown key 'alfa' .did you mean alpha[?].$"):
        Arm.written({"alfa": 1})
    with pytest.raises(UserError, match="unknown key 'volume' .known: chat, prefix, alpha"):
        Arm.written({"volume": 1})


def test_a_record_is_read_back():
    arm = Arm(chat=False, alpha=0.5, layers="1-2", indicator="[IND]", indicator_turns="all")
    assert Arm.of(arm.record()) == arm
    assert Arm.of({"indicator_turns": None, "chat": False}) == RAW


def test_execution_and_arm_are_no_part_of_the_checkpoint():
    given = {"pretrained": "m", "dtype": "bfloat16", "device": "cpu", "alpha": 0.5, "heads": "f"}
    assert identity(given) == {"pretrained": "m", "dtype": "bfloat16"}


def test_layers_are_read_from_any_spelling():
    assert parse_layers("8-10+3") == parse_layers(["8-10", 3]) == (8, 9, 10, 3)
    assert parse_layers(None) is None
