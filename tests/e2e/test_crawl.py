"""Every link and every form of the platform as everybody: nothing fails, and nobody gets where they have no business.

Pictures of all that was seen, light, dark and narrow, are in `test-results/crawl`, by person.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from allocations.api.identity import Scope
from allocations.app import PREFIX
from tests.e2e.crawler import HOME, Crawl, open_browser_as, page_routes, route_of
from tests.e2e.platform import ROOT, Platform
from tests.e2e.populated import PASSWORD, ROLES, populate, write_accounts
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PICTURES = ROOT / "test-results" / "crawl"
NOBODY = "nobody"
BEGINNINGS = (HOME, "/hub/home", "/hub/spawn", "/hub/token")
# What is asked for by a mistake: pages that say so, and what to do next.
MISTAKES = (
    f"{HOME}nothing-here",
    "/hub/nothing-here",
    f"{HOME}admin/audit",
    # Somebody who is suspended, and somebody who is not: the administrator opens two of the pages of people.
    f"{HOME}admin/people/person?name=barred",
    f"{HOME}admin/people/person?name=lead",
    "/hub/admin",
    "/hub/error/503",
)
PERSON = frozenset({Scope.READ, Scope.REQUEST, Scope.RUN})
SCOPES = {"reviewer": PERSON | {Scope.REVIEW}, "admin": PERSON | {Scope.REVIEW, Scope.ADMIN}, NOBODY: frozenset()}
# No page leads there: parts of pages that fetch themselves, files of pages, the way back from the sign-in.
NOT_LINKED = {"/live", "/runs/live", "/runs/{run_id}/live", "/sweeps/{sweep_id}/live", "/schedules/preview"}
NOT_LINKED |= {"/static/{name:path}", "/oauth_callback"}
# What mails and calendars lead to, by a secret in the address.
NOT_LINKED |= {"/unsubscribe/{token}", "/calendar/{token}.ics"}
# Things of others that a role may look at without being led there.
OVERSEEN = {
    "admin": re.compile(r"^GET .*/(allocations|requests|storage/\w+)/\{"),
    "reviewer": re.compile(r"^GET .*/requests/\{"),
    # Who belongs to an allocation may look at the storage of its parts.
    **dict.fromkeys(("manager", "researcher"), re.compile(r"^GET .*/storage/areas/\{")),
}
# Forms that the crawl is not shown: what they need is a server, a secret address, a way out or a second button, and has
# its own tests.
NOT_SENT = {"/sign-out", "/servers/{lease_id}/extend", "/notices/calendar/revoke", "/unsubscribe/{token}"}
NOT_SENT |= {"/sweeps/estimate"}
DENIED = {403, 404}


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    state = tmp_path_factory.mktemp("crawl") / "state"
    write_accounts(state)
    platform = Platform(state, free_port())
    platform.start()
    populate(platform)
    yield platform
    if platform.process is not None and platform.process.poll() is None:
        platform.interrupt()


@pytest.fixture(scope="module")
def crawls(populated: Platform, browser: Browser) -> Iterator[dict[str, Crawl]]:
    """What everybody has found by following links from their first pages."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    made: dict[str, Crawl] = {}
    looked_at: set[tuple[str, str]] = set()
    for name in (NOBODY, *ROLES):
        password = None if name == NOBODY else PASSWORD
        made[name] = open_browser_as(browser, populated.url, name, password, PICTURES / name, looked_at)
        made[name].from_everywhere(*BEGINNINGS, *MISTAKES)
    yield made
    for crawl in made.values():
        crawl.context.close()


def may(name: str, address: str) -> bool:
    """Whether a person to whom no link leads to an address may open it all the same."""
    route = route_of("GET", urlsplit(address).path)
    if route not in page_routes():
        return name != NOBODY
    _pattern, _methods, needed = page_routes()[route]
    if not needed <= SCOPES.get(name, PERSON):
        return False
    return "{" not in route or (name in OVERSEEN and bool(OVERSEEN[name].match(route)))


def test_1_no_link_of_anybody_leads_to_a_fault(crawls: dict[str, Crawl]) -> None:
    assert [fault for crawl in crawls.values() for fault in crawl.faults] == []
    for name, crawl in crawls.items():
        led_astray = {at: status for at, status in crawl.statuses.items() if status >= 400 and at in crawl.linked}
        assert led_astray == {}, name


def test_2_every_page_is_found_by_somebody(crawls: dict[str, Crawl]) -> None:
    found = {route_of("GET", urlsplit(at).path) for crawl in crawls.values() for at in crawl.statuses}
    expected = {route for route in page_routes() if route.startswith("GET ")}
    assert expected - found == {f"GET {PREFIX}{path}" for path in NOT_LINKED}


def test_3_the_navigation_is_the_same_on_both_sides(crawls: dict[str, Crawl]) -> None:
    for crawl in crawls.values():
        sides = []
        for address in (f"{HOME}policy", "/hub/home"):
            crawl.page.goto(f"{crawl.url}{address}")
            links = "[...document.querySelectorAll('.m-nav a, .m-footer a')]"
            sides.append(
                crawl.page.evaluate(f"{links}.map(one => one.getAttribute('href') + ' ' + one.textContent.trim())")
            )
        assert [re.sub(r" \d+.*", "", one) for one in sides[0]] == [
            one for one in sides[1] if not one.startswith("/hub/logout")
        ], crawl.name
        assert crawl.name == NOBODY or len(sides[0]) > 10


def test_4_nobody_reaches_what_others_were_led_to_and_they_were_not(crawls: dict[str, Crawl]) -> None:
    everywhere = {at for crawl in crawls.values() for at in crawl.linked | crawl.statuses.keys()}
    ids = {at for at in everywhere if re.search(r"/[aqr]-[0-9a-f]{6,}", at)}
    assert len(ids) > 20
    wrong = {}
    for name, crawl in crawls.items():
        for address in sorted(everywhere - crawl.linked - set(MISTAKES) - set(BEGINNINGS)):
            status = crawl.status(address)
            expected = {200, 302, 303, 403, 404} if may(name, address) else {302, 303} if name == NOBODY else DENIED
            if status not in expected:
                wrong[f"{name} {address}"] = status
    assert wrong == {}


def test_5_every_form_is_taken_or_refused_with_a_page(crawls: dict[str, Crawl], populated: Platform) -> None:
    times: Counter[tuple[str, ...]] = Counter()
    # Who decides comes before those who take back what there is to decide.
    for crawl in sorted(crawls.values(), key=lambda crawl: crawl.name != "reviewer"):
        crawl.faults.clear()
        crawl.send_forms(times)
    assert [fault for crawl in crawls.values() for fault in crawl.faults] == []
    sent = {route for route, *_ in times}
    expected = {route for route in page_routes() if route.startswith("POST ")}
    assert expected - sent == {f"POST {PREFIX}{path}" for path in NOT_SENT}
    populated.audit()


def test_6_signing_out_ends_it(crawls: dict[str, Crawl]) -> None:
    for name, crawl in crawls.items():
        if name == NOBODY:
            continue
        crawl.page.goto(f"{crawl.url}{HOME}policy")
        crawl.page.locator(".m-menu-end > summary").click()
        crawl.page.get_by_role("button", name="Sign out").click()
        crawl.page.wait_for_url("**/hub/login*")
        crawl.page.goto(f"{crawl.url}{HOME}")
        assert "/hub/login" in crawl.page.url
