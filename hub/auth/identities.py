"""Who has which name: each person at a provider one name, and each name one person, for ever.

Kept in the hub's own database. The provider's issuer and subject say who a person is; a user name or an address there
may change hands, so neither ever does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyterhub import orm
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, insert, select

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

metadata = MetaData()
identities = Table(
    "meridian_identities",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("bound_at", BigInteger, nullable=False),
)


class NameTakenError(Exception):
    """A name that was to be given is somebody else's; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person at a provider: `subject` means nothing without `issuer`."""

    issuer: str
    subject: str


class IdentityStore:
    """Names by identity in the hub's database, over the hub's one session: all of it happens between two awaits."""

    def __init__(self, db: Session) -> None:
        self._db = db

    def create(self) -> None:
        """Make the table where it is missing."""
        metadata.create_all(self._db.get_bind())

    def name_of(self, identity: Identity) -> str | None:
        """The name that the person has."""
        query = select(identities.c.name).where(
            identities.c.issuer == identity.issuer, identities.c.subject == identity.subject
        )
        return self._db.execute(query).scalar_one_or_none()

    def identity_of(self, name: str) -> Identity | None:
        """Whose name it is."""
        query = select(identities.c.issuer, identities.c.subject).where(identities.c.name == name)
        row = self._db.execute(query).one_or_none()
        return row and Identity(row.issuer, row.subject)

    def is_free(self, name: str) -> bool:
        """Whether nobody has the name, not even a user of the hub who came by another way."""
        known = self._db.execute(select(orm.User.id).where(orm.User.name == name)).first()
        return known is None and self.identity_of(name) is None

    def give(self, identity: Identity, name: str, now: int) -> None:
        """Bind the name, which nobody else may have, at `now` (seconds since 1970). Raises NameTakenError."""
        owner = self.identity_of(name)
        if owner == identity:
            return
        if owner is not None or self.name_of(identity) is not None:
            msg = f"The user name {name} belongs to another account."
            raise NameTakenError(msg)
        self._db.execute(
            insert(identities).values(issuer=identity.issuer, subject=identity.subject, name=name, bound_at=now)
        )
        self._db.commit()

    def first_free(self, names: Iterable[str], taken: frozenset[str]) -> str:
        """The first name that is free and not among `taken`. Raises NameTakenError when none is."""
        for name in names:
            if name not in taken and self.is_free(name):
                return name
        msg = "Every user name for this account is taken."
        raise NameTakenError(msg)
