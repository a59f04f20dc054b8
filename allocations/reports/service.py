"""Answers what the pages and the API show, to those who may see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import NotAllowedError, NotFoundError, UnknownAllocationError
from allocations.leases.models import LeaseKind
from allocations.lifecycle.authority import unknown_allocation
from allocations.lifecycle.models import MANAGING_ROLES
from allocations.reports.allocations import ALLOCATIONS_PAGE, AllocationDetail, MemberView, Overview
from allocations.reports.audit import AUDIT_PAGE, AuditEntryView
from allocations.reports.burn_down import read_burn_down
from allocations.reports.charges import read_charges
from allocations.reports.platform import read_platform
from allocations.reports.publications import publication_views
from allocations.reports.requests import RequestView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.leases.views import LeaseView
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.models import Allocation, MemberRole, Request
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.audit import AuditStore
    from allocations.lifecycle.stores.publications import PublicationStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.reports.allocations import AllocationView, AllocationViewBuilder
    from allocations.reports.awards import AskingView, StandingView, StandingViewBuilder
    from allocations.reports.platform import PlatformReport
    from allocations.reports.publications import PublicationView


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportService:
    """Reads, each answer from one consistent view of the database."""

    database: Database
    clock: Clock
    ledger: Ledger
    leases: LeaseService
    lease_store: LeaseStore
    allocations: AllocationStore
    requests: RequestStore
    audit: AuditStore
    published: PublicationStore
    shown: AllocationViewBuilder
    awards: StandingViewBuilder

    def overview(self, person: str) -> Overview:
        """Return what a person's home page shows: allocations, running servers, latest charges."""
        with self.database.read() as connection:
            own = self.allocations.of_person(connection, person)
            views = [self.shown.view(connection, allocation, role) for allocation, role in own]
            servers = self.lease_store.open_leases(connection, person=person, kind=LeaseKind.INTERACTIVE)
            return Overview(
                allocations=views,
                servers=self.leases.views(connection, servers),
                charges=read_charges(connection, self.allocations, [view.id for view in views], person=person),
            )

    def allocations_of(self, person: str) -> list[AllocationView]:
        """Return the allocations that a person is a member of."""
        with self.database.read() as connection:
            return [
                self.shown.view(connection, allocation, role)
                for allocation, role in self.allocations.of_person(connection, person)
            ]

    def find_allocations(self, wanted: str, start: int = 0) -> tuple[list[AllocationView], int]:
        """Return a page of the allocations whose name, id, tier or state contains a text, and how many do.

        For administrators; oldest first, from the `start`th on.
        """
        with self.database.read() as connection:
            found, number = self.allocations.found(connection, wanted, start, ALLOCATIONS_PAGE)
            return [self.shown.view(connection, allocation, None) for allocation in found], number

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
                allocation=self.shown.view(connection, found, own.role if own else None),
                tree=[self.shown.view(connection, node, None) for node in subtree],
                members=[MemberView.from_member(member) for member in self.allocations.members(connection, [found.id])],
                leases=self.leases.views(connection, running),
                charges=read_charges(connection, self.allocations, ids, person=None if may_manage else actor.name),
                may_manage=may_manage,
                balances=self.shown.balances(connection, found),
                burn_down=read_burn_down(connection, found, ids, self.clock.now_ms()),
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

    def asking(self, actor: Actor, allocation_id: str) -> AskingView:
        """Return what leads and managers of a whole allocation may ask for on it now, beside what they have."""
        with self.database.read() as connection:
            found, _roles = self._visible(connection, actor, allocation_id)
            own = self.allocations.member(connection, allocation_id, actor.name)
            if own is None or own.role not in MANAGING_ROLES:
                raise NotAllowedError("Only leads and managers ask for more of an allocation.", "Ask one of them.")
            if found.parent_id is not None:
                raise NotAllowedError(
                    f"“{found.name}” is a part of another allocation.", "Ask who leads or manages that one."
                )
            return self.awards.asking(connection, found)

    def award_beside(self, actor: Actor, request_id: str) -> StandingView | None:
        """Return what the allocation has on which more is asked for; None when a new one is asked for."""
        found = self.request(actor, request_id)
        with self.database.read() as connection:
            allocation = self.allocations.get(connection, found.allocation) if found.allocation else None
            return self.awards.award(connection, allocation) if allocation else None

    def publications(self, actor: Actor, allocation_id: str | None = None) -> list[PublicationView]:
        """Return the publications of a person's allocations, or of one that they see, with all below; each once."""
        with self.database.read() as connection:
            tops: list[tuple[Allocation, set[MemberRole]]]
            if allocation_id is None:
                tops = [(found, {role}) for found, role in self.allocations.of_person(connection, actor.name)]
            else:
                tops = [self._visible(connection, actor, allocation_id)]
            names: dict[str, str] = {}
            managed: set[str] = set()
            for top, roles in tops:
                nodes = {node.id: node.name for node in self.allocations.subtree(connection, top)}
                names |= nodes
                if roles & MANAGING_ROLES:
                    managed |= set(nodes)
            return publication_views(self.published.links_to(connection, names), names, managed, actor)

    def history(
        self, actor: Actor, allocation_id: str, *, before_id: int | None = None
    ) -> tuple[AllocationView, list[AuditEntryView]]:
        """Return an allocation and a page of what was done to it, newest first; to who manages it (here or above)."""
        with self.database.read() as connection:
            found, roles = self._visible(connection, actor, allocation_id)
            if not (actor.admin or roles & MANAGING_ROLES):
                raise NotAllowedError("Only leads and managers read an allocation's history.", "Ask one of them.")
            rows = self.audit.entries(connection, limit=AUDIT_PAGE, before_id=before_id, subject=allocation_id)
            return self.shown.view(connection, found, None), [AuditEntryView.from_row(row) for row in rows]

    def platform(self) -> PlatformReport:
        """Return the figures of the whole platform, for administrators."""
        with self.database.read() as connection:
            return read_platform(connection, self.shown.policy)

    def audit_log(self, *, before_id: int | None = None, subject: str | None = None) -> list[AuditEntryView]:
        """Return a page of the audit log, newest first."""
        with self.database.read() as connection:
            return [
                AuditEntryView.from_row(row)
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

    def _request_view(self, connection: Connection, request: Request, *, with_reviews: bool) -> RequestView:
        reviews = self.requests.reviews(connection, request.id) if with_reviews else []
        return RequestView.from_request(request, reviews)


def _no_lease(lease_id: str) -> NotFoundError:
    return NotFoundError(f"There is no lease {lease_id!r}.", "Look the lease up in the list of leases.")
