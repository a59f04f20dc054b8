"""Stores invitations; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from allocations.db import schema
from allocations.lifecycle.models import Invitation, InvitationState, MemberRole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection, Row

_invitations = schema.invitations


def _invitation(row: Row[Any]) -> Invitation:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["role"] = MemberRole(fields["role"])
    fields["state"] = InvitationState(fields["state"])
    return Invitation(**fields)


class InvitationStore:
    """Places offered to people."""

    def add(self, connection: Connection, invitation: Invitation) -> None:
        """Insert an invitation."""
        connection.execute(
            insert(_invitations).values(
                id=invitation.id,
                allocation_id=invitation.allocation_id,
                person=invitation.person,
                role=invitation.role,
                invited_by=invitation.invited_by,
                state=invitation.state,
                created_at_ms=invitation.created_at_ms,
                ends_at_ms=invitation.ends_at_ms,
                answered_at_ms=invitation.answered_at_ms,
                servers_max=invitation.servers_max,
                cores_max=invitation.cores_max,
                gpus_max=invitation.gpus_max,
                microcredits_max=invitation.microcredits_max,
            )
        )

    def get(self, connection: Connection, invitation_id: str) -> Invitation | None:
        """Return an invitation, or None."""
        row = connection.execute(select(_invitations).where(_invitations.c.id == invitation_id)).one_or_none()
        return _invitation(row) if row else None

    def pending_of(self, connection: Connection, person: str, now_ms: int) -> list[Invitation]:
        """Return what waits for a person's answer, oldest first."""
        return self._pending(connection, _invitations.c.person == person, _invitations.c.ends_at_ms > now_ms)

    def pending_on(self, connection: Connection, allocation_id: str, now_ms: int) -> list[Invitation]:
        """Return an allocation's invitations that wait for an answer, oldest first."""
        on = _invitations.c.allocation_id == allocation_id
        return self._pending(connection, on, _invitations.c.ends_at_ms > now_ms)

    def end(self, connection: Connection, invitation_id: str, state: InvitationState, at_ms: int) -> bool:
        """End a pending invitation; False when it had ended already."""
        ended = connection.execute(
            update(_invitations)
            .where(_invitations.c.id == invitation_id, _invitations.c.state == InvitationState.PENDING)
            .values(state=state, answered_at_ms=at_ms)
        )
        return ended.rowcount == 1

    def expire(self, connection: Connection, allocation_id: str, now_ms: int) -> None:
        """Mark an allocation's invitations that nobody answered in time."""
        connection.execute(
            update(_invitations)
            .where(
                _invitations.c.allocation_id == allocation_id,
                _invitations.c.state == InvitationState.PENDING,
                _invitations.c.ends_at_ms <= now_ms,
            )
            .values(state=InvitationState.EXPIRED)
        )

    def revoke_all(
        self, connection: Connection, allocation_ids: Iterable[str], at_ms: int, person: str | None = None
    ) -> None:
        """Revoke what is pending on allocations: all, or one person's."""
        query = update(_invitations).where(
            _invitations.c.allocation_id.in_(list(allocation_ids)), _invitations.c.state == InvitationState.PENDING
        )
        if person is not None:
            query = query.where(_invitations.c.person == person)
        connection.execute(query.values(state=InvitationState.REVOKED, answered_at_ms=at_ms))

    def _pending(self, connection: Connection, *where: ColumnElement[bool]) -> list[Invitation]:
        rows = connection.execute(
            select(_invitations)
            .where(_invitations.c.state == InvitationState.PENDING, *where)
            .order_by(_invitations.c.created_at_ms, _invitations.c.id)
        )
        return [_invitation(row) for row in rows]
