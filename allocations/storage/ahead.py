"""Says which reminder of an end is due: nobody is ever told less time ahead than the policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY

if TYPE_CHECKING:
    from collections.abc import Sequence


def due_reminder(
    reminders_days: Sequence[int], ends_at_ms: int, reminded_days: int | None, now_ms: int
) -> tuple[int, int] | None:
    """Return how many days ahead the reminder is that is due, and the end that it is to tell; None: none is due.

    `reminders_days` fall; `reminded_days` is the last that was sent. Of several that are due at once, because nobody
    looked for long, only the one nearest to the end is sent, and the end is put off so that it is nevertheless as many
    days ahead. An end is never put forward.
    """
    reached = [days for days in reminders_days if now_ms >= ends_at_ms - days * MS_PER_DAY]
    if not reached or (reminded_days is not None and reminded_days <= reached[-1]):
        return None
    return reached[-1], max(ends_at_ms, now_ms + reached[-1] * MS_PER_DAY)


def is_told(reminders_days: Sequence[int], reminded_days: int | None) -> bool:
    """Say whether the last reminder was sent."""
    return not reminders_days or (reminded_days is not None and reminded_days <= reminders_days[-1])
