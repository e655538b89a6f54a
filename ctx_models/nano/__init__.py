"""The bundled nano models: checkpoints of the synthetic nano world, made by `training/nano`.

`nano-base` (pretrained), `nano-chat` (tuned on conversations), `nano-chat-ind` (the same with the
indicator token `[IND]`). A model argument may name one in place of a folder; nothing here imports
torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ctx_tasks.errors import UserError, near

NAMES: Final = ("nano-base", "nano-chat", "nano-chat-ind")
DEFAULT: Final = "nano-chat"


def folder(name: str) -> Path:
    """The folder of a bundled checkpoint.

    Raises:
        UserError: a name that is none of `NAMES`.
    """
    if name not in NAMES:
        raise UserError(f"{name!r} is no bundled model; choose {', '.join(NAMES)}.")
    return Path(__file__).parent / name


def resolve(pretrained: str | None) -> str:
    """The path behind a model argument: a bundled model's for its name, `nano-chat`'s for None.

    Anything else is returned as it is, and so is a name that also is a folder here.

    Raises:
        UserError: a name without an owner that is nearly a bundled one.
    """
    if pretrained is None:
        return str(folder(DEFAULT))
    if is_bundled(pretrained):
        return str(folder(pretrained))
    meant = near(pretrained, NAMES, cutoff=0.8)
    if meant and not Path(pretrained).exists():
        raise UserError(
            f"{pretrained!r} is neither a folder here nor a bundled model ({meant}); a hub name "
            "has its owner before it."
        )
    return pretrained


def is_bundled(pretrained: str) -> bool:
    """Whether a model argument names a bundled model rather than a folder of that name here."""
    return pretrained in NAMES and not Path(pretrained).exists()
