"""Charts as the pages draw them: columns over time in percent of their frame, with what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.reports.platform_use import UseOfStep

# Of a column's place, what stays empty beside it.
GAP = 0.2
_ROUND = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: what was used stands on the ground, what is forecast on top of it. All in percent of the frame."""

    x: float
    width: float
    used: float
    forecast: float


@dataclass(frozen=True, slots=True)
class ColumnChart:
    """Columns below a round number of microcredits, which the frame's upper edge is."""

    top_microcredits: int
    columns: tuple[Column, ...]

    @classmethod
    def of(cls, steps: Sequence[UseOfStep]) -> ColumnChart:
        """Draw the steps of a period side by side; a step in which more was given back than charged stays empty."""
        top = round_above(max((step.microcredits + step.forecast_microcredits for step in steps), default=0))
        place = 100 / max(1, len(steps))
        columns = []
        for number, step in enumerate(steps):
            used, forecast = max(0, step.microcredits), step.forecast_microcredits
            columns.append(
                Column(
                    x=round((number + GAP / 2) * place, 3),
                    width=round((1 - GAP) * place, 3),
                    used=round(100 * used / top, 3),
                    forecast=round(100 * forecast / top, 3),
                )
            )
        return cls(top, tuple(columns))


def round_above(amount: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, … that is not below an amount."""
    power = int(10 ** (len(str(max(1, amount))) - 1))
    return next(one * power for one in _ROUND if one * power >= amount)


def percent_of(amount: int, whole: int) -> float:
    """Return an amount in percent of a whole, between nothing and all of it."""
    return round(min(100.0, max(0.0, 100 * amount / whole)), 2) if whole > 0 else 0.0
