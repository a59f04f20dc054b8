"""What pairs of measurements say of a difference, whatever its distribution."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """The median difference, ours minus theirs, between the bounds of its interval of that confidence."""

    median: float
    low: float
    high: float
    confidence: float


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Take the interval from the sign test: between two order statistics the median lies with a known probability.

    The narrowest symmetric one of at least 95 %; with less than six pairs there is none, and all are taken.
    """
    differences = sorted(our - their for our, their in zip(ours, theirs, strict=True))
    count = len(differences)
    outside, rank = 2 / 2**count, 1
    while (more := outside + 2 * comb(count, rank) / 2**count) <= 1 - CONFIDENCE:
        outside, rank = more, rank + 1
    return Difference(median(differences), differences[rank - 1], differences[count - rank], 1 - outside)
