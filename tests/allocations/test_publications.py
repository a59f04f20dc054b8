"""Publications: one row each, however written and however many allocations they are linked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, UnknownAllocationError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.lifecycle.publications import to_identifiers
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

ANN, BOB, LEAD = Actor("ann"), Actor("bob"), Actor("lead")
DOI = "10.3847/1538-4357/ABC123"


@pytest.mark.parametrize(
    "written", [DOI, f"https://doi.org/{DOI}", f" doi:{DOI} ", f"http://dx.doi.org/{DOI.lower()}", f"DOI: {DOI}"]
)
def test_a_doi_is_the_same_however_it_is_written(written: str) -> None:
    assert to_identifiers(written) == (DOI.lower(), None)


def test_a_bibcode_has_nineteen_characters_from_the_year_to_the_initial() -> None:
    assert to_identifiers("2020A&A...641A...6P") == (None, "2020A&A...641A...6P")


@pytest.mark.parametrize(
    "written",
    ["", "10.12/x", "10.1234/", "10.1234/a b", "2020A&A...641A...61", "2020A&A...641A..6P", "a020A&A...641A...6P"],
)
def test_what_is_neither_is_refused(written: str) -> None:
    with pytest.raises(InvalidInputError, match="neither"):
        to_identifiers(written)


def test_a_publication_of_several_allocations_is_counted_once(bench: Bench) -> None:
    first, second = bench.consortium(), bench.consortium("ann")
    publications = bench.services.publications
    made = publications.add(LEAD, first, DOI, "Dark  stars")
    assert made.title == "Dark stars"
    assert publications.add(LEAD, first, f"doi:{DOI}", "Again") == made
    assert publications.add(ANN, second, DOI.lower(), "Other words") == made
    other = publications.add(ANN, second, "2020A&A...641A...6P", "Planck")
    assert publications.linked_to(ANN, second) == sorted([made, other], key=lambda one: one.id)
    with bench.services.database.read() as connection:
        counts = [publications.count(connection, nodes) for nodes in ([first], [first, second], [])]
    assert counts == [1, 2, 0]
    linked = [entry.action for entry in bench.services.reports.audit_log(subject=first)]
    assert linked.count("publication.link") == 1


def test_members_link_and_whoever_linked_or_manages_unlinks(bench: Bench) -> None:
    root = bench.consortium()
    publications = bench.services.publications
    for person in ("ann", "bob"):
        join(bench.services.members, LEAD, root, person, MemberRole.MEMBER)
    with pytest.raises(UnknownAllocationError):
        publications.add(Actor("eve"), root, DOI, "Mine")
    with pytest.raises(UnknownAllocationError):
        publications.linked_to(Actor("eve"), root)
    with pytest.raises(InvalidInputError):
        publications.add(ANN, root, DOI, " ")
    made = publications.add(ANN, root, DOI, "Dark stars")
    with pytest.raises(NotAllowedError):
        publications.unlink(BOB, root, made.id)
    publications.unlink(ANN, root, made.id)
    with pytest.raises(NotFoundError):
        publications.unlink(LEAD, root, made.id)
    publications.add(ANN, root, DOI, "Dark stars")
    publications.unlink(LEAD, root, made.id)
    assert publications.linked_to(ANN, root) == []
