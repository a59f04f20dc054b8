"""A person's storage: how full it is, what follows from that, how it grew, and what nobody else sees of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.storage.models import StorageClass
from allocations.storage.quotas.backends import Found
from allocations.storage.tree.usage import FolderUse
from allocations.web.formats import to_bytes
from allocations.web.storage_figures import Trend
from tests.web.storage_site import DAY_MS, GB, HOSTILE, StorageSite

if TYPE_CHECKING:
    from tests.web.conftest import Site


@pytest.fixture
def measured(site: Site) -> StorageSite:
    return StorageSite(site)


def words(html: str) -> str:
    """What a page says, without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.partition("<main")[2]).split())


def test_a_home_stands_against_the_limit_of_the_tier_that_pays_for_it(site: Site, measured: StorageSite) -> None:
    entry = site.accept("ann")
    home = measured.home("ann")
    measured.record(home, 3 * GB)
    page = site.browser("ann").get("/storage")
    assert page.status_code == 200
    said = words(page.text)
    assert "Home ok 3 GB of 10 GB" in said
    assert "Files 1,234" in said
    # 30 days of 3 GB at 10,000 microcredits for a GB and day.
    assert "0.90 credits a month" in said
    assert 'aria-label="30 % of the limit in use"' in page.text
    assert f'href="{PREFIX}/allocations/{entry}"' in site.browser("ann").get(f"/storage/areas/{home.id}").text


def test_an_allocations_areas_are_its_members_and_nobody_elses(site: Site, measured: StorageSite) -> None:
    for person in ("ann", "bob", "lead"):
        site.accept(person)
    whole = site.open("consortium", "Deep <b>fields</b>", "lead")
    part = site.services.tree.divide(
        Actor("lead"), whole, name="Shear", microcredits=1_000_000, guaranteed=True, lead="lead"
    )
    site.join(part, "ann")
    scratch, inner = measured.area(StorageClass.SCRATCH, whole), measured.area(StorageClass.SHARED, part)
    home = measured.home("ann")
    seen = {"lead": {scratch, inner}, "ann": {home, inner}, "bob": set(), "admin": {scratch, inner, home}}
    for person, theirs in seen.items():
        browser = site.browser(person)
        for area in (scratch, inner, home):
            expected = 200 if area in theirs else 404
            assert browser.get(f"/storage/areas/{area.id}").status_code == expected, (person, area.storage_class)
    lists = {person: site.browser(person).get("/storage").text for person in seen}
    assert f"/storage/areas/{scratch.id}" in lists["lead"]
    assert "Scratch of “Deep &lt;b&gt;fields&lt;/b&gt;”" in lists["lead"]
    assert all(f"/storage/areas/{one.id}" not in lists["bob"] for one in (scratch, inner, home))
    assert "You have no storage yet" in lists["bob"]
    assert f"/storage/areas/{home.id}" not in lists["admin"], "an administrator's own page is their own storage"
    missing, anothers = (site.browser("bob").get(f"/storage/areas/{one}").text for one in ("s-0", home.id))
    assert words(anothers).replace(home.id, "s-0") == words(missing)
    assert site.browser().get("/storage").status_code == 303


def test_each_state_says_what_follows_and_what_to_do(site: Site, measured: StorageSite) -> None:
    site.accept("ann")
    home, ann = measured.home("ann"), site.browser("ann")
    measured.record(home, 8 * GB, 10 * GB)
    assert "It nears its limit. Delete or move" in words(ann.get("/storage").text)
    measured.record(home, 12 * GB, 10 * GB)
    said = words(ann.get("/storage").text)
    assert "over limit 12 GB of 10 GB" in said
    assert "over its limit by 2 GB" in said
    assert "on 29 Jan 2027, 08:00 UTC , it is locked" in said
    site.clock.at_ms += 14 * DAY_MS
    page = ann.get("/storage").text
    assert "until 2 GB are gone. No file was touched." in words(page)
    assert '<a class="m-button m-button-small" href="/hub/spawn">Start a rescue server</a>' in page
    measured.record(home, 1 * GB, 10 * GB)
    assert "rescue" not in ann.get("/storage").text


def test_the_trend_is_drawn_and_said(site: Site, measured: StorageSite) -> None:
    site.accept("ann")
    home, ann = measured.home("ann"), site.browser("ann")
    assert "measured on two days" in words(ann.get(f"/storage/areas/{home.id}").text)
    for day in range(31):
        measured.record(home, 3 * GB + day * GB // 10)
        site.clock.at_ms += DAY_MS
    measured.assess()
    page = ann.get(f"/storage/areas/{home.id}").text
    assert "3 GB more than 30 days before; at that pace it is at its limit about" in words(page)
    assert 'class="p-trend-limit" y1="0.0"' in page
    assert page.count('<th scope="row" class="p-nowrap"><time') == 31
    # The first day: 3 GB at 10,000 microcredits.
    assert "0.030 owed" in words(page)


def test_a_picture_without_its_limit_goes_up_to_what_is_used(site: Site, measured: StorageSite) -> None:
    home = measured.home("ann")
    for used in (GB, 2 * GB):
        measured.record(home, used)
        site.clock.at_ms += DAY_MS
    days = site.services.storage_reports.trend(Actor("ann"), home.id).days
    trend = Trend.of(days, 100 * GB, site.clock.at_ms - DAY_MS)
    assert trend is not None
    assert (trend.limit_y, trend.top_bytes, trend.line) == (None, 2 * GB, "0.0,500.0 1000.0,0.0")
    # 98 GB more at 1 GB a day.
    assert trend.full_on is not None
    assert (trend.full_on - days[-1].day).days == 98
    assert Trend.of(days[:1], None, site.clock.at_ms) is None
    shrinking = [days[0], days[1].model_copy(update={"bytes": 0})]
    shrunk = Trend.of(shrinking, 100 * GB, site.clock.at_ms)
    assert shrunk is not None
    assert (shrunk.grown_bytes, shrunk.full_on) == (-GB, None)


def test_hostile_names_of_folders_are_shown_and_do_nothing(site: Site, measured: StorageSite) -> None:
    site.accept("ann")
    home = measured.home("ann")
    measured.record(home, 3 * GB, largest=tuple(FolderUse(name, GB, 7) for name in HOSTILE))
    page = site.browser("ann").get(f"/storage/areas/{home.id}").text
    shown = re.findall(r'<bdi class="p-path">(.*?)</bdi>', page)
    assert shown == list(HOSTILE.values())
    assert "\u202e" not in page


def test_an_old_measure_says_so_and_only_administrators_read_why(site: Site, measured: StorageSite) -> None:
    site.accept("ann")
    home = measured.home("ann")
    measured.record(home, 3 * GB)
    site.clock.at_ms += 3 * DAY_MS
    problem = "is not there: make it"
    measured.measures.record([home], Found(problems={home.id: problem}), {})
    page = site.browser("ann").get(f"/storage/areas/{home.id}").text
    assert "out of date" in page
    assert problem not in page
    assert problem in site.browser("admin").get(f"/storage/areas/{home.id}").text


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_500, "1.5 kB"),
        (999_999, "999 kB"),
        (42_123_456_789, "42.1 GB"),
        (3_000_000_000_000, "3 TB"),
        (10**18, "1000 PB"),
    ],
)
def test_bytes_are_told_to_three_digits_and_never_more_than_there_are(count: int, said: str) -> None:
    assert to_bytes(count) == said
