"""Compares the pods of this hub with the leases that are open, and acts on the difference: stop, settle, void.

Spawners see to the servers that the hub's database knows. This is for what falls beside it: a pod whose deletion
failed, or that was created just before the hub was killed; all pods of a hub that has lost its database; and the
leases of such pods when those are gone.

What is read in what order decides what a difference means. One look reads first the pods, then the open leases, then
the hub's database:
- A lease is acquired before its pod is created. So the lease of a pod that was seen is on a list that is read later,
  or has ended; the list is never older than the pod.
- The hub writes a lease down before it creates the pod. So a pod that was seen and that the database, read later, does
  not know has no spawner that will see to it: there never was one, or it has handed the lease over.
- A lease may be acquired after the pods were read, and looks as if it had none. By then it is written down, or its
  request is, and is left alone.
Nothing is done on one look, nor on what a watch showed: on the second look, the pods are read again from the API server
itself, the hub's database after them, and only what is still so is acted on. A pod is deleted by its uid. Where the
service or the API server does not answer, nothing is done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from jupyterhub.app import JupyterHub
from jupyterhub.utils import exponential_backoff
from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from hub.client import AllocationDenied, AllocationsUnavailableError
from hub.spawner.kube import END_EVENTS
from hub.spawner.manifests import HUB, NOTEBOOK, pod_end, pod_start
from hub.spawner.pods import NO_ANSWER, LeasePodReflector, lease_of
from hub.spawner.record import STATE_KEY, LeaseRecord, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from hub.client import OpenLease
    from hub.spawner.kube import KubeAllocationSpawner

# What a look that fails waits at most before the next.
RETRY_SECONDS = 2.0
# How long a pod that was deleted may take to end, until its lease is left to the next looks.
END_WAIT_SECONDS = 20.0
END_LOOK_SECONDS = 0.2
DELETIONS_AT_ONCE = 20
DAY_SECONDS = 86_400
# JupyterHub's own type of the column would make SQLAlchemy compile the query anew each time.
_STATES = text("SELECT state FROM spawners WHERE server_id IS NOT NULL")
# A spawner for what belongs to all servers.
OF_NOBODY = ("meridian", "")

_LOOKS = Counter("meridian_reconcile_looks_total", "Comparisons of pods with leases", ["outcome"])
_DONE = Counter("meridian_reconciled_total", "What was done about pods without leases, and the reverse", ["action"])

# The event loop itself holds tasks by weak references only.
_background: set[asyncio.Task[None]] = set()

log = logging.getLogger("JupyterHub.meridian")  # below the hub's own, so that its handlers apply


@dataclass(frozen=True, slots=True)
class StrayPod:
    """A pod whose lease is not open, or whose lease the hub does not know."""

    uid: str
    namespace: str
    name: str
    lease_id: str


@dataclass(frozen=True, slots=True)
class LostLease:
    """An open lease that the hub does not know and that no pod runs under."""

    lease_id: str


Finding = StrayPod | LostLease


@dataclass(frozen=True, slots=True)
class Life:
    """When the container of a lease's pod began and ended, where that is known, and the events to find it in."""

    started_at: datetime | None
    ended_at: datetime | None
    events: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the hub sees to itself, by its database and by the ends that it is reporting.

    `leases` of servers, `starting` those of them that have not begun to run, `reporting` those that have ended, and
    `asking` the servers (person, name) for which a lease has been asked for and no answer has come.
    """

    leases: frozenset[str] = frozenset()
    starting: frozenset[str] = frozenset()
    reporting: frozenset[str] = frozenset()
    asking: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def read(cls, database: sessionmaker[Session], reporting: Iterable[str]) -> Known:
        """Read the hub's database; what a spawner knows is committed there before it goes on."""
        # Not the hub's own session: an error of the database would leave that unusable.
        with database() as session:
            states = session.execute(_STATES).scalars().all()
        records = [LeaseRecord.from_state(json.loads(state or "{}").get(STATE_KEY)) for state in states]
        held = [(record.lease_id, record.process_started_at) for record in records if record and record.lease_id]
        return cls(
            leases=frozenset(lease_id for lease_id, _ in held),
            starting=frozenset(lease_id for lease_id, started_at in held if started_at is None),
            reporting=frozenset(reporting),
            asking=frozenset(
                (record.request.person, record.request.server_name)
                for record in records
                if record and record.lease_id is None
            ),
        )


