"""Whether the use that is kept by day is what the journal says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import text

from allocations.clock import MS_PER_SECOND
from allocations.db.daily_use import SUMS, differences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


def daily_use_differences(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield (allocation, person and UTC day; what differs) for each row that is missing, wrong or too many."""
    for row in connection.execute(text(differences(connection.dialect.name))).mappings():
        stored, rebuilt = (
            {name: int(row[f"{side}_{name}"]) for name in SUMS} if row[side] else {} for side in ("kept", "derived")
        )
        day = datetime.fromtimestamp(row["day_ms"] / MS_PER_SECOND, tz=UTC).date()
        yield (
            f"{row['allocation_id']} {row['person']} {day}",
            f"stored {stored}, rebuilt from the journal {rebuilt}",
        )
