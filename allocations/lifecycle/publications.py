"""The publications that came of allocations: by DOI or bibcode, each once however many allocations it thanks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.db.idempotency import answered_once
from allocations.errors import InvalidInputError, NotFoundError
from allocations.lifecycle.models import Publication

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.publications import PublicationStore

TITLE_LENGTH_MAX = 500
IDENTIFIER_LENGTH_MAX = 300
_DOI_PREFIX = re.compile(r"^(https?://(dx\.)?doi\.org/|doi:)\s*", re.IGNORECASE)
_DOI = re.compile(r"10\.\d{4,9}/\S+")
# The bibliographic code of the ADS: the year, 14 characters of journal, volume and page, the author's initial.
_BIBCODE = re.compile(r"\d{4}[A-Za-z0-9.&]{14}[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationService:
    """Links publications to allocations."""

    database: Database
    clock: Clock
    new_id: IdFactory
    publications: PublicationStore
    authority: Authority

    def add(self, actor: Actor, allocation_id: str, identifier: str, title: str) -> Publication:
        """Link a publication to an allocation, as `add_to` does to several."""
        return self.add_to(actor, [allocation_id], identifier, title)

    @answered_once
    def add_to(self, actor: Actor, allocation_ids: Sequence[str], identifier: str, title: str) -> Publication:
        """Link a publication by its DOI or bibcode to all of the allocations or to none; their members only.

        What is known or linked already stays as it is.
        Of two who add the same publication at the same time, the unique identifier lets one commit; the other looks
        again and finds it.
        """
        doi, bibcode = to_identifiers(identifier)
        title = _require_title(title)
        with self.database.write() as connection:
            for allocation_id in allocation_ids:
                self.authority.seen(connection, actor, allocation_id)
            publication = self.publications.find(connection, doi, bibcode)
            now_ms = self.clock.now_ms()
            if publication is None:
                publication = Publication(self.new_id("p"), doi, bibcode, title, actor.name, now_ms)
                self.publications.add(connection, publication)
            for allocation_id in allocation_ids:
                if self.publications.linked_by(connection, publication.id, allocation_id) is None:
                    self.publications.link(connection, publication.id, allocation_id, actor.name, now_ms)
                    self.authority.record(
                        connection, actor.name, "publication.link", allocation_id, publication=doi or bibcode or ""
                    )
            return publication

    def unlink(self, actor: Actor, allocation_id: str, publication_id: str) -> None:
        """Take a link away: whoever made it, leads and managers; the publication stays for the others."""
        with self.database.write() as connection:
            self.authority.seen(connection, actor, allocation_id)
            linked_by = self.publications.linked_by(connection, publication_id, allocation_id)
            if linked_by != actor.name:
                self.authority.managed(connection, actor, allocation_id)
            if linked_by is None:
                raise NotFoundError("That publication is not linked here.", "Choose one from the list.")
            self.publications.unlink(connection, publication_id, allocation_id)
            self.authority.record(
                connection, actor.name, "publication.unlink", allocation_id, publication=publication_id
            )

    def linked_to(self, actor: Actor, allocation_id: str) -> list[Publication]:
        """Return an allocation's publications, in the order of linking; to its members."""
        with self.database.read() as connection:
            self.authority.seen(connection, actor, allocation_id)
            return self.publications.linked_to(connection, allocation_id)

    def count(self, connection: Connection, allocation_ids: Iterable[str]) -> int:
        """Count the publications of a set of allocations, each once, in the caller's transaction."""
        return self.publications.count(connection, allocation_ids)


def to_identifiers(identifier: str) -> tuple[str | None, str | None]:
    """Return the DOI (lower case, without its resolver) or the bibcode that an identifier is; the other is None."""
    cleaned = _DOI_PREFIX.sub("", identifier.strip())
    if len(cleaned) <= IDENTIFIER_LENGTH_MAX and cleaned.isprintable():
        if _DOI.fullmatch(cleaned):
            return cleaned.lower(), None
        if _BIBCODE.fullmatch(cleaned):
            return None, cleaned
    raise InvalidInputError(
        "That is neither a DOI nor a bibcode.",
        "Enter a DOI such as 10.3847/1538-4357/abcdef or a bibcode such as 2015arXiv150303757S.",
    )


def _require_title(title: str) -> str:
    cleaned = " ".join(title.split())
    if not 0 < len(cleaned) <= TITLE_LENGTH_MAX or not cleaned.isprintable():
        raise InvalidInputError(f"A title has 1 to {TITLE_LENGTH_MAX} printable characters.", "Enter the title.")
    return cleaned
