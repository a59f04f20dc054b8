"""Suspends people: nothing new starts in their name, what runs is stopped, and they read why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.clock import MS_PER_SECOND
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.lifecycle.models import Suspension
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.people import PeopleStore
    from allocations.lifecycle.stores.suspensions import SuspensionStore

GRACE_SECONDS_MAX = 7 * 86_400
REASON_LENGTH_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionService:
    """Suspensions, each with an author and a reason, until an administrator lifts them.

    Admission refuses whoever is suspended. One that is decided at the same time and does not see the suspension yet
    is met by the worker's next tick, which stops whatever suspended people have.
    """

    database: Database
    clock: Clock
    new_id: IdFactory
    people: PeopleStore
    suspensions: SuspensionStore
    authority: Authority

    def suspend(self, actor: Actor, person: str, reason: str, grace_seconds: int) -> Suspension:
        """Suspend a person; what they run is stopped after the grace, what waits is cancelled. Administrators only.

        TransitionError when they are suspended already.
        """
        self.authority.require_admin(actor, reason)
        if not 0 <= grace_seconds <= GRACE_SECONDS_MAX:
            raise InvalidInputError(
                f"What runs may go on for {GRACE_SECONDS_MAX // 86_400} days at most.", "Enter a shorter time."
            )
        if len(reason) > REASON_LENGTH_MAX:
            raise InvalidInputError(f"A reason has {REASON_LENGTH_MAX} characters at most.", "Shorten it.")
        if person == actor.name:
            raise NotAllowedError("Nobody suspends themselves.", "Ask another administrator.")
        already = TransitionError(f"{person} is suspended already.", "Lift that suspension first.")
        try:
            with self.database.write() as connection:
                if self.people.named(connection, person) is None:
                    raise NotFoundError(f"Nobody with the name {person!r} was ever here.", "Look for the person.")
                if self.suspensions.in_force(connection, [person]):
                    raise already
                now_ms = self.clock.now_ms()
                suspension = Suspension(
                    id=self.new_id("s"),
                    person=person,
                    reason=reason.strip(),
                    author=actor.name,
                    created_at_ms=now_ms,
                    stops_at_ms=now_ms + grace_seconds * MS_PER_SECOND,
                )
                self.suspensions.add(connection, suspension)
                self.authority.record(
                    connection, actor.name, "person.suspend", person, suspension.reason, grace_seconds=grace_seconds
                )
                details: dict[str, str | int] = {"why": suspension.reason, "by": actor.name}
                self.authority.tell(
                    connection, Notice(person, NoticeKind.PERSON_SUSPENDED, suspension.id, details=details)
                )
                return suspension
        except IntegrityError as error:
            # Two administrators at once, and neither saw the other: the table lets one of them in.
            raise already from error

    def lift(self, actor: Actor, person: str, why: str) -> Suspension:
        """Let a person start servers and runs again; administrators only. TransitionError when they are not held."""
        self.authority.require_admin(actor, why)
        with self.database.write() as connection:
            found = self.suspensions.in_force(connection, [person]).get(person)
            now_ms = self.clock.now_ms()
            if found is None or not self.suspensions.lift(connection, found.id, actor.name, now_ms):
                raise TransitionError(f"{person} is not suspended.", "Nothing was changed.")
            self.authority.record(connection, actor.name, "person.resume", person, why)
            self.authority.tell(connection, Notice(person, NoticeKind.PERSON_RESUMED, found.id))
            return replace(found, lifted_at_ms=now_ms, lifted_by=actor.name)
