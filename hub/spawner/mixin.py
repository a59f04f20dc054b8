"""The one place where a JupyterHub server is tied to a lease, over any spawner class.

The order never changes: choose, acquire, start, report the start, settle when it has ended. A lease leaves
this module in one way only: `_hand_over` gives its end to the pending settles, once, whoever notices the
end first.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jupyterhub.objects import Server
from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.utils import maybe_future
from traitlets import Float, Instance, Unicode, default

from hub.client import AllocationDenied, AllocationsClient, AllocationsUnavailableError, Lease, LeaseRequest
from hub.spawner.choice import Choice, InvalidChoiceError, from_form, to_choice
from hub.spawner.pages import (
    no_start_reason,
    refusal,
    render_start_form,
    render_unavailable_form,
    to_credits,
    to_plain,
    to_refusal,
)
from hub.spawner.pending import PendingSettle, PendingSettleQueue
from hub.spawner.prompt import PromptServer
from hub.spawner.record import STATE_KEY, LeaseRecord, utc_now
from hub.spawner.rescue import RESCUE, rescue_arguments, rescue_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

GIB = 1024**3
# Libraries that start a thread for each core they see, not for each core that the lease pays for.
THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# What a home's state at admission means for the server that starts.
HOME_WARNINGS = {
    "over limit": "Your home is over its limit: delete or move files before it is locked",
    "locked": "Your home is locked: delete or move files, and servers start again",
}


@functools.cache
def _connection(allocations_url: str, pending_settles_dir: str) -> tuple[AllocationsClient, PendingSettleQueue]:
    """One connection pool and one queue for all spawners of the hub."""
    client = AllocationsClient.from_environment(allocations_url)
    return client, PendingSettleQueue(Path(pending_settles_dir), client)


def replay_pending_settles(allocations_url: str, pending_settles_dir: str) -> int:
    """Report the ends that an earlier hub could not; to be called in the hub's event loop."""
    _, queue = _connection(allocations_url, pending_settles_dir)
    return queue.replay()


