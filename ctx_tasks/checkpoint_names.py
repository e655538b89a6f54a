"""Names of checkpoints for the reader: as short as tells them apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Set
from pathlib import Path


def short_names(checkpoints: Set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Paths shortened to their last part where that tells checkpoints apart.

    Checkpoints of one path (another dtype, an adapter) are told apart by the arguments that differ.

    Args:
        checkpoints: name and identity (model arguments as JSON) of each.
    """
    return {found: _short(found, checkpoints) for found in checkpoints}


def _short(found: tuple[str, str], others: Set[tuple[str, str]]) -> str:
    name, identity = found
    ends = Counter(Path(other).name for other in {other for other, _ in others})
    end = Path(name).name
    shown = end if Path(name).is_absolute() and ends[end] == 1 else name
    twins = [json.loads(other) for n, other in others if n == name]
    if len(twins) == 1:
        return shown
    own = json.loads(identity)
    differing = {k: v for k, v in own.items() if any(twin.get(k) != v for twin in twins)}
    return f"{shown} ({', '.join(f'{k}={v}' for k, v in sorted(differing.items())) or 'plain'})"
