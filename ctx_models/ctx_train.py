"""`ctx-train` (as a module `python -m ctx_models.ctx_train`): our `training` beside any other.

`training` is a common name for a folder, and with `PYTHONPATH=.` or `python -m` one in the folder
that a user is in comes before ours. This module is found all the same, and runs nothing of it; no
other file of `ctx_models` knows `training`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_OURS = Path(__file__).resolve().parents[1] / "training"


def main(arguments: list[str] | None = None) -> Any:
    """The entry point `ctx-train`."""
    # Behind the rest, not gone: whatever else lies there may be needed. Processes that are spawned
    # get this path too.
    sys.path.sort(key=_holds_another)
    return import_module("training.cli").main(arguments)


def _holds_another(place: str) -> bool:
    """Whether a folder of the path has a `training` that is not ours."""
    found = PathFinder.find_spec("training", [place])
    return found is not None and found.origin != str(_OURS / "__init__.py")


if __name__ == "__main__":
    main()
