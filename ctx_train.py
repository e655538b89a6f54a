"""`ctx-train`, and `python -m ctx_train`: starts our `training` beside any other of that name.

`training` is a common name for a folder, and with `PYTHONPATH=.` or `python -m` one in the folder
that a user is in comes before ours. This module is found all the same, and runs nothing of it.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_OURS = Path(__file__).resolve().with_name("training")


def main(arguments: list[str] | None = None) -> Any:
    """The entry point `ctx-train`."""
    # Behind the rest, not gone: whatever else lies there may be needed. Processes that are spawned
    # get this path too.
    sys.path.sort(key=_holds_another)
    from training.cli import main

    return main(arguments)


def _holds_another(place: str) -> bool:
    """Whether a folder of the path has a `training` that is not ours."""
    found = PathFinder.find_spec("training", [place])
    return found is not None and found.origin != str(_OURS / "__init__.py")


if __name__ == "__main__":
    main()
