"""The bundled nano models: checkpoints of the synthetic nano world, made by `training/nano`.

`nano-base` (pretrained), `nano-chat` (tuned on conversations), `nano-chat-ind` (the same with the
indicator token `[IND]`). A model argument may name one in place of a folder; nothing here imports
torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ctx_tasks.errors import UserError

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
