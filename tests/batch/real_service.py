"""The real allocations service on a port, with the real executor behind it, for clients to be tested against."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.api.identity import HubIdentities, Identity, Scope
from allocations.app import PREFIX
from allocations.db.database import Database
from allocations.factory import Services, make_services
from hub.batch.executor import Executor
from hub.batch.local import LocalBackend
from hub.batch.observe import Metrics
from hub.batch.service import ExecutorService
from tests.fresh import fresh_sqlite, shipped_policy
from tests.fresh_app import fresh_app
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

TOKENS = {
    "ann's token": Identity("ann", frozenset({Scope.READ, Scope.RUN})),
    "batch": Identity("batch", frozenset({Scope.LEASE})),
}


class StubIdentities(HubIdentities):
    """Knows tokens without asking a hub."""

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:
        del session_id
        return TOKENS.get(token)


@dataclass(frozen=True)
class RealService:
    """Where it is, what it keeps, and ann's entry allocation."""

    url: str
    services: Services
    allocation: str
    store: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a client of ann's finds in its environment."""
        return {"MERIDIAN_URL": self.url, "MERIDIAN_TOKEN": "ann's token"}


@contextmanager
def real_service(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealService]:
    """Serve it over a database of its own, with an executor that takes up whatever is queued."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
    database, store = Database(fresh_sqlite(directory)), directory / "runs"
    services = make_services(database, shipped_policy(), store, secret_keys=["ab" * 32])
    services.agreements.accept("ann", services.policy.agreement.version)
    allocation = services.reports.allocations_of("ann")[0].id
    with serving(fresh_app(services, StubIdentities("secret", PREFIX))) as url:
        asking = ExecutorService.connect(f"{url}{PREFIX}", "batch", "batch-1")
        backend = LocalBackend(store, directory / "homes", os.environ, environment_of=asking.environment)
        executor, stop = Executor(asking, backend, store, Metrics(), slots=4), threading.Event()
        thread = threading.Thread(target=executor.run, args=(stop,), daemon=True)
        thread.start()
        yield RealService(url, services, allocation, store)
        stop.set()
        thread.join(60)
    database.dispose()
