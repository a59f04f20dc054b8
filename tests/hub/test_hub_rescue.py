"""A real hub, a real JupyterLab, and a home on a real btrfs that has not one free byte: its owner is let in."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from allocations.storage.quotas.backends import Area
from allocations.storage.quotas.btrfs import BtrfsSubvolumes
from tests.hub.fake_allocations import allocation, size
from tests.hub.test_hub_running import TOKENS, RunningHub, running_hub
from tests.storage.file_systems import mounted, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.slow

MIB = 1 << 20
ADA = Area("s-ada", 1, "ada")
SECONDS = 170.0


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    """Homes of which that of ada takes no byte more."""
    with mounted("btrfs", 512) as mount:
        run("btrfs", "quota", "enable", mount)
        (mount / "homes").mkdir()
        backend = BtrfsSubvolumes(str(mount / "homes"), owner=(os.getuid(), os.getgid()))
        backend.make(ADA)
        backend.apply(ADA, 20 * MIB)
        fill(mount / "homes" / "ada")
        yield mount / "homes"


@pytest.fixture(scope="module")
def hub(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub"), MERIDIAN_HOMES=str(homes)) as running:
        rescue = size("rescue", microcredits_per_hour=0, hours_available=1.0)
        running.service.options["allocations"] = [allocation(rescue=rescue)]
        yield running


def fill(home: Path) -> None:
    """Write until nothing more can be written, and no file be made."""
    (home / "small").write_text("x")
    (home / ".cache").mkdir()
    descriptor = os.open(home / ".cache" / "large", os.O_WRONLY | os.O_CREAT, 0o600)
    for portion in (MIB, 4 << 10, 1):
        assert write_all_of(descriptor, portion) == errno.EDQUOT
    os.close(descriptor)
    for number in range(100_000):
        if not make(home / ".cache" / f"empty-{number}"):
            break
    assert not make(home / "one more")


def write_all_of(descriptor: int, portion: int) -> int:
    while True:
        try:
            os.write(descriptor, os.urandom(portion))
            os.fsync(descriptor)
        except OSError as error:
            return error.errno or 0


def make(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.fsync(descriptor)
        os.close(descriptor)
    except OSError as error:
        assert error.errno == errno.EDQUOT  # noqa: PT017 - of two ends, both are good
        return False
    return True


def server(hub: RunningHub) -> dict[str, Any]:
    found = hub.api(TOKENS["WORKER"]).get("/users/ada", params={"include_stopped_servers": "1"}).json()
    servers: dict[str, dict[str, Any]] = found.get("servers") or {}
    return servers.get("", {})


def test_a_rescue_server_starts_in_a_home_without_a_free_byte_and_frees_it(hub: RunningHub, homes: Path) -> None:
    before = sorted(path.name for path in (homes / "ada").iterdir())
    of_others = rescue_folders()
    browser = hub.browser("ada")
    assert 'value="a1::rescue"' in browser.get("/hub/spawn").text
    browser.get("/hub/spawn", params={"opt-allocation": "a1", "opt-size": "rescue"})
    hub.until(lambda: server(hub).get("ready"), SECONDS)
    assert browser.get("/user/ada/lab").status_code == 200

    files = f"{hub.url}/user/ada/api/contents"
    listed = browser.get(files).json()["content"]
    assert sorted(one["name"] for one in listed) == before == [".cache", "small"]
    xsrf = {"X-XSRFToken": token_of(browser)}
    assert browser.post(f"{hub.url}/user/ada/api/kernels", json={}, headers=xsrf).status_code == 201
    assert sorted(path.name for path in (homes / "ada").iterdir()) == before

    # Also what frees next to nothing is deleted. Nothing is moved into a trash, which would free nothing; hidden
    # folders are seen, and go with what is in them.
    assert browser.delete(f"{files}/small", headers=xsrf).status_code == 204
    assert browser.delete(f"{files}/.cache/large", headers=xsrf).status_code == 204
    backend = BtrfsSubvolumes(str(homes), owner=(os.getuid(), os.getgid()))
    assert backend.usage([ADA]).of[ADA.id].bytes < 2 * MIB
    assert make(homes / "ada" / "one more")
    assert browser.delete(f"{files}/.cache", headers=xsrf).status_code == 204
    assert sorted(path.name for path in (homes / "ada").iterdir()) == ["one more"]

    folders = rescue_folders() - of_others
    assert folders
    hub.api(TOKENS["WORKER"]).delete("/users/ada/server")
    hub.until(lambda: not server(hub).get("pending") and not server(hub).get("ready"), SECONDS)
    assert not folders & rescue_folders()
    assert [lease["size"] for lease in hub.service.leases.values()] == ["rescue"]


def token_of(browser: httpx.Client) -> str:
    [token] = [one.value for one in browser.cookies.jar if one.name == "_xsrf" and one.path == "/user/ada/"]
    assert token is not None
    return token


def rescue_folders() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("meridian-rescue-")}  # noqa: PTH208 - names are all
