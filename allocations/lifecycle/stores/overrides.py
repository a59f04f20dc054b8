"""Stores overrides; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, insert, or_, select, update

from allocations.db.schema import overrides
from allocations.lifecycle.models import Override, OverrideLimits, OverrideSubject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row

_IN_FORCE = (
    select(overrides)
    .where(
        overrides.c.ends_at_ms > bindparam("now_ms"),
        overrides.c.revoked_at_ms.is_(None),
        or_(
            and_(
                overrides.c.subject_kind == OverrideSubject.PERSON,
                overrides.c.subject.in_(bindparam("people", expanding=True)),
            ),
            and_(
                overrides.c.subject_kind == OverrideSubject.ALLOCATION,
                overrides.c.subject.in_(bindparam("nodes", expanding=True)),
            ),
        ),
    )
    .order_by(overrides.c.created_at_ms, overrides.c.id)
)


def _override(row: Row[Any]) -> Override:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    fields["subject_kind"] = OverrideSubject(fields["subject_kind"])
    fields["limits"] = OverrideLimits.model_validate_json(fields["limits"])
    return Override(**fields)


class OverrideStore:
    """Exceptions from limits."""

    def add(self, connection: Connection, override: Override) -> None:
        """Insert an override."""
        connection.execute(
            insert(overrides).values(
                id=override.id,
                subject_kind=override.subject_kind,
                subject=override.subject,
                limits=override.limits.model_dump_json(exclude_none=True),
                reason=override.reason,
                author=override.author,
                created_at_ms=override.created_at_ms,
                ends_at_ms=override.ends_at_ms,
            )
        )

    def get(self, connection: Connection, override_id: str) -> Override | None:
        """Return an override, or None."""
        row = connection.execute(select(overrides).where(overrides.c.id == override_id)).one_or_none()
        return _override(row) if row else None

    def in_force(
        self, connection: Connection, people: Iterable[str], allocation_ids: Iterable[str], now_ms: int
    ) -> list[Override]:
        """Return what is in force for any of the people or allocations, oldest first: the newest counts."""
        rows = connection.execute(_IN_FORCE, {"people": list(people), "nodes": list(allocation_ids), "now_ms": now_ms})
        return [_override(row) for row in rows]

    def all_in_force(self, connection: Connection, now_ms: int) -> list[Override]:
        """Return every override in force, oldest first."""
        rows = connection.execute(
            select(overrides)
            .where(overrides.c.ends_at_ms > now_ms, overrides.c.revoked_at_ms.is_(None))
            .order_by(overrides.c.created_at_ms, overrides.c.id)
        )
        return [_override(row) for row in rows]

    def revoke(self, connection: Connection, override_id: str, by: str, at_ms: int) -> bool:
        """End an override now; False when it was revoked already."""
        revoked = connection.execute(
            update(overrides)
            .where(overrides.c.id == override_id, overrides.c.revoked_at_ms.is_(None))
            .values(revoked_at_ms=at_ms, revoked_by=by)
        )
        return revoked.rowcount == 1
