"""The pages of people, trees and administration in a real browser: axe finds nothing, nothing scrolls sideways."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, Literal

import pytest
import uvicorn
from playwright.sync_api import sync_playwright

from allocations.api.identity import SESSION_COOKIE
from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.web.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Site

CREDIT = 1_000_000
# The tree's levels, a name without a space in it, an invitation, caps and an override: all that is drawn.
LONG_NAME = "Photometric_redshifts_of_faint_galaxies_in_the_deep_fields_of_the_first_season"


@pytest.fixture
def served(site: Site) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The address of the pages, and the paths to look at by who looks."""
    for person in ("ann", "bob", "lead", "admin"):
        site.accept(person)
    whole = site.open("consortium", "Deep fields", "lead")
    part, lead = whole, Actor("lead")
    for level, name in enumerate((LONG_NAME, "Shear", "Simulations")):
        site.clock.at_ms += 1
        part = site.services.tree.divide(
            lead, part, name=name, microcredits=(900 - 200 * level) * CREDIT, guaranteed=True, lead="lead", gpu_hours=9
        )
        site.services.tree.divide(lead, whole, name=f"{name} 2", microcredits=CREDIT, guaranteed=False, lead="lead")
    site.join(whole, "ann")
    site.services.members.invite(lead, whole, "bob", MemberRole.MANAGER, servers_max=1, cores_max=16, gpus_max=0)
    site.services.overrides.grant(
        Actor("admin", admin=True), OverrideSubject.ALLOCATION, whole, OverrideLimits(cores=1024), "A meeting.", 30
    )
    paths = {
        "bob": ["/"],
        "ann": [f"/allocations/{whole}/leave"],
        "lead": [
            f"/allocations/{whole}",
            f"/allocations/{whole}/member?person=ann",
            f"/allocations/{part}/share",
            f"/allocations/{part}/close",
        ],
        "admin": ["/admin/allocations", f"/admin/allocations/{whole}", "/admin/overrides"],
    }
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(site.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", paths
        server.should_exit = True
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    served: tuple[str, dict[str, list[str]]], scheme: Literal["light", "dark"], width: int
) -> None:
    url, paths = served
    axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
    faults: dict[str, Any] = {}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        for person, looked_at in paths.items():
            # The pages' content policy is set aside for axe alone.
            context = chromium.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
            )
            context.add_cookies([{"name": SESSION_COOKIE, "value": person, "url": url}])
            page = context.new_page()
            for path in looked_at:
                response = page.goto(f"{url}{PREFIX}{path}")
                assert response is not None
                assert response.status == 200, path
                page.evaluate(axe)
                found = page.evaluate(
                    "axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))"
                )
                wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
                if found or wide:
                    faults[path] = (found, "scrolls sideways" if wide else "")
            context.close()
        chromium.close()
    assert faults == {}
