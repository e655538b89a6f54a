"""How a model is run and looked into: segments, attention steering, `[IND]`, the harness model.

The public names load on first use, so that `import ctx_models` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import segment_mass
    from .spans import Segment, Segmented, segment
    from .steering import Steering, steer

__all__ = ["Segment", "Segmented", "Steering", "segment", "segment_mass", "steer"]

_HOMES = {
    "Segment": "spans",
    "Segmented": "spans",
    "Steering": "steering",
    "segment": "spans",
    "segment_mass": "attention",
    "steer": "steering",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
