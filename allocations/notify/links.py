"""Secret addresses: each lets whoever knows its token do one thing for one person, and can be revoked."""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from allocations.db.schema import secret_links

if TYPE_CHECKING:
    from sqlalchemy import Connection

TOKEN_BYTES = 24
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")


class Purpose(StrEnum):
    """What an address lets one do."""

    CALENDAR = "calendar"
    UNSUBSCRIBE = "unsubscribe"


class LinkStore:
    """The tokens, at most one of a person for each purpose; decides nothing."""

    def token(self, connection: Connection, person: str, purpose: Purpose) -> str | None:
        """Return a person's token, None when there is none."""
        mine = (secret_links.c.person == person, secret_links.c.purpose == purpose)
        return connection.execute(select(secret_links.c.token).where(*mine)).scalar_one_or_none()

    def person(self, connection: Connection, token: str, purpose: Purpose) -> str | None:
        """Return whose token it is, None when it is nobody's or of another purpose."""
        if not _TOKEN.fullmatch(token):
            return None
        its = (secret_links.c.token == token, secret_links.c.purpose == purpose)
        return connection.execute(select(secret_links.c.person).where(*its)).scalar_one_or_none()

    def make(self, connection: Connection, person: str, purpose: Purpose, at_ms: int) -> str:
        """Return a person's token, made when there is none; of two that make it at once, one is kept."""
        values = {
            "token": secrets.token_urlsafe(TOKEN_BYTES),
            "person": person,
            "purpose": purpose,
            "created_at_ms": at_ms,
        }
        if connection.dialect.name == "sqlite":
            connection.execute(sqlite.insert(secret_links).on_conflict_do_nothing(), values)
        else:
            connection.execute(postgresql.insert(secret_links).on_conflict_do_nothing(), values)
        token = self.token(connection, person, purpose)
        assert token is not None, "it was made, or was there"
        return token

    def revoke(self, connection: Connection, person: str, purpose: Purpose) -> None:
        """Remove a person's token: its address is nobody's from now on."""
        mine = (secret_links.c.person == person, secret_links.c.purpose == purpose)
        connection.execute(delete(secret_links).where(*mine))
