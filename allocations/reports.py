"""Reads what the pages and the API show: overviews, an allocation with its tree, the journal, the audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import case, func, select

from allocations.clock import MS_PER_DAY, MS_PER_SECOND, to_rfc3339
from allocations.db.schema import journal, leases
from allocations.errors import NotFoundError, UnknownAllocationError
from allocations.leases.models import LeaseKind
from allocations.leases.views import LeaseView, View
from allocations.ledger.models import Account, Unit
from allocations.lifecycle.authority import unknown_allocation
from allocations.lifecycle.models import MANAGING_ROLES, Award, Member, MemberRole, Request, RequestState, Review
from allocations.policy.models import AtOnce, Shape  # pydantic reads them at run time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.audit import AuditStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.policy.models import Policy

JOURNAL_PAGE = 50
# The pace of a burn-down is that of so many days; farther ahead than a century, a date would say nothing.
PACE_DAYS = 14
PROJECTED_DAYS_MAX = 36_500
AUDIT_PAGE = 100
ALLOCATIONS_PAGE = 50


class AllocationView(View):
    """An allocation with its balance; amounts are microcredits."""

    id: str
    parent: str | None
    depth: int
    name: str
    tier: str
    tier_title: str
    state: str
    guaranteed: bool
    role: str | None
    starts_at: str
    ends_at: str
    limit_microcredits: int
    held_microcredits: int
    posted_microcredits: int
    available_microcredits: int
    instalments_released: int
    instalments: int


class MemberView(View):
    """A person's place in an allocation, and what a lead lets them run at once; None: as much as everybody."""

    person: str
    role: str
    joined_at: str
    servers_max: int | None
    cores_max: int | None
    gpus_max: int | None

    @classmethod
    def from_member(cls, member: Member) -> MemberView:
        """Show a member."""
        return cls(
            person=member.person,
            role=member.role,
            joined_at=to_rfc3339(member.joined_at_ms),
            servers_max=member.servers_max,
            cores_max=member.cores_max,
            gpus_max=member.gpus_max,
        )


class JournalEntryView(View):
    """A charge (or refund) with its physical quantities."""

    id: int
    at: str
    kind: str
    allocation: str
    allocation_name: str
    lease: str | None
    person: str | None
    lease_kind: str | None
    size: str | None
    unit: str
    amount: int
    quantities: dict[str, int]


class BalanceView(View):
    """What an allocation has of a unit: microcredits of credits, seconds otherwise."""

    unit: Unit
    limit: int
    held: int
    posted: int
    available: int


class BurnDownDay(View):
    """A UTC day: what was charged, refunds taken off, and what the limit left at its end."""

    day: date
    charged_microcredits: int
    left_microcredits: int


class BurnDown(View):
    """Every day since the start, and when nothing will be left at the pace of the last 14; None without a pace."""

    days: list[BurnDownDay]
    projected_end: date | None


class AllocationDetail(View):
    """An allocation, its subtree, members, what runs on it and its latest charges."""

    allocation: AllocationView
    tree: list[AllocationView]
    members: list[MemberView]
    leases: list[LeaseView]
    charges: list[JournalEntryView]
    may_manage: bool
    balances: list[BalanceView]
    burn_down: BurnDown


class AwardView(View):
    """What is asked for or awarded; `credits` in whole credits, what is None is as the tier says."""

    credits: int | None
    gpu_hours: int | None
    core_hours: int | None
    largest: list[Shape] | None
    at_once: AtOnce | None
    term_days: int | None
    renewable: bool

    @classmethod
    def from_award(cls, award: Award) -> AwardView:
        """Show an award."""
        return cls(
            credits=award.credits,
            gpu_hours=award.gpu_hours,
            core_hours=award.core_hours,
            largest=None if award.largest is None else list(award.largest),
            at_once=award.at_once,
            term_days=award.term_days,
            renewable=award.renewable,
        )


class ReviewView(View):
    """A reviewer's word."""

    reviewer: str
    score: int | None
    conflict: bool
    comment: str
    at: str

    @classmethod
    def from_review(cls, review: Review) -> ReviewView:
        """Show a review."""
        return cls(
            reviewer=review.reviewer,
            score=review.score,
            conflict=review.conflict,
            comment=review.comment,
            at=to_rfc3339(review.at_ms),
        )


