"""Answers what administrators ask of the whole platform: use, cost against budget, the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.reports.audit import audit_file, read_audit
from allocations.reports.platform import read_platform
from allocations.reports.platform_use import day_of, read_use
from allocations.reports.platform_use_files import use_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.stores.audit import AuditFilter, AuditStore
    from allocations.policy.models import Policy
    from allocations.reports.audit import AuditPage
    from allocations.reports.exports import FileFormat
    from allocations.reports.platform import PlatformReport
    from allocations.reports.platform_use import Period, UseBy, UseReport, UseStep


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformReportService:
    """Reads for administrators: each page from one consistent view of the database, files in pieces."""

    database: Database
    clock: Clock
    policy: Policy
    audit: AuditStore

    @property
    def today(self) -> date:
        """The day that it is, by UTC and the service's clock."""
        return day_of(self.clock.now_ms())

    def tiers(self) -> PlatformReport:
        """Return what every tier was granted, has spent and is forecast to spend."""
        with self.database.read() as connection:
            return read_platform(connection, self.policy, self.clock.now_ms())

    def use(self, period: Period, by: UseBy, step: UseStep | None = None) -> UseReport:
        """Return the use of a period by time and by group; the step is what fits it when none is given."""
        with self.database.read() as connection:
            return read_use(connection, self.policy, period, by, step or period.step, self.today)

    def use_file(
        self, period: Period, by: UseBy, step: UseStep | None, written_as: FileFormat
    ) -> Iterator[str] | Iterator[bytes]:
        """Return the parts of a file with all of a period's use; NoParquetError where that cannot be written."""
        return use_file(self.database, self.policy, period, by, step or period.step, written_as)

    def audit_page(self, wanted: AuditFilter, before_id: int | None = None) -> AuditPage:
        """Return a page of the audit log, newest first."""
        with self.database.read() as connection:
            return read_audit(connection, self.audit, wanted, before_id)

    def audit_actions(self) -> list[str]:
        """Return every action that the audit log has."""
        with self.database.read() as connection:
            return self.audit.actions(connection)

    def audit_file(self, wanted: AuditFilter, written_as: FileFormat) -> Iterator[str]:
        """Return the parts of a file with all entries of the audit log that are wanted."""
        return audit_file(self.database, self.audit, wanted, written_as)
