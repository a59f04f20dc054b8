"""What the start page offers: every allocation and size of a person, and why what cannot be had cannot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND, to_rfc3339
from allocations.errors import AllocationsError
from allocations.leases.admission import AGREEMENT_URL
from allocations.leases.rules import InUse, effective_limits, require_room, require_size, require_usable
from allocations.leases.views import (
    SECONDS_PER_HOUR,
    AgreementView,
    AllocationOffer,
    Choice,
    ImageOffer,
    SizeOffer,
    StartOptions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.store import LeaseStore
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.overrides import OverrideStore
    from allocations.policy.models import Policy, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferService:
    """Looks at everything that admission will look at, and promises nothing: admission decides again."""

    database: Database
    clock: Clock
    policy: Policy
    ledger: Ledger
    leases: LeaseStore
    allocations: AllocationStore
    agreements: AgreementStore
    overrides: OverrideStore

    def agreement(self, person: str) -> AgreementView:
        """Return the agreement in force, and whether a person accepted it."""
        with self.database.read() as connection:
            return self._agreement(connection, person)

    def start_options(self, person: str, *, is_server: bool = True) -> StartOptions:
        """Return every choice of a person, for a server or for a batch run."""
        now_ms = self.clock.now_ms()
        with self.database.read() as connection:
            agreement = self._agreement(connection, person)
            offers = [
                self._offer(connection, allocation, person, now_ms, is_server=is_server)
                for allocation, _role in self.allocations.of_person(connection, person)
            ]
        # One's own comes first, so that nobody spends a shared allocation by not choosing.
        offers.sort(key=lambda offer: offer.tier != self.policy.entry_tier.name)
        images = [
            ImageOffer(name=image.name, title=image.title, description=image.description, default=image.default)
            for image in self.policy.images
        ]
        return StartOptions(
            person=person,
            agreement=agreement,
            allocations=offers,
            images=images,
            default=self._default(offers) if agreement.accepted else None,
        )

    def _agreement(self, connection: Connection, person: str) -> AgreementView:
        agreement = self.policy.agreement
        accepted_at_ms = self.agreements.accepted_at_ms(connection, person, agreement.version)
        accepted = agreement.is_accepted(accepted_at_ms, self.clock.now_ms())
        return AgreementView(version=agreement.version, title=agreement.title, accepted=accepted, url=AGREEMENT_URL)

    def _offer(
        self, connection: Connection, allocation: Allocation, person: str, now_ms: int, *, is_server: bool
    ) -> AllocationOffer:
        path = self.ledger.path(connection, allocation.id)
        line = self.allocations.with_ancestors(connection, [allocation.id])
        nodes = [line[node] for node in path]
        member = self.allocations.member(connection, allocation.id, person)
        assert member is not None  # offers are made to members
        balance = self.ledger.balance(connection, allocation.id)
        reason = None
        try:
            for node in nodes:
                require_usable(node, now_ms)
        except AllocationsError as error:
            reason = error.detail
        available = max(0, self.ledger.available(connection, path))
        on_tree = self.leases.in_use(connection, [allocation.root_id], [person]).get(allocation.root_id, {})
        own, tree = on_tree.get(person, InUse()), sum(on_tree.values(), InUse())
        limits = effective_limits(
            self.policy, nodes, member, self.overrides.in_force(connection, [person], path, now_ms)
        )
        prices = self.policy.prices_at(datetime.fromtimestamp(now_ms / MS_PER_SECOND, tz=UTC))

        def offer_size(size: Size) -> SizeOffer:
            rate = prices.microcredits_per_second(size)
            why_not = reason
            try:
                if why_not is None:
                    require_size(limits, size)
                    require_room(limits, size, own, tree, is_server=is_server)
            except AllocationsError as error:
                why_not = error.detail
            if why_not is None and is_server and available < rate * self.policy.leases.quantum_seconds:
                minutes = self.policy.leases.quantum_seconds // 60
                why_not = f"The balance does not buy the first {minutes} minutes."
            return SizeOffer(
                name=size.name,
                title=size.title,
                cores=size.cores,
                memory_gib=size.memory_gib,
                gpus=size.gpus,
                gpu_type=size.gpu_type,
                microcredits_per_hour=rate * SECONDS_PER_HOUR,
                hours_available=round(available / (rate * SECONDS_PER_HOUR), 2),
                usable=why_not is None,
                reason=why_not,
            )

        sizes = [offer_size(size) for size in self.policy.sizes]
        return AllocationOffer(
            id=allocation.id,
            name=allocation.name,
            tier=allocation.tier,
            tier_title=limits.tier_title,
            state=allocation.state,
            limit_microcredits=balance.limit,
            held_microcredits=balance.held,
            posted_microcredits=balance.posted,
            available_microcredits=available,
            ends_at=to_rfc3339(allocation.ends_at_ms),
            usable=any(size.usable for size in sizes),
            reason=reason,
            sizes=sizes,
        )

    def _default(self, offers: Sequence[AllocationOffer]) -> Choice | None:
        for offer in offers:
            for size in offer.sizes:
                if size.usable:
                    return Choice(allocation=offer.id, size=size.name, image=self.policy.default_image.name)
        return None