class RequestView(View):
    """A request with its reviews; `awarded` is what was given when it was approved."""

    id: str
    kind: str
    applicant: str
    tier: str
    title: str
    justification: str
    credits: int
    state: RequestState
    allocation: str | None
    created_at: str
    updated_at: str
    asked: AwardView
    awarded: AwardView | None
    reviews: list[ReviewView]

    @classmethod
    def from_request(cls, request: Request, reviews: Iterable[Review]) -> RequestView:
        """Show a request."""
        return cls(
            id=request.id,
            kind=request.kind,
            applicant=request.applicant,
            tier=request.tier,
            title=request.title,
            justification=request.justification,
            credits=request.credits,
            state=request.state,
            allocation=request.allocation_id,
            created_at=to_rfc3339(request.created_at_ms),
            updated_at=to_rfc3339(request.updated_at_ms),
            asked=AwardView.from_award(request.asked.model_copy(update={"credits": request.credits or None})),
            awarded=None if request.awarded is None else AwardView.from_award(request.awarded),
            reviews=[ReviewView.from_review(review) for review in reviews],
        )


class AuditEntryView(View):
    """An entry of the audit log."""

    id: int
    at: str
    actor: str
    action: str
    subject: str
    why: str
    details: dict[str, Any]
    policy_version: str


