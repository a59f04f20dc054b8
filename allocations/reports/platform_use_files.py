"""The use of a period as a table: a row for each step and group, read a step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allocations.reports.exports import FileFormat, to_csv, to_parquet
from allocations.reports.platform_use import read_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.db.database import Database
    from allocations.policy.models import Policy
    from allocations.reports.platform_use import Period, UseBy, UseStep

SECONDS_PER_HOUR = 3600
MICROCREDITS_PER_CREDIT = 1_000_000
BYTES_PER_TB = 1_000_000_000_000
KINDS = {
    "first_day": "date32",
    "last_day": "date32",
    "key": "string",
    "title": "string",
    "credits": "double",
    "core_hours": "double",
    "gib_hours": "double",
    "gpu_hours": "double",
    "storage_credits": "double",
    "storage_tb_days": "double",
}


def use_file(
    database: Database, policy: Policy, period: Period, by: UseBy, step: UseStep, written_as: FileFormat
) -> Iterator[str] | Iterator[bytes]:
    """Return a file's parts; NoParquetError where none can be written."""
    rows = _rows(database, policy, period, by, step)
    return to_parquet(KINDS, rows) if written_as is FileFormat.PARQUET else to_csv(list(KINDS), rows)


def _rows(database: Database, policy: Policy, period: Period, by: UseBy, step: UseStep) -> Iterator[dict[str, Any]]:
    for part in period.parts(step):
        # A transaction for each step: whoever reads the file slowly keeps no connection.
        with database.read() as connection:
            groups = read_groups(connection, policy, part, by)
        for group in groups:
            yield {
                "first_day": part.first,
                "last_day": part.last,
                "key": group.key,
                "title": group.title,
                "credits": group.microcredits / MICROCREDITS_PER_CREDIT,
                "core_hours": group.core_seconds / SECONDS_PER_HOUR,
                "gib_hours": group.gib_seconds / SECONDS_PER_HOUR,
                "gpu_hours": group.gpu_seconds / SECONDS_PER_HOUR,
                "storage_credits": group.storage_microcredits / MICROCREDITS_PER_CREDIT,
                "storage_tb_days": group.byte_days / BYTES_PER_TB,
            }
