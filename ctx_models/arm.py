"""The torch half of `ctx_tasks.arm`: what the settings of an arm do to a loaded model.

A sweep, the demo or the attention command loads a checkpoint once and sets one arm after the other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, get_args

from ctx_tasks.arm import Arm, InstructionTurn, Turns, parse_layers
from ctx_tasks.errors import UserError

from .indicator import check_indicator
from .steering import Steering, read_heads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArmSettings:
    """An arm whose values are in range, and its steering."""

    arm: Arm
    steering: Steering


def read_arm(arm: Arm) -> ArmSettings:
    """Check an arm's values and read its file of heads.

    Raises:
        UserError: any of them out of range; layers and heads are checked against a model later.
    """
    if arm.indicator_turns not in get_args(Turns):
        raise UserError(f"indicator_turns={arm.indicator_turns!r}: choose last or all.")
    if arm.instruction_turn not in get_args(InstructionTurn):
        raise UserError(f"instruction_turn={arm.instruction_turn!r}: choose user or system.")
    if arm.instruction is not None and not arm.instruction.strip():
        raise UserError("instruction is empty: give a sentence, or leave it out.")
    if arm.instruction and not arm.chat:
        raise UserError("an instruction is put into a turn of a chat: leave out chat=false.")
    for name in ("steer_generated", "steer_thought", "indicator_strict"):
        if not isinstance(getattr(arm, name), bool):
            raise UserError(f"{name}={getattr(arm, name)!r}: choose true or false.")
    if arm.alpha != 1 and arm.schedule == "compound" and arm.heads is not None:
        logger.warning(
            "schedule=compound with heads: for a list of heads the paper's released code clones "
            "its mask, so that alpha does not compound there; paper mode with heads is constant."
        )
    steering = Steering(
        alpha=arm.alpha,
        schedule=arm.schedule,
        steer_generated=arm.steer_generated,
        layers=parse_layers(arm.layers),
        heads=None if arm.heads is None else read_heads(arm.heads),
    )
    return ArmSettings(arm, steering)


def check_tokenizer(arm: Arm, tokenizer: Any) -> None:
    """Refuse an arm that needs what the tokenizer does not have.

    Raises:
        UserError: an indicator that is not one token, or a chat arm without a chat template.
    """
    if arm.indicator is not None:
        check_indicator(tokenizer, arm.indicator, strict=arm.indicator_strict)
    if arm.chat and not tokenizer.chat_template:
        raise UserError(
            "this tokenizer has no chat template: run the checkpoint raw, or name a tokenizer that "
            "has one (tokenizer=FOLDER)."
        )
