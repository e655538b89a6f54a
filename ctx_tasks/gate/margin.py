"""How large a loss is tolerated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ctx_tasks.errors import UserError


@dataclass(frozen=True)
class Margin:
    """Loss that is tolerated: absolute, or a share of the baseline's score."""

    value: float
    relative: bool = False

    def of(self, baseline: float) -> float:
        """The margin in the units of the score."""
        return self.value * abs(baseline) if self.relative else self.value

    @classmethod
    def read(cls, given: object) -> Margin:
        """From 0.01 or "5%".

        Raises:
            UserError: neither, negative, or the whole score.
        """
        text = str(given).strip()
        try:
            relative = text.endswith("%")
            value = float(text.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise UserError(f"margin {given!r} must be a loss such as 0.01, or a share such as 5%.")
        if relative and value >= 1:
            raise UserError(f"margin {given!r} tolerates every loss; give a share such as 5%.")
        return cls(value, relative)
