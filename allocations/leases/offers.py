"""What the start page offers: every allocation and size of a person, and why what cannot be had cannot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND, to_date, to_rfc3339
from allocations.errors import AllocationsError
from allocations.leases.admission import AGREEMENT_URL
from allocations.leases.image_offers import catalogue_of, custom_images_of, startable_images
from allocations.leases.images import default_image, offers_custom_images
from allocations.leases.rules import (
    InUse,
    effective_limits,
    require_not_suspended,
    require_room,
    require_room_beside_servers,
    require_size,
    require_usable,
)
from allocations.leases.views import (
    SECONDS_PER_HOUR,
    AgreementView,
    AllocationOffer,
    Choice,
    HomeOffer,
    SizeOffer,
    StartOptions,
)
from allocations.ledger.models import Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.leases.rules import Limits
    from allocations.leases.standing import Standing, StandingReader
    from allocations.leases.storage import AreaStanding, AreaStandings, StorageLook
    from allocations.leases.views import Catalogue
    from allocations.lifecycle.models import Allocation, Suspension
    from allocations.lifecycle.stores.agreements import AgreementStore
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.suspensions import SuspensionStore
    from allocations.policy.models import Policy, PriceList, Size

NOT_ENOUGH = {
    Unit.CREDITS: "The balance does not buy",
    Unit.CORE_SECONDS: "The core-hours left are not enough for",
    Unit.GPU_SECONDS: "The GPU-hours left are not enough for",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferService:
    """Looks at everything that admission will look at, and promises nothing: admission decides again."""

    database: Database
    clock: Clock
    policy: Policy
    allocations: AllocationStore
    agreements: AgreementStore
    suspensions: SuspensionStore
    standings: StandingReader
    storage: StorageLook
    runs_containers: bool

    def agreement(self, person: str) -> AgreementView:
        """Return the agreement in force, and whether a person accepted it."""
        with self.database.read() as connection:
            return self._agreement(connection, person)

    def start_options(self, person: str, *, is_server: bool = True) -> StartOptions:
        """Return every choice of a person, for a server or for a batch run."""
        now_ms = self.clock.now_ms()
        with self.database.read() as connection:
            agreement = self._agreement(connection, person)
            own = [allocation for allocation, _role in self.allocations.of_person(connection, person)]
            stored = self.storage.standings(connection, [person], [one.id for one in own], now_ms)
            standing = self.standings.read(connection, person, own, now_ms)
            suspension = self.suspensions.in_force(connection, [person]).get(person)
        prices = self.policy.prices_at(datetime.fromtimestamp(now_ms / MS_PER_SECOND, tz=UTC))
        offers = [
            self._offer(standing, stored, suspension, prices, allocation, is_server=is_server) for allocation in own
        ]
        # One's own comes first, so that nobody spends a shared allocation by not choosing.
        offers.sort(key=lambda offer: offer.tier != self.policy.entry_tier.name)
        usable = [(offer.tier, size.name) for offer in offers for size in offer.sizes if size.usable]
        custom = custom_images_of(self.policy, runs_containers=self.runs_containers)
        return StartOptions(
            person=person,
            agreement=agreement,
            allocations=offers,
            images=startable_images(self.policy, to_date(now_ms), usable or self._of_tiers(offers)),
            default=self._default(offers) if agreement.accepted else None,
            home=_home(stored.homes.get(person)),
            custom_images=custom if any(offer.custom_images for offer in offers) else None,
        )

    def catalogue(self) -> Catalogue:
        """Return every image with its versions, as today."""
        return catalogue_of(self.policy, to_date(self.clock.now_ms()), runs_containers=self.runs_containers)

    def _of_tiers(self, offers: Sequence[AllocationOffer]) -> list[tuple[str, str]]:
        """Return the sizes of a person's tiers, where none can be had now: what could be had later can be read."""
        tiers = [self.policy.tier(offer.tier) for offer in offers] or [self.policy.entry_tier]
        return [(tier.name, size.name) for tier in tiers for size in self.policy.sizes if size.fits(tier.largest)]

    def _agreement(self, connection: Connection, person: str) -> AgreementView:
        agreement = self.policy.agreement
        accepted_at_ms = self.agreements.accepted_at_ms(connection, person, agreement.version)
        accepted = agreement.is_accepted(accepted_at_ms, self.clock.now_ms())
        until_ms = agreement.accepted_until_ms(accepted_at_ms)
        return AgreementView(
            version=agreement.version,
            title=agreement.title,
            accepted=accepted,
            url=AGREEMENT_URL,
            accepted_until=to_rfc3339(until_ms) if accepted and until_ms is not None else None,
        )

    def _offer(
        self,
        standing: Standing,
        stored: AreaStandings,
        suspension: Suspension | None,
        prices: PriceList,
        allocation: Allocation,
        *,
        is_server: bool,
    ) -> AllocationOffer:
        nodes, member = standing.path(allocation), standing.place(allocation)
        assert member is not None  # offers are made to members
        balance = standing.balances[allocation.id, Unit.CREDITS]
        # Every charge counts at each allocation of the path: the one with the least left binds.
        left = {
            unit: max(0, min(found.available for found in limited))
            for unit in Unit
            if (limited := [found for node in nodes if (found := standing.balances.get((node.id, unit)))])
        }
        rescue_reason = _reason(suspension, nodes, standing.now_ms)
        reason = rescue_reason or _lock(stored, standing.person, allocation.id)
        if member.microcredits_max is not None:
            spent = standing.spent[allocation.id, member.person]
            left[Unit.CREDITS] = max(0, min(left[Unit.CREDITS], member.microcredits_max - sum(spent)))
        own, tree = standing.running(allocation)
        limits = effective_limits(self.policy, nodes, member, standing.overrides)

        def offer_size(size: Size) -> SizeOffer:
            rate = prices.microcredits_per_second(size)
            why_not, waits = reason, None
            try:
                if why_not is None:
                    require_size(limits, size)
                    # What runs now keeps a run waiting, and a server from starting.
                    nothing = InUse()
                    require_room(
                        limits,
                        size,
                        own if is_server else nothing,
                        tree if is_server else nothing,
                        is_server=is_server,
                    )
                    waits = None if is_server else self._waits(limits, size, own, tree)
            except AllocationsError as error:
                why_not = error.detail
            per_second = {Unit.CREDITS: rate, Unit.CORE_SECONDS: size.cores, Unit.GPU_SECONDS: size.gpus}
            lasting = {unit: left[unit] // used for unit, used in per_second.items() if used and unit in left}
            scarcest = min(lasting, key=lambda unit: lasting[unit])
            if why_not is None and is_server and lasting[scarcest] < self.policy.leases.quantum_seconds:
                minutes = self.policy.leases.quantum_seconds // 60
                why_not = f"{NOT_ENOUGH[scarcest]} the first {minutes} minutes."
            return SizeOffer(
                name=size.name,
                title=size.title,
                cores=size.cores,
                memory_gib=size.memory_gib,
                gpus=size.gpus,
                gpu_type=size.gpu_type,
                microcredits_per_hour=rate * SECONDS_PER_HOUR,
                # Rounded down, so that it never promises more.
                hours_available=lasting[scarcest] * 100 // SECONDS_PER_HOUR / 100,
                usable=why_not is None,
                reason=why_not or waits,
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
            available_microcredits=left[Unit.CREDITS],
            ends_at=to_rfc3339(allocation.ends_at_ms),
            usable=any(size.usable for size in sizes),
            reason=reason,
            sizes=sizes,
            rescue=self._rescue(rescue_reason, limits, own) if is_server else None,
            custom_images=offers_custom_images(
                self.policy, self.policy.tier(allocation.tier), runs_containers=self.runs_containers
            ),
        )

    def _waits(self, limits: Limits, size: Size, own: InUse, tree: InUse) -> str | None:
        """Say why a run would wait at first; None when it would not."""
        try:
            require_room(limits, size, own, tree, is_server=False)
            require_room_beside_servers(self.policy, limits, size, own, tree)
        except AllocationsError as error:
            return f"A run waits at first: {error.detail}"
        return None

    def _rescue(self, reason: str | None, limits: Limits, own: InUse) -> SizeOffer:
        """Offer the server that frees space, whatever is left; `reason`: why nothing starts, a lock apart."""
        size = self.policy.rescue_size
        try:
            if reason is None:
                require_room(limits, size, InUse(own.servers), InUse(), is_server=True)
        except AllocationsError as error:
            reason = error.detail
        return SizeOffer(
            name=size.name,
            title=size.title,
            cores=size.cores,
            memory_gib=size.memory_gib,
            gpus=size.gpus,
            gpu_type=size.gpu_type,
            microcredits_per_hour=0,
            hours_available=self.policy.leases.rescue_seconds * 100 // SECONDS_PER_HOUR / 100,
            usable=reason is None,
            reason=reason,
        )

    def _default(self, offers: Sequence[AllocationOffer]) -> Choice | None:
        for offer in offers:
            for size in offer.sizes:
                if size.usable:
                    image = default_image(self.policy, self.policy.size(size.name))
                    return Choice(allocation=offer.id, size=size.name, image=image.name)
        return None


def _lock(stored: AreaStandings, person: str, allocation_id: str) -> str | None:
    try:
        stored.require_unlocked(person, allocation_id)
    except AllocationsError as error:
        return error.detail
    return None


def _home(standing: AreaStanding | None) -> HomeOffer | None:
    if standing is None:
        return None
    return HomeOffer(
        state=standing.state,
        full=standing.is_full,
        used_bytes=standing.used_bytes,
        limit_bytes=standing.limit_bytes,
        locks_at=None if standing.locks_at_ms is None else to_rfc3339(standing.locks_at_ms),
    )


def _reason(suspension: Suspension | None, nodes: Sequence[Allocation], now_ms: int) -> str | None:
    """Say why nothing at all starts, locked storage apart; None where something may."""
    try:
        require_not_suspended(suspension)
        for node in nodes:
            require_usable(node, now_ms)
    except AllocationsError as error:
        return error.detail
    return None
