"""The platform as the chart installs it, from its own images: people use it through the proxy of the cluster.

One installation for all, in the order of the file: what one test starts, the next ones look at.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from kubernetes import client
from playwright.sync_api import expect, sync_playwright

from tests.chart.rendering import FULL_NAME, NAME
from tests.cluster.installation import IDLE_SECONDS, PEOPLES_CORES, Installation, installation, platform_images
from tests.e2e.conftest import CHROMIUM, CHROMIUM_ARGUMENTS, new_context
from tests.e2e.notebooks import notebook
from tests.e2e.platform import wait_for
from tests.e2e.test_journey import AT_HOME, HOME, run_a_cell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kubernetes.client.models import V1Pod
    from playwright.sync_api import Browser, Page

    from tests.cluster.conftest import Cluster
    from tests.e2e.platform import Person

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ADA, BOB = "ada", "bob"
START_MS = 300_000
FORBIDDEN, NOT_FOUND = 403, 404
SHORTER_IDLE_SECONDS = 1200
REPLICAS = {"hub": 1, "proxy": 1, "allocations": 2, "worker": 2, "batch": 1, "postgresql": 1}
# What a pod of a person sees of the cluster and of files; it leaves one of its own in each place.
INSIDE = """
import json, os, pathlib
folders = ["/home/jovyan", "/scratch", "/shared"]
seen = {folder: os.listdir(folder) for folder in folders}
for folder in folders:
    pathlib.Path(folder, "of-" + person).touch()
token = os.path.exists("/var/run/secrets/kubernetes.io")
print(json.dumps({"uid": os.getuid(), "gid": os.getgid(), "token": token, "seen": seen}))
"""
# Which of some addresses take a connection.
REACHES = """
import concurrent.futures, json, socket

def reached(address):
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError:
        return False
    return True

addresses = {}
with concurrent.futures.ThreadPoolExecutor(len(addresses)) as threads:
    print(json.dumps([one for one, answers in zip(addresses, threads.map(reached, addresses)) if answers]))
