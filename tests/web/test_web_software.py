"""The page of images, and their choice in the form of runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
from click.testing import CliRunner

from allocations.api.identity import Identity
from allocations.factory import make_services
from hub.batch.commands import batch
from hub.batch.terminal import out
from tests.allocations.test_images import OWN, policy_of_tests
from tests.serving import serving
from tests.web.conftest import NOTEBOOK, SCOPES
from tests.web.looking import faults_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.web.conftest import Site


@pytest.fixture
def site(site: Site) -> Site:
    """The site of an installation with containers and a catalogue of versions."""
    services = make_services(
        site.services.database, policy_of_tests(), site.run_store, site.clock, runs_containers=True
    )
    site.app.state.services = services
    return replace(site, services=services)


def rows(html: str) -> list[str]:
    """The rows of versions, as text."""
    found = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in found]


def test_the_page_says_what_each_version_is_and_until_when(site: Site) -> None:
    page = site.browser("bob").get("/software")
    assert page.status_code == 200
    assert rows(page.text)[1:] == [
        "base now 2027.01 recommended 10 Jan 2027 no end set",
        "base:w03 weekly 14 Jan 2027 ends soon 28 Jan 2027",
        "base:2026.11 pinned 20 Nov 2026 ends soon 1 Feb 2027 Old.",
        "base:2026.06 pinned 1 Jun 2026 ended 1 Jan 2027",
    ]
    assert "GPU; started with GPU if no other image is chosen" in page.text
    assert "On an allocation of the Consortium tier" in page.text
    assert "registry.example.org/team" in page.text
    assert "own Python environment" not in page.text


def test_without_containers_the_page_says_that_images_make_no_difference(site: Site) -> None:
    services = make_services(site.services.database, policy_of_tests(), site.run_store, site.clock)
    site.app.state.services = services
    page = site.browser("bob").get("/software").text
    assert "every image is the machine’s own Python environment" in page
    assert "Container images of your own cannot be started here." in page


def test_the_form_of_runs_offers_versions_and_queues_the_one_chosen(site: Site) -> None:
    entry, browser = site.accept("ann"), site.browser("ann")
    form = browser.get("/runs/new?example=wfi-cutouts.ipynb").text
    assert re.findall(r'<option value="([^"]*)"( selected)?', form) == [
        ("base", " selected"),
        ("base:w03", ""),
        ("base:2026.11", ""),
    ]
    assert "custom_image" not in form
    run = site.submit_run("ann", entry, NOTEBOOK, image="base:2026.11")
    again = browser.get(f"/runs/new?again={run}").text
    assert 'value="base:2026.11" selected' in again
    assert "Astronomy base 2026.11, which is chosen, ends on 1 Feb 2027" in again


def test_an_image_of_ones_own_is_submitted_and_a_denial_keeps_what_was_typed(site: Site) -> None:
    site.accept("lead")
    deep, browser = site.open("consortium", "Deep fields", "lead"), site.browser("lead")
    form = browser.get("/runs/new?example=wfi-cutouts.ipynb").text
    key = re.search(r'name="key" value="([^"]+)"', form)
    assert key
    fields = {"example": "wfi-cutouts.ipynb", "choice": f"{deep}::small", "image": "", "minutes": "5"}
    fields |= {"retries": "0", "key": key[1]}
    refused = browser.post("/runs", fields | {"parameters": "", "custom_image": "other.example.org/lab:1"})
    assert refused.status_code == 403
    assert "may not come from this registry" in refused.text
    assert 'value="other.example.org/lab:1"' in refused.text
    for wrong in ("x" * 300 + "/", "a b/c:1", "registry.example.org/team/lab:1;id"):
        assert browser.post("/runs", fields | {"parameters": "", "custom_image": wrong}).status_code == 422
    sent = browser.post("/runs", fields | {"parameters": "", "custom_image": f" {OWN} "})
    assert sent.status_code == 303
    [run] = site.services.runs.list_of("lead")
    assert run.image == OWN
    assert f'value="{OWN}"' in browser.get(f"/runs/new?again={run.id}").text


def test_the_command_line_lists_what_may_be_asked_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def from_token(token: str, session_id: str = "") -> Identity:
        del session_id
        return Identity(token, SCOPES[token])

    # The hub, which is asked about tokens in the end-to-end tests.
    monkeypatch.setattr(site.identities, "from_token", from_token)
    # A terminal into which every column fits.
    monkeypatch.setattr(out, "width", 200)
    site.accept("ann")
    site.accept("lead")
    site.open("consortium", "Deep fields", "lead")
    with serving(site.app) as url:
        environment = {"MERIDIAN_URL": url, "MERIDIAN_TOKEN": "lead"}
        table = CliRunner().invoke(batch, ["images"], env=environment)
        found = CliRunner().invoke(batch, ["images", "--json"], env=environment)
        without = CliRunner().invoke(batch, ["images"], env=environment | {"MERIDIAN_TOKEN": "ann"})
    assert (table.exit_code, found.exit_code, without.exit_code) == (0, 0, 0)
    lines = [" ".join(re.sub("[│┃]", " ", line).split()) for line in table.stdout.splitlines()]
    for expected in (
        "base Astronomy base 2027.01 recommended 2027-01-10",
        "base:w03 Astronomy base w03 weekly 2027-01-14 2027-01-28",
        "base:2026.11 Astronomy base 2026.11 pinned 2026-11-20 2027-02-01 Old.",
        "Or a container image of your own, from: registry.example.org/team.",
    ):
        assert expected in lines
    # What has ended cannot be asked for.
    assert "2026.06" not in table.stdout
    answer = json.loads(found.stdout)
    assert [image["name"] for image in answer["images"]] == ["base", "pipeline"]
    assert answer["custom_images"]["registries"] == ["registry.example.org/team"]
    assert "of your own" not in without.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    site: Site, scheme: Literal["light", "dark"], width: int
) -> None:
    site.accept("ann")
    site.accept("lead")
    site.open("consortium", "Deep fields", "lead")
    with serving(site.app) as url:
        paths = {"ann": ["/software", "/runs/new"], "lead": ["/runs/new"]}
        assert faults_of(url, paths, scheme, width, unfold) == {}


def unfold(page: Page, _path: str) -> None:
    for folded in page.locator("details:not(.m-menu)").all():
        folded.evaluate("element => { element.open = true; }")
