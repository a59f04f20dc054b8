"""What the API and the pages show of leases and of what may be started; the shapes that others rely on."""

from __future__ import annotations

from datetime import date  # pydantic reads it at run time
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from allocations.clock import to_rfc3339
from allocations.leases.models import Lease, LeaseKind, LeaseState  # pydantic reads them at run time
from allocations.policy.images import Channel  # as above

if TYPE_CHECKING:
    from allocations.lifecycle.models import Allocation

SECONDS_PER_HOUR = 3600


class View(BaseModel):
    """The base of everything that the API answers with."""

    model_config = ConfigDict(frozen=True)


class ResourcesView(View):
    """What a size gives."""

    cores: int
    memory_gib: int
    gpus: int
    gpu_type: str | None


class LeaseView(View):
    """A lease. Times are RFC 3339 in UTC; amounts are microcredits."""

    id: str
    allocation: str
    allocation_name: str
    person: str
    kind: LeaseKind
    size: str
    image: str
    # Answers kept from before these two were given are still read.
    image_reference: str | None = None
    tier: str = ""
    server_name: str
    resources: ResourcesView
    state: LeaseState
    final: bool
    microcredits_per_second: int
    microcredits_per_hour: int
    acquired_at: str
    started_at: str | None
    ends_at: str
    latest_end_at: str
    ended_at: str | None
    end_reason: str | None
    held_microcredits: int
    charged_microcredits: int
    # How the person's home stood at admission: ok, nearing limit, over limit, locked. None later, and unmeasured.
    home_state: str | None = None

    @classmethod
    def from_lease(
        cls,
        lease: Lease,
        allocation: Allocation,
        image_reference: str | None,
        held: int,
        charged: int,
        home_state: str | None = None,
    ) -> LeaseView:
        """Show a lease with its amounts; `image_reference` is None when the catalogue has its image no more."""
        return cls(
            id=lease.id,
            allocation=lease.allocation_id,
            allocation_name=allocation.name,
            tier=allocation.tier,
            person=lease.person,
            kind=lease.kind,
            size=lease.size,
            image=lease.image,
            image_reference=image_reference,
            server_name=lease.server_name,
            resources=ResourcesView(
                cores=lease.cores, memory_gib=lease.memory_gib, gpus=lease.gpus, gpu_type=lease.gpu_type
            ),
            state=lease.state,
            final=lease.final,
            microcredits_per_second=lease.microcredits_per_second,
            microcredits_per_hour=lease.microcredits_per_second * SECONDS_PER_HOUR,
            acquired_at=to_rfc3339(lease.acquired_at_ms),
            started_at=_time(lease.started_at_ms),
            ends_at=to_rfc3339(lease.ends_at_ms),
            latest_end_at=to_rfc3339(lease.latest_end_at_ms),
            ended_at=_time(lease.ended_at_ms),
            end_reason=lease.end_reason,
            held_microcredits=held,
            charged_microcredits=charged,
            home_state=home_state,
        )


class OpenLeaseView(View):
    """An open lease: whose, for which server, and when it was acquired, began to run and was last seen.

    `replaced_at` is when the next lease of the same server was acquired, None for the newest.
    """

    id: str
    allocation: str
    person: str
    kind: LeaseKind
    server_name: str
    acquired_at: str
    started_at: str | None
    seen_at: str | None
    replaced_at: str | None

    @classmethod
    def from_lease(cls, lease: Lease, replaced_at_ms: int | None) -> OpenLeaseView:
        """Show a lease without its amounts, which take a look at its holds."""
        return cls(
            id=lease.id,
            allocation=lease.allocation_id,
            person=lease.person,
            kind=lease.kind,
            server_name=lease.server_name,
            acquired_at=to_rfc3339(lease.acquired_at_ms),
            started_at=_time(lease.started_at_ms),
            seen_at=_time(lease.seen_at_ms),
            replaced_at=_time(replaced_at_ms),
        )


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_rfc3339(at_ms)


