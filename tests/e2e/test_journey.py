"""What a new user does, in a real browser, against the real proxy, hub, service, JupyterLab and batch process."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import expect

from tests.e2e.conftest import new_context
from tests.e2e.notebooks import notebook
from tests.e2e.platform import ROOT, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.e2e.platform import Person, Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
HOME = "/services/allocations/"
AT_HOME = re.compile(re.escape(HOME) + r"(\?.*)?$")
SLOW_MS = 120_000


@pytest.fixture
def pages(platform: Platform, browser: Browser) -> Iterator[Any]:
    """Open a page as somebody; each has a browser context of their own."""
    contexts = []

    def open_as(name: str) -> Page:
        context = new_context(browser, base_url=platform.url, viewport={"width": 1200, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.goto("/")
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(platform.password(name))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(re.escape(HOME)))
        if "/agreement" in page.url:
            page.get_by_role("button", name="Accept").click()
            page.wait_for_url(AT_HOME)
        return page

    yield open_as
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def researcher(platform: Platform) -> Person:
    return platform.person("researcher")


def test_1_sign_in_accept_the_agreement_once_and_have_an_entry_allocation(platform: Platform, browser: Browser) -> None:
    context = new_context(browser, base_url=platform.url)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("User name").fill("researcher")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Invalid username or password")).to_be_visible()
    page.get_by_label("User name").fill("researcher")
    page.get_by_label("Password").fill(platform.password("researcher"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/agreement*")
    expect(page.get_by_text("Computing is counted.")).to_be_visible()
    page.get_by_role("button", name="Accept").click()
    page.wait_for_url(AT_HOME)
    expect(page.get_by_role("link", name="Entry allocation of researcher")).to_be_visible()
    expect(page.get_by_text("Local mode")).to_be_visible()
    page.goto(HOME)
    expect(page).to_have_url(f"{platform.url}{HOME}")
    session = next(cookie for cookie in context.cookies() if cookie.get("name") == "meridian-session")
    assert session.get("httpOnly")
    assert session.get("sameSite") == "Lax"
    context.close()


def test_2_start_a_server_run_a_cell_and_be_charged_to_the_second(
    platform: Platform, pages: Any, researcher: Person
) -> None:
    page = pages("researcher")
    page.goto("/hub/spawn")
    entry = researcher.allocation("entry")["id"]
    small = page.locator(f'input[value="{entry}::small"]')
    expect(small).to_be_enabled()
    expect(page.locator(f'input[value="{entry}::xlarge"]')).to_be_disabled()
    expect(
        page.get_by_text("Extra large (16 cores, 64 GiB) is above the largest of the Entry tier").first
    ).to_be_visible()
    expect(page.get_by_text("0.047 credits an hour").first).to_be_visible()
    small.check()
    page.get_by_role("button", name="Start server").click()
    page.wait_for_url(re.compile(r"/user/researcher/lab"), timeout=SLOW_MS)
    run_a_cell(page)

    home = pages("researcher")
    expect(home.get_by_text("core-hours").first.or_(home.get_by_text("Running now"))).to_be_visible()
    expect(home.locator("main")).to_contain_text("Small", ignore_case=True)
    [lease] = [one for one in researcher.leases() if one["state"] == "open"]
    assert lease["held_microcredits"] == 13 * 900
    # The button works when the page's scripts have come.
    home.goto("/hub/home", wait_until="networkidle")
    home.locator("#stop-default-server").click()
    wait_for("the settled lease", lambda: researcher.leases()[0]["state"] == "settled")
    lease = researcher.leases()[0]
    ran = datetime.fromisoformat(lease["ended_at"]) - datetime.fromisoformat(lease["started_at"])
    assert lease["charged_microcredits"] == 13 * int(ran.total_seconds())
    home.goto(HOME)
    expect(home.get_by_text("Nothing is running")).to_be_visible()
    expect(home.locator("main")).to_contain_text("core-hours")
    platform.audit()


def run_a_cell(page: Page, code: str = "print('answer', 6 * 7)", answer: str = "answer 42") -> None:
    """Type code into a notebook's first cell, run it, and read the answer; opens a notebook where none is open."""
    cell = page.locator(".jp-Notebook .jp-Cell .cm-content").first
    launcher = page.locator('.jp-LauncherCard[data-category="Notebook"]').first
    cell.or_(launcher).first.wait_for(timeout=SLOW_MS)
    if not cell.is_visible():
        launcher.click()
    cell.click(timeout=SLOW_MS)
    page.keyboard.press("Control+a")
    page.keyboard.type(code)
    expect(cell).to_contain_text(code)
    output = page.locator(".jp-OutputArea-output", has_text=answer).first

    def run_and_look() -> bool:
        # Now and then a run that is asked for just after the kernel came up leaves no trace: a person presses again.
        cell.click()
        page.keyboard.press("Control+Enter")
        with suppress(PlaywrightTimeoutError):
            output.wait_for(timeout=15_000)
        return output.is_visible()

    wait_for("the cell's output", run_and_look, SLOW_MS / 1000)


