"""What people see of purges and do about them: exemptions for those whose files they are, runs for administrators."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.notify.places import place_of
from allocations.notify.truth import TruthService
from allocations.policy.notices import NoticeKind
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import ExemptionState, PurgeState, RunState
from allocations.storage.purge.store import PurgeStore
from allocations.storage.quotas.backends import Found
from tests.web.storage_site import DAY_MS, GB, HOSTILE, StorageSite
from tests.web.test_web_storage import words

if TYPE_CHECKING:
    from allocations.storage.models import StoredArea
    from tests.web.conftest import Site

ADMIN = Actor("admin", admin=True)


@pytest.fixture
def storage(site: Site) -> StorageSite:
    return StorageSite(site)


@pytest.fixture
def scratch(site: Site, storage: StorageSite) -> StoredArea:
    """The scratch of an allocation that lead leads, ann is a member of and bob is not."""
    for person in ("ann", "bob", "lead", "rev", "admin"):
        site.accept(person)
    whole = site.open("consortium", "Deep fields", "lead")
    site.join(whole, "ann")
    area = storage.area(StorageClass.SCRATCH, whole)
    storage.record(area, 900 * GB)
    return area


def ask(site: Site, area: StoredArea, person: str = "lead", **changes: str) -> tuple[int, str]:
    """Send the form for an exemption; return the status, and the page that comes of it."""
    fields = {"folder": "old/runs", "until": "2027-03-01", "reason": "The paper is not out.", "key": "k"} | changes
    response = site.browser(person).post(f"/storage/areas/{area.id}/exemptions", fields)
    return response.status_code, response.text


def test_of_one_file_is_spoken_as_of_one(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    storage.plan(ADMIN, files=1)
    page = site.browser("lead").get(f"/storage/areas/{scratch.id}").text
    assert "1 file (40 GB) is purged after" in words(page)


def test_what_is_purged_when_is_said_to_everybody_whose_files_may_be_there(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    storage.plan(ADMIN)
    for person in ("lead", "ann"):
        said = words(site.browser(person).get("/storage").text)
        assert (
            "1,200 files (40 GB) are purged after 22 Jan 2027, 08:00 UTC . What is changed before then stays." in said
        )
    page = site.browser("ann").get(f"/storage/areas/{scratch.id}").text
    assert "scratch-consortium 30 days 1,200 40 GB" in words(page)
    purge = storage.site.services.purge_reports.under_way("ann")[scratch.id]
    assert f".meridian/purges/2027-01-15-{purge.id}.txt" in page
    assert "The first 6 paths" in page
    shown = re.findall(r'<th scope="row"><bdi class="p-path">(.*?)</bdi>', page)
    # They may be escaped already: a backslash is not doubled again.
    expected = ["back\\x0aslash" if name.startswith("back") else shown for name, shown in HOSTILE.items()]
    assert shown == ["old/runs", *expected, *expected]
    assert "\u202e" not in page
    assert "purged after" not in site.browser("bob").get("/storage").text
    assert ">keep it<" not in page, "members do not ask for exemptions"
    assert f'href="{PREFIX}/storage/areas/{scratch.id}?folder=old/runs#ask-exemption"' in (
        site.browser("lead").get(f"/storage/areas/{scratch.id}").text
    )


def test_a_dry_run_is_told_to_nobody(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    storage.plan(ADMIN, dry_run=True)
    assert "purged after" not in site.browser("lead").get("/storage").text
    assert "old/runs" not in site.browser("lead").get(f"/storage/areas/{scratch.id}").text


def test_a_purge_that_is_over_says_what_became_of_it(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    run = storage.plan(ADMIN)
    with site.services.database.write() as connection:
        (purge,) = PurgeStore().of_run(connection, run.id)
        values = {"state": PurgeState.DONE, "deleted_files": 1_100, "deleted_bytes": 30 * GB, "left_files": 100}
        PurgeStore().change(connection, purge.id, purge.state, **values)
    page = words(site.browser("ann").get(f"/storage/areas/{scratch.id}").text)
    assert "done 1,100 30 GB 100" in page
    assert "are purged" not in page
    assert "What is about to be purged" not in page


def test_a_purge_that_found_nothing_is_not_told_of(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    run = storage.plan(ADMIN)
    with site.services.database.write() as connection:
        (purge,) = PurgeStore().of_run(connection, run.id)
        PurgeStore().change(connection, purge.id, purge.state, state=PurgeState.DONE, files=0, bytes=0)
    page = site.browser("ann").get(f"/storage/areas/{scratch.id}").text
    assert "Earlier purges" not in page


def test_an_exemption_is_asked_for_decided_on_and_taken_back(site: Site, scratch: StoredArea) -> None:
    assert ask(site, scratch)[0] == 303
    assert ask(site, scratch)[0] == 303, "sent twice, asked once"
    (asked,) = site.services.exemptions.of_area(Actor("lead"), scratch.id)
    assert (asked.folder, asked.state, asked.reason) == ("old/runs", ExemptionState.ASKED, "The paper is not out.")
    # Until the first of March begins, UTC, and less than a day beyond it.
    assert 0 <= asked.until_ms - 1_803_859_200_000 < DAY_MS
    queue = site.browser("rev").get("/review/exemptions").text
    assert "old/runs" in queue
    assert "The paper is not out." in queue
    assert site.browser("rev").get("/review").text.count("/review/exemptions") == 1
    decide = f"/review/exemptions/{asked.id}"
    refused = site.browser("rev").post(decide, {"decision": "refuse", "days": "9", "answer": ""})
    assert refused.status_code == 422
    assert 'value="9"' in refused.text
    too_long = site.browser("rev").post(decide, {"decision": "grant", "days": "9000", "answer": ""})
    assert too_long.status_code == 422
    assert (
        site.browser("rev").post(decide, {"decision": "grant", "days": "30", "answer": "Of course."}).status_code == 303
    )
    page = site.browser("ann").get(f"/storage/areas/{scratch.id}").text
    assert "granted rev: Of course. 14 Feb 2027" in words(page)
    assert "Take back" not in page
    assert "Nobody waits" in site.browser("rev").get("/review/exemptions").text
    end = f"/storage/areas/{scratch.id}/exemptions/{asked.id}/end"
    assert site.browser("ann").post(end, {"why": "x"}).status_code == 403
    assert site.browser("bob").post(end, {"why": "x"}).status_code == 404
    assert site.browser("lead").post(end, {"why": "x"}).status_code == 303
    (ended,) = site.services.exemptions.of_area(Actor("lead"), scratch.id)
    assert ended.state is ExemptionState.ENDED


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"until": "2026-01-01"}, 422, "lasts 1 to"),
        ({"until": "soon"}, 422, "Until: that is no day"),
        ({"until": "9999-12-31"}, 422, "lasts 1 to"),
        ({"reason": " "}, 422, "A reason is needed"),
        ({"folder": "../x"}, 422, "is no path"),
        ({"folder": "a\\q"}, 422, "Folder or file: that is no path"),
    ],
)
def test_a_form_that_is_wrong_says_what_and_keeps_what_was_typed(
    site: Site, scratch: StoredArea, changes: dict[str, str], status: int, says: str
) -> None:
    got, page = ask(site, scratch, **changes)
    assert got == status
    assert says in page.partition("<main")[2]
    assert "".join(changes.values()).strip() in page
    assert site.services.exemptions.of_area(Actor("lead"), scratch.id) == []


def test_who_may_ask(site: Site, scratch: StoredArea) -> None:
    assert ask(site, scratch, "ann")[0] == 403
    assert ask(site, scratch, "bob")[0] == 404
    site.services.members.change(Actor("lead"), scratch.owner.allocation_id or "", "ann", role=MemberRole.MANAGER)
    assert ask(site, scratch, "ann")[0] == 303
    assert "ask-exemption" not in site.browser("bob").get("/storage").text


def test_nobody_decides_on_what_they_asked_for(site: Site, storage: StorageSite) -> None:
    site.accept("rev")
    home = storage.home("rev")
    site.services.exemptions.ask(Actor("rev"), home.id, "", 9, "Why not.")
    (asked,) = site.services.exemptions.waiting(Actor("rev", reviewer=True))
    page = site.browser("rev").get("/review/exemptions").text
    assert "another reviewer does" in page
    assert 'value="grant"' not in page
    answer = site.browser("rev").post(f"/review/exemptions/{asked.id}", {"decision": "grant", "days": "9"})
    assert answer.status_code == 403


def test_administrators_plan_a_dry_run_and_a_real_one(site: Site, scratch: StoredArea) -> None:
    admin = site.browser("admin")
    assert "There was none yet" in admin.get("/admin/storage/purges").text
    dry = {"storage": "scratch", "how": "dry", "as_of": "2027-06-01", "key": "a"}
    answer = admin.post("/admin/storage/purges", dry)
    assert answer.status_code == 303
    (run,) = site.services.purges.runs(ADMIN)
    assert (run.dry_run, run.as_of_ms, run.storage_class) == (True, 1_811_808_000_000, StorageClass.SCRATCH)
    assert f"/admin/storage/purges/{run.id}" in answer.headers["location"]
    assert "Dry run of" in words(admin.get(f"/admin/storage/purges/{run.id}").text)
    assert admin.post("/admin/storage/purges", dry).headers["location"] == answer.headers["location"]
    assert len(site.services.purges.runs(ADMIN)) == 1
    future = admin.post("/admin/storage/purges", dry | {"how": "real", "key": "b"})
    assert future.status_code == 422
    assert 'value="2027-06-01"' in future.text
    for wrong in ({"storage": "object"}, {"storage": "x"}, {"how": ""}, {"as_of": "x"}):
        assert admin.post("/admin/storage/purges", dry | {"key": "c"} | wrong).status_code == 422, wrong
    assert admin.post("/admin/storage/purges", dry | {"how": "real", "as_of": "", "key": "d"}).status_code == 303
    assert [one.dry_run for one in site.services.purges.runs(ADMIN)].count(False) == 1


def test_a_run_beyond_the_ceiling_waits_for_an_administrator(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    run = storage.plan(ADMIN, files=1_000_001, count=9 * GB)
    admin, path = site.browser("admin"), f"/admin/storage/purges/{run.id}"
    page = admin.get(path).text
    assert "beyond the ceiling of files , and waits" in words(page).replace("ceiling of files,", "ceiling of files ,")
    assert "Confirm 1,000,001 files, 9 GB" in page
    assert "Deep fields" in page
    assert "1000 1,000,001 9 GB" in words(page), "by owner"
    fields = {"files": "1000001", "bytes": str(9 * GB)}
    assert admin.post(f"{path}/confirm", fields | {"why": ""}).status_code == 422
    other = admin.post(f"{path}/confirm", fields | {"files": "5", "why": "Fine."})
    assert other.status_code == 409
    assert 'value="Fine."' in other.text
    assert admin.post(f"{path}/confirm", fields | {"why": "Fine."}).status_code == 303
    assert site.services.purges.run(ADMIN, run.id).run.confirmed_by == "admin"
    assert "Confirm 1" not in admin.get(path).text
    assert scratch.id in page


def test_a_run_is_stopped_resumed_and_cancelled(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    run = storage.plan(ADMIN)
    admin, path = site.browser("admin"), f"/admin/storage/purges/{run.id}"
    for action, state in (
        ("stop", RunState.STOPPED),
        ("resume", RunState.OPEN),
        ("cancel", RunState.CANCELLED),
    ):
        assert admin.post(f"{path}/{action}", {"why": ""}).status_code == 422
        assert admin.post(f"{path}/{action}", {"why": "To see."}).status_code == 303
        assert site.services.purges.run(ADMIN, run.id).run.state is state
    assert "Cancel the run" not in admin.get(path).text
    assert admin.post(f"{path}/stop", {"why": "Late."}).status_code == 409
    assert admin.post(f"{path}/delete", {"why": "x"}).status_code == 404
    assert admin.post("/admin/storage/purges/pr-0/stop", {"why": "x"}).status_code == 404
    assert "cancelled" in words(site.browser("ann").get(f"/storage/areas/{scratch.id}").text)


def test_the_switch_stops_everything_and_says_who_and_why(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    run = storage.plan(ADMIN)
    admin, path = site.browser("admin"), "/admin/storage/purges/switch"
    assert admin.post(path, {"turn": "stop", "why": ""}).status_code == 422
    assert admin.post(path, {"turn": "", "why": "x"}).status_code == 422
    assert admin.post(path, {"turn": "stop", "why": "A <b>fire</b>."}).status_code == 303
    page = admin.get("/admin/storage/purges").text
    assert "Every purge is stopped by admin" in words(page)
    assert "A &lt;b&gt;fire&lt;/b&gt;." in page
    assert "Every purge is stopped." in words(admin.get(f"/admin/storage/purges/{run.id}").text)
    assert admin.post(path, {"turn": "resume", "why": "It is out."}).status_code == 303
    assert site.services.purges.stopped() is None
    assert scratch.id


def test_all_areas_those_with_most_first_and_what_fails(site: Site, storage: StorageSite, scratch: StoredArea) -> None:
    storage.record(storage.home("ann"), 12 * GB)
    fails = storage.home("bob")
    storage.measures.record([fails], Found(problems={fails.id: "The mount is away."}), {})
    admin = site.browser("admin")
    page = words(admin.get("/admin/storage").text)
    assert "1 area could not be measured or limited the last time Home of bob : The mount is away." in page
    assert "1 to 3 of 3" in page
    assert page.index("Scratch of “Deep fields”") < page.index("Home of ann ok 12 GB 50 GB none 1,234")
    homes = words(admin.get("/admin/storage?storage=home").text)
    assert "1 to 2 of 2" in homes
    assert "Deep fields" not in homes
    assert "There is none." in admin.get("/admin/storage?start=50").text
    assert "3 of 3" in words(admin.get("/admin/storage?storage=nonsense").text)
    assert scratch.id in admin.get("/admin/storage").text


def test_notices_lead_to_the_page_of_what_they_are_about_and_nobody_else_there(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    run = storage.plan(ADMIN)
    (purge,) = site.services.purges.run(ADMIN, run.id).purges
    exemption = site.services.exemptions.ask(Actor("lead"), scratch.id, "a", 9, "Why not.")
    area = f"{PREFIX}/storage/areas/{scratch.id}"
    for kind, subject, place in (
        (NoticeKind.PURGE_PLANNED, purge.id, "#purge"),
        (NoticeKind.EXEMPTION_DECIDED, exemption.id, "#exemptions"),
    ):
        found = place_of(kind, subject)
        assert found is not None
        answer = site.browser("ann").get(found.path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{area}{place}")
        assert site.browser("bob").get(found.path).status_code == 404
        assert site.browser("ann").get(found.path.replace(subject, "x-0")).status_code == 404


def test_a_purge_stands_in_the_calendars_of_those_concerned_until_it_is_over(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    run = storage.plan(ADMIN)
    calendar = site.services.calendar

    def feed(person: str) -> str:
        return calendar.feed(calendar.renew(person)).decode().replace("\r\n ", "")

    for person in ("lead", "ann"):
        assert "SUMMARY:1\\,200 old files are purged: scratch of “Deep fields”" in feed(person)
        assert "DTSTART:20270122T080000Z" in feed(person)
    assert "purged" not in feed("bob")
    site.services.purges.cancel(ADMIN, run.id, "Not now.")
    assert "purged" not in feed("lead")
    assert scratch.id


def test_a_mail_about_a_purge_brings_its_end_and_none_is_sent_when_it_is_over(
    site: Site, storage: StorageSite, scratch: StoredArea
) -> None:
    run = storage.plan(ADMIN)
    services = site.services
    (purge,) = services.purges.run(ADMIN, run.id).purges
    truth = TruthService(notices=services.inbox.notices)
    with services.database.write() as connection:
        area = services.purges.access.seen(connection, ADMIN, scratch.id)
        ends_at_ms = site.clock.at_ms + 7 * DAY_MS
        services.purges.notices.planned(connection, purge, area, ends_at_ms, "a.txt")
    with services.database.read() as connection:
        told = services.inbox.notices.lock_waiting(connection, "ann")
        told = [one for one in told if one.kind is NoticeKind.PURGE_PLANNED]
        attached = services.calendar.of_notices(connection, told, site.clock.at_ms)
        assert attached is not None
        assert f"purge-{purge.id}@meridian" in attached.decode().replace("\r\n ", "")
        assert truth.still_true(connection, told, site.clock.at_ms) == told
    services.purges.cancel(ADMIN, run.id, "Not now.")
    with services.database.read() as connection:
        assert truth.still_true(connection, told, site.clock.at_ms) == []
