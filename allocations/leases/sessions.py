"""Says how long a running server can go on and what ends it then, and extends what a person may extend.

Renewal needs nobody: the worker renews as long as balance, allocation and session last. What a person can do is to say
that an idle server is still wanted, and to take up a longer session that was granted since the server started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND, to_rfc3339
from allocations.errors import LeaseEndedError, TransitionError
from allocations.leases.accounting import no_lease
from allocations.leases.models import Lease, LeaseKind, LeaseState
from allocations.leases.rules import REQUEST_URL, SourceKind, effective_limits, may_run_until_ms
from allocations.leases.views import SECONDS_PER_HOUR, OutlookView, StopReason
from allocations.ledger.models import Unit
from allocations.lifecycle.models import AllocationState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.rules import Limits
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.ledger.models import Balance
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation, Member, Override
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.overrides import OverrideStore
    from allocations.policy.models import Policy

SERVERS_URL = "/hub/home"


@dataclass(frozen=True, slots=True)
class Stop:
    """When a server stops at the latest, and why: in words, with what to do and where."""

    at_ms: int
    reason: StopReason
    detail: str
    remedy: str
    remedy_url: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is read once for all leases."""

    now_ms: int
    nodes: Mapping[str, Allocation]
    members: Mapping[tuple[str, str], Member]
    overrides: Sequence[Override]
    balances: Mapping[tuple[str, Unit], Balance]

    def path(self, lease: Lease) -> list[Allocation]:
        """Return the nodes from the root down to the lease's allocation."""
        path = [self.nodes[lease.allocation_id]]
        while (parent := path[-1].parent_id) is not None:
            path.append(self.nodes[parent])
        return path[::-1]

    def member(self, lease: Lease) -> Member | None:
        """Return the person's place in the lease's allocation, None when there is none any more."""
        return self.members.get((lease.allocation_id, lease.person))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionService:
    """Looks at what renewal will look at, and promises nothing: each renewal decides again."""

    database: Database
    clock: Clock
    policy: Policy
    ledger: Ledger
    leases: LeaseService
    store: LeaseStore
    allocations: AllocationStore
    overrides: OverrideStore

    def outlook(self, lease_id: str) -> OutlookView:
        """Return what becomes of a server. NotFoundError, LeaseEndedError; TransitionError for a batch run."""
        with self.database.read() as connection:
            return self._outlooks(connection, [self._running(connection, lease_id)])[0]

    def outlooks_of(self, person: str) -> list[OutlookView]:
        """Return what becomes of a person's servers, oldest first."""
        with self.database.read() as connection:
            return self._outlooks(
                connection, self.store.open_leases(connection, person=person, kind=LeaseKind.INTERACTIVE)
            )

    def extend(self, lease_id: str, person: str | None = None) -> OutlookView:
        """Let a server count as used now, and last as long as the limits in force let one last that starts now.

        `person`: whose it must be, None where the caller acts for its person. Raises as `outlook`; a server of
        somebody else is not found.
        """
        with self.database.write() as connection:
            lease = self._running(connection, lease_id, person)
            if lease.is_rescue:
                raise TransitionError(
                    "A rescue server is for freeing space and is not extended.",
                    "Start another when it has ended, if there is more to delete.",
                )
            seen = self._look(connection, [lease])
            longest_seconds = self._limits(seen, lease).longest_session_seconds
            latest_end_at_ms = lease.acquired_at_ms + longest_seconds * MS_PER_SECOND
            # One statement, which an end that is being written meanwhile makes wait and then find nothing.
            if not self.store.extend(connection, lease_id, seen.now_ms, latest_end_at_ms):
                raise _has_ended()
        if lease.final:
            # There may be more to hold now. The worker would find that too, within seconds; the answer is to be true.
            self.leases.renew_many([lease])
        return self.outlook(lease_id)

    # ------------------------------------------------------------------ inside

    def _running(self, connection: Connection, lease_id: str, person: str | None = None) -> Lease:
        lease = self.store.get(connection, lease_id)
        if lease is None or person not in {None, lease.person}:
            raise no_lease(lease_id)
        if lease.kind is not LeaseKind.INTERACTIVE:
            raise TransitionError(
                "A batch run holds its declared maximum from its start and is not extended.",
                "Cancel it and submit it again with a longer maximum.",
            )
        if lease.state is not LeaseState.OPEN:
            raise _has_ended()
        return lease

    def _look(self, connection: Connection, leases: Sequence[Lease]) -> _Seen:
        now_ms = self.clock.now_ms()
        on = {lease.allocation_id for lease in leases}
        people = {lease.person for lease in leases}
        nodes = self.allocations.with_ancestors(connection, on)
        return _Seen(
            now_ms=now_ms,
            nodes=nodes,
            members=self.allocations.members_among(connection, on, people),
            overrides=self.overrides.in_force(connection, people, nodes, now_ms),
            balances=self.ledger.balances(connection, on, lock=False),
        )

    def _limits(self, seen: _Seen, lease: Lease) -> Limits:
        return effective_limits(self.policy, seen.path(lease), seen.member(lease), seen.overrides)

    def _outlooks(self, connection: Connection, leases: Sequence[Lease]) -> list[OutlookView]:
        if not leases:
            return []
        seen = self._look(connection, leases)
        return [self._outlook(seen, lease) for lease in leases]

    def _outlook(self, seen: _Seen, lease: Lease) -> OutlookView:
        rules = self.policy.leases
        limits = self._limits(seen, lease)
        stop = stop_of(
            lease,
            seen.path(lease),
            seen.balances,
            limits,
            is_member=seen.member(lease) is not None,
            grace_seconds=rules.allocation_end_grace_seconds,
        )
        renews_at_ms = lease.ends_at_ms - rules.renew_before_end_seconds * MS_PER_SECOND
        used_at_ms = max(lease.started_at_ms or lease.acquired_at_ms, lease.kept_at_ms or 0)
        longer_end_at_ms = lease.acquired_at_ms + limits.longest_session_seconds * MS_PER_SECOND
        return OutlookView(
            lease=lease.id,
            allocation=lease.allocation_id,
            allocation_name=seen.nodes[lease.allocation_id].name,
            server_name=lease.server_name,
            microcredits_per_hour=lease.microcredits_per_second * SECONDS_PER_HOUR,
            held_until=to_rfc3339(lease.ends_at_ms),
            renews_at=to_rfc3339(max(renews_at_ms, seen.now_ms)) if stop.at_ms > lease.ends_at_ms else None,
            stops_at=to_rfc3339(stop.at_ms),
            reason=stop.reason,
            detail=stop.detail,
            remedy=stop.remedy,
            remedy_url=stop.remedy_url,
            idle_seconds=lease.idle_seconds,
            used_at=to_rfc3339(used_at_ms),
            longest_session_seconds=(lease.latest_end_at_ms - lease.acquired_at_ms) // MS_PER_SECOND,
            may_last_longer=longer_end_at_ms > lease.latest_end_at_ms,
            warn_before_stop_seconds=list(rules.warn_before_stop_seconds),
        )


