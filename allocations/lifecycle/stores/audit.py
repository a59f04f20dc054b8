"""Stores the audit log; decides nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, or_, select, text, tuple_

from allocations.db import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Connection, Row, Select

_C = schema.audit.c
_NEWEST_FIRST = (_C.at_ms.desc(), _C.id.desc())
# Each action once, by as many looks into the index as there are actions: DISTINCT would read all of it.
_ACTIONS = text(
    "WITH RECURSIVE known(action) AS (SELECT min(action) FROM audit UNION ALL"
    " SELECT (SELECT min(audit.action) FROM audit WHERE audit.action > known.action) FROM known"
    " WHERE known.action IS NOT NULL) SELECT action FROM known WHERE action IS NOT NULL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What entries must be, None or empty for whatever it is; `from_ms` is included, `to_ms` is not.

    `words` is looked for in the reasons, details and subjects.
    """

    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    words: str = ""


EVERYTHING = AuditFilter()


class AuditStore:
    """The append-only record of who did what, when and why."""

    def add(
        self,
        connection: Connection,
        *,
        at_ms: int,
        actor: str,
        action: str,
        subject: str,
        policy_version: str,
        why: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Append an entry."""
        connection.execute(
            insert(schema.audit).values(
                at_ms=at_ms,
                actor=actor,
                action=action,
                subject=subject,
                why=why,
                details=json.dumps(details or {}, sort_keys=True, ensure_ascii=False),
                policy_version=policy_version,
            )
        )

    def entries(
        self,
        connection: Connection,
        *,
        limit: int,
        before_id: int | None = None,
        wanted: AuditFilter = EVERYTHING,
        looked_at: int | None = None,
    ) -> list[Row[Any]]:
        """Return entries, newest first: at most `limit`, older than the one of `before_id` when given.

        With `looked_at`, words are looked for among so many entries at most.
        """
        among = self._among(wanted, before_id)
        if not wanted.words:
            return list(connection.execute(among.limit(limit)))
        window = among.limit(looked_at).subquery() if looked_at is not None else among.subquery()
        says = or_(*(window.c[name].icontains(wanted.words, autoescape=True) for name in ("why", "details", "subject")))
        found = select(window).where(says).order_by(window.c.at_ms.desc(), window.c.id.desc()).limit(limit)
        return list(connection.execute(found))

    def after(self, connection: Connection, number: int, before_id: int | None, wanted: AuditFilter) -> int | None:
        """Return the id of the last of the next `number` entries, words left aside; None when there are no more."""
        last = self._among(wanted, before_id).with_only_columns(_C.id).offset(number - 1).limit(2)
        ids = connection.execute(last).scalars().all()
        return ids[0] if len(ids) > 1 else None

    def actions(self, connection: Connection) -> list[str]:
        """Return every action that the log has."""
        return list(connection.execute(_ACTIONS).scalars())

    # ------------------------------------------------------------------ inside

    def _among(self, wanted: AuditFilter, before_id: int | None) -> Select[Any]:
        conditions: list[ColumnElement[bool]] = []
        for column, value in ((_C.actor, wanted.actor), (_C.action, wanted.action), (_C.subject, wanted.subject)):
            if value:
                conditions.append(column == value)
        if wanted.from_ms is not None:
            conditions.append(_C.at_ms >= wanted.from_ms)
        if wanted.to_ms is not None:
            conditions.append(_C.at_ms < wanted.to_ms)
        if before_id is not None:
            then_ms = select(_C.at_ms).where(_C.id == before_id).scalar_subquery()
            conditions.append(tuple_(_C.at_ms, _C.id) < tuple_(then_ms, before_id))
        return select(schema.audit).where(*conditions).order_by(*_NEWEST_FIRST)
