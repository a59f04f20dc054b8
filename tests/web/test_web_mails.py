"""Mails in a real browser: legible in light and dark and on a telephone, and nothing is asked for from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import sync_playwright

from allocations.factory import make_mailer
from allocations.lifecycle.authority import Actor
from allocations.outbox import Notice, NoticeKind
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.web.conftest import ROOT

if TYPE_CHECKING:
    from email.message import EmailMessage

    from tests.web.conftest import Site

PAGES = "https://platform.example/services/allocations"
LONG_NAME = "Photometric_redshifts_of_faint_galaxies_in_the_deep_fields_of_the_first_season_" * 2


class Kept:
    """A way out that keeps what would leave."""

    def __init__(self) -> None:
        self.html: list[str] = []

    def send(self, message: EmailMessage, name: str) -> None:
        body = message.get_body(("html",))
        assert body is not None
        self.html.append(body.get_content())


def mails(site: Site) -> list[str]:
    """Return the HTML of a mail with all that there can be, and of one with little."""
    allocation = site.open("research", LONG_NAME, "ann")
    site.services.lifecycle.suspend(Actor("admin", admin=True), allocation, "The hardware moves")
    request = site.request("ann", title="Galaxies")
    told = [
        Notice("ann", NoticeKind.MEMBER_REMOVED, "gone", "1", {"name": "Dark stars"}),
        Notice("bob", NoticeKind.INVITATION_ANSWERED, "gone", "1", {"name": "Dark stars"}),
    ]
    with site.services.database.write() as connection:
        site.services.lifecycle.authority.tell(connection, *told)
    kept = Kept()
    assert make_mailer(site.services, kept, "Meridian <m@platform.example>", "people.example", PAGES).deliver() == 2
    assert f"{PAGES}/requests/{request}" in "".join(kept.html)
    return kept.html


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_a_mail_is_legible_and_loads_nothing(site: Site, scheme: Literal["light", "dark"], width: int) -> None:
    axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
    faults: list[Any] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        page.on("request", lambda request: asked.append(request.url))
        for html in mails(site):
            page.set_content(html)
            page.evaluate(axe)
            # A mail stands within a reader's own page, which has the landmarks and the first heading.
            rules = {
                "rules": {name: {"enabled": False} for name in ("region", "page-has-heading-one", "landmark-one-main")}
            }
            faults += page.evaluate(
                "rules => axe.run(rules).then(found => found.violations.map(one => [one.id, one.nodes[0].html]))", rules
            )
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                faults.append("scrolls sideways")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        chromium.close()
    assert faults == []
    assert asked == []
    assert ground == {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 23, 30)"}[scheme]