class Overview(View):
    """A person's home page."""

    allocations: list[AllocationView]
    servers: list[LeaseView]
    charges: list[JournalEntryView]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportService:
    """Reads, each answer from one consistent view of the database."""

    database: Database
    clock: Clock
    policy: Policy
    ledger: Ledger
    leases: LeaseService
    lease_store: LeaseStore
    allocations: AllocationStore
    requests: RequestStore
    audit: AuditStore

    def overview(self, person: str) -> Overview:
        """Return what a person's home page shows: allocations, running servers, latest charges."""
        with self.database.read() as connection:
            own = self.allocations.of_person(connection, person)
            views = [self._allocation_view(connection, allocation, role) for allocation, role in own]
            servers = self.lease_store.open_leases(connection, person=person, kind=LeaseKind.INTERACTIVE)
            return Overview(
                allocations=views,
                servers=self.leases.views(connection, servers),
                charges=self._charges(connection, [view.id for view in views], person=person),
            )

    def allocations_of(self, person: str) -> list[AllocationView]:
        """Return the allocations that a person is a member of."""
        with self.database.read() as connection:
            return [
                self._allocation_view(connection, allocation, role)
                for allocation, role in self.allocations.of_person(connection, person)
            ]

    def find_allocations(self, wanted: str, start: int = 0) -> tuple[list[AllocationView], int]:
        """Return a page of the allocations whose name, id, tier or state contains a text, and how many do.

        For administrators; oldest first, from the `start`th on.
        """
        with self.database.read() as connection:
            found, number = self.allocations.found(connection, wanted, start, ALLOCATIONS_PAGE)
            return [self._allocation_view(connection, allocation, None) for allocation in found], number

    def allocation(self, actor: Actor, allocation_id: str) -> AllocationDetail:
        """Return an allocation that the person belongs to (here or above), or any one for an administrator.

        Members see what they themselves run and were charged; leads and managers see everybody's.
        """
        with self.database.read() as connection:
            found, roles = self._visible(connection, actor, allocation_id)
            may_manage = actor.admin or bool(roles & MANAGING_ROLES)
            subtree = self.allocations.subtree(connection, found)
            ids = [node.id for node in subtree]
            running = self.lease_store.open_on(connection, ids)
            if not may_manage:
                running = [lease for lease in running if lease.person == actor.name]
            own = self.allocations.member(connection, allocation_id, actor.name)
            return AllocationDetail(
                allocation=self._allocation_view(connection, found, own.role if own else None),
                tree=[self._allocation_view(connection, node, None) for node in subtree],
                members=[MemberView.from_member(member) for member in self.allocations.members(connection, [found.id])],
                leases=self.leases.views(connection, running),
                charges=self._charges(connection, ids, person=None if may_manage else actor.name),
                may_manage=may_manage,
                balances=self._balances(connection, found),
                burn_down=self._burn_down(connection, found, ids),
            )

    def leases_of(
        self, person: str, limit: int, *, before_id: str | None = None, **filters: str | None
    ) -> list[LeaseView]:
        """Return a page of a person's leases, newest first; filters are as the store's."""
        with self.database.read() as connection:
            before = self.lease_store.get(connection, before_id) if before_id is not None else None
            if before_id is not None and (before is None or before.person != person):
                raise _no_lease(before_id)
            page = self.lease_store.page_of_person(connection, person, limit, before=before, **filters)
            return self.leases.views(connection, page)

    def lease(self, actor: Actor, lease_id: str) -> LeaseView:
        """Return a lease to its person, to leads and managers of its allocation (or above), and to administrators."""
        with self.database.read() as connection:
            lease = self.lease_store.get(connection, lease_id)
            if lease is None:
                raise _no_lease(lease_id)
            path = self.ledger.path(connection, lease.allocation_id)
            manages = self.allocations.roles_along(connection, path, actor.name) & MANAGING_ROLES
            if not (lease.person == actor.name or actor.admin or manages):
                raise _no_lease(lease_id)
            return self.leases.views(connection, [lease])[0]

    def may_see(self, actor: Actor, allocation_id: str) -> bool:
        """Say whether a person belongs to an allocation (here or above) or is an administrator."""
        with self.database.read() as connection:
            try:
                self._visible(connection, actor, allocation_id)
            except UnknownAllocationError:
                return False
            return True

    def names(self, allocation_ids: Iterable[str]) -> dict[str, str]:
        """Return the names of allocations by id, to show with what a person was offered."""
        with self.database.read() as connection:
            found = (self.allocations.get(connection, allocation_id) for allocation_id in allocation_ids)
            return {allocation.id: allocation.name for allocation in found if allocation is not None}

    def requests_of(self, person: str) -> list[RequestView]:
        """Return a person's requests, newest first."""
        with self.database.read() as connection:
            return [
                self._request_view(connection, request, with_reviews=False)
                for request in self.requests.of_applicant(connection, person)
            ]

    def request_queue(self) -> list[RequestView]:
        """Return what waits for a reviewer, oldest first."""
        with self.database.read() as connection:
            return [
                self._request_view(connection, request, with_reviews=True)
                for request in self.requests.queue(connection)
            ]

    def request(self, actor: Actor, request_id: str) -> RequestView:
        """Return a request to its applicant, a reviewer or an administrator.

        Review is single-blind: applicants see decisions and their reasons, never who wrote or scored what.
        """
        with self.database.read() as connection:
            request = self.requests.get(connection, request_id)
            if request is None or not (actor.name == request.applicant or actor.reviewer or actor.admin):
                raise NotFoundError(f"There is no request {request_id!r}.", "Look it up in the list of requests.")
            return self._request_view(
                connection, request, with_reviews=actor.reviewer and actor.name != request.applicant
            )

    def audit_log(self, *, before_id: int | None = None, subject: str | None = None) -> list[AuditEntryView]:
        """Return a page of the audit log, newest first."""
        with self.database.read() as connection:
            return [
                AuditEntryView(
                    id=row.id,
                    at=to_rfc3339(row.at_ms),
                    actor=row.actor,
                    action=row.action,
                    subject=row.subject,
                    why=row.why,
                    details=json.loads(row.details),
                    policy_version=row.policy_version,
                )
                for row in self.audit.entries(connection, limit=AUDIT_PAGE, before_id=before_id, subject=subject)
            ]

    # ------------------------------------------------------------------ inside

    def _visible(self, connection: Connection, actor: Actor, allocation_id: str) -> tuple[Allocation, set[MemberRole]]:
        """Return the allocation and the person's roles there and above; another's looks like one that is not there."""
        found = self.allocations.get(connection, allocation_id)
        path = self.ledger.path(connection, allocation_id) if found else []
        roles = self.allocations.roles_along(connection, path, actor.name)
        if found is None or not (roles or actor.admin):
            raise unknown_allocation(allocation_id)
        return found, roles

    def _allocation_view(
        self, connection: Connection, allocation: Allocation, role: MemberRole | None
    ) -> AllocationView:
        balance = self.ledger.balance(connection, allocation.id)
        path = self.ledger.path(connection, allocation.id)
        tier = self.policy.tier(allocation.tier)
        return AllocationView(
            id=allocation.id,
            parent=allocation.parent_id,
            depth=allocation.depth,
            name=allocation.name,
            tier=allocation.tier,
            tier_title=tier.title,
            state=allocation.state,
            guaranteed=allocation.guaranteed,
            role=role,
            starts_at=to_rfc3339(allocation.starts_at_ms),
            ends_at=to_rfc3339(allocation.ends_at_ms),
            limit_microcredits=balance.limit,
            held_microcredits=balance.held,
            posted_microcredits=balance.posted,
            available_microcredits=max(0, self.ledger.available(connection, path)),
            instalments_released=allocation.award.instalments_released,
            instalments=len(tier.budget.instalments),
        )

    def _balances(self, connection: Connection, allocation: Allocation) -> list[BalanceView]:
        path = self.ledger.path(connection, allocation.id)
        views = []
        for unit in Unit:
            try:
                balance = self.ledger.balance(connection, allocation.id, unit)
            except KeyError:
                continue
            available = max(0, self.ledger.available(connection, path, unit))
            views.append(
                BalanceView(
                    unit=unit, limit=balance.limit, held=balance.held, posted=balance.posted, available=available
                )
            )
        return views

    def _burn_down(self, connection: Connection, allocation: Allocation, subtree_ids: Sequence[str]) -> BurnDown:
        day = (journal.c.at_ms - journal.c.at_ms % MS_PER_DAY).label("day")
        charged = case(
            (journal.c.credit == Account.POSTED, journal.c.amount),
            (journal.c.debit == Account.POSTED, -journal.c.amount),
            else_=0,
        )
        # The limit as it was: refills and grants of the allocation itself; those below it move within it.
        granted = case(
            (journal.c.allocation_id != allocation.id, 0),
            (journal.c.debit == Account.BUDGET, journal.c.amount),
            (journal.c.credit == Account.BUDGET, -journal.c.amount),
            else_=0,
        )
        moved = {
            int(row[0]): (int(row[1]), int(row[2]))
            for row in connection.execute(
                select(day, func.sum(charged), func.sum(granted))
                .where(journal.c.allocation_id.in_(list(subtree_ids)), journal.c.unit == Unit.CREDITS)
                .group_by(day)
            )
        }
        return burn_down(moved, allocation.starts_at_ms, self.clock.now_ms())

    def _charges(
        self, connection: Connection, allocation_ids: Sequence[str], person: str | None
    ) -> list[JournalEntryView]:
        charged = (journal.c.debit == Account.POSTED) | (journal.c.credit == Account.POSTED)
        query = (
            select(journal, leases.c.person, leases.c.kind.label("lease_kind"), leases.c.size)
            .join(leases, leases.c.id == journal.c.lease_id)
            .where(charged, journal.c.allocation_id.in_(list(allocation_ids)))
            .order_by(journal.c.id.desc())
            .limit(JOURNAL_PAGE)
        )
        if person is not None:
            query = query.where(leases.c.person == person)
        names: dict[str, str] = {}
        entries = []
        for row in connection.execute(query):
            if row.allocation_id not in names:
                allocation = self.allocations.get(connection, row.allocation_id)
                names[row.allocation_id] = allocation.name if allocation else ""
            sign = 1 if row.credit == Account.POSTED else -1
            quantities = json.loads(row.quantities) if row.quantities else {}
            entries.append(
                JournalEntryView(
                    id=row.id,
                    at=to_rfc3339(row.at_ms),
                    kind=row.kind,
                    allocation=row.allocation_id,
                    allocation_name=names[row.allocation_id],
                    lease=row.lease_id,
                    person=row.person,
                    lease_kind=row.lease_kind,
                    size=row.size,
                    unit=row.unit,
                    amount=sign * row.amount,
                    quantities={name: sign * value for name, value in quantities.items()},
                )
            )
        return entries

    def _request_view(self, connection: Connection, request: Request, *, with_reviews: bool) -> RequestView:
        reviews = self.requests.reviews(connection, request.id) if with_reviews else []
        return RequestView.from_request(request, reviews)


