"""Draws what the runs of a sweep recorded against a parameter, as SVG: points in percent of their frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# More points than this cannot be told apart, and make a page slow.
POINTS_MAX = 2000
CATEGORIES_MAX = 24
# Points on the frame itself would be cut in half.
MARGIN = 3.0
LABEL_LENGTH_MAX = 16


@dataclass(frozen=True, slots=True)
class Label:
    """A word below the frame, `x` in percent."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """A picture of pairs of values: points (x, y) in percent from the top left, and what stands at the axes.

    `count` is of all pairs, of which at most POINTS_MAX are drawn.
    """

    points: tuple[tuple[float, float], ...]
    count: int
    labels: tuple[Label, ...]
    least: str
    most: str

    @classmethod
    def of(cls, pairs: Sequence[tuple[Any, Any]]) -> Scatter | None:
        """Draw the pairs whose second value is a number; None when there are none, or x is of too many kinds."""
        known = [(x, float(y)) for x, y in pairs if is_number(y) and (is_number(x) or isinstance(x, str | bool))]
        if not known:
            return None
        if all(is_number(x) for x, _ in known):
            numbers = [float(x) for x, _ in known]
            least, most = min(numbers), max(numbers)
            places = [_place(x, least, most) for x in numbers]
            labels = [Label(MARGIN, _short(least)), Label(100 - MARGIN, _short(most))] if most > least else []
            labels = labels or [Label(50, _short(least))]
        else:
            kinds = sorted({str(x) for x, _ in known})
            if len(kinds) > CATEGORIES_MAX:
                return None
            at = {kind: round((number + 0.5) * 100 / len(kinds), 2) for number, kind in enumerate(kinds)}
            places = [at[str(x)] for x, _ in known]
            labels = [Label(x, kind[:LABEL_LENGTH_MAX]) for kind, x in at.items()]
        low, high = min(y for _, y in known), max(y for _, y in known)
        points = [(place, round(100 - _place(y, low, high), 2)) for place, (_, y) in zip(places, known, strict=True)]
        step = math.ceil(len(points) / POINTS_MAX)
        return cls(tuple(points[::step]), len(points), tuple(labels), _short(low), _short(high))


def is_number(value: object) -> bool:
    """Say whether a value can stand on an axis."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _place(value: float, least: float, most: float) -> float:
    # Halves first: the difference of the largest numbers is none.
    width = most / 2 - least / 2
    share = (value / 2 - least / 2) / width if width > 0 else 0.5
    return round(MARGIN + (100 - 2 * MARGIN) * share, 2)


def _short(value: float) -> str:
    return f"{value:.6g}"
