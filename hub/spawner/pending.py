"""Ends of leases that the service may not know yet: kept on disk, tried until the service answers.

A lease's end is written to disk before it is reported, and its file goes when the service has taken it. A
hub that is killed at any point in between finds the file when it starts again; reporting an end twice is
harmless by contract.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ValidationError

from hub.client import AllocationDenied, AllocationsClient, AllocationsUnavailableError, LeaseRequest
from hub.spawner.record import LeaseRecord

FIRST_PAUSE_SECONDS = 1.0
# Shorter than the policy's `reconcile_seconds`: the worker, which sees the hub without the server, ends its lease on
# the second look, by when it last saw the server. When service and hub come back, the true end is to come first.
LONGEST_PAUSE_SECONDS = 10.0
# The service knows the lease as ended already, by another way: nothing is left to report.
ALREADY_ENDED_CODES = frozenset({"lease_ended"})
# Faults of the hub's own standing with the service; they pass when an operator mends them.
RETRIED_DENIALS = frozenset({403, 408, 429})

log = logging.getLogger("JupyterHub.meridian")  # below the hub's own, so that its handlers apply


class PendingSettle(BaseModel):
    """How one lease ends: settled at `ended_at`, or voided because no process ever ran for it."""

    action: Literal["settle", "void"]
    idempotency_key: str
    request: LeaseRequest
    lease_id: str | None
    unreported_start_at: datetime | None = None
    ended_at: datetime | None = None

    @classmethod
    def from_record(cls, record: LeaseRecord, ended_at: datetime) -> Self:
        """Decide how the lease of `record` ends: without a process there is nothing to charge."""
        started_at = record.process_started_at
        return cls(
            action="void" if started_at is None else "settle",
            idempotency_key=record.idempotency_key,
            request=record.request,
            lease_id=record.lease_id,
            unreported_start_at=None if record.start_acknowledged else started_at,
            ended_at=None if started_at is None else max(started_at, ended_at),
        )


@dataclass(frozen=True)
class _Report:
    """One end that is being reported: setting `wake` cuts the pause before the next attempt short."""

    person: str
    lease_id: str | None
    wake: asyncio.Event
    task: asyncio.Task[None]


class PendingSettleQueue:
    """Reports the ends of leases in the background, more and more seldom while the service does not answer.

    All methods belong to the hub's event loop. Each end has one task of its own, so that one that the
    service can't take does not hold up the others.
    """

    def __init__(
        self, directory: Path, client: AllocationsClient, *, first_pause_seconds: float = FIRST_PAUSE_SECONDS
    ) -> None:
        """`directory` is created, readable by the hub alone, on first use."""
        self._directory = directory
        self._client = client
        self._first_pause_seconds = first_pause_seconds
        self._reports: dict[str, _Report] = {}

    def add(self, pending: PendingSettle) -> None:
        """Keep `pending` on disk and begin to report it. Does not wait, so nothing can come between.

        An end that is pending already stays as it is: the first look that showed it counts.
        """
        if pending.idempotency_key in self._reports:
            return
        try:
            self._write(pending)
        except OSError:
            # Reported from memory all the same; if the hub dies first, the lease ends with its quantum.
            log.exception("Could not keep the end of lease %s on disk", pending.lease_id)
        self._begin(pending)

    def replay(self) -> int:
        """Begin to report every end left on disk by an earlier hub; returns how many there were."""
        count = 0
        for path in sorted(self._directory.glob("*.json")):
            try:
                pending = PendingSettle.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                log.exception("The pending settle %s can't be read and is left for the operator", path)
                continue
            if pending.idempotency_key not in self._reports:
                self._begin(pending)
                count += 1
        return count

    @property
    def lease_ids(self) -> set[str]:
        """The leases whose ends are being reported."""
        return {report.lease_id for report in self._reports.values() if report.lease_id is not None}

    async def settle_now(self, person: str, timeout_seconds: float) -> bool:
        """Try the ends pending for `person` at once; True when all were taken within `timeout_seconds`."""
        reports = [report for report in self._reports.values() if report.person == person]
        for report in reports:
            report.wake.set()
        if not reports:
            return True
        _, waiting = await asyncio.wait([report.task for report in reports], timeout=timeout_seconds)
        return not waiting

    async def close(self) -> None:
        """Stop trying; the files stay for the next hub."""
        tasks = [report.task for report in self._reports.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, pending: PendingSettle) -> None:
        key = pending.idempotency_key
        wake = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._report_until_taken(pending, wake))
        self._reports[key] = _Report(pending.request.person, pending.lease_id, wake, task)
        task.add_done_callback(lambda _: self._reports.pop(key, None))

    async def _report_until_taken(self, pending: PendingSettle, wake: asyncio.Event) -> None:
        pause_seconds = self._first_pause_seconds
        while True:
            wake.clear()
            try:
                await self._report(pending)
            except AllocationsUnavailableError as error:
                log.warning("The end of lease %s waits: %s", pending.lease_id, error)
            except AllocationDenied as denial:
                # Without a lease id the denial says that nothing is held under the key.
                if pending.lease_id is None or denial.status not in RETRIED_DENIALS:
                    self._drop(pending, denial)
                    return
                log.warning("The end of lease %s waits: %s", pending.lease_id, denial)
            else:
                self._path(pending).unlink(missing_ok=True)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), timeout=pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    async def _report(self, pending: PendingSettle) -> None:
        lease_id = pending.lease_id
        if lease_id is None:
            # The answer to acquire was lost. The same key names the same hold, or makes one that is voided
            # at once.
            lease_id = (await self._client.acquire(pending.request, pending.idempotency_key)).id
        if pending.action == "void":
            await self._client.void(lease_id)
            return
        if pending.unreported_start_at is not None:
            await self._client.report_start(lease_id, pending.unreported_start_at)
        lease = await self._client.settle(lease_id, pending.ended_at)
        log.info(
            "Settled lease %s of %s: %d microcredits",
            lease_id,
            pending.request.person,
            lease.charged_microcredits,
        )

    def _drop(self, pending: PendingSettle, denial: AllocationDenied) -> None:
        """Nothing more can be done by trying: the lease has ended already, or was never held."""
        path = self._path(pending)
        if denial.code in ALREADY_ENDED_CODES or pending.lease_id is None:
            path.unlink(missing_ok=True)
            return
        log.error("The end of lease %s was refused and is left for the operator: %s", pending.lease_id, denial)
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_suffix(".refused"))

    def _path(self, pending: PendingSettle) -> Path:
        return self._directory / f"{pending.idempotency_key}.json"

    def _write(self, pending: PendingSettle) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(pending)
        partial = path.with_suffix(".partial")
        # A file that is left from a failed attempt would keep its mode.
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(pending.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
