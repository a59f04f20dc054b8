"""What is shown of publications: each once, with the allocations that it is linked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.leases.views import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.models import Publication


class PublicationLinkView(View):
    """An allocation that a publication is linked to, and whether the reader may take the link away."""

    allocation: str
    allocation_name: str
    linked_by: str
    may_unlink: bool


class PublicationView(View):
    """A publication by its DOI or its bibcode."""

    id: str
    doi: str | None
    bibcode: str | None
    title: str
    links: list[PublicationLinkView]


def publication_views(
    links: Iterable[tuple[Publication, str, str]], names: Mapping[str, str], managed: Set[str], actor: Actor
) -> list[PublicationView]:
    """Show publications, each once, of their links (publication, allocation, by whom) in the order of these.

    `names` are the names of the allocations, `managed` those that the reader leads or manages.
    """
    found: dict[str, Publication] = {}
    linked: dict[str, list[PublicationLinkView]] = {}
    for publication, allocation_id, linked_by in links:
        found[publication.id] = publication
        linked.setdefault(publication.id, []).append(
            PublicationLinkView(
                allocation=allocation_id,
                allocation_name=names[allocation_id],
                linked_by=linked_by,
                may_unlink=actor.admin or linked_by == actor.name or allocation_id in managed,
            )
        )
    return [
        PublicationView(id=one.id, doi=one.doi, bibcode=one.bibcode, title=one.title, links=linked[one.id])
        for one in found.values()
    ]
