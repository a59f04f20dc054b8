"""Real spawners on a real cluster before the real allocations service; a witness of what the API server showed."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from jupyterhub.user import User
from jupyterhub.utils import exponential_backoff
from kubernetes import client, watch
from sqlalchemy.orm import sessionmaker
from traitlets.config import Config
from urllib3.exceptions import HTTPError

from allocations.api.identity import HubIdentities, Identity, Scope
from allocations.app import create_app
from allocations.clock import SystemClock
from allocations.db.database import Database
from allocations.db.migrate import upgrade
from allocations.factory import Services, make_services
from allocations.ledger.audit import audit_ledger
from allocations.policy.loader import load_policy
from hub.client import AllocationsClient
from hub.spawner.kube import KubeAllocationSpawner
from hub.spawner.manifests import LEASE
from hub.spawner.pending import PendingSettleQueue
from hub.spawner.reconcile import Known, Reconciler
from tests.cluster.conftest import GPU_TYPE, Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from allocations.leases.views import LeaseView

POLICIES = Path(__file__).parents[2] / "policies"
PREFIX = "/services/allocations"
# Of a size that two find room for at once on a small machine.
SIZES = [
    {"name": "tiny", "title": "Tiny", "cores": 1, "memory_gib": 1},
    {"name": "gpu", "title": "GPU", "cores": 1, "memory_gib": 1, "gpus": 1, "gpu_type": GPU_TYPE},
]
NOT_FOUND = 404
NO_SUCH_IMAGE = "meridian.test/no-such-image:1"
# Between two watches: an API server that is away is asked now and then.
PAUSE_SECONDS = 0.1
END_SECONDS = 60
# A node starts one pod after another, and pulls one image at a time; others may use it.
PATIENCE_SECONDS = 240
FOREVER = ["python3", "-c", "import time; time.sleep(10_000)"]


class SpawnerIdentity(HubIdentities):
    """Takes every caller for the hub's spawner; who calls is asked of the real hub in the tests of whole platforms."""

    async def from_token(self, token: str, session_id: str = "") -> Identity | None:
        return Identity("spawner", frozenset({Scope.LEASE}))


def write_policies(folder: Path, image: str, longest_session_seconds: int) -> None:
    """Copy the policy, with sizes and images that this cluster has."""
    shutil.copytree(POLICIES, folder)
    (folder / "sizes.yaml").write_text(yaml.safe_dump({"sizes": SIZES}))
    images = [
        {"name": "lab", "title": "Lab", "default": True, "reference": image},
        {"name": "none", "title": "None", "reference": NO_SUCH_IMAGE},
    ]
    (folder / "images.yaml").write_text(yaml.safe_dump({"images": images}))
    tiers = yaml.safe_load((folder / "tiers.yaml").read_text())
    tiers["tiers"][0] |= {
        "largest": [{"cores": 1, "memory_gib": 1, "gpus": 1}],
        "at_once": {"servers_per_person": 2, "cores": 2, "gpus": 1},
        "longest_session_seconds": longest_session_seconds,
    }
    (folder / "tiers.yaml").write_text(yaml.safe_dump(tiers))


