"""Weights in 4 or 8 bits: bitsandbytes's model arguments, which transformers 5 takes no longer.

HFLM hands `load_in_4bit=True` to `from_pretrained`, which hands it to the model's constructor: a
TypeError, of the harness's own `hf` too. Here such arguments become the `quantization_config` that
transformers asks for. The defaults are its own: 4 bits are "fp4" and compute in float32 until
`bnb_4bit_quant_type=nf4,bnb_4bit_compute_dtype=bfloat16` say what QLoRA was trained with.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers import BitsAndBytesConfig

from ctx_tasks.errors import UserError

_SWITCHES = ("load_in_4bit", "load_in_8bit")
NAMES = tuple(
    name for name in signature(BitsAndBytesConfig).parameters if name not in ("self", "kwargs")
)


def split(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model arguments without those of bitsandbytes, and those, empty where they switch nothing on.

    Raises:
        UserError: a switch that is neither true nor false, or details of what is not switched on.
    """
    given = {name: arguments[name] for name in NAMES if name in arguments}
    for name in _SWITCHES:
        if not isinstance(given.get(name, False), bool):
            raise UserError(f"{name}={given[name]!r}: choose true or false.")
    others = {name: value for name, value in arguments.items() if name not in given}
    if any(given.get(name) for name in _SWITCHES):
        return others, given
    details = [name for name in given if name not in _SWITCHES]
    if details:
        raise UserError(f"{details[0]} needs load_in_4bit=True or load_in_8bit=True beside it.")
    return others, {}


def config(asked: dict[str, Any], stored: Any) -> Any:
    """The `quantization_config` of model arguments; without any, the one the checkpoint stores.

    Raises:
        UserError: values that bitsandbytes does not have, or a checkpoint quantized already.
    """
    if not asked:
        return stored
    names = ", ".join(f"{name}={value}" for name, value in asked.items())
    if stored is not None:
        raise UserError(f"The checkpoint is quantized already: leave {names} out.")
    try:
        return BitsAndBytesConfig(**asked)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{names} cannot be read: {str(error).splitlines()[0]}") from error


def record(asked: dict[str, Any]) -> dict[str, str] | None:
    """The model arguments as JSON values; None for a model that was loaded as it is stored."""
    return {name: str(value) for name, value in asked.items()} or None
