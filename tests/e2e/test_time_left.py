"""JupyterLab shows how long its server can go on, warns before it stops, and extends it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import new_context
from tests.e2e.notebooks import notebook
from tests.e2e.platform import Person, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route

    from tests.e2e.platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SLOW_MS = 120_000
# JupyterLab puts the time behind its addresses, so that nothing is cached.
ADDRESS = re.compile(r"/user/researcher/meridian/session(\?|$)")


@pytest.fixture(scope="module")
def researcher(platform: Platform) -> Person:
    person = platform.person("researcher")
    person.start_server(person.accept_agreement()["id"])
    return person


@pytest.fixture
def page(platform: Platform, browser: Browser, researcher: Person) -> Iterator[Page]:
    context = new_context(browser, base_url=platform.url, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto("/hub/login?next=/hub/home")
    page.get_by_label("User name").fill("researcher")
    page.get_by_label("Password").fill(platform.password("researcher"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/hub/home")
    yield page
    context.close()


def open_lab(page: Page) -> None:
    page.goto("/user/researcher/lab")
    page.locator(".jp-Launcher, .jp-NotebookPanel").first.wait_for(timeout=SLOW_MS)


def made_up(seconds_left: float, **changes: Any) -> dict[str, Any]:
    """A session as the hub tells it."""
    now = datetime.now(UTC)
    return {
        "allocation_name": "Entry",
        "microcredits_per_hour": 46_800,
        "now": now.isoformat(),
        "stops_at": (now + timedelta(seconds=seconds_left + 0.9)).isoformat(),
        "idle_stops_at": (now + timedelta(days=2)).isoformat(),
        "detail": "The balance of “Entry” is spent then.",
        "remedy": "Stop what you do not need, or ask for more.",
        "remedy_url": "/services/allocations/requests/new",
        "warn_before_stop_seconds": [900, 300, 60],
    } | changes


class Answers:
    """Stands between JupyterLab and its server: `session` is what the next question is answered with, None for 503."""

    def __init__(self, page: Page, session: dict[str, Any] | None) -> None:
        self.session = session
        self.extended = 0
        self.page = page
        page.route(ADDRESS, self.answer)

    def answer(self, route: Route) -> None:
        self.extended += route.request.method == "POST"
        if self.session is None:
            route.fulfill(status=503, body=json.dumps({"message": "The hub does not answer."}))
        else:
            route.fulfill(json=self.session)

    def next(self, session: dict[str, Any] | None) -> None:
        """Answer with another session from now on, and let JupyterLab look: its window comes back into sight."""
        self.session = session
        with self.page.expect_response(ADDRESS):
            self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_1_time_and_price_stand_in_the_status_bar_and_a_suspension_warns(
    platform: Platform, page: Page, researcher: Person
) -> None:
    open_lab(page)
    item = page.locator("#jp-main-statusbar").get_by_role("link", name="credits/h")
    expect(item).to_have_text(re.compile(r"^23 h \d+ min left · 0\.047 credits/h$"), timeout=SLOW_MS)
    assert (item.get_attribute("href") or "").endswith("/hub/home")
    toast = page.locator(".jp-toastContainer .Toastify__toast")
    expect(toast.filter(has_text="Your server stops")).to_have_count(0)

    admin = platform.person("admin")
    admin.accept_agreement()
    allocation = researcher.allocation("entry")["id"]
    assert admin.call("POST", f"/allocations/{allocation}/suspend", {"why": "a test"}).status_code == 200

    def warned() -> bool:
        page.reload()
        page.locator(".jp-Launcher, .jp-NotebookPanel").first.wait_for(timeout=SLOW_MS)
        expect(item).to_be_visible(timeout=SLOW_MS)
        page.wait_for_timeout(1500)
        return toast.filter(has_text="is suspended").count() == 1

    wait_for("the warning", warned, 120)
    expect(toast.filter(has_text="is suspended")).to_have_text(
        re.compile(r"Your server stops in \d+ min: save your work")
    )
    page.screenshot(path=str(platform.state.parent / "lab-warning.png"))

    assert admin.call("POST", f"/allocations/{allocation}/resume", {"why": "a test"}).status_code == 200
    toast.get_by_role("button", name="Extend").click()
    expect(toast.filter(has_text="can go on for 23 h")).to_be_visible(timeout=SLOW_MS)
    expect(toast.filter(has_text="is suspended")).to_have_count(0)
    expect(item).to_have_text(re.compile("^23 h"))


def test_2_each_warning_comes_once_with_what_to_do_and_goes_when_there_is_time_again(page: Page) -> None:
    answers = Answers(page, made_up(3600))
    open_lab(page)
    item = page.locator("#jp-main-statusbar").get_by_role("link", name="credits/h")
    expect(item).to_have_text(re.compile("^(1 h|59 min) left"), timeout=SLOW_MS)
    toast = page.locator(".jp-toastContainer .Toastify__toast").filter(has_text="Your server stops in")
    expect(toast).to_have_count(0)
    stop = made_up(840)
    answers.next(stop)
    expect(toast).to_have_count(1)
    expect(toast).to_contain_text("Your server stops in 14 min: save your work. The balance of “Entry” is spent then.")
    # The same stop again warns no second time, also where somebody has closed the warning.
    toast.get_by_title("Hide notification").click()
    expect(toast).to_have_count(0)
    answers.next(stop)
    page.wait_for_timeout(1500)
    expect(toast).to_have_count(0)
    # Nearer, it does.
    stop["now"] = (datetime.fromisoformat(stop["stops_at"]) - timedelta(seconds=290)).isoformat()
    answers.next(stop)
    expect(toast).to_contain_text("stops in 4 min")
    with page.expect_popup() as opened:
        toast.get_by_role("button", name="What to do").click()
    assert "/services/allocations/" in opened.value.url
    # What is covered by another window takes its time to go away.
    opened.value.close()
    page.bring_to_front()
    stop["now"] = (datetime.fromisoformat(stop["stops_at"]) - timedelta(seconds=50)).isoformat()
    answers.next(stop)
    # The warning before slides out beside the new one: only that one's absence says that there is one.
    expect(toast.filter(has_text="stops in 4 min")).to_have_count(0)
    expect(toast).to_contain_text(re.compile(r"stops in \d\d s"))
    answers.session = made_up(7200)
    toast.get_by_role("button", name="Extend").click()
    expect(toast).to_have_count(0)
    assert answers.extended == 1
    # Nobody uses it: what is near counts, and what to do about it.
    answers.next(made_up(7200, idle_stops_at=(datetime.now(UTC) + timedelta(seconds=200)).isoformat()))
    expect(toast).to_contain_text("It is not used. Extend it to keep it.")


def test_3_without_an_answer_jupyterlab_is_as_it_always_was(page: Page) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    answers = Answers(page, None)
    open_lab(page)
    expect(page.locator("#jp-main-statusbar")).to_be_visible()
    item = page.locator("#jp-main-statusbar").get_by_role("link", name="credits/h")
    expect(item).to_have_count(0)
    answers.next(made_up(3600))
    expect(item).to_be_visible()
    # What was known goes on to count down.
    answers.next(None)
    expect(item).to_contain_text("left")
    assert faults == []


def test_4_the_servers_page_and_the_home_page_extend_it_too(page: Page) -> None:
    page.goto("/hub/home")
    expect(page.get_by_text("h at most").or_(page.get_by_text("min at most")).first).to_be_visible()
    page.get_by_role("button", name="Extend the default server").click()
    expect(page.get_by_role("status").filter(has_text="Your default server is extended.")).to_be_visible()
    page.goto("/services/allocations/")
    page.get_by_role("button", name="Extend default server").click()
    expect(page.get_by_text("The server is extended.")).to_be_visible()


def test_5_a_token_of_one_scope_is_made_used_and_revoked(page: Page, platform: Platform) -> None:
    page.goto("/hub/token")
    page.get_by_label("What is it for?").fill("nightly reduction")
    runs = page.get_by_label("Submit notebooks to run in batch")
    runs.uncheck()
    page.get_by_role("button", name="Make the token").click()
    expect(page.get_by_role("alert")).to_have_text("Tick at least one thing that the token may do.")
    runs.check()
    page.get_by_role("button", name="Make the token").click()
    expect(page.get_by_role("heading", name="Your new token")).to_be_focused()
    token = page.locator("#token-result").inner_text()
    assert "Entry allocation of researcher" in platform.meridian("batch", "options", token=token).stdout
    holder = Person(platform, "researcher", token)
    assert holder.call("GET", "/allocations").json()["code"] == "missing_scope"
    page.reload()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke nightly reduction").click()
    expect(page.get_by_role("status").filter(has_text="“nightly reduction” is revoked.")).to_be_focused()
    assert "nightly reduction" not in page.get_by_role("table", name="Your tokens").inner_text()
    # The service asks the hub about a token once a minute at most.
    wait_for("the refusal", lambda: platform.meridian("batch", "options", token=token, check=False).returncode, 120)


def test_6_a_notebook_is_brought_from_the_file_browser_to_its_form_and_run(
    page: Page, platform: Platform, researcher: Person
) -> None:
    home = platform.state / "homes" / "researcher"
    notebook(home / "measure.ipynb", "aperture = 3  # in pixels", "print('aperture', aperture)")
    open_lab(page)
    page.get_by_role("button", name="Refresh the file browser").click()
    page.locator(".jp-DirListing-item", has_text="measure.ipynb").click(button="right")
    with page.expect_popup() as opened:
        page.locator(".lm-Menu-item", has_text="Run in Batch").click()
    form = opened.value
    expect(form.get_by_role("heading", name="Run measure.ipynb")).to_be_visible(timeout=SLOW_MS)
    expect(form.get_by_text("from your home: measure.ipynb")).to_be_visible()
    expect(form.get_by_label("aperture")).to_have_value("3")
    form.screenshot(path=str(platform.state.parent / "lab-form.png"))
    form.get_by_label("aperture").fill("5")
    form.get_by_role("button", name="Submit the run").click()
    form.wait_for_url(re.compile(r"/runs/r-[0-9a-f]+"))
    run = researcher.call("GET", "/runs").json()["runs"][0]
    assert (run["parameters"], run["source"]["kind"], run["source"]["path"]) == (
        {"aperture": 5},
        "home",
        "measure.ipynb",
    )
    form.close()
    # From the open notebook it is the same, with what was not saved yet.
    page.locator(".jp-DirListing-item", has_text="measure.ipynb").dblclick()
    button = page.locator(".jp-NotebookPanel").get_by_role("button", name="Run in batch")
    expect(button).to_be_visible(timeout=SLOW_MS)
    page.screenshot(path=str(platform.state.parent / "lab-run-in-batch.png"))
    with page.expect_popup() as opened:
        button.click()
    expect(opened.value.get_by_role("heading", name="Run measure.ipynb")).to_be_visible(timeout=SLOW_MS)
