"""Stores publications and what they are linked to; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, or_, select

from allocations.db.schema import publication_links, publications
from allocations.lifecycle.models import Publication

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection


class PublicationStore:
    """Publications, each once, and their links to allocations."""

    def find(self, connection: Connection, doi: str | None, bibcode: str | None) -> Publication | None:
        """Return the publication with one of the identifiers, or None."""
        same = [
            column == value
            for column, value in ((publications.c.doi, doi), (publications.c.bibcode, bibcode))
            if value is not None
        ]
        row = connection.execute(select(publications).where(or_(*same))).first()
        return Publication(**row._mapping) if row else None  # noqa: SLF001  # SQLAlchemy's name for a row as a mapping

    def add(self, connection: Connection, publication: Publication) -> None:
        """Insert a publication."""
        connection.execute(
            insert(publications).values(
                id=publication.id,
                doi=publication.doi,
                bibcode=publication.bibcode,
                title=publication.title,
                added_by=publication.added_by,
                created_at_ms=publication.created_at_ms,
            )
        )

    def linked_by(self, connection: Connection, publication_id: str, allocation_id: str) -> str | None:
        """Return who linked a publication to an allocation, or None."""
        link = select(publication_links.c.linked_by).where(
            publication_links.c.publication_id == publication_id, publication_links.c.allocation_id == allocation_id
        )
        return connection.execute(link).scalar_one_or_none()

    def link(self, connection: Connection, publication_id: str, allocation_id: str, by: str, at_ms: int) -> None:
        """Link a publication to an allocation."""
        connection.execute(
            insert(publication_links).values(
                publication_id=publication_id, allocation_id=allocation_id, linked_by=by, created_at_ms=at_ms
            )
        )

    def unlink(self, connection: Connection, publication_id: str, allocation_id: str) -> None:
        """Delete a link; the publication stays."""
        connection.execute(
            delete(publication_links).where(
                publication_links.c.publication_id == publication_id,
                publication_links.c.allocation_id == allocation_id,
            )
        )

    def linked_to(self, connection: Connection, allocation_id: str) -> list[Publication]:
        """Return an allocation's publications, in the order of linking."""
        rows = connection.execute(
            select(publications)
            .join(publication_links, publication_links.c.publication_id == publications.c.id)
            .where(publication_links.c.allocation_id == allocation_id)
            .order_by(publication_links.c.created_at_ms, publications.c.id)
        )
        return [Publication(**row._mapping) for row in rows]  # noqa: SLF001  # as above

    def links_to(self, connection: Connection, allocation_ids: Iterable[str]) -> list[tuple[Publication, str, str]]:
        """Return every link to one of the allocations, newest first: the publication, the allocation, by whom."""
        rows = connection.execute(
            select(publications, publication_links.c.allocation_id, publication_links.c.linked_by)
            .join(publication_links, publication_links.c.publication_id == publications.c.id)
            .where(publication_links.c.allocation_id.in_(list(allocation_ids)))
            .order_by(publication_links.c.created_at_ms.desc(), publications.c.id, publication_links.c.allocation_id)
        )
        found = []
        for row in rows:
            *fields, allocation_id, linked_by = row
            found.append((Publication(*fields), allocation_id, linked_by))
        return found

    def count(self, connection: Connection, allocation_ids: Iterable[str]) -> int:
        """Count the publications linked to any of the allocations, each once."""
        distinct = func.count(publication_links.c.publication_id.distinct())
        query = select(distinct).where(publication_links.c.allocation_id.in_(list(allocation_ids)))
        return int(connection.execute(query).scalar_one())