def judge(
    pods: Iterable[Mapping[str, Any]],
    leases: Collection[OpenLease],
    known: Known,
    now: datetime,
    *,
    keep_ended_pods: bool = False,
) -> set[Finding]:
    """Find what does not go together: `pods` of this hub (as JSON), `leases` that are open, read in this order."""
    found: set[Finding] = set()
    open_leases = {lease.id for lease in leases}
    served = set()
    for pod in pods:
        lease_id = lease_of(pod)
        if lease_id is None:
            continue
        ended = pod_end(pod, now) is not None
        if not ended:
            served.add(lease_id)
        cared_for = lease_id in known.starting or (lease_id in known.leases and lease_id in open_leases)
        going = "deletionTimestamp" in pod["metadata"] or (ended and keep_ended_pods)
        if not cared_for and not going:
            metadata = pod["metadata"]
            found.add(StrayPod(metadata["uid"], metadata["namespace"], metadata["name"], lease_id))
    found |= {
        LostLease(lease.id)
        for lease in leases
        if lease.id not in served | known.leases | known.reporting
        and (lease.person, lease.server_name) not in known.asking
    }
    return found


class TwoLooks:
    """Remembers since when findings have been there without a break; times are seconds of a monotonic clock."""

    def __init__(self, apart_seconds: float) -> None:
        """`apart_seconds`: how far apart the looks are that make a finding due."""
        self._apart_seconds = apart_seconds
        self._since: dict[Finding, float] = {}

    def due(self, found: Iterable[Finding], now_seconds: float) -> set[Finding]:
        """Return what was found before, at least so long ago, and is still there."""
        self._since = {finding: self._since.get(finding, now_seconds) for finding in found}
        return {finding for finding, since in self._since.items() if now_seconds - since >= self._apart_seconds}


def times_by_events(events: Iterable[Any], since: datetime, until: datetime | None) -> tuple[datetime, datetime] | None:
    """When the container of a lease's pod began and when its end did; None where no event says that it ran.

    `events` are of all pods of one name; those of a lease come between its acquisition and that of the next.
    """
    # The cluster cuts times off to the second. Where that leaves it open whose a pod was, it is not taken for this one.
    since = since.replace(microsecond=0)
    until = until.replace(microsecond=0) if until else datetime.max.replace(tzinfo=UTC)
    by_pod: dict[str, list[tuple[datetime, Any]]] = {}
    for event in events:
        at = event.first_timestamp or event.event_time
        if at is not None:
            by_pod.setdefault(event.involved_object.uid, []).append((at, event))
    lives = []
    for of_pod in by_pod.values():
        container = f"{{{NOTEBOOK}}}"
        starts = [
            at
            for at, event in of_pod
            if event.reason == "Started" and (event.involved_object.field_path or "").endswith(container)
        ]
        if starts and since <= min(at for at, _ in of_pod) < until:
            began = min(starts)
            ends = [event.last_timestamp or at for at, event in of_pod if event.reason in END_EVENTS and at >= began]
            lives.append((began, max(ends, default=began)))
    return min(lives, default=None)


