"""Pages in a real browser: looked at by axe, with whether anything scrolls sideways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from playwright.sync_api import sync_playwright

from allocations.api.identity import SESSION_COOKIE
from allocations.app import PREFIX
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.web.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from playwright.sync_api import Page


def faults_of(
    url: str,
    paths: Mapping[str, Sequence[str]],
    scheme: Literal["light", "dark"],
    width: int,
    look: Callable[[Page, str], None] = lambda _page, _path: None,
) -> dict[str, Any]:
    """Return what axe finds on pages by people, and which scroll sideways; `look` sees each page, too."""
    axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
    faults: dict[str, Any] = {}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        for person, looked_at in paths.items():
            # The pages' content policy is set aside for axe alone.
            context = chromium.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
            )
            context.set_default_timeout(120_000)
            context.add_cookies([{"name": SESSION_COOKIE, "value": person, "url": url}])
            page = context.new_page()
            for path in looked_at:
                response = page.goto(f"{url}{PREFIX}{path}")
                assert response is not None
                assert response.status == 200, path
                look(page, path)
                page.evaluate(axe)
                found = page.evaluate(
                    "axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))"
                )
                wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
                if found or wide:
                    faults[path] = (found, "scrolls sideways" if wide else "")
            context.close()
        chromium.close()
    return faults
