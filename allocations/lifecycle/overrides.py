"""Exceptions from the limits of a person or an allocation: granted by administrators, with a reason and an end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.lifecycle.members import require_person
from allocations.lifecycle.models import MANAGING_ROLES, Override, OverrideLimits, OverrideSubject
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.overrides import OverrideStore

DAYS_MAX = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideService:
    """Overrides in place of edits of the policy: attributed, audited, and never for ever."""

    database: Database
    clock: Clock
    new_id: IdFactory
    allocations: AllocationStore
    overrides: OverrideStore
    authority: Authority

    @answered_once
    def grant(
        self,
        actor: Actor,
        subject_kind: OverrideSubject,
        subject: str,
        limits: OverrideLimits,
        reason: str,
        days: int,
        idempotency_key: str | None = None,
    ) -> Override:
        """Set limits of a person, or of an allocation and all below it, for 1 to 90 days; administrators only."""
        self.authority.require_admin(actor, reason)
        if not 1 <= days <= DAYS_MAX:
            raise InvalidInputError(f"An override lasts 1 to {DAYS_MAX} days.", "Enter a number of days within that.")
        set_limits = limits.model_dump(exclude_none=True, mode="json")
        if not set_limits:
            raise InvalidInputError("An override sets at least one limit.", "Enter a limit.")
        if subject_kind is OverrideSubject.PERSON:
            subject = require_person(subject)
        body = {"kind": subject_kind, "subject": subject, "limits": set_limits, "reason": reason, "days": days}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "override", body) if idempotency_key else None
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return self._find(connection, known)
            now_ms = self.clock.now_ms()
            override = Override(
                id=self.new_id("o"),
                subject_kind=subject_kind,
                subject=subject,
                limits=limits,
                reason=reason.strip(),
                author=actor.name,
                created_at_ms=now_ms,
                ends_at_ms=now_ms + days * MS_PER_DAY,
            )
            people, name = self._concerned(connection, subject_kind, subject)
            self.overrides.add(connection, override)
            self.authority.record(
                connection,
                actor.name,
                "override.grant",
                override.id,
                reason,
                subject_kind=subject_kind,
                of=subject,
                limits=set_limits,
                days=days,
            )
            details: dict[str, str | int] = {"name": name, "by": actor.name, "reason": override.reason, "days": days}
            self.authority.tell(
                connection,
                *(Notice(person, NoticeKind.OVERRIDE_GRANTED, override.id, details=details) for person in people),
            )
            if key:
                key.remember(connection, override.id, now_ms)
            return override

    def revoke(self, actor: Actor, override_id: str, why: str) -> Override:
        """End an override now; administrators only. TransitionError when it has ended."""
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            override = self._find(connection, override_id)
            now_ms = self.clock.now_ms()
            if override.ends_at_ms <= now_ms or not self.overrides.revoke(connection, override_id, actor.name, now_ms):
                raise TransitionError("The override has ended already.", "Nothing was changed.")
            self.authority.record(connection, actor.name, "override.revoke", override_id, why, of=override.subject)
            return replace(override, revoked_at_ms=now_ms, revoked_by=actor.name)

    def in_force(self, actor: Actor) -> list[Override]:
        """Return every override in force, oldest first; administrators only."""
        if not actor.admin:
            raise NotAllowedError("Only administrators may see every override.", "Write to them.")
        with self.database.read() as connection:
            return self.overrides.all_in_force(connection, self.clock.now_ms())

    # ------------------------------------------------------------------ inside

    def _find(self, connection: Connection, override_id: str) -> Override:
        override = self.overrides.get(connection, override_id)
        if override is None:
            raise NotFoundError(f"There is no override {override_id!r}.", "Choose one from the list.")
        return override

    def _concerned(self, connection: Connection, subject_kind: OverrideSubject, subject: str) -> tuple[list[str], str]:
        """Return whom to tell, and the name of what the override is for; UnknownAllocationError when there is none."""
        if subject_kind is OverrideSubject.PERSON:
            return [subject], subject
        allocation = self.authority.find(connection, subject)
        members = self.allocations.members(connection, [subject])
        return [member.person for member in members if member.role in MANAGING_ROLES], allocation.name
