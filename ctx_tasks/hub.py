"""Data sets of the Hugging Face hub, with the commit that it served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def load(*name: str, split: str, instead: str) -> tuple[Dataset, str]:
    """A split of a data set, and the commit it is of; "unknown" where `datasets` does not tell.

    Args:
        name: arguments of `datasets.load_dataset`.
        instead: what the user may do where the hub cannot be had, for the end of a sentence.

    Raises:
        UserError: it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(*name, split=split)
    # Offline, blocked, gated or gone: libraries below raise many types for one situation.
    except Exception as error:
        raise UserError(
            f"{name[0]} could not be loaded from the Hugging Face hub ({type(error).__name__}); "
            f"{instead}"
        ) from error
    return rows, _commit(rows)


def _commit(rows: Dataset) -> str:
    """By which `datasets` names the folder of a table it has cached."""
    folders = [Path(file["filename"]).parent.name for file in rows.cache_files]
    return next((name for name in folders if re.fullmatch("[0-9a-f]{40}", name)), "unknown")
