"""How old files of an allocation's scratch may become: said to its members, extended and ended by who manages it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.app import PREFIX
from allocations.db.schema import audit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import PurgeState
from allocations.storage.purge.store import PurgeStore
from tests.web.storage_site import DAY_MS, GB, StorageSite
from tests.web.test_web_storage import words

if TYPE_CHECKING:
    from allocations.storage.models import StoredArea
    from tests.web.conftest import Site

ADMIN, LEAD = Actor("admin", admin=True), Actor("lead")
# The first of March begins, 45 days after the clock of a site.
UNTIL_MS = 1_803_859_200_000


@pytest.fixture
def storage(site: Site) -> StorageSite:
    return StorageSite(site)


@pytest.fixture
def scratch(site: Site, storage: StorageSite) -> StoredArea:
    """The scratch of an allocation that lead leads, ann is a member of and bob is not: 30 days, and 90 at the most."""
    for person in ("ann", "bob", "lead", "admin"):
        site.accept(person)
    whole = site.open("consortium", "Deep fields", "lead")
    site.join(whole, "ann")
    area = storage.area(StorageClass.SCRATCH, whole)
    storage.record(area, 900 * GB)
    return area


def extend(site: Site, area: StoredArea, person: str = "lead", **changes: str) -> tuple[int, str]:
    """Send the form; return the status, and the page that comes of it."""
    fields = {"age_days": "60", "age_until": "2027-03-01", "age_reason": "The <b>survey</b> is late.", "key": "k"}
    response = site.browser(person).post(f"/storage/areas/{area.id}/age", fields | changes)
    return response.status_code, response.text


def end(site: Site, area: StoredArea, person: str = "lead", why: str = "We are done.") -> int:
    return site.browser(person).post(f"/storage/areas/{area.id}/age/end", {"why": why}).status_code


def shown(site: Site, area: StoredArea, person: str = "lead") -> str:
    response = site.browser(person).get(f"/storage/areas/{area.id}")
    assert response.status_code == 200
    return response.text


def history(site: Site, area: StoredArea) -> list[tuple[int, str | None]]:
    leases = site.services.scratch_leases.of_allocation(LEAD, area.owner.allocation_id or "").history
    return [(one.age_days, one.ended_by) for one in leases]


def test_the_page_says_what_is_in_force_and_the_most_that_may_be(site: Site, scratch: StoredArea) -> None:
    before = shown(site, scratch)
    assert "Files that are unchanged for 30 days are removed here, after a notice." in words(before)
    assert re.search(r'name="age_days" required min="31" max="90"', before)
    assert re.search(r'name="age_until" required min="2027-01-16" max="2027-04-15"', before)
    assert "End the extension" not in before
    assert extend(site, scratch)[0] == 303
    for person in ("lead", "ann"):
        page = shown(site, scratch, person)
        assert "unchanged for 60 days are removed here until 1 Mar 2027, 08:00 UTC , then those" in words(page)
        assert "lead extended it on 15 Jan 2027 : The &lt;b&gt;survey&lt;/b&gt; is late." in words(page)
        assert "for 30 days again" in words(page)
    assert "End the extension" in shown(site, scratch)
    site.clock.at_ms = UNTIL_MS + DAY_MS
    assert "unchanged for 30 days are removed here, after a notice" in words(shown(site, scratch))


def test_it_is_sent_twice_and_made_once_replaced_and_ended(site: Site, scratch: StoredArea) -> None:
    assert extend(site, scratch)[0] == 303
    assert extend(site, scratch)[0] == 303
    assert history(site, scratch) == [(60, None)]
    assert extend(site, scratch, age_days="70")[0] == 409, "a key is for one request"
    site.clock.at_ms += 1000
    assert extend(site, scratch, age_days="90", age_until="2027-04-15", key="l")[0] == 303
    assert history(site, scratch) == [(90, None), (60, "lead")]
    assert end(site, scratch, why=" ") == 422
    assert end(site, scratch, why="w" * 1001) == 422
    assert end(site, scratch) == 303
    assert end(site, scratch) == 409
    assert "unchanged for 30 days are removed here" in words(shown(site, scratch))
    with site.services.database.read() as connection:
        found = connection.execute(
            select(audit.c.actor, audit.c.action, audit.c.why).where(audit.c.action.like("scratch.%"))
        ).all()
    assert [tuple(one) for one in found] == [
        ("lead", "scratch.extend", "The <b>survey</b> is late."),
        ("lead", "scratch.extend", "The <b>survey</b> is late."),
        ("lead", "scratch.end", "We are done."),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"age_days": "30"}, "31 to 90 days old here, not 30"),
        ({"age_days": "91"}, "31 to 90 days old here, not 91"),
        ({"age_days": "many"}, "is not a whole number"),
        ({"age_until": "2027-01-15"}, "lasts 1 to 90 days"),
        ({"age_until": "2027-04-16"}, "lasts 1 to 90 days"),
        ({"age_until": "9999-12-31"}, "lasts 1 to 90 days"),
        ({"age_until": "soon"}, "Until: that is no day"),
        ({"age_reason": " "}, "A reason has 1 to 1000 characters"),
    ],
)
def test_a_form_that_is_wrong_says_what_and_keeps_what_was_typed(
    site: Site, scratch: StoredArea, changes: dict[str, str], says: str
) -> None:
    status, page = extend(site, scratch, **changes)
    assert status == 422
    assert says in page.partition("<main")[2]
    assert "".join(changes.values()).strip() in page.partition('id="extend-age"')[2]
    assert history(site, scratch) == []


def test_who_may(site: Site, scratch: StoredArea) -> None:
    assert "extend-age" in shown(site, scratch)
    assert "extend-age" not in shown(site, scratch, "ann")
    assert (extend(site, scratch, "ann")[0], extend(site, scratch, "bob")[0]) == (403, 404)
    assert history(site, scratch) == []
    assert extend(site, scratch)[0] == 303
    assert (end(site, scratch, "ann"), end(site, scratch, "bob")) == (403, 404)
    assert "End the extension" not in shown(site, scratch, "ann")
    assert history(site, scratch) == [(60, None)]
    site.services.members.change(LEAD, scratch.owner.allocation_id or "", "ann", role=MemberRole.MANAGER)
    assert extend(site, scratch, "ann", age_days="50", key="l")[0] == 303
    assert end(site, scratch, "ann") == 303


@pytest.mark.parametrize("path", ["age", "age/end"])
def test_a_form_of_another_site_changes_nothing(site: Site, scratch: StoredArea, path: str) -> None:
    assert extend(site, scratch)[0] == 303
    fields = {"age_days": "70", "age_until": "2027-03-01", "age_reason": "Mine", "why": "Mine", "key": "l"}
    at, lead = f"/storage/areas/{scratch.id}/{path}", site.browser("lead")
    assert lead.post(at, fields | {"_csrf": "forged"}).status_code == 403
    assert lead.post(at, fields, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert lead.http.post(f"{PREFIX}{at}", data=fields).status_code == 403
    assert history(site, scratch) == [(60, None)]


def test_only_scratch_has_an_age_to_extend(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    shared = storage.area(StorageClass.SHARED, scratch.owner.allocation_id or "")
    home = storage.home("lead")
    for area in (shared, home):
        assert "When files go" not in shown(site, area)
        assert (extend(site, area)[0], end(site, area)) == (404, 404)
    entry = storage.area(StorageClass.SCRATCH, site.accept("ann"))
    page = shown(site, entry, "ann")
    assert "unchanged for 14 days are removed here" in words(page)
    assert "extend-age" not in page, "the policy lets nobody extend it for this tier"
    assert extend(site, entry, "ann")[0] == 409


def test_what_a_purge_takes_is_told_with_the_extension(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    storage.plan(ADMIN)
    assert "scratch-consortium 30 days 1,200" in words(shown(site, scratch))
    extend(site, scratch)
    assert "scratch-consortium 60 days 1,200" in words(shown(site, scratch))
    end(site, scratch)
    site.clock.at_ms += 1000
    assert "scratch-consortium 30 days 1,200" in words(shown(site, scratch))


def test_what_was_planned_with_an_extension_or_is_over_is_told_as_it_was(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    extend(site, scratch)
    site.clock.at_ms += 1000
    run = storage.plan(ADMIN)
    site.clock.at_ms += 1000
    end(site, scratch)
    site.clock.at_ms += 1000
    assert "scratch-consortium 60 days 1,200" in words(shown(site, scratch)), "younger files are not in its list"
    with site.services.database.write() as connection:
        (purge,) = PurgeStore().of_run(connection, run.id)
        done = {"state": PurgeState.DONE, "changed_at_ms": site.clock.at_ms}
        assert PurgeStore().change(connection, purge.id, purge.state, **done)
    site.clock.at_ms += 1000
    extend(site, scratch, age_days="80", key="l")
    (told,) = site.services.purge_reports.of_area(LEAD, scratch.id)
    assert [one.age_days for one in told.by_rule] == [60]
