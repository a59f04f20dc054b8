"""The administrators' pages: the list of allocations, what is done to one, overrides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.reports.allocations import ALLOCATIONS_PAGE

if TYPE_CHECKING:
    from tests.web.conftest import Site

CREDIT = 1_000_000
HOSTILE = '"><script>alert(1)</script>'
ADMIN = Actor("admin", admin=True)
ANN = {"kind": "person", "subject": "ann", "servers_per_person": "3", "reason": "A workshop.", "days": "10"}


def state(site: Site, allocation: str) -> str:
    return site.services.reports.allocation(ADMIN, allocation).allocation.state


def test_the_list_is_paged_and_searched_in_the_database(site: Site) -> None:
    for number in range(ALLOCATIONS_PAGE + 2):
        site.clock.at_ms += 1
        site.open("research", f"Project {number:02d}", "ann")
    odd = site.open("consortium", "100 % of_it", "lead")
    admin = site.browser("admin")
    first = admin.get("/admin/allocations").text
    assert f"1 to {ALLOCATIONS_PAGE} of {ALLOCATIONS_PAGE + 3}" in first
    assert "Project 00" in first
    assert f"Project {ALLOCATIONS_PAGE}" not in first
    following = re.search(r'href="([^"]+)">Next<', first)
    assert following
    second = admin.http.get(following[1].replace("&amp;", "&")).text
    assert f"Project {ALLOCATIONS_PAGE}" in second
    assert ">Next<" not in second
    assert ">Previous<" in second
    for wanted in ("pRoJeCt 07", "100 %", "of_it", odd, "CONSORT"):
        page = admin.http.get(f"{PREFIX}/admin/allocations", params={"find": wanted}).text
        assert "1 to 1 of 1<" in page, wanted
    for wanted in ("Project%", "Projec_ 01", "none", HOSTILE):
        page = admin.http.get(f"{PREFIX}/admin/allocations", params={"find": wanted}).text
        assert "No allocation matches" in page, wanted
        assert "<script>alert" not in page
    assert admin.get("/admin/allocations?start=-1").status_code == 422


def test_an_administrator_suspends_and_resumes_with_a_reason(site: Site) -> None:
    entry = site.accept("ann")
    admin, path = site.browser("admin"), f"/admin/allocations/{entry}"
    assert f'href="{PREFIX}{path}"' in admin.get("/admin/allocations?find=ann").text
    refused = admin.post(f"{path}/state", {"action": "suspend", "why": " "})
    assert (refused.status_code, "A reason is needed" in refused.text) == (422, True)
    done = admin.post(f"{path}/state", {"action": "suspend", "why": "Shared a token."})
    assert done.headers["location"] == f"{PREFIX}{path}?done=suspended"
    assert "suspended" in site.browser("ann").get("/").text
    assert "Shared a token." in admin.get(f"/admin/audit?subject={entry}").text
    again = admin.post(f"{path}/state", {"action": "suspend", "why": "Once more."})
    assert (again.status_code, "is suspended" in again.text) == (409, True)
    page = admin.get(path).text
    assert "Resume “Entry" in page
    assert "Suspend “Entry" not in page
    done = admin.post(f"{path}/state", {"action": "resume", "why": "Explained."})
    assert done.headers["location"].endswith("done=resumed")
    assert state(site, entry) == "active"


def test_an_administrator_archives_and_closes_with_all_below(site: Site) -> None:
    whole = site.open("consortium", "Deep fields", "lead")
    part = site.services.tree.divide(
        Actor("lead"), whole, name="Lensing", microcredits=CREDIT, guaranteed=True, lead="lead"
    )
    other = site.services.tree.divide(
        Actor("lead"), whole, name="Pilot", microcredits=CREDIT, guaranteed=True, lead="lead"
    )
    admin, path = site.browser("admin"), f"/admin/allocations/{whole}"
    assert admin.post(f"/admin/allocations/{other}/state", {"action": "close", "why": "x"}).status_code == 303
    closed = site.services.reports.allocation(ADMIN, other).allocation
    assert (closed.state, closed.limit_microcredits) == ("closed", 0)
    assert "1 part below it: Lensing" in admin.get(path).text
    admin.post(f"{path}/state", {"action": "archive", "why": "The survey is over."})
    assert (state(site, whole), state(site, part)) == ("archived", "archived")
    admin.post(f"{path}/state", {"action": "close", "why": "For good."})
    assert (state(site, whole), state(site, part)) == ("closed", "closed")
    page = admin.get(path).text
    assert "Nothing can be done to it any more" in page
    late = admin.post(f"{path}/state", {"action": "resume", "why": f"No {HOSTILE}"})
    assert (late.status_code, "is closed" in late.text) == (409, True)
    unknown = admin.post(f"{path}/state", {"action": "explode", "why": "x"})
    assert (unknown.status_code, "No action is chosen" in unknown.text) == (422, True)


def test_an_override_is_granted_listed_and_ended(site: Site) -> None:
    whole = site.open("consortium", f"Deep {HOSTILE}", "lead")
    admin = site.browser("admin")
    assert "No override is in force" in admin.get("/admin/overrides").text
    form = admin.get(f"/admin/overrides?kind=allocation&subject={whole}").text
    assert f'value="{whole}"' in form
    wide = ANN | {"kind": "allocation", "subject": whole, "servers_per_person": "", "cores": "1024", "gpus": "0"}
    wide |= {"largest_cores": "64", "largest_memory_gib": "256", "longest_session_hours": "48", "reason": HOSTILE}
    assert admin.post("/admin/overrides", wide).headers["location"] == f"{PREFIX}/admin/overrides?done=granted"
    site.clock.at_ms += 1
    assert admin.post("/admin/overrides", ANN).status_code == 303
    page = admin.get("/admin/overrides").text
    for says in ("1024 cores at once", "0 GPUs at once", "servers up to 64 cores, 256 GiB<", "sessions of 2 d"):
        assert says in page
    assert "3 servers of a person" in page
    assert "<script>alert" not in page
    first, second = site.services.overrides.in_force(ADMIN)
    assert (second.author, second.reason, second.subject) == ("admin", "A workshop.", "ann")
    refused = admin.post(f"/admin/overrides/{first.id}/end", {"why": ""})
    assert (refused.status_code, "A reason is needed" in refused.text) == (422, True)
    assert admin.post(f"/admin/overrides/{first.id}/end", {"why": "Done."}).headers["location"].endswith("done=ended")
    assert site.services.overrides.in_force(ADMIN) == [second]
    late = admin.post(f"/admin/overrides/{first.id}/end", {"why": "Done."})
    assert (late.status_code, "has ended already" in late.text) == (409, True)
    assert admin.post("/admin/overrides/o-none/end", {"why": "Done."}).status_code == 404


def test_an_override_that_is_sent_twice_is_granted_once(site: Site) -> None:
    admin = site.browser("admin")
    form = admin.get("/admin/overrides").text
    keys = re.findall(r'name="key" value="([^"]+)"', form)
    assert len(keys) == 1
    for _ in range(2):
        assert admin.post("/admin/overrides", ANN | {"key": keys[0]}).headers["location"].endswith("done=granted")
    assert len(site.services.overrides.in_force(ADMIN)) == 1
    other = admin.post("/admin/overrides", ANN | {"key": keys[0], "days": "8"})
    assert other.status_code == 409
    assert f'name="key" value="{keys[0]}"' not in other.text, "what is changed after an error may be sent"
    assert len(site.services.overrides.in_force(ADMIN)) == 1


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"kind": "tier"}, 422, "It is not said whom it is for"),
        ({"kind": "allocation", "subject": "a-none"}, 404, "There is no allocation"),
        ({"servers_per_person": ""}, 422, "sets at least one limit"),
        ({"servers_per_person": "many"}, 422, "Servers of a person: is not a whole number"),
        ({"cores": "9999999"}, 422, "Cores: must lie between 0 and 1,000,000"),
        ({"largest_cores": "64"}, 422, "A largest server has cores and memory"),
        ({"largest_cores": "0", "largest_memory_gib": "1"}, 422, "must lie between 1 and"),
        ({"largest_gpus": "1"}, 422, "A largest server has cores and memory"),
        ({"idle_hours": "0"}, 422, "Idle hours: must lie between 1 and 8,760"),
        ({"days": "91"}, 422, "lasts 1 to 90 days"),
        ({"days": ""}, 422, "Days: is not a whole number"),
        ({"reason": " "}, 422, "A reason is needed"),
    ],
)
def test_an_override_that_cannot_be_says_why_and_keeps_the_form(
    site: Site, changes: dict[str, str], status: int, says: str
) -> None:
    typed = ANN | changes
    response = site.browser("admin").post("/admin/overrides", typed)
    assert (response.status_code, says in response.text) == (status, True)
    assert (
        f'name="subject" required maxlength="100" autocapitalize="off" spellcheck="false" value="{typed["subject"]}"'
        in (response.text)
    )
    assert site.services.overrides.in_force(ADMIN) == []


@pytest.mark.parametrize("person", ["ann", "lead", "rev", "nothing"])
def test_nobody_else_administers(site: Site, person: str) -> None:
    whole = site.open("consortium", "Deep fields", "lead")
    browser, token = site.browser(person), {"_csrf": "x"} if person == "nothing" else {}
    send = browser.http.post
    for path in ("/admin/allocations", f"/admin/allocations/{whole}", "/admin/overrides"):
        response = browser.get(path)
        assert response.status_code == 403
        assert "Deep fields" not in response.text
    for path, fields in [
        (f"/admin/allocations/{whole}/state", {"action": "close", "why": "x"}),
        ("/admin/overrides", ANN),
        ("/admin/overrides/o-none/end", {"why": "x"}),
    ]:
        response = send(f"{PREFIX}{path}", data=fields | token) if token else browser.post(path, fields)
        assert response.status_code == 403
    assert state(site, whole) == "active"
    assert site.services.overrides.in_force(ADMIN) == []
