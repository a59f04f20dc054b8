"""Compares leases with the servers that really run, and acts on the difference: renew, stop, settle, expire.

Invariant kept here (number as in the design):

6. NO_SERVER_WITHOUT_LEASE and no lease past its end without a stop. Nothing is done on one look alone: a server that
   is being created, or a hub that is starting, looks for a moment like a difference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from allocations.clock import MS_PER_SECOND
from allocations.leases.models import Lease, LeaseKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.policy.models import LeaseRules

log = logging.getLogger(__name__)

# How many leases one transaction notes something of.
NOTES_MAX = 1000

ServerKey = tuple[str, str]
"""A person and the name of a server (empty for the default one)."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What the hub says of a server: ready, or on its way up or down; when it was last used."""

    ready: bool
    last_activity_ms: int | None


class Servers(Protocol):
    """The servers as the hub (later: the cluster) knows them."""

    def active(self) -> Mapping[ServerKey, ServerStatus]: ...

    def stop(self, key: ServerKey) -> None: ...


@dataclass(slots=True, kw_only=True)
class LeaseWatch:
    """One look at a time; keeps only since when servers have been seen without a lease."""

    database: Database
    clock: Clock
    rules: LeaseRules
    leases: LeaseService
    store: LeaseStore
    servers: Servers
    _strangers_since_ms: dict[ServerKey, int] = field(default_factory=dict, init=False)

    def look(self) -> None:
        """Compare once; raises what the hub's client raises when the hub does not answer, and then nothing is done."""
        # The servers first: one that appears between the two readings has a lease that is read after it.
        active = self.servers.active()
        now_ms = self.clock.now_ms()
        by_server = self._newest_by_server()
        seen: list[Lease] = []
        back: list[Lease] = []
        missing: list[Lease] = []
        for key, candidates in by_server.items():
            # Only the newest lease of a server can be the one that it runs under.
            *stale, current = candidates
            missing += stale
            status = active.get(key)
            if status is None:
                missing.append(current)
            elif status.ready and current.started_at_ms is not None:
                seen.append(current)
            elif current.missing_since_ms is not None:
                # On its way up or down: there, so the two looks that end a lease begin anew.
                back.append(current)
        self._note(seen, lambda connection, ids: self.store.mark_seen(connection, ids, now_ms))
        self._note(back, lambda connection, ids: self.store.mark_missing(connection, ids, None))
        self._end_missing(missing, now_ms)
        for lease in seen:
            key = (lease.person, lease.server_name)
            self._stop_when_idle(key, lease, active[key], now_ms)
        self._stop_strangers(active, set(by_server), now_ms)

    def keep(self) -> int:
        """Renew what ends soon, stop what has ended, expire what nobody stopped; return how many were renewed."""
        now_ms = self.clock.now_ms()
        renew_before_ms = self.rules.renew_before_end_seconds * MS_PER_SECOND
        self.leases.end_departed()
        self.leases.end_suspended()
        self.leases.end_stopped(self.rules.allocation_end_grace_seconds)
        with self.database.read() as connection:
            # Also past their ends: the worker may have been away while servers ran on, within their tier's longest.
            due = self.store.ending(connection, now_ms + renew_before_ms, kind=LeaseKind.INTERACTIVE)
        renewed = self.leases.renew_many(due)
        with self.database.read() as connection:
            ended = self.store.ending(connection, now_ms)
        grace_ms = self.rules.stop_grace_seconds * MS_PER_SECOND
        expired = self.leases.expire_many([lease for lease in ended if now_ms >= lease.ends_at_ms + grace_ms])
        for lease in expired.values():
            log.warning("lease expired: no stop was reported", extra=_fields(lease))
        # Last, for the hub may not answer: what is the ledger's is done without it.
        for lease in ended:
            if lease.kind is LeaseKind.INTERACTIVE:
                log.info("server at the end of its lease is stopped", extra=_fields(lease))
                self.servers.stop((lease.person, lease.server_name))
        return sum(renewed[lease.id].ends_at_ms > lease.ends_at_ms for lease in due if lease.id in renewed)

    # ------------------------------------------------------------------ inside

    def _newest_by_server(self) -> dict[ServerKey, list[Lease]]:
        by_server: dict[ServerKey, list[Lease]] = {}
        with self.database.read() as connection:
            for lease in self.store.open_leases(connection, kind=LeaseKind.INTERACTIVE):
                by_server.setdefault((lease.person, lease.server_name), []).append(lease)
        return by_server

    def _end_missing(self, missing: Sequence[Lease], now_ms: int) -> None:
        """End the leases whose servers are gone, on the second look."""
        new = [lease for lease in missing if lease.missing_since_ms is None]
        self._note(new, lambda connection, ids: self.store.mark_missing(connection, ids, now_ms))
        gone = [
            lease
            for lease in missing
            if lease.missing_since_ms is not None
            and now_ms - lease.missing_since_ms >= self.rules.reconcile_seconds * MS_PER_SECOND
        ]
        for lease in self.leases.end_gone(gone).values():
            log.warning("lease without a server ended", extra=_fields(lease))

    def _note(self, leases: Sequence[Lease], note: Callable[[Connection, Sequence[str]], None]) -> None:
        """Note something of leases, some at a time: others wait for those that are being noted."""
        for begin in range(0, len(leases), NOTES_MAX):
            with self.database.write() as connection:
                note(connection, [lease.id for lease in leases[begin : begin + NOTES_MAX]])

    def _stop_strangers(self, active: Mapping[ServerKey, ServerStatus], leased: set[ServerKey], now_ms: int) -> None:
        """Stop servers that have no lease, on the second look."""
        strangers = {key for key, status in active.items() if status.ready and key not in leased}
        self._strangers_since_ms = {key: self._strangers_since_ms.get(key, now_ms) for key in strangers}
        for key in strangers:
            if now_ms - self._strangers_since_ms[key] >= self.rules.reconcile_seconds * MS_PER_SECOND:
                log.warning("server without a lease is stopped", extra={"person": key[0], "server": key[1]})
                self.servers.stop(key)

    def _stop_when_idle(self, key: ServerKey, lease: Lease, status: ServerStatus, now_ms: int) -> None:
        if lease.started_at_ms is None:
            return
        used_ms = max(status.last_activity_ms or 0, lease.started_at_ms, lease.kept_at_ms or 0)
        if now_ms - used_ms >= lease.idle_seconds * MS_PER_SECOND:
            log.info("idle server is stopped", extra=_fields(lease))
            self.servers.stop(key)


def _fields(lease: Lease) -> dict[str, str]:
    return {"person": lease.person, "allocation": lease.allocation_id, "lease": lease.id}
