"""Scratch leases: leads let the files of their allocation's scratch become older, within the policy, until a date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import InvalidInputError, NotFoundError, TransitionError
from allocations.storage.models import Owner, StorageClass
from allocations.storage.scratch_store import ScratchLease

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.models import Allocation
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.models import StoredArea
    from allocations.storage.scratch_store import ScratchLeaseStore

TEXT_LENGTH_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ScratchLeaseView:
    """What an allocation's scratch has, for pages and the API: files go at `usual_days`, with the `lease` in force at
    `present_days` (None: no rule holds for it), which is less than it says where the policy allows less now;
    `longest_days` up to which age a lead may extend it (None: the policy lets nobody), `history` all there were, the
    last first. Ages are in days; a file goes when it is older, counted as the purge's rules count."""

    area: StoredArea
    usual_days: int | None
    present_days: int | None
    longest_days: int | None
    lease: ScratchLease | None
    history: tuple[ScratchLease, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchLeaseService:
    """What leads do about the age at which files of their scratch go.

    For pages: `of_allocation` tells all there is to show, to members too; `extend` and `end` are for those who manage
    the allocation (leads, managers, administrators): show their forms where `longest_days` is not None. What is
    extended counts at once: for the next plan, and for purges under way, which leave what is younger than the longer
    age when they look at their list again. Once something is archived and deleted, no lease brings it back: restore it.
    """

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    access: AreaAccess
    leases: ScratchLeaseStore
    authority: Authority

    def allocation_of(self, actor: Actor, area_id: str) -> str:
        """Return the allocation whose scratch an area is, to who may know of it; NotFoundError for other areas."""
        with self.database.read() as connection:
            area = self.access.seen(connection, actor, area_id)
        if area.storage_class is not StorageClass.SCRATCH or area.owner.allocation_id is None:
            raise NotFoundError("This is no scratch of an allocation.", "Choose one of your storage.")
        return area.owner.allocation_id

    def of_allocation(self, actor: Actor, allocation_id: str) -> ScratchLeaseView:
        """Return what holds for an allocation's scratch; UnknownAllocationError, NotFoundError where it has none."""
        with self.database.read() as connection:
            return self._view(connection, self.authority.seen(connection, actor, allocation_id))

    @answered_once
    def extend(
        self,
        actor: Actor,
        allocation_id: str,
        age_days: int,
        lasts_days: int,
        reason: str,
        idempotency_key: str | None = None,
    ) -> ScratchLeaseView:
        """Let files of an allocation's scratch become `age_days` old, for the next `lasts_days` days.

        It takes the place of one in force; a key that was used for the same before changes nothing. Raises
        UnknownAllocationError, NotAllowedError to who does not manage it, NotFoundError where it has no scratch,
        TransitionError where the policy lets nobody extend it (also: not in this state), and InvalidInputError for more
        than the policy's `longest_days` of either, no more than the usual age, or no reason.
        """
        why = reason.strip()
        if not why or len(why) > TEXT_LENGTH_MAX:
            raise InvalidInputError(f"A reason has 1 to {TEXT_LENGTH_MAX} characters.", "Say what the files are for.")
        body = {"allocation": allocation_id, "age_days": age_days, "lasts_days": lasts_days, "reason": why}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "scratch", body) if idempotency_key else None
        with self.database.write() as connection:
            allocation = self.authority.managed(connection, actor, allocation_id)
            view = self._view(connection, allocation)
            if key and key.recall(connection) is not None:
                return view
            usual, longest = view.usual_days, view.longest_days
            if usual is None or longest is None:
                raise TransitionError(
                    f"The age at which files of the scratch of “{allocation.name}” go cannot be extended.",
                    "Ask for an exemption of what you need for longer.",
                )
            if not usual < age_days <= longest:
                raise InvalidInputError(
                    f"Files may become {usual + 1} to {longest} days old here, not {age_days}.", "Choose one of these."
                )
            if not 1 <= lasts_days <= longest:
                raise InvalidInputError(f"A lease of scratch lasts 1 to {longest} days.", "It may be extended again.")
            now_ms = self.clock.now_ms()
            lease = ScratchLease(
                id=self.new_id("sl"),
                area_id=view.area.id,
                age_days=age_days,
                until_ms=now_ms + lasts_days * MS_PER_DAY,
                reason=why,
                made_by=actor.name,
                made_at_ms=now_ms,
            )
            self.leases.end(connection, view.area.id, actor.name, now_ms)
            self.leases.add(connection, lease)
            self.authority.record(
                connection,
                actor.name,
                "scratch.extend",
                allocation.id,
                why,
                area=view.area.id,
                lease=lease.id,
                age_days=age_days,
                until_ms=lease.until_ms,
            )
            if key:
                key.remember(connection, lease.id, now_ms)
            return self._view(connection, allocation)

    def end(self, actor: Actor, allocation_id: str, why: str) -> ScratchLeaseView:
        """End the lease in force before its time: the usual age holds again. Raises as `extend`; TransitionError where
        there is none."""
        reason = why.strip()
        if not reason or len(reason) > TEXT_LENGTH_MAX:
            raise InvalidInputError(
                f"A reason has 1 to {TEXT_LENGTH_MAX} characters.", "Say why: it is kept in the audit log."
            )
        with self.database.write() as connection:
            allocation = self.authority.managed(connection, actor, allocation_id)
            view = self._view(connection, allocation)
            if view.lease is None or not self.leases.end(connection, view.area.id, actor.name, self.clock.now_ms()):
                raise TransitionError("There is no lease in force.", "Nothing was changed.")
            self.authority.record(
                connection, actor.name, "scratch.end", allocation.id, reason, area=view.area.id, lease=view.lease.id
            )
            return self._view(connection, allocation)

    # ------------------------------------------------------------------ inside

    def _view(self, connection: Connection, allocation: Allocation) -> ScratchLeaseView:
        area = self.access.areas.get(connection, StorageClass.SCRATCH, Owner(allocation_id=allocation.id))
        if area is None:
            raise NotFoundError(f"“{allocation.name}” has no scratch.", "See what its tier gives.")
        rules = self.policy.storage.rules_for(StorageClass.SCRATCH, allocation.tier, allocation.state)
        extendable = [rule for rule in rules if rule.longest_days is not None]
        lease = self.leases.in_force(connection, area.id, self.clock.now_ms())
        extended = lease.age_days if lease else None
        return ScratchLeaseView(
            area=area,
            usual_days=min((rule.age_days for rule in extendable or rules), default=None),
            present_days=min((rule.age_for(extended) for rule in extendable or rules), default=None),
            longest_days=max((rule.longest_days for rule in extendable if rule.longest_days), default=None),
            lease=lease,
            history=tuple(self.leases.of_area(connection, area.id)),
        )
