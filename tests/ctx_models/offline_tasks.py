"""Two small harness tasks without a download, for tests of the model class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

FOLDER = Path(__file__).parent / "tasks"
_PLACES = ["harbour", "mill", "library", "market", "orchard", "bridge"]


def questions(**_: Any) -> dict[str, datasets.Dataset]:
    """Six short questions of different lengths, with two choices each."""
    rows = [
        {
            "text": f"The keeper of the {place} is Ada. " * (number + 1)
            + f"Who keeps the {place}?",
            "choices": ["Ada", "the weather in a book"],
            "answer": number % 2,
            "target": "Ada",
        }
        for number, place in enumerate(_PLACES)
    ]
    return {"test": datasets.Dataset.from_list(rows), "train": datasets.Dataset.from_list(rows[:3])}
