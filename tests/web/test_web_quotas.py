"""Why a limit is what it is: its source, what is used of it, and how to get more."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from allocations.app import PREFIX
from allocations.db.idempotency import IdempotencyKey
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject

if TYPE_CHECKING:
    from tests.web.conftest import Site

CREDIT = 1_000_000
ADMIN = Actor("admin", admin=True)


def section(page: str, allocation: str) -> str:
    """What the page says of an allocation."""
    return page[page.index(f'<h2 id="{allocation}">') :].partition("</section>")[0]


def card(text: str, title: str) -> str:
    """What it says of a limit, tags taken away but for links."""
    found = text[text.index(f"<h3>{title}</h3>") :].partition("</li>")[0]
    return " ".join(re.sub(r"<(?!a )[^>]+>", " ", found).split())


def start(site: Site, allocation: str, person: str) -> None:
    request = LeaseRequest(allocation, person, LeaseKind.INTERACTIVE, "small", None, "")
    key = IdempotencyKey.for_request("spawner", f"{allocation}-{person}", "a", {})
    site.services.leases.start(site.services.leases.acquire(request, key).id)


def test_the_tiers_limits_say_so_and_lead_to_the_request_for_a_higher_tier(site: Site) -> None:
    entry = site.accept("ann")
    text = section(site.browser("ann").get("/quota").text, entry)
    servers = card(text, "Your servers at once")
    assert "1 server" in servers
    assert "0 of 1 in use" in servers
    assert "As every allocation of the Entry tier." in servers
    assert f'<a href="{PREFIX}/requests/new?tier=research">Request a Research allocation' in servers
    assert "all in use" not in servers
    assert "no GPUs" in card(text, "GPUs at once, of everybody")
    assert "2 cores with 16 GiB" in card(text, "Largest server or run")
    assert "Sizes within it: Small, Standard" in card(text, "Largest server or run")
    assert "1 d" in card(text, "Longest session")
    assert "1 h" in card(text, "Stopped when idle for")
    assert "30.00 left" in card(text, "Credits")
    assert "Your cores at once" not in text


def test_a_limit_that_is_reached_says_so_and_how_to_make_room(site: Site) -> None:
    entry = site.accept("ann")
    start(site, entry, "ann")
    text = section(site.browser("ann").get("/quota").text, entry)
    servers = card(text, "Your servers at once")
    assert "1 of 1 in use" in servers
    assert "all in use" in servers
    assert '<a href="/hub/home">Stop a server' in servers
    assert "1 of 2 in use" in card(text, "Cores at once, of everybody")
    assert "all in use" not in card(text, "Cores at once, of everybody")


def test_an_award_an_exception_a_cap_and_the_allocation_above_are_told_apart(site: Site) -> None:
    site.accept("ann")
    whole = site.open("consortium", "Deep fields", "lead")
    lead = Actor("lead")
    part = site.services.tree.divide(
        lead, whole, name="Shear", microcredits=5_000 * CREDIT, guaranteed=False, lead="lead", gpu_hours=3
    )
    site.join(part, "ann")
    site.services.members.change(lead, part, "ann", cores_max=16)
    site.services.overrides.grant(
        ADMIN, OverrideSubject.ALLOCATION, whole, OverrideLimits(gpus=8), "A <b>workshop</b>.", 30
    )
    text = section(site.browser("ann").get("/quota").text, part)
    gpus = card(text, "GPUs at once, of everybody")
    assert "exception An exception for “Deep fields”, made by admin: A &lt;b&gt;workshop&lt;/b&gt;." in gpus
    assert "Until 14 Feb 2027, 08:00 UTC" in gpus
    assert "write to the administrators" in gpus
    cores = card(text, "Your cores at once")
    assert "16 cores" in cores
    assert "set for you Set for ann by those who manage the allocation." in cores
    assert f'<a href="{PREFIX}/allocations/{part}#members">Ask who leads or manages this allocation' in cores
    assert "allocation above “Deep fields”, which this allocation is part of, has no more left." in card(
        text, "Credits"
    )
    assert "3 left" in card(text, "GPU-hours")
    assert "the allocation above for a larger share" in card(text, "Credits")
    assert "the allocation above to request more" in card(text, "Your servers at once")


def test_who_leads_the_whole_is_led_to_the_form_for_more(site: Site) -> None:
    site.accept("lead")
    whole = site.open("consortium", "Deep fields", "lead")
    site.join(whole, "ann")
    asks = f'href="{PREFIX}/allocations/{whole}/ask"'
    assert asks in section(site.browser("lead").get("/quota").text, whole)
    site.accept("ann")
    assert asks not in section(site.browser("ann").get("/quota").text, whole)
    site.services.members.change(Actor("lead"), whole, "ann", role=MemberRole.MANAGER)
    assert asks in section(site.browser("ann").get("/quota").text, whole)


def test_an_allocation_that_can_not_be_spent_says_why_and_one_that_is_over_has_no_limits(site: Site) -> None:
    entry = site.accept("lead")
    whole = site.open("consortium", "Deep fields", "lead")
    site.services.lifecycle.suspend(ADMIN, whole, "An inquiry.")
    page = site.browser("lead").get("/quota").text
    assert "“Deep fields” is suspended." in section(page, whole)
    assert "Nothing can be started" not in section(page, entry)
    assert page.index(f'id="{entry}"') < page.index(f'id="{whole}"'), "what can be used comes first"
    site.services.lifecycle.archive(ADMIN, whole, "It is over.")
    assert "<h3>" not in section(site.browser("lead").get("/quota").text, whole)


def test_without_an_allocation_the_page_says_what_to_do(site: Site) -> None:
    page = site.browser("ann").get("/quota").text
    assert "You are not a member of any allocation" in page
    assert f'href="{PREFIX}/requests/new"' in page


def test_home_and_denials_lead_to_the_limits(site: Site) -> None:
    entry = site.accept("ann")
    assert f'href="{PREFIX}/quota#{entry}"' in site.browser("ann").get("/").text
    browser = site.browser("ann")
    fields = {"choice": f"{entry}::xlarge", "minutes": "10", "retries": "0", "key": "k"}
    response = browser.post("/runs", fields | {"example": "wfi-cutouts.ipynb"})
    assert response.status_code == 403
    assert f'href="{PREFIX}/quota"' in response.text.partition("<main")[2]
    refused = browser.post("/agreement", {"version": "older"})
    assert f'href="{PREFIX}/quota"' not in refused.text.partition("<main")[2]