def test_3_the_home_page_is_live(platform: Platform, pages: Any, researcher: Person) -> None:
    page = pages("researcher")
    expect(page.get_by_text("Nothing is running")).to_be_visible()
    researcher.start_server(researcher.allocation("entry")["id"])
    expect(page.get_by_text("Nothing is running")).to_be_hidden(timeout=20_000)
    researcher.stop_server()
    expect(page.get_by_text("Nothing is running")).to_be_visible(timeout=20_000)
    platform.audit()


def test_4_a_notebook_in_batch_from_the_command_line(
    platform: Platform, pages: Any, researcher: Person, tmp_path: Path
) -> None:
    entry = researcher.allocation("entry")["id"]
    page = pages("researcher")
    submitted = platform.meridian(
        "batch", "submit", ROOT / "example-notebooks" / "wfi-cutouts.ipynb",
        "-p", "n_cutouts", "300", "--allocation", entry, "--size", "standard", "--json",
        token=researcher.token,
    )  # fmt: skip
    run = json.loads(submitted.stdout)["id"]
    page.goto(f"{HOME}runs/{run}")
    expect(page.locator("main")).to_contain_text("running", ignore_case=True, timeout=60_000)
    done = json.loads(platform.meridian("batch", "wait", run, "--json", token=researcher.token).stdout)
    assert done["state"] == "succeeded"
    ran = datetime.fromisoformat(done["ended_at"]) - datetime.fromisoformat(done["started_at"])
    assert done["charged_microcredits"] == 34 * int(ran.total_seconds())
    expect(page.locator("main")).to_contain_text("succeeded", ignore_case=True, timeout=20_000)
    platform.meridian("batch", "output", run, "-o", tmp_path, token=researcher.token)
    executed = json.loads((tmp_path / "wfi-cutouts.ipynb").read_text())
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "n_cutouts = 300" in json.dumps(executed)
    assert platform.meridian("batch", "logs", run, token=researcher.token).stdout
    response = page.goto(f"{HOME}runs/{run}/notebook")
    assert response.ok
    assert "sandbox" in response.headers["content-security-policy"]
    expect(page.locator("img").first).to_be_visible()
    platform.audit()


def test_4_an_exception_is_a_failed_run_that_names_the_cell(
    platform: Platform, pages: Any, researcher: Person, tmp_path: Path
) -> None:
    path = notebook(
        tmp_path / "breaks.ipynb", "n = 1", "print('before')", "raise ValueError('bad detector WFI07')", "1"
    )
    page = pages("researcher")
    page.goto(f"{HOME}runs")
    page.get_by_role("link", name=re.compile("Run a notebook|Submit")).first.click()
    page.set_input_files("input[type=file]", path)
    page.get_by_role("button", name="Go on to its parameters").click()
    entry = researcher.allocation("entry")["id"]
    page.locator(f'input[type=radio][value*="{entry}"][value*="small"]').check()
    page.get_by_label("n", exact=True).fill("5")
    page.get_by_role("button", name="Submit the run").click()
    page.wait_for_url(re.compile(r"/runs/r-[0-9a-f]+"))
    expect(page.locator("main")).to_contain_text("bad detector WFI07", timeout=60_000)
    expect(page.locator("main")).to_contain_text("cell 3", ignore_case=True)
    expect(page.locator("pre", has_text="ValueError").first).to_be_visible()
    platform.audit()


def test_4_cancelling_settles_what_was_used(platform: Platform, researcher: Person, tmp_path: Path) -> None:
    path = notebook(tmp_path / "long.ipynb", "n = 1", "import time\nfor _ in range(600): time.sleep(0.5)")
    entry = researcher.allocation("entry")["id"]
    command = ("batch", "submit", path, "--allocation", entry, "--size", "small", "--max-minutes", "20", "--json")
    run = json.loads(platform.meridian(*command, token=researcher.token).stdout)["id"]

    def state() -> dict[str, Any]:
        found: dict[str, Any] = researcher.call("GET", f"/runs/{run}").json()
        return found

    wait_for("the running notebook", lambda: state()["state"] == "running", 60)
    assert state()["held_microcredits"] == 13 * 1200
    time.sleep(4)
    platform.meridian("batch", "cancel", run, token=researcher.token)
    wait_for("the cancelled run", lambda: state()["state"] == "cancelled", 60)
    ended = state()
    ran = datetime.fromisoformat(ended["ended_at"]) - datetime.fromisoformat(ended["started_at"])
    assert ended["charged_microcredits"] == 13 * int(ran.total_seconds()) > 0
    assert ended["held_microcredits"] == 0
    platform.audit()


