"""What the allocations service is told of people, and that its ledger has the last word on names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.auth.conftest import REFRESH_SECONDS, Site, person
from tests.auth.test_staying_signed_in import SLACK_SECONDS, signed_in, until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow


def test_the_service_learns_who_people_are_and_what_changes(site: Site) -> None:
    signed_in(site, "olaf", name="Olaf", organization="Example University", address={"country": "NO"})
    known = site.hub.service.people
    assert known["olaf"] == {
        "issuer": site.provider.url,
        "subject": "subject-of-olaf",
        "adopt": False,
        "email": "subject-of-olaf@example.org",
        "full_name": "Olaf",
        "institution": "Example University",
        "country": "NO",
        "roles": [],
    }
    browser = signed_in(site, "olaf", email="olaf@example.com")
    until(lambda: known["olaf"]["email"] == "olaf@example.com", SLACK_SECONDS)
    assert known["olaf"]["country"] is None
    site.provider.userinfo = lambda claims: claims | {"email": "new@example.com"}
    time.sleep(REFRESH_SECONDS)
    site.name(browser)
    until(lambda: known["olaf"]["email"] == "new@example.com", SLACK_SECONDS)


def test_the_service_learns_the_roles_that_people_have_by_name_and_by_group(site: Site) -> None:
    known = site.hub.service.people
    signed_in(site, "oona", groups=["operators", "panel"])
    assert known["oona"]["roles"] == ["allocations-admin", "reviewer"]
    site.sign_in(person("subject-of-chief"))
    assert known["chief"]["roles"] == ["allocations-admin"]


def test_institution_and_country_refuse_nobody(site: Site) -> None:
    for number, country in enumerate(["KP", "", None, 7, "x" * 5000, ["US"]]):
        claims = person(f"subject-from-{number}", country=country, organization=country)
        assert site.sign_in(claims).status_code == 302


def test_a_name_that_the_ledger_knows_as_anothers_is_given_to_nobody(site: Site) -> None:
    site.hub.service.people["petra"] = {"issuer": site.provider.url, "subject": "of-another-time"}
    browser = site.browser()
    site.sign_in(person("subject-of-petra", preferred_username="petra"), browser)
    name = site.name(browser)
    assert name is not None
    assert name.startswith("petra-")
    assert site.hub.service.people[name]["subject"] == "subject-of-petra"


def test_a_person_whom_only_the_ledger_knows_has_their_name_again(site: Site) -> None:
    site.hub.service.people["quinn"] = {"issuer": site.provider.url, "subject": "subject-of-quinn"}
    browser = site.browser()
    site.sign_in(person("subject-of-quinn", preferred_username="renamed"), browser)
    assert site.name(browser) == "quinn"


@pytest.fixture
def broken(site: Site) -> Callable[[str], None]:
    def breaks(name: str) -> None:
        site.hub.service.faults[name] = [503] * 3

    return breaks


def test_without_the_service_nobody_new_gets_in_and_everybody_else_does(
    site: Site, broken: Callable[[str], None]
) -> None:
    broken("rosa")
    answer = site.sign_in(person("subject-of-rosa", preferred_username="rosa"))
    assert answer.status_code == 503
    assert "Try again in a few minutes" in answer.text
    signed_in(site, "rosa")
    broken("rosa")
    signed_in(site, "rosa")
