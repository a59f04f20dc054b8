"""Compares leases with the servers that really run, and acts on the difference: renew, stop, settle, expire.

Invariant kept here (number as in the design):

6. NO_SERVER_WITHOUT_LEASE and no lease past its end without a stop. Nothing is done on one look alone: a server that
   is being created, or a hub that is starting, looks for a moment like a difference.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from allocations.clock import MS_PER_SECOND
from allocations.errors import LeaseEndedError
from allocations.leases.models import EndReason, Lease, LeaseKind, LeaseState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.policy.models import LeaseRules

log = logging.getLogger(__name__)

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
        seen: list[str] = []
        for key, candidates in by_server.items():
            # Only the newest lease of a server can be the one that it runs under.
            *stale, current = candidates
            for lease in stale:
                self._missing(lease, now_ms)
            status = active.get(key)
            if status is None:
                self._missing(current, now_ms)
            elif status.ready and current.started_at_ms is not None:
                seen.append(current.id)
                self._stop_when_idle(key, current, status, now_ms)
            elif current.missing_since_ms is not None:
                # On its way up or down: there, so the two looks that end a lease begin anew.
                self._note_missing(current, None)
        if seen:
            with self.database.write() as connection:
                self.store.mark_seen(connection, seen, now_ms)
        self._stop_strangers(active, set(by_server), now_ms)

    def keep(self) -> int:
        """Renew what ends soon, stop what has ended, expire what nobody stopped; return how many were renewed."""
        now_ms = self.clock.now_ms()
        renew_before_ms = self.rules.renew_before_end_seconds * MS_PER_SECOND
        renewed = 0
        self.leases.end_departed()
        with self.database.read() as connection:
            open_leases = self.store.open_leases(connection)
        for lease in open_leases:
            ends_at_ms = lease.ends_at_ms
            if lease.kind is LeaseKind.INTERACTIVE and now_ms >= ends_at_ms - renew_before_ms:
                # Also past its end: the worker may have been away while the server ran on, within its tier's longest.
                ends_at_ms = self._renew(lease)
                renewed += ends_at_ms > lease.ends_at_ms
                if now_ms >= ends_at_ms:
                    log.info("server at the end of its lease is stopped", extra=_fields(lease))
                    self.servers.stop((lease.person, lease.server_name))
            if now_ms >= ends_at_ms + self.rules.stop_grace_seconds * MS_PER_SECOND:
                self.leases.expire(lease.id)
                log.warning("lease expired: no stop was reported", extra=_fields(lease))
        return renewed

    # ------------------------------------------------------------------ inside

    def _newest_by_server(self) -> dict[ServerKey, list[Lease]]:
        by_server: dict[ServerKey, list[Lease]] = {}
        with self.database.read() as connection:
            for lease in self.store.open_leases(connection, kind=LeaseKind.INTERACTIVE):
                by_server.setdefault((lease.person, lease.server_name), []).append(lease)
        return by_server

    def _missing(self, lease: Lease, now_ms: int) -> None:
        """Settle a lease whose server is gone at the time when it was last seen, on the second look."""
        if lease.missing_since_ms is None:
            self._note_missing(lease, now_ms)
        elif now_ms - lease.missing_since_ms >= self.rules.reconcile_seconds * MS_PER_SECOND:
            with self.database.write() as connection:
                if lease.started_at_ms is None:
                    self.leases.void_within(connection, lease.id, EndReason.NEVER_RAN)
                else:
                    last_ms = lease.seen_at_ms or lease.started_at_ms
                    self.leases.settle_within(connection, lease.id, last_ms, EndReason.GONE)
            log.warning("lease without a server ended", extra=_fields(lease))

    def _note_missing(self, lease: Lease, since_ms: int | None) -> None:
        with self.database.write() as connection:
            self.store.change(connection, lease.id, missing_since_ms=since_ms)

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
        used_ms = max(status.last_activity_ms or 0, lease.started_at_ms)
        if now_ms - used_ms >= lease.idle_seconds * MS_PER_SECOND:
            log.info("idle server is stopped", extra=_fields(lease))
            self.servers.stop(key)

    def _renew(self, lease: Lease) -> int:
        """Renew and return the end of the lease now: the one it had when it could not be renewed."""
        with suppress(LeaseEndedError):
            self.leases.renew(lease.id, lease.seen_at_ms or lease.started_at_ms)
        with self.database.read() as connection:
            current = self.store.get(connection, lease.id)
        assert current is not None  # leases are never deleted
        # A lease that ended meanwhile needs nothing more: as if it ended beyond now.
        return current.ends_at_ms if current.state is LeaseState.OPEN else self.clock.now_ms() + MS_PER_SECOND


def _fields(lease: Lease) -> dict[str, str]:
    return {"person": lease.person, "allocation": lease.allocation_id, "lease": lease.id}
