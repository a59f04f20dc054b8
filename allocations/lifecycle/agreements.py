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
    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.allocations import AllocationService
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
        """Record that a person accepts the agreement in force; the first time, open the entry allocation.

        InvalidInputError when the version is not the one in force (it changed while the page was open).
        """
        in_force = self.policy.agreement.version
        if version != in_force:
            raise InvalidInputError(
                f"The agreement in force is {in_force}, not {version}.", "Read the current one and accept it."
            )
        with self.database.write() as connection:
            if self.agreements.accepted_at_ms(connection, person, version) is not None:
                return
            self.agreements.add(connection, person, version, self.clock.now_ms())
            self.authority.record(connection, person, "agreement.accept", f"agreement {version}")
            entry = self.policy.entry_tier
            if not any(found.tier == entry.name for found, _ in self.allocations.of_person(connection, person)):
                self.lifecycle.open(
                    connection, entry, f"{entry.title} allocation of {person}", lead=person, actor=PLATFORM
                )
