"""Measures what a block of code takes; loads nothing, so that a plain program that is measured stays one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Self


@dataclass(frozen=True, slots=True)
class Spent:
    """What something took; `output` is what it printed."""

    seconds: float
    processor_seconds: float
    output: str = ""


class Watch:
    """Measures the block of our own code that it is the context manager of, children that have ended included."""

    def __enter__(self) -> Self:
        """Begin."""
        self._processor = _processor_seconds()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_error: object) -> None:
        """End."""
        seconds = time.perf_counter() - self._begin
        self.spent = Spent(seconds, _processor_seconds() - self._processor)


def _processor_seconds() -> float:
    # os.times counts in hundredths.
    usages = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in usages)
