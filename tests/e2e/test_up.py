"""`make up`: what a person meets when something is in the way, and that a second start carries on."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.e2e.platform import ROOT, Platform, wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def up(state: Path, port: int, *variables: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `make up` that is expected to fail at once."""
    environment = dict(os.environ) | ({"PATH": path} if path else {})
    command = ["/usr/bin/make", "--no-print-directory", "up", f"PORT={port}", f"STATE={state}", *variables]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


def sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a person reads, without make's own closing line."""
    return [line for line in done.stderr.splitlines() if not line.startswith("make")]


def test_a_port_in_use_is_one_sentence_and_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = up(tmp_path / "state", port)
    assert done.returncode != 0
    first, remedy = sentences(done)
    assert f"Port {port} is in use" in first
    assert "make up PORT=" in remedy


def test_a_missing_node_is_one_sentence(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "python3", "sh"):
        found = next(
            f"{directory}/{name}"
            for directory in os.environ["PATH"].split(os.pathsep)
            if os.access(f"{directory}/{name}", os.X_OK)
        )
        (tools / name).symlink_to(found)
    done = up(tmp_path / "state", free_port(), path=str(tools))
    assert done.returncode != 0
    assert sentences(done)[0].startswith("meridian: Node.js 18 or later is missing")


def test_a_state_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    marker = json.dumps({"format": 99, "version": "9.0"})
    (state / "meridian.json").write_text(marker)
    done = up(state, free_port())
    assert done.returncode != 0
    assert "was written by a newer version of Meridian (9.0)" in sentences(done)[0]
    assert (state / "meridian.json").read_text() == marker
    assert not (state / "allocations.sqlite").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_local_mode_binds_to_loopback_only(tmp_path: Path, host: str) -> None:
    done = up(tmp_path / "state", free_port(), f"HOST={host}")
    assert done.returncode != 0
    assert f"does not bind to {host}" in sentences(done)[0]
    assert not (tmp_path / "state").exists()


def mails_in(state: Path) -> dict[str, str]:
    """Return the subjects of the mails that local mode wrote, by recipient."""
    messages = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in (state / "mail").glob("*.eml")]
    return {str(message["To"]): str(message["Subject"]) for message in messages}


def test_stop_cleanly_and_carry_on(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "state", free_port())
    platform.start()
    try:
        assert platform.url in platform.output
        secrets = {line.split()[1] for line in platform.output.splitlines() if line.startswith("    researcher")}
        assert secrets == {platform.password("researcher")}
        for name in ("accounts.json", "secrets.json", "hub-cookie-secret"):
            assert stat.S_IMODE((platform.state / name).stat().st_mode) == 0o600
        second = up(platform.state, free_port())
        assert "Another Meridian runs on the state directory" in sentences(second)[0]
        assert platform.process is not None
        children = psutil.Process(platform.process.pid).children(recursive=True)
        researcher = platform.person("researcher")
        entry = researcher.accept_agreement()["id"]
        ask = {"tier": "research", "title": "Dark stars", "justification": "We look for them."}
        researcher.call("POST", "/requests", ask)
        researcher.start_server(entry)
        children += psutil.Process(platform.process.pid).children(recursive=True)
        listening = {c.laddr.ip for c in psutil.net_connections("inet") if c.laddr and c.laddr.port == platform.port}
        assert listening == {"127.0.0.1"}
        told = researcher.call("GET", "/notices").json()["notices"]
        assert [notice["title"] for notice in told] == ["Your request “Dark stars” waits for review"]
        subject = wait_for("the researcher's mail", lambda: mails_in(platform.state).get("researcher@localhost"), 90)
        assert subject == told[0]["title"]
    finally:
        platform.interrupt()
    assert "Meridian has stopped." in platform.output
    assert not list(filter(lives, children))
    platform.audit()
    platform.start()
    try:
        assert platform.password("researcher") in platform.output
        again = platform.person("researcher")
        # The hub tells of an end once more, if the service ended before it had heard.
        wait_for("the settled lease", lambda: again.leases()[0]["state"] == "settled", 60)
        [lease] = again.leases()
        assert lease["allocation"] == entry
        assert again.call("GET", "/health").json()["status"] == "ok"
        again.start_server(entry)
        metrics = json.loads((platform.state / "ports.json").read_text())
        for name in ("proxy_metrics", "allocations_metrics", "worker_metrics", "batch_metrics", "storage_metrics"):
            assert "# HELP" in httpx.get(f"http://127.0.0.1:{metrics[name]}/metrics", timeout=60).text
        token = json.loads((platform.state / "secrets.json").read_text())["metrics"]
        hub_metrics = httpx.get(f"{platform.url}/hub/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert "jupyterhub_running_servers" in hub_metrics.text
        assert httpx.get(f"{platform.url}/hub/metrics", timeout=60).status_code in {302, 403}
    finally:
        platform.interrupt()
    platform.audit()


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