class StopReason(StrEnum):
    """What ends a server that is used: the balance, the allocation, the longest session, or nobody may renew it."""

    BALANCE = "balance"
    ALLOCATION = "allocation"
    SESSION = "session"
    NOT_RENEWED = "not_renewed"


class OutlookView(View):
    """What becomes of a running server if it stays in use and alone is charged. Times are RFC 3339 in UTC.

    It is held until `held_until`, renewed at `renews_at` (None: not any more), and stops at `stops_at`: `detail`,
    `remedy` and `remedy_url` say why and what to do, and `warn_before_stop_seconds` when to warn. Not used since
    `used_at` for `idle_seconds`, it stops earlier. `may_last_longer`: an extension makes its session longer than
    `longest_session_seconds`.
    """

    lease: str
    allocation: str
    allocation_name: str
    server_name: str
    microcredits_per_hour: int
    held_until: str
    renews_at: str | None
    stops_at: str
    reason: StopReason
    detail: str
    remedy: str
    remedy_url: str
    idle_seconds: int
    used_at: str
    longest_session_seconds: int
    may_last_longer: bool
    warn_before_stop_seconds: list[int]


class AgreementView(View):
    """The agreement in force, whether the person accepted it, and until when that counts."""

    version: str
    title: str
    accepted: bool
    url: str
    accepted_until: str | None = None


class SizeOffer(View):
    """A size on an allocation: its price, the hours that the balance buys, and why not when it cannot be had, or why a
    run waits at first."""

    name: str
    title: str
    cores: int
    memory_gib: int
    gpus: int
    gpu_type: str | None
    microcredits_per_hour: int
    hours_available: float
    usable: bool
    reason: str | None


class HomeOffer(View):
    """How a person's home stands (bytes): ok, nearing limit, over limit, locked; `full` where writing may fail.

    `locks_at` is when a home over its limit is locked (RFC 3339 in UTC).
    """

    state: str
    full: bool
    used_bytes: int
    limit_bytes: int
    locks_at: str | None


class AllocationOffer(View):
    """An allocation that the person is a member of, with every size, and the rescue server that it gives.

    `custom_images`: whether container images of one's own may be started on it.
    """

    id: str
    name: str
    tier: str
    tier_title: str
    state: str
    limit_microcredits: int
    held_microcredits: int
    posted_microcredits: int
    available_microcredits: int
    ends_at: str
    usable: bool
    reason: str | None
    sizes: list[SizeOffer]
    rescue: SizeOffer | None = None
    custom_images: bool = False


class VersionOffer(View):
    """A version of an image. `choice` is what to ask for and `recorded` how leases and runs will name it.

    The two differ where it is recommended: who asks for the image alone gets whatever is recommended then. From the
    day `ends` on (UTC) it cannot be started anew; `ends_soon` from as many days before as the policy says.
    """

    choice: str
    recorded: str
    title: str
    tag: str | None
    channel: Channel
    released: date | None
    ends: date | None
    ended: bool
    ends_soon: bool
    reference: str | None
    changes: list[str]
    packages: dict[str, str]


class ImageOffer(View):
    """An image of the catalogue, with what may start it (sizes and tiers, None for all) and its versions in order.

    It is started by default where it is `default`, and with the sizes in `default_for`.
    """

    name: str
    title: str
    description: str
    default: bool
    default_for: list[str] = []
    sizes: list[str] | None = None
    tiers: list[str] | None = None
    versions: list[VersionOffer] = []


class CustomImagesOffer(View):
    """From where container images of one's own may come, and the tiers that may start them."""

    registries: list[str]
    tiers: list[str]


class Catalogue(View):
    """All images, those that have ended too. Without containers all run in the installation's own environment."""

    containers: bool
    images: list[ImageOffer]
    custom: CustomImagesOffer | None


class Choice(View):
    """What is started when a person does not choose."""

    allocation: str
    size: str
    image: str


class StartOptions(View):
    """Everything that the start page offers to a person."""

    person: str
    agreement: AgreementView
    allocations: list[AllocationOffer]
    images: list[ImageOffer]
    default: Choice | None
    home: HomeOffer | None = None
    custom_images: CustomImagesOffer | None = None