def test_4_killing_the_batch_process_keeps_the_run(platform: Platform, researcher: Person, tmp_path: Path) -> None:
    path = notebook(tmp_path / "survives.ipynb", "n = 1", "import time; time.sleep(12); print('survived')")
    entry = researcher.allocation("entry")["id"]
    command = ("batch", "submit", path, "--allocation", entry, "--size", "small", "--json")
    run = json.loads(platform.meridian(*command, token=researcher.token).stdout)["id"]
    wait_for("the running notebook", lambda: researcher.call("GET", f"/runs/{run}").json()["state"] == "running", 60)
    platform.kill("batch")
    done = json.loads(platform.meridian("batch", "wait", run, "--json", token=researcher.token).stdout)
    assert (done["state"], done["attempt"]) == ("succeeded", 1)
    assert "survived" in platform.meridian("batch", "logs", run, token=researcher.token).stdout
    platform.audit()


def test_5_a_lead_divides_a_consortium(platform: Platform, pages: Any) -> None:
    page = pages("lead")
    page.get_by_role("link", name="Demonstration consortium").click()
    page.get_by_label("Name", exact=True).fill("Photometric redshifts <b>")
    page.get_by_label("Credits", exact=True).fill("1200.5")
    page.get_by_label("Lead", exact=True).fill("researcher")
    page.get_by_role("button", name="Add sub-allocation").click()
    expect(page.locator("main")).to_contain_text("Photometric redshifts <b>")
    expect(page.locator("main")).to_contain_text("1,200.5")
    member = pages("researcher")
    expect(member.get_by_role("link", name="Photometric redshifts <b>")).to_be_visible()
    platform.audit()


def test_5_a_researcher_requests_a_reviewer_approves_an_administrator_reads_the_log(
    platform: Platform, pages: Any
) -> None:
    page = pages("researcher")
    page.goto(f"{HOME}requests/new")
    page.get_by_label(re.compile("Research")).first.check()
    page.get_by_label("Title").fill("Dark stars")
    page.get_by_role("textbox", name="Justification").fill("We look for them in the deep fields.")
    page.get_by_role("button", name="Submit the request").click()
    expect(page.locator("main")).to_contain_text("submitted", ignore_case=True)

    reviewer = pages("reviewer")
    reviewer.goto(f"{HOME}review")
    reviewer.get_by_role("link", name="Dark stars").click()
    reviewer.get_by_role("button", name="Approve").click()
    expect(reviewer.locator("main")).to_contain_text("approved", ignore_case=True)

    page.goto(HOME)
    expect(page.get_by_role("link", name="Dark stars")).to_be_visible()
    assert page.goto(f"{HOME}admin/audit").status == 403
    admin = pages("admin")
    admin.goto(f"{HOME}admin/audit")
    expect(admin.locator("main")).to_contain_text("request.approve")
    expect(admin.locator("main")).to_contain_text("allocation.divide")
    platform.audit()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_6_axe_finds_nothing_and_nothing_scrolls_sideways_on_a_phone(
    platform: Platform, browser: Browser, scheme: Literal["light", "dark"]
) -> None:
    axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
    # Reading the page is the test's business, not the page's: its content policy is set aside for axe alone.
    context = new_context(
        browser, base_url=platform.url, viewport={"width": 360, "height": 740}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto("/")
    faults: dict[str, Any] = {}

    def look(path: str) -> None:
        page.evaluate(axe)
        violations = page.evaluate("axe.run().then(found => found.violations.map(one => [one.id, one.nodes[0].html]))")
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        if violations or wide:
            faults[path] = (violations, "scrolls sideways" if wide else "")

    look("/hub/login")
    page.get_by_label("User name").fill("researcher")
    page.get_by_label("Password").fill(platform.password("researcher"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(AT_HOME)
    own = (
        "",
        "runs",
        "runs/new",
        "runs/new?example=wfi-cutouts.ipynb",
        "requests",
        "requests/new",
        "notices",
        "policy",
        "agreement",
        "nothing-here",
        "admin/audit",
    )
    for path in (*(HOME + part for part in own), "/hub/spawn", "/hub/home", "/hub/token"):
        page.goto(path)
        look(path)
    context.close()
    assert faults == {}