class Reconciler:
    """One look at a time.

    `spawner_of` makes the spawner of a person's server, which starts nothing: it knows where the server's pod would be,
    and how to speak to the cluster and to the service. `known` reads what the hub sees to itself.
    """

    def __init__(self, spawner_of: Callable[[str, str], KubeAllocationSpawner], known: Callable[[], Known]) -> None:
        self._spawner_of = spawner_of
        self._known = known
        self._spawner = spawner_of(*OF_NOBODY)
        self._service = self._spawner.allocations_client
        self._looks = TwoLooks(self._spawner.reconcile_seconds)
        self._failing = False

    async def run(self) -> None:
        """Look for ever, at once and then at the interval; what could not be read is read again."""
        while True:
            started = time.monotonic()
            try:
                await self.look(started)
            except (AllocationDenied, AllocationsUnavailableError, SQLAlchemyError, *NO_ANSWER) as error:
                # Once: it may be long until they answer again.
                log.log(logging.DEBUG if self._failing else logging.WARNING, "Pods and leases not compared: %s", error)
                self._failing = True
            except Exception:
                log.exception("Pods and leases not compared")
                self._failing = True
            else:
                if self._failing:
                    log.info("Pods and leases are compared again")
                self._failing = False
            _LOOKS.labels("failed" if self._failing else "done").inc()
            seconds = self._spawner.reconcile_seconds
            await asyncio.sleep(min(RETRY_SECONDS, seconds) if self._failing else seconds)

    async def look(self, now_seconds: float) -> None:
        """Compare once, and act on what the look before has found as well; the time is of a monotonic clock."""
        pods = self._ours(await self._spawner.watched_pods())
        leases = await self._service.open_leases()
        due = self._looks.due(self._judge(pods, leases), now_seconds)
        if due:
            pods = self._ours(await self._spawner.read_pods())
            await self._act(due & self._judge(pods, leases), pods, {lease.id: lease for lease in leases})

    def _ours(self, pods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The pods that this hub has made; others in the same namespaces are nobody's here to judge."""
        return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(HUB) == self._spawner.hub_id]

    def _judge(self, pods: list[dict[str, Any]], leases: list[OpenLease]) -> set[Finding]:
        return judge(pods, leases, self._known(), utc_now(), keep_ended_pods=not self._spawner.delete_stopped_pods)

    async def _act(self, due: set[Finding], pods: list[dict[str, Any]], leases: dict[str, OpenLease]) -> None:
        strays = {finding for finding in due if isinstance(finding, StrayPod)}
        limit = asyncio.Semaphore(DELETIONS_AT_ONCE)

        async def stop(pod: StrayPod) -> None:
            async with limit:
                why = "the hub does not know its lease" if pod.lease_id in leases else "its lease has ended"
                log.warning("Stopping pod %s/%s of lease %s: %s", pod.namespace, pod.name, pod.lease_id, why)
                try:
                    await self._spawner.delete_pod(pod.namespace, pod.name, pod.uid)
                except NO_ANSWER as error:
                    # Others are not to wait for it; the next look finds it again.
                    log.warning("Pod %s/%s can't be stopped: %s", pod.namespace, pod.name, error)
                    return
                _DONE.labels("pod stopped").inc()

        await asyncio.gather(*(stop(pod) for pod in strays))
        ended = {finding.lease_id for finding in due if isinstance(finding, LostLease)}
        # An end that is being reported stands as it is.
        unreported = leases.keys() - self._known().reporting
        ended |= await self._ended_of({pod.lease_id for pod in strays if pod.lease_id in unreported})
        by_lease = {lease_of(pod): pod for pod in pods}
        lives = {lease_id: await self._life(leases[lease_id], by_lease.get(lease_id)) for lease_id in sorted(ended)}
        if ended:
            # A server may have got its next lease meanwhile. Read after the events, the leases say since when these
            # are of that one.
            leases = {lease.id: lease for lease in await self._service.open_leases()}
        for lease_id in sorted(ended & leases.keys()):
            await self._end(leases[lease_id], lives[lease_id])

    async def _ended_of(self, lease_ids: set[str]) -> set[str]:
        """Wait until the pods of leases have ended, and return those that have within the time."""
        give_up_at = time.monotonic() + END_WAIT_SECONDS
        while True:
            ended = {lease_id for lease_id in lease_ids if LeasePodReflector.ends.end_of(lease_id)}
            if ended == lease_ids or time.monotonic() >= give_up_at:
                return ended
            await asyncio.sleep(END_LOOK_SECONDS)

    async def _life(self, lease: OpenLease, pod: Mapping[str, Any] | None) -> Life:
        """Read what the API server shows of the life of a lease's pod."""
        started_at = lease.started_at or (pod_start(pod) if pod else None)
        ended_at = LeasePodReflector.ends.end_of(lease.id)
        if started_at is not None and ended_at is not None:
            return Life(started_at, ended_at)
        events = await self._spawner_of(lease.person, lease.server_name).read_pod_events()
        return Life(started_at, ended_at, list(events))

    async def _end(self, lease: OpenLease, life: Life) -> None:
        """Settle a lease by what the API server showed of its pod, or void it when no container has run."""
        started_at, ended_at = lease.started_at or life.started_at, life.ended_at
        by_events = times_by_events(life.events, lease.acquired_at, lease.replaced_at)
        if by_events:
            started_at, ended_at = started_at or by_events[0], ended_at or by_events[1]
        try:
            if started_at is None:
                await self._service.void(lease.id)
                log.warning("Voided lease %s of %s: it has no pod, and none has run", lease.id, lease.person)
                _DONE.labels("lease voided").inc()
                return
            if lease.started_at is None:
                await self._service.report_start(lease.id, started_at)
            # Without an end, when it was last seen: within its life, so that it is not charged for more than it ran.
            ended_at = max(started_at, ended_at or lease.seen_at or started_at)
            await self._service.settle(lease.id, ended_at)
        except AllocationDenied as denial:
            # Others are not to wait for it; if there is reason to, the next looks find it again.
            log.warning("Lease %s of %s can't be ended: %s", lease.id, lease.person, denial)
            return
        log.warning("Settled lease %s of %s, whose pod ended at %s", lease.id, lease.person, ended_at.isoformat())
        _DONE.labels("lease settled").inc()


def begin_reconciling() -> None:
    """Compare pods and leases from now on, in the hub's process; to be called in its event loop."""
    task = asyncio.get_running_loop().create_task(_reconcile())
    _background.add(task)
    task.add_done_callback(_background.discard)


async def _reconcile() -> None:
    hub = JupyterHub.instance()
    # The configuration is still being read; a hub may take long to bring its database up to date.
    await exponential_backoff(lambda: hasattr(hub, "db"), "The hub has no database", timeout=DAY_SECONDS, max_wait=1)

    def spawner_of(person: str, server_name: str) -> KubeAllocationSpawner:
        user = SimpleNamespace(name=person, id="", url="")
        spawner: KubeAllocationSpawner = hub.spawner_class(user=user, name=server_name, config=hub.config)
        return spawner

    queue = spawner_of(*OF_NOBODY).pending_settles
    await Reconciler(spawner_of, lambda: Known.read(hub.session_factory, queue.lease_ids)).run()