def burn_down(moved: Mapping[int, tuple[int, int]], starts_at_ms: int, now_ms: int) -> BurnDown:
    """Return the days from the start to now; `moved` has (charged, granted) microcredits by the UTC day's first ms."""
    today = now_ms - now_ms % MS_PER_DAY
    first = min(starts_at_ms - starts_at_ms % MS_PER_DAY, today)
    left = sum(granted - charged for day, (charged, granted) in moved.items() if day < first)
    days = []
    for day in range(first, today + 1, MS_PER_DAY):
        charged, granted = moved.get(day, (0, 0))
        left += granted - charged
        days.append(BurnDownDay(day=_date(day), charged_microcredits=charged, left_microcredits=left))
    latest = days[-PACE_DAYS:]
    spent = sum(one.charged_microcredits for one in latest)
    if spent <= 0:
        return BurnDown(days=days, projected_end=None)
    days_left = max(0, left) * len(latest) // spent
    projected = _date(today + days_left * MS_PER_DAY) if days_left <= PROJECTED_DAYS_MAX else None
    return BurnDown(days=days, projected_end=projected)


def _date(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).date()


def _no_lease(lease_id: str) -> NotFoundError:
    return NotFoundError(f"There is no lease {lease_id!r}.", "Look the lease up in the list of leases.")
