"""What can change between two runs of one loaded model: steering and the indicator.

`hf-ctx` takes these beside the arguments that load a checkpoint; a sweep or the attention command
loads once and sets one arm after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from ctx_tasks.errors import UserError

from .indicator import Turns
from .steering import Steering, read_heads


@dataclass(frozen=True)
class ArmSettings:
    """Steering and indicator of a model, as `read_arm` checked them."""

    steering: Steering
    indicator: str | None = None
    indicator_turns: Turns = "last"


def read_arm(
    alpha: Any = 1.0,
    schedule: Any = "constant",
    steer_generated: bool = True,
    layers: str | int | list[int] | None = None,
    heads: str | None = None,
    indicator: str | None = None,
    indicator_turns: Any = "last",
) -> ArmSettings:
    """The arm that these model arguments of `hf-ctx` mean (see `ctx_models.lm.CtxLM`).

    Raises:
        UserError: any of them out of range; layers and heads are checked against a model later.
    """
    if indicator_turns not in get_args(Turns):
        raise UserError(f"indicator_turns={indicator_turns!r}: choose last or all.")
    if not isinstance(steer_generated, bool):
        raise UserError(f"steer_generated={steer_generated!r}: choose true or false.")
    steering = Steering(
        alpha=_number("alpha", alpha),
        schedule=schedule,
        steer_generated=steer_generated,
        layers=parse_layers(layers),
        heads=None if heads is None else read_heads(heads),
    )
    return ArmSettings(steering, indicator, indicator_turns)


def parse_layers(value: str | int | list[int] | None) -> tuple[int, ...] | None:
    """Layer indices from "8-15", "3+5+9" or both mixed, an int, or a list of such parts.

    Raises:
        UserError: anything else.
    """
    if value is None:
        return None
    layers: list[int] = []
    try:
        for part in value if isinstance(value, list) else str(value).split("+"):
            first, _, last = str(part).partition("-")
            found = range(int(first), int(last or first) + 1)
            if not found:
                raise ValueError(f"{part} holds no layer")
            layers.extend(found)
    except ValueError as error:
        raise UserError(
            f'layers={value!r} cannot be read: write ranges and single layers such as "8-15+20".'
        ) from error
    return tuple(layers)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={value!r} is not a number.") from error
