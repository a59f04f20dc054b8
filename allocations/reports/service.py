"""Answers what the pages and the API show, to those who may see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import NotAllowedError, NotFoundError, UnknownAllocationError
from allocations.leases.models import LeaseKind
from allocations.ledger.models import Unit
from allocations.ledger.service import MICROCREDITS_PER_CREDIT
from allocations.lifecycle.authority import unknown_allocation
from allocations.lifecycle.models import MANAGING_ROLES, RUNNING_STATES, USABLE_STATES, RequestState
from allocations.lifecycle.stores.audit import AuditFilter
from allocations.reports.allocations import (
    ALLOCATIONS_PAGE,
    AllocationDetail,
    AllocationOutline,
    MemberView,
    Overview,
)
from allocations.reports.audit import read_audit
from allocations.reports.burn_down import Burning, read_burn_down, read_recent_burn_downs
from allocations.reports.charges import read_all_charges, read_charges
from allocations.reports.people import PEOPLE_PAGE, PersonReport
from allocations.reports.publications import publication_views
from allocations.reports.requests import BESIDE_MAX, REQUESTS_PAGE, QueueView, RequesterView, RequestView
from allocations.reports.use import AllocationUse, By, read_use, read_use_by_both

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.service import LeaseService
    from allocations.leases.store import LeaseStore
    from allocations.leases.views import LeaseView
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.authority import Actor
    from allocations.lifecycle.models import Allocation, MemberRole, Override, Request, RequestFilter
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.audit import AuditStore
    from allocations.lifecycle.stores.overrides import OverrideStore
    from allocations.lifecycle.stores.people import PeopleStore
    from allocations.lifecycle.stores.publications import PublicationStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.lifecycle.stores.suspensions import SuspensionStore
    from allocations.reports.allocations import AllocationView, AllocationViewBuilder
    from allocations.reports.audit import AuditEntryView
    from allocations.reports.awards import AskingView, StandingView, StandingViewBuilder
    from allocations.reports.burn_down import BurnDown
    from allocations.reports.charges import JournalEntryView
    from allocations.reports.publications import PublicationView
    from allocations.reports.use import UseOfBoth


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
    people: PeopleStore
    suspensions: SuspensionStore
    overrides: OverrideStore
    shown: AllocationViewBuilder
    awards: StandingViewBuilder

    def overview(self, person: str) -> Overview:
        """Return what a person's home page shows: allocations, running servers, latest charges."""
        with self.database.read() as connection:
            views = self.shown.views(connection, self.allocations.of_person(connection, person))
            servers = self.lease_store.open_leases(connection, person=person, kind=LeaseKind.INTERACTIVE)
            return Overview(
                allocations=views,
                servers=self.leases.views(connection, servers),
                charges=read_charges(connection, {view.id: view.name for view in views}, person=person),
            )

    def recent_burn_downs(self, person: str) -> dict[str, BurnDown]:
        """Return the last 28 days of a person's allocations that may be spent, or run out what runs, by id."""
        with self.database.read() as connection:
            own = [found for found, _role in self.allocations.of_person(connection, person)]
            running = {found.id: found for found in own if found.state in RUNNING_STATES}
            balances = self.ledger.balances(connection, running, lock=False)
            burning = {
                found.id: Burning(found.starts_at_ms, balance.limit - balance.posted, self._refill(found))
                for (node, unit), balance in balances.items()
                if unit is Unit.CREDITS and (found := running.get(node)) is not None
            }
            below = self.allocations.names_below(connection, burning)
            return read_recent_burn_downs(connection, burning, below, self.clock.now_ms())

    def allocations_of(self, person: str) -> list[AllocationView]:
        """Return the allocations that a person is a member of."""
        with self.database.read() as connection:
            return self.shown.views(connection, self.allocations.of_person(connection, person))

    def find_allocations(self, wanted: str, start: int = 0) -> tuple[list[AllocationView], int]:
        """Return a page of the allocations whose name, id, tier or state contains a text, and how many do.

        For administrators; oldest first, from the `start`th on.
        """
        with self.database.read() as connection:
            found, number = self.allocations.found(connection, wanted, start, ALLOCATIONS_PAGE)
            return self.shown.views(connection, [(allocation, None) for allocation in found]), number

    def allocation(self, actor: Actor, allocation_id: str) -> AllocationDetail:
        """Return an allocation that the person belongs to (here or above), or any one for an administrator.

        Members see what they themselves run and were charged; leads and managers see everybody's.
        """
        with self.database.read() as connection:
            found, roles = self._visible(connection, actor, allocation_id)
            may_manage = actor.admin or bool(roles & MANAGING_ROLES)
            subtree = self.allocations.subtree(connection, found)
            names = {node.id: node.name for node in subtree}
            outline = self._outline(connection, actor, found, subtree, may_manage=may_manage)
            return AllocationDetail(
                **dict(outline),
                charges=read_charges(connection, names, person=None if may_manage else actor.name),
                balances=self.shown.balances(connection, found),
                burn_down=read_burn_down(connection, found, names, self._refill(found), self.clock.now_ms()),
            )

    def outline(self, actor: Actor, allocation_id: str) -> AllocationOutline:
        """As `allocation`, without what was charged: for those who are to see or change something else of it."""
        with self.database.read() as connection:
            found, roles = self._visible(connection, actor, allocation_id)
            subtree = self.allocations.subtree(connection, found)
            may_manage = actor.admin or bool(roles & MANAGING_ROLES)
            return self._outline(connection, actor, found, subtree, may_manage=may_manage)

    def use(self, actor: Actor, allocation_id: str, by: By) -> AllocationUse:
        """Return what was spent of an allocation with all below it, by member or by part, over its whole time.

        For leads, managers and administrators; NotAllowedError for its other members.
        """
        with self.database.read() as connection:
            found, subtree = self._managed(connection, actor, allocation_id)
            now_ms = self.clock.now_ms()
            return AllocationUse(
                **dict(read_use(connection, found, subtree, by, now_ms)),
                allocation=self.shown.view(connection, found, None),
                is_divided=len(subtree) > 1,
                projected_end=read_burn_down(
                    connection, found, [node.id for node in subtree], self._refill(found), now_ms
                ).projected_end,
            )

    def use_by_both(self, actor: Actor, allocation_id: str) -> list[UseOfBoth]:
        """As `use`, of each member on each part."""
        with self.database.read() as connection:
            _found, subtree = self._managed(connection, actor, allocation_id)
            return read_use_by_both(connection, subtree)

    def all_charges(self, actor: Actor, allocation_id: str) -> Iterator[JournalEntryView]:
        """Return every charge in credits on an allocation and all below it, part by part, each from the oldest on.

        Members get their own; leads, managers and administrators everybody's. Some are read at a time, each lot from
        a view of its own: what is charged meanwhile may be among them.
        """
        with self.database.read() as connection:
            found, roles = self._visible(connection, actor, allocation_id)
            nodes = self.allocations.subtree(connection, found)
        person = None if actor.admin or roles & MANAGING_ROLES else actor.name
        return read_all_charges(self.database, nodes, person)

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
            return self.allocations.names(connection, allocation_ids)

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
            return self._with_reviews(connection, self.requests.queue(connection))

    def find_requests(self, actor: Actor, wanted: RequestFilter, start: int = 0) -> QueueView:
        """Return a page of the requests that a filter lets through, from the `start`th on; for reviewers."""
        with self.database.read() as connection:
            found, number = self.requests.found(connection, wanted, start, REQUESTS_PAGE)
            in_conflict = self.requests.in_conflict(connection, [request.id for request in found], actor.name)
            in_conflict |= {request.id for request in found if request.applicant == actor.name}
            return QueueView(requests=self._with_reviews(connection, found), number=number, in_conflict=in_conflict)

    def requester(self, actor: Actor, request_id: str) -> RequesterView:
        """Return what an applicant asked for before, and what they have and have spent; for reviewers."""
        if not actor.reviewer:
            raise NotAllowedError("Only reviewers may read this.", "Ask one of them.")
        with self.database.read() as connection:
            request = self._asked(connection, actor, request_id)
            latest = self.allocations.of_person(connection, request.applicant)[-BESIDE_MAX:]
            return RequesterView(
                requests=[
                    RequestView.from_request(one, []) for one in self.requests.beside(connection, request, BESIDE_MAX)
                ],
                allocations=[self.shown.view(connection, held, role) for held, role in reversed(latest)],
                in_conflict=bool(self.requests.in_conflict(connection, [request_id], actor.name)),
            )

    def request(self, actor: Actor, request_id: str) -> RequestView:
        """Return a request to its applicant, a reviewer or an administrator; a draft to its applicant only.

        Review is single-blind: applicants see decisions and their reasons, never who wrote or scored what.
        """
        with self.database.read() as connection:
            request = self._asked(connection, actor, request_id)
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
            below = self.allocations.names_below(connection, [top.id for top, _roles in tops])
            for top, roles in tops:
                nodes = below[top.id]
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
            done = read_audit(connection, self.audit, AuditFilter(subject=allocation_id), before_id)
            return self.shown.view(connection, found, None), done.entries

    def find_people(
        self, actor: Actor, wanted: str, start: int = 0, *, suspended: bool = False
    ) -> tuple[list[PersonReport], int]:
        """Return a page of the people of whom something contains a text, by name, and how many these are.

        For administrators; from the `start`th on, and with `suspended` only those who are.
        """
        _require_admin(actor)
        with self.database.read() as connection:
            found, number = self.people.found(connection, wanted, start, PEOPLE_PAGE, suspended=suspended)
            held = self.suspensions.in_force(connection, [person.name for person, _ in found])
            return [PersonReport.from_person(one, seen, held.get(one.name)) for one, seen in found], number

    def person(self, actor: Actor, name: str) -> PersonReport:
        """Return a person who was here once, to administrators; NotFoundError for anybody else."""
        _require_admin(actor)
        with self.database.read() as connection:
            person, seen = self.people.named(connection, name), self.people.first_seen_at_ms(connection, name)
            if person is None or seen is None:
                raise NotFoundError(f"Nobody with the name {name!r} was ever here.", "Look for the person.")
            return PersonReport.from_person(person, seen, self.suspensions.in_force(connection, [name]).get(name))

    def overrides_for(self, actor: Actor, name: str) -> list[Override]:
        """Return the overrides in force for a person themselves, oldest first; for administrators."""
        _require_admin(actor)
        with self.database.read() as connection:
            return self.overrides.in_force(connection, [name], [], self.clock.now_ms())

    def audit_log(self, *, subject: str) -> list[AuditEntryView]:
        """Return what was done to a subject, newest first: the latest of it."""
        with self.database.read() as connection:
            return read_audit(connection, self.audit, AuditFilter(subject=subject)).entries

    # ------------------------------------------------------------------ inside

    def _asked(self, connection: Connection, actor: Actor, request_id: str) -> Request:
        request = self.requests.get(connection, request_id)
        is_own = request is not None and request.applicant == actor.name
        is_open = request is not None and request.state is not RequestState.DRAFT and (actor.reviewer or actor.admin)
        if request is None or not (is_own or is_open):
            raise NotFoundError(f"There is no request {request_id!r}.", "Look it up in the list of requests.")
        return request

    def _outline(
        self,
        connection: Connection,
        actor: Actor,
        found: Allocation,
        subtree: Sequence[Allocation],
        *,
        may_manage: bool,
    ) -> AllocationOutline:
        running = self.lease_store.open_on(connection, [node.id for node in subtree])
        if not may_manage:
            running = [lease for lease in running if lease.person == actor.name]
        own = self.allocations.member(connection, found.id, actor.name)
        tree = self.shown.views(connection, [(node, None) for node in subtree])
        return AllocationOutline(
            allocation=tree[0].model_copy(update={"role": own.role if own else None}),
            tree=tree,
            members=[MemberView.from_member(member) for member in self.allocations.members(connection, [found.id])],
            leases=self.leases.views(connection, running),
            may_manage=may_manage,
        )

    def _with_reviews(self, connection: Connection, found: Sequence[Request]) -> list[RequestView]:
        reviews = self.requests.reviews_of(connection, [request.id for request in found])
        return [RequestView.from_request(request, reviews[request.id]) for request in found]

    def _visible(self, connection: Connection, actor: Actor, allocation_id: str) -> tuple[Allocation, set[MemberRole]]:
        """Return the allocation and the person's roles there and above; another's looks like one that is not there."""
        found = self.allocations.get(connection, allocation_id)
        path = self.ledger.path(connection, allocation_id) if found else []
        roles = self.allocations.roles_along(connection, path, actor.name)
        if found is None or not (roles or actor.admin):
            raise unknown_allocation(allocation_id)
        return found, roles

    def _refill(self, allocation: Allocation) -> int:
        """Return the microcredits that an allocation gets each day."""
        refill = self.shown.policy.tier(allocation.tier).budget.refill
        if refill is None or allocation.refilled_at_ms is None or allocation.state not in USABLE_STATES:
            return 0
        return refill.credits_per_day * MICROCREDITS_PER_CREDIT

    def _managed(self, connection: Connection, actor: Actor, allocation_id: str) -> tuple[Allocation, list[Allocation]]:
        """Return an allocation that a person manages, and it with all below it, parents first."""
        found, roles = self._visible(connection, actor, allocation_id)
        if not (actor.admin or roles & MANAGING_ROLES):
            raise NotAllowedError("Only leads and managers see what everybody spends.", "Ask one of them.")
        return found, self.allocations.subtree(connection, found)

    def _request_view(self, connection: Connection, request: Request, *, with_reviews: bool) -> RequestView:
        reviews = self.requests.reviews(connection, request.id) if with_reviews else []
        return RequestView.from_request(request, reviews)


def _require_admin(actor: Actor) -> None:
    if not actor.admin:
        raise NotAllowedError("Only administrators look people up.", "Write to them.")


def _no_lease(lease_id: str) -> NotFoundError:
    return NotFoundError(f"There is no lease {lease_id!r}.", "Look the lease up in the list of leases.")
