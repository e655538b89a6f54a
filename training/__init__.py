"""From raw conversations to a tuned model that keeps its context awareness.

The public names load on first use, so that `import training` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.dependency.equation import score_conversation

__all__ = ["score_conversation"]

_HOMES = {"score_conversation": "dependency.equation"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
