"""Real JupyterHub users and spawners on a real database, before a fake allocations service."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from jupyterhub.user import User
from traitlets.config import Config

from hub.client import AllocationsClient
from hub.spawner.local import LocalAllocationSpawner
from hub.spawner.pending import PendingSettleQueue
from tests.hub.fake_allocations import FakeAllocations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores it for what it starts in the background, and then so would the servers that are stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


async def no_sleep(_seconds: float) -> None:
    """Retries without waiting."""


@dataclass
class Bench:
    """One person with one default server; `run` gives a coroutine an event loop of its own."""

    service: FakeAllocations
    client: AllocationsClient
    directory: Path
    user: User
    spawner_config: Config

    def new_queue(self) -> PendingSettleQueue:
        """A queue over the bench's directory, as a hub that has just started would make it."""
        return PendingSettleQueue(self.directory / "pending", self.client, first_pause_seconds=0.01)

    def new_spawner(self, queue: PendingSettleQueue, **traits: Any) -> LocalAllocationSpawner:
        """A spawner with the state that is in the database, as JupyterHub makes it."""
        traits = {"cmd": ["sh", "-c", "exec sleep 60"], "settle_wait_seconds": 2.0} | traits
        spawner: LocalAllocationSpawner = self.user._new_spawner(
            "",
            spawner_class=LocalAllocationSpawner,
            hub=Hub(),
            config=self.spawner_config,
            allocations_client=self.client,
            pending_settles=queue,
            **traits,
        )
        self.user.spawners[""] = spawner
        orm_server = orm.Server(base_url="/user/ada/")
        self.user.db.add(orm_server)
        self.user.db.commit()
        spawner.server = Server(orm_server=orm_server)
        return spawner

    def stored_state(self) -> dict[str, Any]:
        """The spawner's state as a hub that starts now would read it."""
        self.user.db.expire_all()
        return dict(self.user.orm_user.orm_spawners[""].state or {})


@pytest.fixture
def service() -> FakeAllocations:
    return FakeAllocations()


@pytest.fixture
def bench(tmp_path: Path, service: FakeAllocations) -> Iterator[Bench]:
    db = orm.new_session_factory(url=f"sqlite:///{tmp_path / 'hub.sqlite'}")()
    orm_user = orm.User(name="ada")
    db.add(orm_user)
    db.commit()
    config = Config()
    config.LocalAllocationSpawner.homes_dir = str(tmp_path / "homes")
    config.LocalAllocationSpawner.server_logs_dir = str(tmp_path / "logs")
    config.LocalAllocationSpawner.interrupt_timeout = 1
    transport = httpx.MockTransport(service.transport)
    client = AllocationsClient("http://service/services/allocations", "secret", transport=transport, sleep=no_sleep)
    yield Bench(service, client, tmp_path, User(orm_user, {"spawner_class": LocalAllocationSpawner}), config)
    asyncio.run(client.close())
    db.close()
