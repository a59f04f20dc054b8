"""The page of preferences, and the two addresses that work without a sign-in: a calendar, and turning mail off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.notify.links import LinkStore, Purpose
from allocations.policy.notices import MAILED, Delivery, NoticeKind

if TYPE_CHECKING:
    from tests.web.conftest import Site

SETTINGS = "/notices/settings"


def chosen(site: Site, person: str) -> dict[NoticeKind, Delivery]:
    return {one.kind: one.delivery for one in site.services.preferences.of_person(person)}


def shown(page: str) -> dict[str, tuple[list[str], str]]:
    """Return of each kind on the page what may be chosen and what is."""
    found = {}
    for name, options in re.findall(r'<select[^>]* name="kind ([^"]+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        ways = re.findall(r'<option value="([^"]+)"( selected)?>', options)
        found[name] = [way for way, _ in ways], next(way for way, is_chosen in ways if is_chosen)
    return found


def calendar_of(page: str) -> str | None:
    """Return the address of the calendar that the page shows."""
    found = re.search(r'readonly value="http://testserver([^"]+)"', page)
    return found[1].removeprefix(PREFIX) if found else None


def test_every_kind_is_on_the_page_and_what_is_chosen_there_counts(site: Site) -> None:
    browser = site.browser("ann")
    assert f'href="{PREFIX}{SETTINGS}"' in browser.get("/notices").text
    before = shown(browser.get(SETTINGS).text)
    assert set(before) == {kind.value for kind in NoticeKind}
    for name, (ways, way) in before.items():
        required = site.services.policy.notices.kinds[NoticeKind(name)].required
        assert set(ways) == (MAILED if required else set(Delivery)), name
        assert way == chosen(site, "ann")[NoticeKind(name)]
    sent = browser.post(SETTINGS, {"kind renewed": "off", "kind suspended": "daily"})
    assert sent.headers["location"] == f"{PREFIX}{SETTINGS}?done=preferences"
    page = browser.get(f"{SETTINGS}?done=preferences").text
    assert "Your choices are kept." in page
    changed = {"renewed": (before["renewed"][0], "off"), "suspended": (before["suspended"][0], "daily")}
    assert shown(page) == before | changed
    assert shown(site.browser("bob").get(SETTINGS).text) == before


@pytest.mark.parametrize("fields", [{"kind suspended": "off"}, {"kind renewed": "never"}])
def test_a_forged_choice_is_refused(site: Site, fields: dict[str, str]) -> None:
    before = chosen(site, "ann")
    response = site.browser("ann").post(SETTINGS, fields)
    assert response.status_code == 422
    assert 'role="alert"' in response.text
    assert chosen(site, "ann") == before


def test_a_calendar_is_read_without_a_sign_in_until_it_is_revoked(site: Site) -> None:
    browser, program = site.browser("ann"), site.browser()
    site.open("research", "Dark stars", "ann")
    assert calendar_of(browser.get(SETTINGS).text) is None
    addresses = []
    for _ in range(2):
        assert browser.post("/notices/calendar").status_code == 303
        addresses.append(calendar_of(browser.get(SETTINGS).text) or "")
    response = program.get(addresses[1])
    assert response.headers["content-type"] == "text/calendar; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert "Dark stars" in response.text
    assert program.get(addresses[0]).status_code == 404
    assert browser.post("/notices/calendar/revoke").status_code == 303
    assert calendar_of(browser.get(SETTINGS).text) is None
    assert program.get(addresses[1]).status_code == 404
    assert program.get("/calendar/%00.ics").status_code == 404


def test_the_calendars_address_is_that_of_the_browser(site: Site) -> None:
    browser = site.browser("ann")
    browser.post("/notices/calendar")
    headers = {"host": "platform.example", "x-forwarded-proto": "https,http"}
    assert f'value="https://platform.example{PREFIX}/calendar/' in browser.get(SETTINGS, **headers).text


def unsubscribing(site: Site, person: str) -> str:
    with site.services.database.write() as connection:
        return f"/unsubscribe/{LinkStore().make(connection, person, Purpose.UNSUBSCRIBE, 0)}"


def test_a_mails_link_asks_first_and_turns_mail_off_without_a_sign_in(site: Site) -> None:
    path, browser, before = unsubscribing(site, "ann"), site.browser(), chosen(site, "ann")
    page = browser.get(path)
    assert (page.status_code, "Turn mail off?" in page.text) == (200, True)
    assert "ann" not in re.sub(r"<[^>]+>", " ", page.text).split()
    assert chosen(site, "ann") == before, "mail programs look links up by themselves"
    done = browser.http.post(f"{PREFIX}{path}")
    assert (done.status_code, "Mail is turned off" in done.text) == (200, True)
    after = chosen(site, "ann")
    assert {kind for kind, way in after.items() if way in MAILED} == {
        kind for kind in NoticeKind if site.services.policy.notices.kinds[kind].required
    }


def test_a_mail_program_turns_mail_off_by_one_click(site: Site) -> None:
    """As RFC 8058 has it: a POST of a form from elsewhere, with neither a cookie nor a token of ours."""
    headers = {"origin": "https://mail.example", "sec-fetch-site": "cross-site"}
    path = unsubscribing(site, "ann")
    for form in ({"data": {"List-Unsubscribe": "One-Click"}}, {"files": {"List-Unsubscribe": (None, "One-Click")}}):
        response = site.browser().http.post(f"{PREFIX}{path}", headers=headers, **form)
        assert response.status_code == 200
    assert chosen(site, "ann")[NoticeKind.INVITED] is Delivery.PAGE
    assert chosen(site, "bob")[NoticeKind.INVITED] is Delivery.AT_ONCE


def test_a_link_of_nobody_changes_nothing(site: Site) -> None:
    for path in ("/unsubscribe/" + "x" * 32, "/unsubscribe/%00"):
        assert site.browser().get(path).status_code == 404
        assert site.browser().http.post(f"{PREFIX}{path}").status_code == 404
