"""The user agreement: accepted by each person, and with it the entry allocation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.db.idempotency import answered_once
from allocations.errors import (
    InvalidInputError,
)
from allocations.lifecycle.authority import PLATFORM, Authority

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.allocations import AllocationService
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementService:
    """Who accepted what; a new version asks everybody again before their next start."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    agreements: AgreementStore
    lifecycle: AllocationService
    authority: Authority

    @answered_once
    def accept(self, person: str, version: str) -> None:
        """Record that a person accepts the agreement in force, and open or prolong the entry allocation.

        The first time it is opened; later, when it is expiring or has ended, it gets a term from now.
        InvalidInputError when the version is not the one in force (it changed while the page was open).
        """
        in_force = self.policy.agreement.version
        if version != in_force:
            raise InvalidInputError(
                f"The agreement in force is {in_force}, not {version}.", "Read the current one and accept it."
            )
        with self.database.write() as connection:
            now_ms = self.clock.now_ms()
            self.agreements.see(connection, person, now_ms)
            known_at_ms = self.agreements.accepted_at_ms(connection, person, version)
            entry = self._entry_of(connection, person)
            prolonged = entry is not None and self.lifecycle.prolong_entry(connection, entry.id, person)
            if self.policy.agreement.is_accepted(known_at_ms, now_ms) and not prolonged:
                return
            self.agreements.put(connection, person, version, now_ms)
            self.authority.record(
                connection, person, "agreement.accept", f"agreement {version}", accepted_before_ms=known_at_ms
            )
            if entry is None:
                tier = self.policy.entry_tier
                self.lifecycle.open(
                    connection, tier, f"{tier.title} allocation of {person}", lead=person, actor=PLATFORM
                )

    def _entry_of(self, connection: Connection, person: str) -> Allocation | None:
        name = self.policy.entry_tier.name
        mine = (found for found, _role in self.allocations.of_person(connection, person) if found.tier == name)
        return next(mine, None)
