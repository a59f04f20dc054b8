"""A researcher's batch runs in a real browser: watched by cell and log, read, run again, failed, cancelled together."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hub.batch.client import BatchClient
from tests.e2e.conftest import new_context
from tests.e2e.kernels import execute, printed
from tests.e2e.notebooks import notebook
from tests.e2e.platform import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.e2e.platform import Person, Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
HOME = "/services/allocations/"
AT_RUN = re.compile(r"/runs/r-[0-9a-f]+(\?.*)?$")
SLOW_MS = 120_000
RICH = """
from IPython.display import HTML, display
display(HTML('<table><tr><td>in a table</td></tr></table><script>document.title = "broken out"</script>'
             '<img src="https://evil.example/x.png">'))
print('\\x1b[31mred\\x1b[0m', '<b>bold</b>', n)
"""


@pytest.fixture(scope="module")
def researcher(platform: Platform) -> Person:
    person = platform.person("researcher")
    person.accept_agreement()
    return person


@pytest.fixture
def page(platform: Platform, browser: Browser, researcher: Person) -> Iterator[Page]:
    """A page of the researcher's, where no script may fail."""
    context = new_context(browser, base_url=platform.url, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/")
    page.get_by_label("User name").fill("researcher")
    page.get_by_label("Password").fill(platform.password("researcher"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(re.escape(HOME)))
    yield page
    context.close()
    assert complaints == []


def submit(page: Page, path: Path, entry: str, n: int = 1) -> str:
    page.goto(f"{HOME}runs/new")
    page.set_input_files("input[type=file]", path)
    page.get_by_role("button", name="Go on to its parameters").click()
    page.locator(f'input[name=choice][value="{entry}::small"]').check()
    page.get_by_label("n", exact=True).fill(str(n))
    page.get_by_role("button", name="Submit the run").click()
    page.wait_for_url(AT_RUN)
    return re.search(r"r-[0-9a-f]+", page.url)[0]  # type: ignore[index]


def test_a_run_is_watched_read_and_run_again_with_another_parameter(
    page: Page, platform: Platform, researcher: Person, tmp_path: Path
) -> None:
    waits = "import time\nfor step in range(24):\n    print('step', step, flush=True); time.sleep(0.5)"
    path = notebook(tmp_path / "watched.ipynb", "n = 1", waits, RICH, "n + 1")
    entry = researcher.allocation("entry")["id"]
    submit(page, path, entry, 41)

    # Live, without a reload: the present cell is marked, and the log grows at its end.
    present = page.locator("#cells tr[aria-current=step]")
    expect(present).to_contain_text("import time", timeout=SLOW_MS)
    expect(present).to_contain_text("running")
    expect(page.locator("#log")).to_contain_text("step 3", timeout=SLOW_MS)
    expect(page.locator("#announcement")).to_contain_text("of 4 cells done", timeout=SLOW_MS)

    expect(page.locator("main")).to_contain_text("succeeded", timeout=SLOW_MS)
    expect(page.locator("#cells tbody tr")).to_have_count(4)
    expect(page.locator("#cells tbody tr").nth(1)).to_contain_text(re.compile(r"done\s+\d+ s"))
    expect(page.locator("#log")).to_contain_text("red <b>bold</b> 41")

    frame = page.frame_locator("iframe.p-notebook")
    page.locator("iframe.p-notebook").scroll_into_view_if_needed()
    expect(frame.locator("body")).to_contain_text("in a table", timeout=SLOW_MS)
    expect(frame.locator("body")).to_contain_text("42")
    assert frame.locator("script").count() == 0
    # Of a picture from elsewhere only its place is left.
    assert frame.locator("img[src], [onerror]").count() == 0
    expect(page).to_have_title(re.compile("^watched.ipynb"))

    page.get_by_role("link", name="Run again with other parameters").click()
    parameter = page.get_by_label("n", exact=True)
    expect(parameter).to_have_value("41")
    parameter.fill("99")
    page.get_by_role("button", name="Submit the run").click()
    page.wait_for_url(AT_RUN)
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.get_by_role("heading", name=re.compile("The run was cancelled"))).to_be_visible(timeout=SLOW_MS)
    newest = researcher.call("GET", "/runs").json()["runs"][0]
    assert (newest["name"], newest["parameters"]) == ("watched.ipynb", {"n": 99})
    platform.audit()


def test_a_kernel_that_dies_is_explained_and_the_way_on_leads_to_the_form(
    page: Page, platform: Platform, researcher: Person, tmp_path: Path
) -> None:
    path = notebook(tmp_path / "dies.ipynb", "n = 1", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "n")
    submit(page, path, researcher.allocation("entry")["id"])
    expect(page.get_by_role("heading", name="The notebook's kernel died")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#cells tbody tr").nth(1)).to_contain_text("failed")
    expect(page.locator("#cells tbody tr").nth(2)).to_contain_text("not reached")
    page.get_by_role("link", name="Run it again with a larger size").click()
    expect(page.get_by_role("heading", name="Run dies.ipynb again")).to_be_visible()
    platform.audit()


def test_several_are_ticked_and_cancelled_while_the_list_is_live(
    page: Page, platform: Platform, researcher: Person, tmp_path: Path
) -> None:
    path = notebook(tmp_path / "many.ipynb", "n = 1", "import time; time.sleep(300)")
    entry = researcher.allocation("entry")["id"]
    runs = [submit(page, path, entry, number) for number in range(3)]
    page.goto(f"{HOME}runs")
    page.get_by_label("State").select_option("waiting or running")
    page.get_by_role("button", name="Show", exact=True).click()
    boxes = page.locator("input[name=run]")
    expect(boxes).to_have_count(3)
    for run in runs[:2]:
        page.locator(f"#choose-{run}").check()
    # The list fetches itself anew and keeps what was ticked.
    with page.expect_response(
        lambda response: "/runs/live" in response.url and response.status == 200, timeout=SLOW_MS
    ):
        pass
    expect(page.locator("input[name=run]:checked")).to_have_count(2)
    page.get_by_role("button", name="Cancel the chosen runs").click()
    expect(page.get_by_text("The chosen runs are being cancelled")).to_be_visible()

    def states() -> list[str]:
        found = {run["id"]: run["state"] for run in researcher.call("GET", "/runs").json()["runs"]}
        return [found[run] for run in runs]

    wait_for("the cancelled runs", lambda: states()[:2] == ["cancelled", "cancelled"])
    assert states()[2] in {"queued", "admitted", "running"}
    researcher.call("POST", f"/runs/{runs[2]}/cancel")
    wait_for("the last one", lambda: states()[2] == "cancelled")
    platform.audit()


def test_a_run_asks_the_platform_with_the_token_that_its_person_keeps_for_it(
    platform: Platform, researcher: Person
) -> None:
    home = platform.state / "homes" / "researcher"
    entry = researcher.allocation("entry")["id"]
    notebook(
        home / "asks.ipynb",
        "from hub.batch import record\nfrom hub.batch.client import BatchClient",
        "with BatchClient.from_environment() as whole:\n    record('newest', whole.list()[0].id)",
    )
    with BatchClient(platform.url, researcher.token) as client:
        client.set_secret("MERIDIAN_TOKEN", researcher.token)
        asked = client.submit(home / "asks.ipynb", entry, "small", environment=["MERIDIAN_TOKEN"])
        ended = client.wait(asked.id)
        client.remove_secret("MERIDIAN_TOKEN")
    assert (ended.state, ended.recorded) == ("succeeded", {"newest": asked.id})


def test_from_inside_a_notebook_the_servers_own_token_is_enough(platform: Platform, researcher: Person) -> None:
    """A kernel of the person's own server, with nothing but the environment that the hub gave it."""
    home = platform.state / "homes" / "researcher"
    entry = researcher.allocation("entry")["id"]
    researcher.start_server(entry)
    results = "from hub.batch import record\nrecord('doubled', 2 * alpha)\nprint('alpha is', alpha)"
    notebook(home / "inner.ipynb", "alpha = 0", results)
    outputs = execute(
        researcher,
        "import os\nfrom pathlib import Path\nprint('MERIDIAN_TOKEN' in os.environ, Path.cwd() == Path.home())",
        "from hub.batch import client\nrun = client.submit('inner.ipynb', alpha=7)\nrun = client.wait(run)",
        "print(run.id, run.state, run.parameters, run.recorded)\nprint(client.output(run, 'done.ipynb'))",
        "from hub.batch.client import BatchClient\n"
        "with BatchClient.from_environment() as whole:\n    print(len(whole.list()), whole.get(run.id).state)",
    )
    told = printed(outputs)
    newest = researcher.call("GET", "/runs").json()["runs"][0]
    assert f"{newest['id']} succeeded {{'alpha': 7}} {{'doubled': 14}}" in told
    assert told.startswith("False True\n")
    assert told.endswith("succeeded\n")
    assert (newest["name"], newest["allocation"], newest["state"]) == ("inner.ipynb", entry, "succeeded")
    assert newest["charged_microcredits"] > 0
    done = json.loads((home / "done.ipynb").read_text())
    assert "alpha is 7" in json.dumps(done["cells"][-1]["outputs"])
    # How far it is was shown, and kept up to date in one place.
    assert [one["msg_type"] for one in outputs].count("display_data") == 1
    assert "update_display_data" in [one["msg_type"] for one in outputs]
    researcher.stop_server()
    platform.audit()
