"""Who may act on which allocation, and the record of what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import (
    InvalidInputError,
    NotAllowedError,
    UnknownAllocationError,
)
from allocations.lifecycle.models import (
    MANAGING_ROLES,
    Allocation,
    MemberRole,
)
from allocations.lifecycle.stores.audit import AuditFilter

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.audit import AuditStore
    from allocations.outbox import Notice, Outbox
    from allocations.policy.models import Policy

PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and what the platform lets them be."""

    name: str
    reviewer: bool = False
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Finds allocations for those who may act on them, and appends to the audit log."""

    clock: Clock
    policy: Policy
    ledger: Ledger
    allocations: AllocationStore
    audit: AuditStore
    outbox: Outbox

    def find(self, connection: Connection, allocation_id: str) -> Allocation:
        """Return the allocation; UnknownAllocationError when there is none. It says nothing of who may know of it."""
        allocation = self.allocations.get(connection, allocation_id)
        if allocation is None:
            raise unknown_allocation(allocation_id)
        return allocation

    def seen(self, connection: Connection, actor: Actor, allocation_id: str) -> Allocation:
        """Return the allocation to who belongs to it (here or above) and to administrators.

        To anybody else it is, word for word, one that is not there: UnknownAllocationError.
        """
        allocation = self.find(connection, allocation_id)
        if not (actor.admin or self._roles(connection, actor, allocation_id)):
            raise unknown_allocation(allocation_id)
        return allocation

    def manages(self, connection: Connection, actor: Actor, allocation_id: str) -> bool:
        """Say whether a person leads or manages an allocation (here or above) or is an administrator."""
        return actor.admin or bool(self._roles(connection, actor, allocation_id) & MANAGING_ROLES)

    def managed(self, connection: Connection, actor: Actor, allocation_id: str) -> Allocation:
        """Return the allocation to who manages it; else as `seen`, and NotAllowedError to those who may know of it."""
        allocation = self.seen(connection, actor, allocation_id)
        if self.manages(connection, actor, allocation_id):
            return allocation
        raise NotAllowedError(f"Only leads and managers of “{allocation.name}” may do this.", "Ask one of them.")

    def managed_part(self, connection: Connection, actor: Actor, allocation_id: str) -> tuple[Allocation, Allocation]:
        """Return a sub-allocation and its parent to who manages the parent, whose name others do not learn.

        NotAllowedError for a whole allocation, which is a part of nothing; else as `managed`.
        """
        part = self.seen(connection, actor, allocation_id)
        if part.parent_id is None:
            raise NotAllowedError(
                f"“{part.name}” is a whole allocation: what it has is awarded.",
                "Request a supplement, or ask an administrator.",
            )
        if not self.manages(connection, actor, part.parent_id):
            raise NotAllowedError(
                f"Only leads and managers of what “{part.name}” is a part of may do this.", "Ask one of them."
            )
        return part, self.find(connection, part.parent_id)

    def lock_subtree(self, connection: Connection, top: Allocation) -> list[Allocation]:
        """Lock the balances of an allocation and all below it, from the top down, and return them as they are then.

        A division of a node, which could add to the subtree meanwhile, waits for that node's balance: its children
        are therefore read after it is locked.
        """
        found, level = [], [top]
        while level:
            self.ledger.lock(connection, [node.id for node in level])
            found += [self.find(connection, node.id) for node in level]
            below = [child for node in level for child in self.allocations.children(connection, node.id)]
            level = sorted(below, key=lambda child: child.id)
        return found

    def require_admin(self, actor: Actor, why: str) -> None:
        """Raise NotAllowedError unless an administrator acts, InvalidInputError when no reason is given."""
        if not actor.admin:
            raise NotAllowedError("Only administrators may do this.", "Write to them.")
        if not why.strip():
            raise InvalidInputError("A reason is needed.", "Say why: it is kept in the audit log.")

    def record(
        self,
        connection: Connection,
        actor: str,
        action: str,
        subject: str,
        why: str = "",
        **details: object,
    ) -> None:
        """Append to the audit log, in the transaction of what is done."""
        self.audit.add(
            connection,
            at_ms=self.clock.now_ms(),
            actor=actor,
            action=action,
            subject=subject,
            why=why,
            details=details,
            policy_version=self.policy.version,
        )

    def last_action(self, connection: Connection, subject: str) -> str:
        """Return what was last done to a subject, as the audit log calls it; empty when nothing was."""
        rows = self.audit.entries(connection, limit=1, wanted=AuditFilter(subject=subject))
        return str(rows[0].action) if rows else ""

    def tell(self, connection: Connection, *new: Notice) -> None:
        """Leave notices in the outbox, in the transaction of what is done."""
        self.outbox.queue(connection, new, self.clock.now_ms())

    # ------------------------------------------------------------------ inside

    def _roles(self, connection: Connection, actor: Actor, allocation_id: str) -> set[MemberRole]:
        path = self.ledger.path(connection, allocation_id)
        return self.allocations.roles_along(connection, path, actor.name)


def unknown_allocation(allocation_id: str) -> UnknownAllocationError:
    """Return the one error of an allocation that is not there, or not there for who asks."""
    return UnknownAllocationError(f"There is no allocation {allocation_id!r}.", "Choose one of your own allocations.")
