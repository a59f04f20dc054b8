"""A pytest plugin for KubeSpawner's own tests: our class in the place of theirs, before the real allocations service.

It runs under the pytest that those tests were written for. The service lets everybody start: who asks what there is
to start has accepted the agreement, and so has an allocation.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import httpx
import kubespawner
import pytest
from traitlets import default

from allocations.app import create_app
from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.factory import Services, make_services
from allocations.ledger.audit import audit_ledger
from allocations.policy.loader import load_policy
from hub.client import AllocationsClient, StartOptions
from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.pending import PendingSettleQueue
from tests.cluster.kube_bench import PREFIX, SpawnerIdentity, write_policies

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "quay.io/jupyterhub/singleuser:latest"
LEASES = "MERIDIAN_SUITE_LEASES"
HUB_ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": "x",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
    "JUPYTERHUB_CLIENT_ID": "service-allocations",
    "JUPYTERHUB_OAUTH_CALLBACK_URL": "/services/allocations/oauth_callback",
}


class WelcomingClient(AllocationsClient):
    """The connection of a hub whose people have all accepted the agreement."""

    def __init__(self, services: Services) -> None:
        """Speak to an application of these services, within this process."""
        with patch.dict(os.environ, HUB_ENVIRONMENT):
            app = create_app(services, SpawnerIdentity("secret", PREFIX), "local")
        super().__init__(f"http://service{PREFIX}", "secret", transport=httpx.ASGITransport(app))
        self.people: set[str] = set()
        self._services = services

    async def start_options(self, person: str) -> StartOptions:
        """What a person may start, who has an allocation from now on."""
        if person not in self.people:
            self._services.agreements.accept(person, self._services.policy.agreement.version)
            self.people.add(person)
        return await super().start_options(person)


class Platform:
    """The service with its database in a folder, and the one connection of the hub to it."""

    def __init__(self, folder: Path) -> None:
        write_policies(folder / "policies", IMAGE, longest_session_seconds=3600)
        self._database = Database(f"sqlite:///{folder / 'allocations.sqlite'}")
        upgrade(self._database)
        policy = load_policy(folder / "policies")
        self._services = make_services(self._database, policy, folder / "runs", SystemClock())
        self.client = WelcomingClient(self._services)
        self.queue = PendingSettleQueue(folder / "pending", self.client, first_pause_seconds=0.1)

    def summary(self) -> dict[str, Any]:
        """In which state the leases are, what is held of them, and what the audit finds in the ledger."""
        leases = [lease for who in self.client.people for lease in self._services.reports.leases_of(who, 100)]
        with self._database.read() as connection:
            violations = [str(violation) for violation in audit_ledger(connection).violations]
        return {
            "states": Counter(lease.state for lease in leases),
            "held_microcredits": sum(lease.held_microcredits for lease in leases),
            "violations": violations,
        }


class SuiteSpawner(KubeAllocationSpawner):
    """Our class, with what a hub's configuration would say: nothing else of it is other than people have it."""

    platform: Platform

    @default("allocations_client")
    def _default_allocations_client(self) -> AllocationsClient:
        return self.platform.client

    @default("pending_settles")
    def _default_pending_settles(self) -> PendingSettleQueue:
        return self.platform.queue

    @default("pvc_name_template")
    def _default_pvc_name_template(self) -> str:
        # KubeSpawner's own default, which two of the tests expect: a home for each server. Ours is one for each person.
        return "claim-{user_server}"

    @default("extra_container_config")
    def _default_extra_container_config(self) -> dict[str, Any]:
        # The tests ask a server within seconds of its start, which on a busy machine is too soon.
        return {"readinessProbe": {"tcpSocket": {"port": 8888}, "periodSeconds": 1}}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Put our class where the tests and their fixtures import theirs from."""
    kubespawner.KubeSpawner = kubespawner.spawner.KubeSpawner = SuiteSpawner


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[None]:
    """Make the hub's application that their fixture makes as if within the loop: since JupyterHub 6.1 it must be."""
    if fixturedef.argname != "ssl_app":
        yield
        return
    asyncio._set_running_loop(request.getfixturevalue("event_loop"))
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@pytest.fixture(scope="session", autouse=True)
def platform() -> Iterator[None]:
    """One platform for all tests; what its ledger says afterwards is for who runs them."""
    with tempfile.TemporaryDirectory() as folder:
        SuiteSpawner.platform = Platform(Path(folder))
        yield
        Path(os.environ[LEASES]).write_text(json.dumps(SuiteSpawner.platform.summary()))