class Witness:
    """Watches all pods of a namespace by itself, and keeps what the API server showed of each lease's container."""

    def __init__(self, core: client.CoreV1Api, namespace: str) -> None:
        self._core = core
        self._namespace = namespace
        self._watch = watch.Watch()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.pods: dict[str, Any] = {}
        self.started: dict[str, datetime] = {}
        self.finished: dict[str, datetime] = {}
        self.evicted: dict[str, datetime] = {}
        self.unready: dict[str, datetime] = {}
        self._ended: set[tuple[str, int]] = set()
        self._gone: set[str] = set()

    @contextmanager
    def looking(self) -> Iterator[Witness]:
        self._thread.start()
        yield self
        self._stopped.set()
        self._watch.stop()

    def has_seen_end(self, lease: LeaseView) -> bool:
        """Whether it was shown how a lease's container ended; others may have heard of it before this watch.

        A pod that is removed as soon as its runner has left a result may be shown as not ready at the most.
        """

        def seen() -> bool:
            return any(ended == lease.id for ended, _ in self._ended)

        until = time.monotonic() + END_SECONDS
        while not seen() and lease.id not in self._gone and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)
        return seen()

    def shows(self, lease: LeaseView, seconds: int) -> bool:
        """Whether a lease's container was shown to run for so many whole seconds.

        By its end, or by when its pod was not ready any more: of a pod that is deleted that is all that is shown a
        moment later.
        """
        self.has_seen_end(lease)
        ends = (self.finished.get(lease.id), self.unready.get(lease.id))
        return seconds in {self._seconds_until(end, lease) for end in ends if end}

    def seconds(self, lease: LeaseView) -> int:
        """For how many whole seconds the container of a lease ran.

        The API server cuts the start off to the second, and so may show it as before the lease was there.
        """
        self.has_seen_end(lease)
        return self._seconds_until(self.finished[lease.id], lease)

    def _seconds_until(self, end: datetime, lease: LeaseView) -> int:
        acquired_at, latest_end_at = map(datetime.fromisoformat, (lease.acquired_at, lease.latest_end_at))
        # A node takes its time to end a container; the lease is over then.
        return int((min(end, latest_end_at) - max(self.started[lease.id], acquired_at)).total_seconds())

    def _look(self) -> None:
        # A watch is cut off with the API server that serves it, and goes on where it was.
        while not self._stopped.is_set():
            version = self._watch.resource_version
            since = {"resource_version": version} if version else {}
            try:
                for event in self._watch.stream(
                    self._core.list_namespaced_pod, self._namespace, timeout_seconds=60, **since
                ):
                    if event["object"] is not None:
                        self._note(event["object"], is_gone=event["type"] == "DELETED")
            except HTTPError:
                pass
            except client.ApiException:
                # What was before is not known any more: from now on.
                self._watch.resource_version = None
            self._stopped.wait(PAUSE_SECONDS)

    def _note(self, pod: Any, *, is_gone: bool) -> None:
        lease = (pod.metadata.annotations or {}).get(LEASE, pod.metadata.name)
        self.pods[lease] = pod
        self._note_status(pod, lease)
        if is_gone:
            self._gone.add(lease)

    def _note_status(self, pod: Any, lease: str) -> None:
        if pod.status.reason == "Evicted":
            # The status says that, not when.
            self.evicted.setdefault(lease, datetime.now(UTC))
        for status in pod.status.container_statuses or []:
            for state in (status.last_state.terminated, status.state.terminated, status.state.running):
                # Of a container that ended with its containerd the start may be missing.
                if state is not None and state.started_at is not None:
                    self.started.setdefault(lease, state.started_at)
                if state is not None and getattr(state, "finished_at", None):
                    # A container ends once: one that has ended and is not started again may be shown with a later
                    # time, of a containerd that was killed meanwhile.
                    life = (lease, status.restart_count - (state is status.last_state.terminated))
                    if life not in self._ended:
                        self._ended.add(life)
                        self.finished[lease] = state.finished_at
        # Not every kubelet shows how a deleted container ended; then this is the end that the API server shows.
        for condition in pod.status.conditions or []:
            if (condition.type, condition.status) == ("Ready", "False") and lease in self.started:
                self.finished.setdefault(lease, condition.last_transition_time)
                self.unready.setdefault(lease, condition.last_transition_time)


