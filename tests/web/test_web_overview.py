"""The researcher's overview: how long each allocation lasts at the present rate, and what comes next."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, RequestAction
from allocations.reports.allocations import AllocationView
from allocations.reports.burn_down import BurnDown, BurnDownDay
from allocations.web.burning import Chart, Outlook
from tests.web.conftest import START_MS
from tests.web.test_web_quotas import start

if TYPE_CHECKING:
    from tests.web.conftest import Browser, Site

CREDIT = 1_000_000
DAY_MS = 86_400_000
TODAY = date(2027, 1, 15)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def allocation(ends_at: str) -> AllocationView:
    return AllocationView(
        id="a-1",
        parent=None,
        depth=0,
        name="Deep fields",
        tier="consortium",
        tier_title="Consortium",
        state="active",
        guaranteed=False,
        role="lead",
        starts_at="2027-01-06T00:00:00.000Z",
        ends_at=ends_at,
        limit_microcredits=100 * CREDIT,
        held_microcredits=0,
        posted_microcredits=0,
        available_microcredits=0,
        instalments_released=1,
        instalments=1,
    )


def burned(left: int, per_day: int = CREDIT, refill: int = 0, end: date | None = None) -> BurnDown:
    """Ten days, of which today is the last, with the same charge on each."""
    days = [
        BurnDownDay(
            day=TODAY - timedelta(days=ago), charged_microcredits=per_day, left_microcredits=left + ago * per_day
        )
        for ago in range(9, -1, -1)
    ]
    return BurnDown(
        days=days, projected_end=end, charged_per_day_microcredits=per_day, refill_per_day_microcredits=refill
    )


def test_a_picture_goes_from_the_start_by_today_to_the_end_and_meets_the_ground_where_nothing_is_left() -> None:
    # Noon of the tenth day of twenty; five credits last five days.
    now_ms = START_MS - START_MS % DAY_MS + DAY_MS // 2
    chart = Chart.whole(burned(5 * CREDIT), allocation("2027-01-26T00:00:00.000Z"), now_ms)
    assert (chart.first, chart.last) == (date(2027, 1, 6), date(2027, 1, 26))
    assert (chart.today, chart.spent) == (47.5, 72.5)
    assert chart.top_microcredits == 15 * CREDIT
    assert chart.line.split()[0] == "0.0,0.0"
    assert chart.line.split()[-1] == "475.0,666.7"
    assert chart.ahead == "475.0,666.7 725.0,1000.0"
    assert chart.label_today


def test_what_lasts_beyond_the_end_is_drawn_to_the_end() -> None:
    now_ms = START_MS - START_MS % DAY_MS + DAY_MS // 2
    chart = Chart.whole(burned(21 * CREDIT), allocation("2027-01-26T00:00:00.000Z"), now_ms)
    assert chart.spent is None
    # 10.5 of the 21 credits are left, of 31 at the top.
    assert chart.ahead.split()[1] == f"1000.0,{1000 - 1000 * 10.5 / 31:.1f}"


def test_an_allocation_that_has_ended_has_nothing_ahead() -> None:
    found = allocation("2027-01-10T00:00:00.000Z")
    chart = Chart.whole(burned(5 * CREDIT), found, START_MS)
    assert (chart.ahead, chart.spent, chart.today) == ("", None, 100.0)
    assert Outlook.of(burned(5 * CREDIT), found, START_MS).has_ended


def test_nothing_charged_is_a_flat_line_without_a_pace() -> None:
    chart = Chart.whole(burned(5 * CREDIT, 0), allocation("2027-01-26T00:00:00.000Z"), START_MS)
    assert {point.split(",")[1] for point in chart.line.split()} == {"0.0"}
    assert (chart.ahead, chart.spent) == ("", None)


def test_a_limit_lowered_below_what_is_spent_stays_in_the_picture() -> None:
    chart = Chart.whole(burned(-5 * CREDIT), allocation("2027-01-26T00:00:00.000Z"), START_MS)
    assert all(0 <= float(point.split(",")[1]) <= 1000 for point in chart.line.split())
    assert chart.ahead == ""


@pytest.mark.parametrize(
    ("left", "end", "spent_on", "urgent"),
    [
        (5, date(2027, 1, 20), date(2027, 1, 20), True),
        (60, date(2027, 3, 16), date(2027, 3, 16), False),
        (400, date(2028, 2, 19), None, False),
    ],
    ids=["soon", "before the end", "after the end"],
)
def test_only_an_end_before_the_allocations_own_is_foretold(
    left: int, end: date, spent_on: date | None, urgent: bool
) -> None:
    outlook = Outlook.of(burned(left * CREDIT, end=end), allocation("2027-12-31T00:00:00.000Z"), START_MS)
    assert (outlook.spent_on, outlook.is_urgent) == (spent_on, urgent)
    if spent_on:
        assert outlook.days_before_end == (date(2027, 12, 31) - spent_on).days
    else:
        assert outlook.unspent_microcredits == (400 - 349) * CREDIT


def spend(site: Site, allocation_id: str, person: str, hours: int) -> None:
    """Keep a server running and renewed for some hours."""
    start(site, allocation_id, person)
    (lease,) = site.services.reports.overview(person).servers
    for _renewal in range(hours * 6):
        site.clock.at_ms += 600_000
        site.services.leases.renew(lease.id)


def burn_down_of(browser: Browser, allocation_id: str) -> str:
    page = browser.get(f"/allocations/{allocation_id}").text
    return page[page.index('<h2 id="burn-down">') :].partition("</details>")[0]


def test_the_allocations_page_draws_its_burn_down_and_says_the_same_in_words_and_numbers(site: Site) -> None:
    site.accept("lead")
    whole = site.open("consortium", "Deep fields", "lead")
    browser = site.browser("lead")
    assert "Nothing was charged today" in text_of(burn_down_of(browser, whole))
    spend(site, whole, "lead", 48)
    html = burn_down_of(browser, whole)
    assert re.search(
        r"At the present rate, 0\.\d+ credits a day , it lasts until its end on 15 Jan 2028", text_of(html)
    )
    assert html.count('<polyline class="p-burn-ahead" points="') == 1
    assert 'role="img" aria-label="' in html
    assert "style=" not in html
    rows = re.findall(r'<th scope="row"><time datetime="(2027-01-\d+)"', html)
    assert rows == ["2027-01-17", "2027-01-16", "2027-01-15"]


def test_an_end_before_the_allocations_own_is_named_with_how_much_sooner_it_is(site: Site) -> None:
    site.accept("lead")
    whole = site.open("consortium", "Deep fields", "lead")
    part = site.services.tree.divide(
        Actor("lead"), whole, name="Shear", microcredits=5 * CREDIT, guaranteed=True, lead="lead"
    )
    spend(site, part, "lead", 48)
    said = text_of(burn_down_of(site.browser("lead"), part))
    found = re.search(r"nothing is left about (\d+ \w+ 2027) , (\d+) days before its end", said)
    assert found, said
    assert text_of(site.browser("lead").get("/").text).count(f"nothing is left about {found[1]}") == 1


def test_home_draws_each_allocation_once_and_its_live_part_leaves_the_picture_alone(site: Site) -> None:
    entry = site.accept("ann")
    spend(site, entry, "ann", 20)
    browser = site.browser("ann")
    page = browser.get("/").text
    kept = page[page.index(f'<div id="burn-{entry}" hx-preserve="true">') :].partition("</div>")[0]
    assert '<polyline class="p-burn-line"' in kept
    assert "makes up for what is charged" in text_of(kept)
    url = re.search(r'hx-get="([^"]+)"', page)
    assert url
    assert browser.http.get(url[1]).status_code == 204, "the picture is no part of what changes"
    site.queue_run("ann", entry)
    changed = browser.http.get(url[1]).text
    assert f'<div id="burn-{entry}" hx-preserve="true">' in changed
    assert "p-burn-line" not in changed


def coming(browser: Browser) -> list[str]:
    page = browser.get("/").text
    _before, found, rest = page.partition('<ul class="p-coming">')
    return [text_of(one) for one in rest.partition("</ul>")[0].split("<li")[1:]] if found else []


def test_requests_under_way_come_first_with_what_becomes_of_them(site: Site) -> None:
    site.accept("ann")
    browser = site.browser("ann")
    sent = site.request("ann", title="Galaxies")
    site.services.requests.submit(Actor("ann"), tier="research", title="Stars", justification="Later.", draft=True)
    told = coming(browser)
    assert any("Galaxies submitted" in one and "waits for a reviewer" in one for one in told)
    assert any("Stars draft" in one and "until you submit it" in one for one in told)
    assert "ends then" in told[-1]
    site.services.requests.act(Actor("rev", reviewer=True), sent, RequestAction.REQUEST_REVISION, "More on errors.")
    assert any("Galaxies revision requested" in one and "change it and submit" in one for one in coming(browser))
    assert f'href="{PREFIX}/requests/{sent}"' in browser.get("/").text
    site.services.requests.act(Actor("ann"), sent, RequestAction.WITHDRAW)
    assert not any("Galaxies" in one for one in coming(browser))


def test_the_next_end_is_told_always_and_others_when_they_are_near(site: Site) -> None:
    site.accept("ann")
    site.clock.at_ms += 30 * DAY_MS
    site.accept("lead")
    whole = site.open("consortium", "Deep fields", "lead")
    site.join(whole, "ann")
    (only,) = coming(site.browser("ann"))
    assert "End of an allocation 15 Jan 2028 “Entry allocation of ann” ends then." in only
    assert "accept the user agreement again" in only
    site.clock.at_ms += 310 * DAY_MS
    # Nothing is renewed by itself: the calendar moves on with the worker.
    agreement, entry, consortium = sorted(coming(site.browser("ann")), key=lambda one: ("ends" in one, "Deep" in one))
    assert "asked to accept it again" in agreement
    assert "Entry allocation" in entry
    assert "“Deep fields” ends" in consortium
    assert "Who leads or manages it can ask for its renewal" in consortium
    site.services.members.change(Actor("lead"), whole, "ann", role=MemberRole.MANAGER)
    assert any("Ask for its renewal" in one for one in coming(site.browser("ann")))


def test_nothing_comes_for_who_has_nothing(site: Site) -> None:
    site.accept("lead")
    site.services.agreements.accept("ann", site.services.policy.agreement.version)
    entry = next(one.id for one in site.services.reports.allocations_of("ann"))
    site.services.lifecycle.archive(Actor("admin", admin=True), entry, "It is over.")
    assert coming(site.browser("ann")) == []