def stop_of(
    lease: Lease,
    path: Sequence[Allocation],
    balances: Mapping[tuple[str, Unit], Balance],
    limits: Limits,
    *,
    is_member: bool,
    grace_seconds: int,
) -> Stop:
    """Return what stops a server first, if it alone is charged; `path` runs from the root down.

    What is held is held: nothing here stops it before its lease's end.
    """
    leaf = path[-1]
    until_ms = may_run_until_ms(path, grace_seconds) if is_member else 0
    if until_ms == 0:
        return _not_renewed(lease, path, is_member=is_member)
    session_ends = Stop(
        lease.latest_end_at_ms,
        StopReason.SESSION,
        "A rescue server is for freeing space and runs no longer." if lease.is_rescue else _session_detail(limits),
        "Start the server again then: files stay, what is in memory does not.",
        SERVERS_URL,
    )
    ending = min(path, key=lambda node: node.ends_at_ms)
    allocation_ends = Stop(
        until_ms,
        StopReason.ALLOCATION,
        f"“{ending.name}” ends then.",
        "Ask for its renewal, or go on with another allocation.",
        f"/services/allocations/allocations/{leaf.id}",
    )
    stop = min(session_ends, allocation_ends, key=lambda one: one.at_ms)
    if not lease.is_rescue:
        stop = min(stop, _balance_ends(lease, path, balances), key=lambda one: one.at_ms)
    at_ms = max(stop.at_ms, lease.ends_at_ms)
    return Stop(at_ms, stop.reason, stop.detail, stop.remedy, stop.remedy_url)


def _balance_ends(lease: Lease, path: Sequence[Allocation], balances: Mapping[tuple[str, Unit], Balance]) -> Stop:
    seconds, node = min(
        (
            (max(balance.available, 0) // lease.per_second(unit), node)
            for node in path
            for unit in Unit
            if lease.per_second(unit) > 0 and (balance := balances.get((node.id, unit))) is not None
        ),
        key=lambda found: found[0],
    )
    return Stop(
        lease.ends_at_ms + seconds * MS_PER_SECOND,
        StopReason.BALANCE,
        f"The balance of “{node.name}” is spent then.",
        "Stop what you do not need, or ask for more.",
        REQUEST_URL,
    )


def _not_renewed(lease: Lease, path: Sequence[Allocation], *, is_member: bool) -> Stop:
    name = path[-1].name
    if not is_member:
        detail, remedy = f"You are no member of “{name}” any more.", "Ask its lead why."
    elif any(node.state is AllocationState.SUSPENDED for node in path):
        detail, remedy = f"“{name}” is suspended.", "Write to the administrators."
    else:
        detail, remedy = f"“{name}” has ended.", "Go on with another allocation."
    return Stop(lease.ends_at_ms, StopReason.NOT_RENEWED, detail, remedy, SERVERS_URL)


def _session_detail(limits: Limits) -> str:
    """Say why a session ends, without its length: a limit of today may be another than that of the start."""
    if limits.sources["longest_session_seconds"].kind is SourceKind.POLICY:
        return f"No session of the {limits.tier_title} tier lasts longer."
    return "An exception for you sets how long a session lasts."


def _has_ended() -> LeaseEndedError:
    return LeaseEndedError("The server has ended, so there is nothing to extend.", "Start a server anew.")
