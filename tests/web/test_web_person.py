"""The administrators' pages of people: found, looked at, suspended, and let go again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.db.idempotency import IdempotencyKey
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import OverrideLimits, OverrideSubject, Person
from allocations.reports import service as reports_service
from tests.web.conftest import SCOPES

if TYPE_CHECKING:
    from tests.web.conftest import Site

ADMIN = Actor("admin", admin=True)
HOSTILE = "<script>alert(1)</script>"
ANN = "/admin/people/person?name=ann"
SUSPEND = {"name": "ann", "why": "Mining.", "minutes": "10"}


@pytest.fixture
def known(site: Site) -> str:
    """Ann, of whom everything is known, and what she has; her entry allocation's id."""
    ann = Person("ann", "https://i", "7", "ann@example.org", "Ann A", f"{HOSTILE} University", "NO", ("reviewer",))
    site.services.people.register(ann, adopt=False)
    for person in ("admin", "bob"):
        site.accept(person)
    return site.accept("ann")


def is_suspended(site: Site) -> bool:
    return site.services.reports.person(ADMIN, "ann").suspension is not None


def test_a_person_is_found_and_shown_with_what_they_have(site: Site, known: str) -> None:
    admin = site.browser("admin")
    listed = admin.get("/admin/people?find=ANN%40").text
    assert f'href="{PREFIX}/admin/people/person?name=ann"' in listed
    assert "1 to 1 of 1" in listed
    assert "person?name=bob" not in listed
    site.request("ann", title="Dark stars")
    site.services.requests.submit(Actor("ann"), tier="research", title="Secret", justification="No.", draft=True)
    site.queue_run("ann", known)
    request = LeaseRequest(known, "ann", LeaseKind.INTERACTIVE, "small", None, "")
    site.services.leases.acquire(request, IdempotencyKey.for_request("spawner", "k", "t", {}))
    limits = OverrideLimits(cores=99)
    site.services.overrides.grant(ADMIN, OverrideSubject.PERSON, "ann", limits, "A workshop.", 7)
    site.services.overrides.grant(ADMIN, OverrideSubject.PERSON, "bob", limits, "Another one.", 7)
    shown = admin.get(ANN).text
    for text in ("ann@example.org", "Ann A", "<dd>NO</dd>", "<dd>reviewer</dd>", "https://i"):
        assert text in shown
    for text in ("Dark stars", "mine.ipynb", "A workshop.", f"{PREFIX}/allocations/{known}", "Credits so far"):
        assert text in shown
    assert "Secret" not in shown
    assert "Another one." not in shown
    assert HOSTILE not in listed + shown
    assert "alert(1)" in shown


def test_pages_of_people_go_on(site: Site, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_service, "PEOPLE_PAGE", 2)
    monkeypatch.setattr("allocations.web.person.PEOPLE_PAGE", 2)
    first = site.browser("admin").get("/admin/people").text
    assert ("person?name=ann" in first, "person?name=bob" in first, "start=2" in first) == (True, False, True)
    second = site.browser("admin").get("/admin/people?start=2").text
    assert ("person?name=bob" in second, "Next" in second, "start=0" in second) == (True, False, True)
    assert "Nobody matches" in site.browser("admin").get("/admin/people?find=zzz").text


def test_a_person_is_suspended_reads_why_and_is_let_go(site: Site, known: str) -> None:
    admin = site.browser("admin")
    done = admin.post("/admin/people/suspend", SUSPEND)
    assert done.headers["location"] == f"{PREFIX}/admin/people/person?name=ann&done=person-suspended"
    page = admin.get(ANN).text
    assert "Suspend ann" not in page
    assert "Lift the suspension" in page
    assert "Mining." in page
    assert "person?name=ann" in admin.get("/admin/people?only=suspended").text
    assert "person?name=bob" not in admin.get("/admin/people?only=suspended").text
    assert "The reason: Mining." in site.browser("ann").get("/notices").text
    refused = site.browser("ann").post(
        "/runs", {"choice": f"{known}::small", "image": "", "minutes": "10", "example": "wfi-cutouts.ipynb", "key": "k"}
    )
    assert refused.status_code >= 400
    again = admin.post("/admin/people/suspend", SUSPEND)
    assert (again.status_code, "is suspended already" in again.text) == (409, True)
    done = admin.post("/admin/people/resume", {"name": "ann", "why": "Cleared."})
    assert done.headers["location"].endswith("done=person-resumed")
    assert not is_suspended(site)


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"why": " "}, 422, "A reason is needed"),
        ({"minutes": ""}, 422, "Minutes: nothing is entered"),
        ({"minutes": "99999"}, 422, "must lie between"),
        ({"minutes": "-1"}, 422, "is not a whole number"),
    ],
)
def test_a_suspension_that_cannot_be_says_why_and_keeps_the_form(
    site: Site, known: str, changes: dict[str, str], status: int, says: str
) -> None:
    answer = site.browser("admin").post("/admin/people/suspend", SUSPEND | changes)
    assert (answer.status_code, says in answer.text) == (status, True)
    assert f'value="{(SUSPEND | changes)["minutes"]}"' in answer.text
    assert not is_suspended(site)


def test_nobody_is_suspended_who_was_never_here_and_nobody_suspends_themselves(site: Site, known: str) -> None:
    admin = site.browser("admin")
    assert admin.post("/admin/people/suspend", SUSPEND | {"name": "nobody"}).status_code == 404
    assert admin.get("/admin/people/person?name=nobody").status_code == 404
    assert "Suspend admin" not in admin.get("/admin/people/person?name=admin").text
    assert admin.post("/admin/people/suspend", SUSPEND | {"name": "admin"}).status_code == 403


@pytest.mark.parametrize("person", ["ann", "rev", None])
def test_only_administrators_see_people_and_suspend_them(site: Site, known: str, person: str | None) -> None:
    assert person not in SCOPES or "admin" not in str(SCOPES[person])
    browser = site.browser(person)
    expected = 303 if person is None else 403
    assert browser.get("/admin/people").status_code == expected
    assert browser.get(ANN).status_code == expected
    for path in ("suspend", "resume"):
        sent = browser.http.post(f"{PREFIX}/admin/people/{path}", data=SUSPEND | {"_csrf": "0"})
        assert sent.status_code == (401 if person is None else 403)
    assert not is_suspended(site)


def test_a_forged_form_suspends_nobody(site: Site, known: str) -> None:
    for data, headers in (
        (SUSPEND, {}),
        (SUSPEND | {"_csrf": site.browser("admin").token()}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        sent = site.browser("admin").http.post(f"{PREFIX}/admin/people/suspend", data=data, headers=headers)
        assert sent.status_code == 403
    assert not is_suspended(site)