class AllocationSpawnerMixin(Spawner):
    """Put before a spawner class, as in `class Ours(AllocationSpawnerMixin, KubeSpawner)`.

    Races, and what settles them. All code here runs on the hub's one event loop, so only an `await` lets
    others in:
    - stop (or a time limit, or shutdown) racing start: `user.stop` may run while start waits for the
      service. It hands
      the record over; start then finds that the record is no longer its own, and gives up what it has got.
    - poll racing stop: both may see the end first. `_hand_over` takes the record away before it waits for
      anything, so
      the second finds none, and the time of the first look stands.
    For the same reason `clear_state` leaves the record alone: spawner classes call it from poll(), on
    finding a dead server, before its end is recorded.
    """

    allocations_url = Unicode(
        "http://127.0.0.1:8001/services/allocations",
        config=True,
        help="""Root URL of the allocations service, without `/api/v1`.

        The token comes from the environment variable MERIDIAN_TOKEN_SPAWNER; it belongs to the JupyterHub
        service `spawner` and needs the scope `custom:allocations:lease`.
        """,
    )

    pending_settles_dir = Unicode(
        "pending-settles",
        config=True,
        help="""Directory with one JSON file for each lease whose end the service has not taken yet.

        Keep it on storage that outlives the hub. Call `hub.spawner.mixin.replay_pending_settles` from the
        hub's configuration to report what an earlier hub left there. Files ending in `.refused` need an
        operator.
        """,
    )

    settle_wait_seconds = Float(
        5.0,
        config=True,
        help="""Longest time, in seconds, that a stop or a start waits for the service to take an end.

        Attempts go on in the background when it is over.
        """,
    )

    start_report_wait_seconds = Float(
        3.0,
        config=True,
        help="""Longest time, in seconds, that a start waits until the service knows that the server runs.

        When it is over, each poll tries again; the time reported is that of the start in any case.
        """,
    )

    allocations_client = Instance(AllocationsClient, help="The connection to the service, shared by all spawners.")
    pending_settles = Instance(PendingSettleQueue, help="The queue of unreported ends, shared by all spawners.")

    _record: LeaseRecord | None = None
    _start_under_way = False
    _start_report: asyncio.Task[None] | None = None
    # The event loop itself holds tasks by weak references only.
    _background: ClassVar[set[asyncio.Task[None]]] = set()

    @default("allocations_client")
    def _default_allocations_client(self) -> AllocationsClient:
        return _connection(self.allocations_url, self.pending_settles_dir)[0]

    @default("pending_settles")
    def _default_pending_settles(self) -> PendingSettleQueue:
        return _connection(self.allocations_url, self.pending_settles_dir)[1]

    @default("options_form")
    def _default_options_form(self) -> Any:
        return render_options_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return from_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        # start() reads the options itself; without a callable here JupyterHub warns that nobody does.
        return lambda _spawner, _user_options: None

    @property
    def server(self) -> Server | None:
        """What JupyterHub knows of the server's address; None where it has none."""
        server = super().server
        if type(server) is Server:
            # JupyterHub goes on with the very object that it has made, and tells that where the server listens.
            server.__class__ = PromptServer
        return server

    @server.setter
    def server(self, server: Server | None) -> None:
        Spawner.server.fset(self, server)

    @property
    def lease_id(self) -> str | None:
        """The lease that the server runs under, None while there is none."""
        return self._record.lease_id if self._record else None

    @property
    def is_rescue(self) -> bool:
        """Whether the server is for freeing space in a home that is full or locked."""
        return self._record is not None and self._record.request.size == RESCUE

    def rescue_folders(self) -> tuple[str, str]:
        """A folder that a rescue server makes for what would go into the home, and one that is there for the rest."""
        raise NotImplementedError

    async def choice_options(self) -> object:
        """The options that are a choice; extend where the spawner class has options of its own."""
        return self.user_options

    def apply_lease(self, lease: Lease) -> None:
        """Give the server what the lease pays for, no more and no less; extend for GPUs and images."""
        self.cpu_limit = self.cpu_guarantee = lease.resources.cores
        self.mem_limit = self.mem_guarantee = int(lease.resources.memory_gib * GIB)

    def reported_start(self) -> datetime | None:
        """When the server began as its platform reports it; asked when there is one. None while nothing runs yet."""
        return utc_now()

    def reported_end(self) -> datetime | None:
        """When the server ended as its platform reports it; None where only our own looks tell."""
        return None

    async def start(self) -> Any:
        """Start within a lease. Raises SpawnException when denied or when the service does not answer."""
        self._start_under_way = True
        try:
            return await self._start_within_lease()
        finally:
            self._start_under_way = False

    async def _start_within_lease(self) -> Any:
        # What an earlier attempt left, or an end that is not taken yet, would count against this start.
        self._hand_over()
        await self._settle_now()
        choice = await self._resolve_choice()
        record = await self._acquire(choice)
        try:
            address = await super().start()
        except Exception:
            # JupyterHub stops the server after this too, but the lease must not end before what it paid for.
            try:
                await super().stop(now=True)
            finally:
                self._hand_over()
            raise
        if self._record is not record:
            await super().stop(now=True)
            raise _stopped_while_starting()
        record.process_started_at = self.reported_start() or utc_now()
        # Committed before the next await: a hub killed from here on finds the server and its lease again.
        self._save_state()
        await self._report_start_within_wait(record)
        return address

    async def stop(self, now: bool = False) -> None:
        """Stop the server, then settle its lease, without waiting long for the service."""
        await super().stop(now=now)
        self._hand_over()
        await self._settle_now()

    async def poll(self) -> int | None:
        """None while the server runs, else its exit status. The first look that shows the end dates it."""
        status: int | None = await super().poll()
        record = self._record
        # While start() is under way, "not running" says nothing about an end.
        if record is None or record.lease_id is None or self._start_under_way:
            return status
        if status is not None:
            self._hand_over()
            return status
        if record.process_started_at is None:
            # The start was cut off (the hub was killed, or a time limit passed) but there may be a server after all.
            record.process_started_at = self.reported_start()
            if record.process_started_at is None:
                return status
            self._save_state()
        if not record.start_acknowledged:
            self._begin_start_report(record)
        return status

    async def run_post_stop_hook(self) -> None:
        """End a lease that stop() did not see: JupyterHub skips stop() for a server that is already dead."""
        self._hand_over()
        await self._settle_now()
        await maybe_future(super().run_post_stop_hook())

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Say which allocation pays, for what and how much, then whatever the spawner class has to say."""
        yield {"progress": 5, "message": "Asking for a place on the allocation"}
        # A start that was only just asked for has its turn.
        await asyncio.sleep(0)
        while (record := self._record) is None or record.lease_id is None:
            if self.pending != "spawn" and not self._start_under_way:
                break
            await asyncio.sleep(0.2)
        else:
            yield {"progress": 30, "message": _progress_sentence(record)}
            if record.home_state in HOME_WARNINGS:
                yield {"progress": 32, "message": HOME_WARNINGS[record.home_state]}
        async for event in super().progress():
            yield event

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the lease of a server that outlived the hub."""
        super().load_state(state)
        self._record = LeaseRecord.from_state(state.get(STATE_KEY))
        if self._record is None and state.get(STATE_KEY):
            self.log.error("The lease of %s in the hub's database can't be read", self._log_name)

    def get_state(self) -> dict[str, Any]:
        """The spawner class's state with the lease; the pending settles keep the ends of leases."""
        state: dict[str, Any] = super().get_state()
        if self._record is not None:
            state[STATE_KEY] = self._record.to_state()
        return state

    def get_args(self) -> list[str]:
        """The spawner class's arguments; what is deleted by a rescue server is gone at once."""
        args: list[str] = super().get_args()
        return [*args, *rescue_arguments(self.rescue_folders()[0])] if self.is_rescue else args

    def get_env(self) -> dict[str, str]:
        """The spawner class's environment with the lease's names and its limits on threads."""
        env: dict[str, str] = super().get_env()
        record = self._record
        if record is None or record.resources is None:
            return env
        threads = str(max(1, int(record.resources.cores)))
        names = {"MERIDIAN_ALLOCATION": record.request.allocation, "MERIDIAN_SIZE": record.request.size}
        env |= dict.fromkeys(THREAD_LIMITS, threads) | names
        return env | rescue_environment(*self.rescue_folders()) if self.is_rescue else env

    async def _resolve_choice(self) -> Choice:
        try:
            choice = to_choice(await self.choice_options())
        except InvalidChoiceError as error:
            raise refusal(str(error), code="invalid_choice", status=400) from error
        if choice.complete:
            return choice
        try:
            options = await self.allocations_client.start_options(self.user.name)
        except (AllocationDenied, AllocationsUnavailableError) as error:
            raise to_refusal(error) from error
        if options.default is None:
            raise to_refusal(no_start_reason(options))
        return Choice(options.default.allocation, options.default.size, choice.image or options.default.image)

    async def _acquire(self, choice: Choice) -> LeaseRecord:
        request = LeaseRequest(
            allocation=str(choice.allocation),
            person=self.user.name,
            size=str(choice.size),
            image=choice.image,
            server_name=self.name,
        )
        record = self._record = LeaseRecord(idempotency_key=uuid.uuid4().hex, request=request)
        # Committed before the call: if the hub dies with the answer on its way, the key finds the lease.
        self._save_state()
        try:
            lease = await self.allocations_client.acquire(request, record.idempotency_key)
        except (AllocationDenied, AllocationsUnavailableError) as error:
            if isinstance(error, AllocationsUnavailableError) and error.maybe_applied:
                self._hand_over()
            elif self._record is record:
                self._record = None
                self._save_state()
            self.log.warning("%s can't start: %s", self._log_name, error)
            raise to_refusal(error) from error
        if self._record is not record:
            # The record was handed over without a lease id; the pending settles void it by its key.
            raise _stopped_while_starting()
        record.hold(lease)
        self._save_state()
        self.apply_lease(lease)
        self.log.info("Lease %s: %s on allocation %s, size %s", lease.id, self._log_name, lease.allocation, lease.size)
        return record

    async def _report_start_within_wait(self, record: LeaseRecord) -> None:
        task = self._begin_start_report(record)
        await asyncio.wait([task], timeout=self.start_report_wait_seconds)
        if task.done() and not task.cancelled() and isinstance(denial := task.exception(), AllocationDenied):
            # The lease ended while the server was starting; this makes JupyterHub stop the server.
            raise to_refusal(denial)

    def _begin_start_report(self, record: LeaseRecord) -> asyncio.Task[None]:
        if self._start_report is None or self._start_report.done():
            self._start_report = asyncio.get_running_loop().create_task(self._report_start(record))
            self._background.add(self._start_report)
            self._start_report.add_done_callback(self._retrieve)
        return self._start_report

    def _retrieve(self, task: asyncio.Task[None]) -> None:
        """Mark the exception of a background report as seen; it was logged where it happened."""
        self._background.discard(task)
        if not task.cancelled():
            task.exception()

    async def _report_start(self, record: LeaseRecord) -> None:
        try:
            await self.allocations_client.report_start(str(record.lease_id), record.process_started_at)
        except AllocationsUnavailableError as error:
            self.log.warning("The start of %s is not reported yet: %s", self._log_name, error)
            return
        except AllocationDenied as denial:
            # Repeating it would get the same answer; the worker stops a server whose lease has ended.
            record.start_acknowledged = True
            self.log.warning("The start of %s was refused: %s", self._log_name, denial)
            raise
        record.start_acknowledged = True
        # JupyterHub commits the state itself when start() has returned; a hub killed before reports the start again.
        if self._record is record and not self._start_under_way:
            self._save_state()

    def _hand_over(self) -> None:
        """Give the lease's end to the pending settles, at most once, waiting for nothing (see the class)."""
        record = self._record
        if record is None:
            return
        ended_at = self.reported_end() or utc_now()
        self._record = None
        # A report still under way is this record's, not the next one's.
        self._start_report = None
        self.pending_settles.add(PendingSettle.from_record(record, ended_at))
        self._save_state()

    async def _settle_now(self) -> None:
        if not await self.pending_settles.settle_now(self.user.name, self.settle_wait_seconds):
            self.log.warning("An end of a lease of %s is still to be reported", self._log_name)

    def _save_state(self) -> None:
        """Commit at once: JupyterHub itself would only do so when the whole start has succeeded."""
        if self.orm_spawner is None:
            # As JupyterHub's own class has it: outside of a hub there is nothing to keep a state in.
            return
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()


async def render_options_form(spawner: AllocationSpawnerMixin) -> str:
    """The start page's form for a person, or what stands in its place."""
    try:
        options = await spawner.allocations_client.start_options(spawner.user.name)
    except (AllocationDenied, AllocationsUnavailableError) as error:
        spawner.log.warning("No start options for %s: %s", spawner.user.name, error)
        return render_unavailable_form()
    try:
        chosen = to_choice(spawner.user_options)
    except InvalidChoiceError:
        chosen = Choice()
    return render_start_form(options, chosen)


def _stopped_while_starting() -> SpawnException:
    return refusal("The server was stopped while it was starting; nothing was charged.", code="stopped", status=409)


def _progress_sentence(record: LeaseRecord) -> str:
    resources = record.resources
    what = f"size {record.request.size}"
    if resources is not None:
        gpus = f", {resources.gpus} {resources.gpu_type or ''} GPU".replace("  ", " ") if resources.gpus else ""
        what += f" ({to_plain(resources.cores)} CPU, {to_plain(resources.memory_gib)} GiB{gpus})"
    price = to_credits(record.microcredits_per_hour)
    return f"Allocation {record.allocation_name}: {what}, {price} credits an hour"
