"""The publications that came of an allocation, linked by its members."""

from __future__ import annotations

from fastapi import APIRouter

from allocations.api.v1.common import Body, Reader, Requester, Wired, example
from allocations.leases.views import View
from allocations.lifecycle.models import Publication

router = APIRouter(tags=["publications"])


class PublicationBody(Body):
    """A publication by its DOI or its bibcode."""

    model_config = example(identifier="10.3847/1538-4357/abcdef", title="Dark stars in the first images")

    identifier: str
    title: str


class PublicationView(View):
    """A publication; who else links it is not said."""

    id: str
    doi: str | None
    bibcode: str | None
    title: str

    @classmethod
    def from_publication(cls, publication: Publication) -> PublicationView:
        """Show a publication."""
        return cls(id=publication.id, doi=publication.doi, bibcode=publication.bibcode, title=publication.title)


class PublicationList(View):
    """Publications, in the order of linking."""

    publications: list[PublicationView]


@router.get("/allocations/{allocation_id}/publications")
def linked_to(allocation_id: str, services: Wired, caller: Reader) -> PublicationList:
    """An allocation's publications, in the order of linking."""
    linked = services.publications.linked_to(caller.actor, allocation_id)
    return PublicationList(publications=[PublicationView.from_publication(one) for one in linked])


@router.post("/allocations/{allocation_id}/publications", status_code=201)
def link(allocation_id: str, body: PublicationBody, services: Wired, caller: Requester) -> PublicationView:
    """Link a publication to an allocation; one that is known or linked already stays as it is."""
    return PublicationView.from_publication(
        services.publications.add(caller.actor, allocation_id, body.identifier, body.title)
    )


@router.delete("/allocations/{allocation_id}/publications/{publication_id}", status_code=204)
def unlink(allocation_id: str, publication_id: str, services: Wired, caller: Requester) -> None:
    """Take a link away: who made it, leads and managers; other allocations keep theirs."""
    services.publications.unlink(caller.actor, allocation_id, publication_id)