@dataclass
class KubeBench:
    """One person with an allocation, and the hub's database; `hub()` is one life of a hub."""

    cluster: Cluster
    witness: Witness
    services: Services
    http: httpx.ASGITransport
    user: User
    allocation: str
    directory: Path
    spawners: list[KubeAllocationSpawner] = field(default_factory=list)

    @asynccontextmanager
    async def hub(self) -> AsyncIterator[Callable[..., KubeAllocationSpawner]]:
        """Make spawners as a hub does that has just started; at its end nothing of it goes on."""
        service = AllocationsClient(f"http://service{PREFIX}", "secret", transport=self.http)
        queue = PendingSettleQueue(self.directory / "pending", service, first_pause_seconds=0.1)
        queue.replay()

        def make(name: str = "", size: str = "tiny", image: str = "lab", **traits: Any) -> KubeAllocationSpawner:
            config = Config()
            config.KubeSpawner.namespace = self.cluster.namespace
            config.KubeSpawner.start_timeout = PATIENCE_SECONDS
            config.KubeSpawner.cmd = FOREVER
            options = {"allocation": self.allocation, "size": size, "image": image} | traits.pop("options", {})
            if name not in self.user.orm_user.orm_spawners:
                self.user.db.add(orm.Spawner(name=name, user=self.user.orm_user))
                self.user.db.commit()
            spawner: KubeAllocationSpawner = self.user._new_spawner(
                name,
                spawner_class=KubeAllocationSpawner,
                hub=Hub(),
                config=config,
                allocations_client=service,
                pending_settles=queue,
                user_options=options,
                **traits,
            )
            self.user.spawners[name] = spawner
            orm_server = orm.Server(base_url=f"/user/ada/{name}")
            self.user.db.add(orm_server)
            self.user.db.commit()
            spawner.server = Server(orm_server=orm_server)
            self.spawners.append(spawner)
            return spawner

        try:
            yield make
        finally:
            assert await queue.settle_now("ada", 10)
            await queue.close()
            await KubeAllocationSpawner._stop_all_reflectors()
            await service.close()

    @asynccontextmanager
    async def reconciler(self, seconds: float = 0.5) -> AsyncIterator[Reconciler]:
        """What a hub that has just started compares pods and leases with, by the bench's database of the hub."""
        service = AllocationsClient(f"http://service{PREFIX}", "secret", transport=self.http)
        queue = PendingSettleQueue(self.directory / "pending", service, first_pause_seconds=0.1)
        config = Config()
        config.KubeSpawner.namespace = self.cluster.namespace

        def spawner_of(person: str, server_name: str) -> KubeAllocationSpawner:
            return KubeAllocationSpawner(
                user=SimpleNamespace(name=person, id="", url=""),
                name=server_name,
                config=config,
                allocations_client=service,
                pending_settles=queue,
                reconcile_seconds=seconds,
            )

        try:
            database = sessionmaker(self.user.db.get_bind())
            yield Reconciler(spawner_of, lambda: Known.read(database, queue.lease_ids))
        finally:
            await queue.close()
            await KubeAllocationSpawner._stop_all_reflectors()
            await service.close()

    def leases(self) -> list[LeaseView]:
        """All leases of the person, oldest first."""
        return list(reversed(self.services.reports.leases_of("ada", 100)))

    def kill(self, spawner: KubeAllocationSpawner) -> None:
        """Delete a pod as an operator would, behind the hub's back."""
        self.cluster.core.delete_namespaced_pod(spawner.pod_name, spawner.namespace, grace_period_seconds=1)

    async def until_gone(self, spawner: KubeAllocationSpawner) -> None:
        """Wait until the API server has no pod of the spawner's name."""

        async def gone() -> bool:
            pods = self.cluster.core.list_namespaced_pod(spawner.namespace).items
            return spawner.pod_name not in {pod.metadata.name for pod in pods}

        await exponential_backoff(gone, "the pod stays", timeout=PATIENCE_SECONDS, max_wait=0.5)

    async def until_ended(self, spawner: KubeAllocationSpawner) -> None:
        """Poll as the hub does, only more often, until the server has ended."""

        async def ended() -> bool:
            return await spawner.poll() is not None

        await exponential_backoff(ended, "the server runs on", timeout=PATIENCE_SECONDS, max_wait=0.5)

    def assert_charged_as_shown(self) -> None:
        """Every lease is settled with exactly the seconds that the API server showed, and the audit finds nothing."""
        assert self.leases()
        for lease in self.leases():
            charge = self.witness.seconds(lease) * lease.microcredits_per_second
            assert (lease.state, lease.charged_microcredits) == ("settled", charge)
        self.assert_clean()

    def assert_clean(self) -> None:
        """The ledger's audit finds nothing, and nothing is held any more."""
        with self.services.database.read() as connection:
            assert audit_ledger(connection).violations == ()
        assert not [lease for lease in self.leases() if lease.held_microcredits]


@contextmanager
def unless_gone() -> Iterator[None]:
    """Do something to what may be gone by itself by now."""
    try:
        yield
    except client.ApiException as error:
        if error.status != NOT_FOUND:
            raise


@contextmanager
def kube_bench(cluster: Cluster, directory: Path, longest_session_seconds: int = 3600) -> Iterator[KubeBench]:
    """Wire it all in a directory."""
    write_policies(directory / "policies", cluster.image, longest_session_seconds)
    database = Database(f"sqlite:///{directory / 'allocations.sqlite'}")
    upgrade(database)
    services = make_services(database, load_policy(directory / "policies"), directory / "runs", SystemClock())
    services.agreements.accept("ada", services.policy.agreement.version)
    allocation = services.reports.allocations_of("ada")[0].id
    app = create_app(services, SpawnerIdentity("secret", PREFIX), "local")
    hub_database = orm.new_session_factory(url=f"sqlite:///{directory / 'hub.sqlite'}")()
    orm_user = orm.User(name="ada")
    hub_database.add(orm_user)
    hub_database.commit()
    user = User(orm_user, {"spawner_class": KubeAllocationSpawner})
    with Witness(cluster.core, cluster.namespace).looking() as witness:
        bench = KubeBench(cluster, witness, services, httpx.ASGITransport(app), user, allocation, directory)
        yield bench
    for pod in cluster.core.list_namespaced_pod(cluster.namespace).items:
        with unless_gone():
            cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=0)
    hub_database.close()
    database.dispose()
