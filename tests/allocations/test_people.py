"""Who people are: one name each, for ever, whatever the hub has forgotten; and what mail and reports know of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import people
from allocations.lifecycle.models import Person
from allocations.lifecycle.people import NameTakenError
from tests.allocations.test_api import call, client  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from tests.allocations.conftest import Bench

ISSUER = "https://sign-in.example.org"
ADA = Person("ada", ISSUER, "7", "ada@example.org", "Ada Lovelace", "Example University", "GB")


def test_what_is_told_of_a_person_is_kept_and_the_latest_counts(bench: Bench) -> None:
    register = bench.services.people.register
    assert register(ADA, adopt=False) == ADA
    moved = replace(ADA, email="ada@example.com", country=None)
    assert register(moved, adopt=False) == moved
    with bench.services.database.read() as connection:
        row = connection.execute(select(people).where(people.c.name == "ada")).one()
        assert (row.email, row.institution, row.country) == ("ada@example.com", "Example University", None)
        assert bench.services.inbox.notices.email(connection, "ada") == "ada@example.com"


def test_a_person_keeps_the_name_that_they_have(bench: Bench) -> None:
    register = bench.services.people.register
    register(ADA, adopt=False)
    assert register(replace(ADA, name="countess"), adopt=False).name == "ada"


@pytest.mark.parametrize(
    "other", [replace(ADA, subject="8"), replace(ADA, issuer="https://evil.example")], ids=["subject", "issuer"]
)
@pytest.mark.parametrize("adopt", [False, True])
def test_a_name_is_never_anybody_elses(bench: Bench, other: Person, adopt: bool) -> None:
    bench.services.people.register(ADA, adopt=False)
    with pytest.raises(NameTakenError):
        bench.services.people.register(other, adopt=adopt)


def test_a_name_whose_owner_was_never_identified_is_given_only_when_the_hub_vouches(bench: Bench) -> None:
    bench.accept("ada")
    with pytest.raises(NameTakenError):
        bench.services.people.register(ADA, adopt=False)
    assert bench.services.people.register(ADA, adopt=True) == ADA
    with pytest.raises(NameTakenError):
        bench.services.people.register(replace(ADA, subject="8"), adopt=True)


def test_of_many_who_propose_a_name_at_once_one_gets_it(bench: Bench) -> None:
    def propose(subject: int) -> bool:
        try:
            bench.services.people.register(replace(ADA, subject=str(subject)), adopt=False)
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(propose, range(16))).count(True) == 1


@pytest.mark.parametrize("who", ["ann", "admin", "rev", "batch", "nothing"])
def test_only_the_hub_tells_who_people_are(client: TestClient, who: str) -> None:  # noqa: F811  # as above
    body = {"issuer": ISSUER, "subject": "7", "email": "thief@example.org"}
    assert call(client, who, "PUT", "/people/ann", body).status_code == 403
