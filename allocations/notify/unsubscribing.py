"""Turns a person's mail off by the link of a mail (RFC 8058), without a sign-in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import NotFoundError
from allocations.notify.links import Purpose

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.db.database import Database
    from allocations.notify.links import LinkStore
    from allocations.notify.preferences import PreferenceService


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeService:
    """A link turns off only what its person could turn off, reads nothing, and its deed can be undone on their page."""

    database: Database
    preferences: PreferenceService
    links: LinkStore

    def require(self, token: str) -> None:
        """Raise NotFoundError when a token is nobody's."""
        with self.database.read() as connection:
            self._person(connection, token)

    def unsubscribe(self, token: str) -> None:
        """Turn off the mail of a token's person where it can be; NotFoundError when it is nobody's."""
        with self.database.write() as connection:
            self.preferences.stop_mail(connection, self._person(connection, token))

    def _person(self, connection: Connection, token: str) -> str:
        person = self.links.person(connection, token, Purpose.UNSUBSCRIBE)
        if person is None:
            raise NotFoundError(
                "This address turns nobody's mail off.", "Copy it whole from the mail, or sign in and choose there."
            )
        return person