"""


@pytest.fixture(scope="module")
def platform(cluster: Cluster) -> Iterator[Installation]:
    with installation(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def page(platform: Installation, browser: Browser) -> Iterator[Page]:
    """Ada's browser, through all of the tests."""
    context = new_context(browser, base_url=platform.url, viewport={"width": 1200, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def ada(platform: Installation) -> Person:
    return platform.person(ADA)


@pytest.fixture(scope="module")
def bob(platform: Installation) -> Person:
    person = platform.person(BOB)
    person.accept_agreement()
    return person


def idle_seconds(person: Person) -> int:
    """After how long an idle server of a person's first allocation is stopped."""
    (of_allocation, *_) = person.call("GET", f"/quotas/{person.name}").json()["allocations"]
    found: int = next(limit["value"] for limit in of_allocation["limits"] if limit["name"] == "idle_seconds")
    return found


@pytest.fixture
def neighbour(platform: Installation) -> Iterator[V1Pod]:
    """A pod as other people's are, which listens where their servers do."""
    container = {
        "name": "notebook",
        "image": platform_images()["lab"],
        "command": ["python3", "-m", "http.server", "8888"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    pod = {
        "metadata": {"name": "neighbour", "labels": {"meridian/lease": "none"}},
        "spec": {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0},
    }
    platform.core.create_namespaced_pod(platform.namespace, pod)

    def seen() -> V1Pod:
        return platform.core.read_namespaced_pod("neighbour", platform.namespace)

    def listens() -> bool:
        """The hub reaches everybody's server."""
        address = seen().status.pod_ip
        return bool(address and platform.python(platform.pods("hub")[0], REACHES.format([[address, 8888]])))

    wait_for("the neighbour", listens, 120)
    yield seen()
    platform.core.delete_namespaced_pod("neighbour", platform.namespace)


def sign_in(page: Page, name: str, password: str) -> None:
    page.goto("/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_every_part_comes_up_and_one_worker_leads(platform):
    assert {name: len(platform.pods(name)) for name in REPLICAS} == REPLICAS
    for name in (*REPLICAS, "image-puller"):
        for pod in platform.pods(name):
            assert all(status.ready for status in pod.status.container_statuses), pod.metadata.name
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9472/metrics').read().decode())"

    def leads() -> list[str]:
        metrics = "".join(platform.run(pod, "python", "-c", read) for pod in platform.pods("worker"))
        return sorted(re.findall(r"^meridian_worker_leads (\S+)", metrics, re.MULTILINE))

    # Ready is who tells how it is; its first duty comes after.
    wait_for("a worker that leads", lambda: leads() == ["0.0", "1.0"], 120)


def test_helm_test_passes(platform):
    tested = platform.helm.test(NAME, timeout=300, logs=True)
    assert "/api/v1/health 200" in json.dumps(tested)


def test_a_person_signs_in_and_gets_an_entry_allocation(platform, page):
    sign_in(page, ADA, "not the password")
    expect(page.get_by_text("Invalid username or password")).to_be_visible()
    sign_in(page, ADA, platform.password(ADA))
    page.wait_for_url("**/agreement*")
    page.get_by_role("button", name="Accept").click()
    page.wait_for_url(AT_HOME)
    expect(page.get_by_role("link", name=f"Entry allocation of {ADA}")).to_be_visible()


def test_a_size_over_the_quota_is_refused_by_the_form_the_service_and_the_cluster(platform, page, ada):
    entry = ada.allocation("entry")["id"]
    page.goto("/hub/spawn")
    expect(page.locator(f'input[value="{entry}::small"]')).to_be_enabled()
    expect(page.locator(f'input[value="{entry}::xlarge"]')).to_be_disabled()
    expect(
        page.get_by_text("Extra large (16 cores, 64 GiB) is above the largest of the Entry tier").first
    ).to_be_visible()

    refused = ada.hub("POST", f"/users/{ADA}/server", {"allocation": entry, "size": "xlarge"})
    assert refused.status_code == FORBIDDEN
    assert "above the largest of the Entry tier" in refused.text
    assert ada.leases() == []

    api = client.ApiClient()
    api.set_default_header("Impersonate-User", f"system:serviceaccount:{platform.namespace}:{FULL_NAME}-hub")
    resources = {"cpu": str(PEOPLES_CORES + 1), "memory": "1Gi"}
    pod = {
        "metadata": {"name": "bypass"},
        "spec": {
            "containers": [{"name": "x", "image": "none.test/none", "resources": {"requests": resources}}],
            "priorityClassName": f"{FULL_NAME}-{platform.namespace}-entry",
        },
    }
    with pytest.raises(client.ApiException) as stopped:
        client.CoreV1Api(api).create_namespaced_pod(platform.namespace, pod)
    assert stopped.value.status == FORBIDDEN
    assert "exceeded quota" in stopped.value.body


def test_a_server_in_a_pod_of_the_pipelines_image_runs_a_cell(platform, page, ada):
    page.goto("/hub/spawn")
    page.locator(f'input[value="{ada.allocation("entry")["id"]}::small"]').check()
    page.get_by_label("Image").select_option("pipeline")
    page.get_by_role("button", name="Start server").click()
    expect(page).to_have_url(re.compile(f"/hub/spawn-pending/|/user/{ADA}/"), timeout=60_000)
    page.wait_for_url(re.compile(f"/user/{ADA}/lab"), timeout=START_MS)
    run_a_cell(page, "from romancal.pipeline import ExposurePipeline; print(ExposurePipeline.class_alias)", "roman_elp")
    [lease] = ada.leases()
    assert (lease["state"], lease["image"], lease["size"]) == ("open", "pipeline", "small")


def test_the_pod_has_its_persons_volumes_and_its_tiers_priority_and_no_rights(platform, ada):
    pod = platform.pod_of(ADA)
    (container,) = pod.spec.containers
    assert container.resources.limits == container.resources.requests == {"cpu": "1", "memory": "4Gi"}
    assert pod.spec.priority_class_name == f"{FULL_NAME}-{platform.namespace}-entry"
    assert 0 < pod.spec.active_deadline_seconds <= 86400
    inside = platform.python(pod, f"person = {ADA!r}\n{INSIDE}")
    assert (inside["uid"], inside["gid"], inside["token"]) == (1000, 100, False)
    claims = {
        claim.metadata.name: claim
        for claim in platform.core.list_namespaced_persistent_volume_claim(platform.namespace).items
    }
    assert claims[f"claim-{ADA}"].metadata.annotations["meridian/person"] == ADA
    assert pod.metadata.annotations["meridian/allocation"] == ada.allocation("entry")["id"]


def test_another_person_reaches_neither_server_nor_allocation(platform, ada, bob, browser):
    for path in (f"/user/{ADA}/api/contents", f"/user/{ADA}/api/kernels", f"/hub/api/users/{ADA}"):
        refused = httpx.get(f"{platform.url}{path}", headers={"Authorization": f"token {bob.token}"}, timeout=60)
        assert refused.status_code in {FORBIDDEN, NOT_FOUND}, path
    assert bob.hub("DELETE", f"/users/{ADA}/server").status_code in {FORBIDDEN, NOT_FOUND}
    entry = ada.allocation("entry")["id"]
    [lease] = ada.leases()
    for path in (f"/allocations/{entry}", f"/leases/{lease['id']}", f"/quotas/{ADA}"):
        assert bob.call("GET", path).status_code in {FORBIDDEN, NOT_FOUND}, path
    assert entry not in bob.call("GET", "/allocations").text
    context = new_context(browser, base_url=platform.url)
    page = context.new_page()
    sign_in(page, BOB, platform.password(BOB))
    page.wait_for_url(AT_HOME)
    answer = page.goto(f"/user/{ADA}/lab")
    assert answer is not None
    assert answer.status in {FORBIDDEN, NOT_FOUND}
    answer = page.goto(f"{HOME}allocations/{entry}")
    assert answer is not None
    assert answer.status in {FORBIDDEN, NOT_FOUND}
    context.close()


def test_pods_of_people_reach_the_door_and_neither_each_other_nor_what_is_behind_it(platform, neighbour):
    pod = platform.pod_of(ADA)
    door = [platform.pods("proxy")[0].status.pod_ip, 8000]
    api_server = platform.core.read_namespaced_service("kubernetes", "default").spec.cluster_ip
    behind = [
        [neighbour.status.pod_ip, 8888],
        [platform.pods("postgresql")[0].status.pod_ip, 5432],
        [platform.pods("allocations")[0].status.pod_ip, 8000],
        [platform.pods("worker")[0].status.pod_ip, 9472],
        [api_server, 443],
        [pod.status.host_ip, 10250],
    ]
    assert platform.python(pod, REACHES.format([door, *behind])) == [door]
    assert platform.python(neighbour, REACHES.format([door, [pod.status.pod_ip, 8888]])) == [door]


def test_an_upgrade_leaves_the_running_server_alone(platform, page, ada):
    run_a_cell(page, "kept = 6 * 7; print('kept', kept)", "kept 42")
    assert idle_seconds(ada) == IDLE_SECONDS
    before, secrets = platform.pod_of(ADA), platform.secrets()
    (hub,) = platform.pods("hub")
    platform.upgrade(
        {
            "cull": {"timeout": {"entry": SHORTER_IDLE_SECONDS}},
            "hub": platform.values["hub"] | {"extraConfig": {"quiet": "c.JupyterHub.log_level = 30"}},
        }
    )
    (other_hub,) = platform.pods("hub")
    assert other_hub.metadata.uid != hub.metadata.uid
    migrated = platform.core.list_namespaced_event(
        platform.namespace, field_selector=f"involvedObject.name={FULL_NAME}-migrations,reason=Completed"
    )
    assert migrated.items
    assert platform.secrets() == secrets
    # The hub that was there before may answer until it is out of the way.
    wait_for("the hub's new policy", lambda: idle_seconds(ada) == SHORTER_IDLE_SECONDS, 120)
    after = platform.pod_of(ADA)
    assert (after.metadata.uid, after.status.container_statuses[0].restart_count) == (before.metadata.uid, 0)
    run_a_cell(page, "print('still', kept)", "still 42")
    assert ada.server_is_ready()


def test_a_stop_charges_the_seconds_that_the_api_server_shows(platform, page, ada):
    # The button works when the page's scripts have come.
    page.goto("/hub/home", wait_until="networkidle")
    page.locator("#stop-default-server").click()
    wait_for("the settled lease", lambda: ada.leases()[0]["state"] != "open", 120)
    platform.assert_charged_as_shown(ada.leases()[0])
    page.goto(HOME)
    expect(page.get_by_text("Nothing is running")).to_be_visible()


def test_runs_as_jobs_see_the_files_of_their_persons_servers_and_nobody_elses(platform, ada, bob, tmp_path: Path):
    """Bob has had no server: his home is made for the run."""
    seen = {}
    for person in (ada, bob):
        path = notebook(tmp_path / f"{person.name}.ipynb", f"person = {person.name!r}", INSIDE)
        entry = person.allocation("entry")["id"]
        command = ("batch", "submit", path, "--allocation", entry, "--size", "small", "--wait", "--json")
        done = json.loads(platform.meridian(*command, token=person.token).stdout)
        assert done["state"] == "succeeded"
        platform.meridian("batch", "output", done["id"], "-o", tmp_path / "out.ipynb", token=person.token)
        platform.assert_charged_as_shown(person.leases()[0])
        cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
        said = "".join(text for cell in cells for one in cell.get("outputs", []) for text in one.get("text", []))
        inside: dict[str, Any] = json.loads(said)
        assert not inside["token"]
        seen[person.name] = inside["seen"]
    assert all(f"of-{ADA}" in files for files in seen[ADA].values())
    assert "Untitled.ipynb" in seen[ADA]["/home/jovyan"]
    assert not any(f"of-{ADA}" in files for files in seen[BOB].values())
