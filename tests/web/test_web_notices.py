"""The page of notices: one's own, unread first, counted in the navigation, and text whatever it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import text

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.outbox import Notice, NoticeKind
from tests.places import join

if TYPE_CHECKING:
    from tests.web.conftest import Site

HOSTILE = '"><script>alert(1)</script>'
ADMIN = Actor("admin", admin=True)


def tell(site: Site, *new: Notice) -> None:
    with site.services.database.write() as connection:
        site.services.lifecycle.authority.tell(connection, *new)


def counted(page: str) -> list[str]:
    """Return the count of unread notices in the navigation."""
    return re.findall(r'Notices <span class="m-badge m-badge-warn">([0-9+]+)<', page)


def test_notices_are_counted_listed_opened_and_marked_as_read(site: Site) -> None:
    browser = site.browser("ann")
    assert "Nothing has been told to you yet" in browser.get("/notices").text
    allocation = site.open("research", "Dark stars", "ann")
    site.services.lifecycle.suspend(ADMIN, allocation, "The hardware moves")
    site.request("ann")
    page = browser.get("/notices").text
    assert counted(page) == ["2"]
    assert "The reason: The hardware moves" in page
    assert f'href="{PREFIX}/allocations/{allocation}"' in page
    newest, oldest = re.findall(r'id="notice-(\d+)"', page)
    assert browser.post(f"/notices/{newest}/read").headers["location"] == f"{PREFIX}/notices?done=read"
    page = browser.get("/notices").text
    assert re.findall(r'id="notice-(\d+)"', page) == [oldest, newest]
    assert counted(page) == ["1"]
    assert browser.post(f"/notices/{oldest}/read-all").status_code == 303
    page = browser.get("/notices?done=read").text
    assert counted(page) == []
    assert "Mark" not in page.replace("Marked as read.", "")


def test_anothers_notices_are_neither_shown_nor_marked(site: Site) -> None:
    allocation = site.open("research", "Dark stars", "ann")
    site.services.lifecycle.suspend(ADMIN, allocation, "The hardware moves")
    bob = site.browser("bob")
    assert "Dark stars" not in bob.get("/notices").text
    notice = site.services.inbox.inbox("ann").notices[0]
    assert bob.post(f"/notices/{notice.id}/read").status_code == 404
    assert bob.post(f"/notices/{notice.id}/read-all").status_code == 303
    assert site.services.inbox.unread("ann") == 1


def test_many_notices_come_in_pages_and_no_page_marks_what_it_does_not_show(site: Site) -> None:
    tell(site, *(Notice("ann", NoticeKind.INVITATION_ANSWERED, f"i-{number}") for number in range(120)))
    browser = site.browser("ann")
    page, found = browser.get("/notices").text, []
    assert counted(page) == ["99+"]
    while True:
        found += re.findall(r'id="notice-(\d+)"', page)
        older = re.search(rf'href="{PREFIX}(/notices\?before=[^"]+)"', page)
        if older is None:
            break
        page = browser.get(older[1]).text
        assert "Mark all" not in page
    assert len(found) == len(set(found)) == 120
    assert browser.get("/notices?before=nonsense").status_code == 422
    assert browser.get("/notices?before=unread-" + "9" * 30).status_code == 422


def test_a_notice_is_text(site: Site) -> None:
    allocation = site.open("research", HOSTILE, "lead")
    join(site.services.members, ADMIN, allocation, "ann", MemberRole.LEAD)
    site.services.members.invite(Actor("lead"), site.open("research", HOSTILE, "lead"), "ann", MemberRole.MEMBER)
    site.services.lifecycle.suspend(ADMIN, allocation, HOSTILE)
    assert "<script>alert" not in site.browser("ann").get("/notices").text


def test_a_page_that_says_that_the_database_is_away_does_not_ask_it(site: Site) -> None:
    browser = site.browser("ann")
    with site.services.database.write() as connection:
        connection.execute(text("DROP TABLE notices"))
    response = browser.get("/policy")
    assert response.status_code == 500
    assert "The platform could not answer" in response.text
    assert 'href="/services/allocations/notices"' in response.text
