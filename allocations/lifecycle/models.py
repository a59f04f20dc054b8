"""Allocations, members, requests and what may happen to them: states, and transitions as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from allocations.policy.models import AtOnce, NonNegativeInt, PolicyModel, PositiveInt, Shape


class AllocationState(StrEnum):
    """Where an allocation is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    EXPIRING = "expiring"
    GRACE = "grace"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"
    CLOSED = "closed"


USABLE_STATES = frozenset({AllocationState.ACTIVE, AllocationState.EXPIRING})
RUNNING_STATES = USABLE_STATES | {AllocationState.GRACE}
"""Where what runs may go on, in the last for as long after the end as the policy of leases says."""


class AllocationAction(StrEnum):
    """What happens to an allocation in its life."""

    ADVANCE = "advance"
    SUSPEND = "suspend"
    RESUME = "resume"
    ARCHIVE = "archive"
    CLOSE = "close"
    CLOSE_SHARE = "close-share"
    RENEW = "renew"
    EXTEND = "extend"


class AllocationParty(StrEnum):
    """Who moves an allocation on: an administrator, the calendar, or those who manage what it is a part of."""

    ADMIN = "admin"
    CALENDAR = "calendar"
    MANAGER = "manager"


@dataclass(frozen=True, slots=True)
class AllocationTransition:
    """From which states, by whom, an action leads where; to None is where the calendar says."""

    sources: frozenset[AllocationState]
    party: AllocationParty
    target: AllocationState | None


_NOT_CLOSED = frozenset(AllocationState) - {AllocationState.CLOSED}

# A renewal or an extension is decided on a request; that it begins is the calendar's doing.
ALLOCATION_TRANSITIONS: dict[AllocationAction, AllocationTransition] = {
    AllocationAction.ADVANCE: AllocationTransition(
        _NOT_CLOSED - {AllocationState.SUSPENDED}, AllocationParty.CALENDAR, None
    ),
    AllocationAction.SUSPEND: AllocationTransition(
        RUNNING_STATES | {AllocationState.PENDING}, AllocationParty.ADMIN, AllocationState.SUSPENDED
    ),
    AllocationAction.RESUME: AllocationTransition(frozenset({AllocationState.SUSPENDED}), AllocationParty.ADMIN, None),
    AllocationAction.ARCHIVE: AllocationTransition(
        _NOT_CLOSED - {AllocationState.ARCHIVED}, AllocationParty.ADMIN, AllocationState.ARCHIVED
    ),
    AllocationAction.CLOSE: AllocationTransition(_NOT_CLOSED, AllocationParty.ADMIN, AllocationState.CLOSED),
    AllocationAction.CLOSE_SHARE: AllocationTransition(_NOT_CLOSED, AllocationParty.MANAGER, AllocationState.CLOSED),
    AllocationAction.RENEW: AllocationTransition(_NOT_CLOSED, AllocationParty.CALENDAR, None),
    AllocationAction.EXTEND: AllocationTransition(RUNNING_STATES, AllocationParty.CALENDAR, None),
}


class MemberRole(StrEnum):
    """What a member may do: everybody may spend; leads and managers also divide and invite."""

    LEAD = "lead"
    MANAGER = "manager"
    MEMBER = "member"


MANAGING_ROLES = frozenset({MemberRole.LEAD, MemberRole.MANAGER})


class Award(PolicyModel):
    """What a single allocation was awarded for a term; what is None is as the tier says.

    `credits` are whole credits of the term; `gpu_hours` and `core_hours`, where given, limit the allocation in those
    units too.
    """

    credits: PositiveInt | None = None
    gpu_hours: NonNegativeInt | None = None
    core_hours: NonNegativeInt | None = None
    largest: Annotated[tuple[Shape, ...], Field(min_length=1)] | None = None
    at_once: AtOnce | None = None
    term_days: PositiveInt | None = None
    renewable: bool = True
    instalments_released: NonNegativeInt = 1


class OverrideSubject(StrEnum):
    """Whom an override is for."""

    PERSON = "person"
    ALLOCATION = "allocation"


class OverrideLimits(PolicyModel):
    """The limits that an override sets in place of the award's or the tier's; what is None stays."""

    servers_per_person: NonNegativeInt | None = None
    cores: NonNegativeInt | None = None
    gpus: NonNegativeInt | None = None
    largest: Annotated[tuple[Shape, ...], Field(min_length=1)] | None = None
    idle_seconds: PositiveInt | None = None
    longest_session_seconds: PositiveInt | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """An exception from the limits of a person (wherever they start) or of an allocation and what is below it."""

    id: str
    subject_kind: OverrideSubject
    subject: str
    limits: OverrideLimits
    reason: str
    author: str
    created_at_ms: int
    ends_at_ms: int
    revoked_at_ms: int | None = None
    revoked_by: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a name here, as the provider knows them at which they sign in: a subject of an issuer.

    `email` is where mail goes; `institution` and `country` are for reports only. `roles` are the hub's at the last
    sign-in, for administrators to read: what a person may do, their token says.
    """

    name: str
    issuer: str | None
    subject: str | None
    email: str | None = None
    full_name: str | None = None
    institution: str | None = None
    country: str | None = None
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspension:
    """That a person may start nothing until it is lifted; what they run is stopped at `stops_at_ms`."""

    id: str
    person: str
    reason: str
    author: str
    created_at_ms: int
    stops_at_ms: int
    lifted_at_ms: int | None = None
    lifted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """An allocation: a node of a tree, with its own limits and members."""

    id: str
    parent_id: str | None
    root_id: str
    depth: int
    name: str
    tier: str
    state: AllocationState
    guaranteed: bool
    award: Award
    starts_at_ms: int
    ends_at_ms: int
    refilled_at_ms: int | None
    policy_version: str
    created_at_ms: int
    renewal: Award | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A person's place in an allocation, and what a lead lets them have (None: as much as everybody).

    `servers_max`, `cores_max` and `gpus_max` are for what runs at once, `microcredits_max` for all that they spend on
    this allocation over its whole time.
    """

    allocation_id: str
    person: str
    role: MemberRole
    joined_at_ms: int
    servers_max: int | None = None
    cores_max: int | None = None
    gpus_max: int | None = None
    microcredits_max: int | None = None


class InvitationState(StrEnum):
    """Pending, or what became of it."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A place in an allocation, with what it lets a member have, that is offered to a person until `ends_at_ms`."""

    id: str
    allocation_id: str
    person: str
    role: MemberRole
    invited_by: str
    state: InvitationState
    created_at_ms: int
    ends_at_ms: int
    answered_at_ms: int | None = None
    servers_max: int | None = None
    cores_max: int | None = None
    gpus_max: int | None = None
    microcredits_max: int | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication by its DOI or its bibcode."""

    id: str
    doi: str | None
    bibcode: str | None
    title: str
    added_by: str
    created_at_ms: int


class RequestState(StrEnum):
    """Where a request is on its way to a decision."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    IN_REVIEW = "in review"
    REVISION_REQUESTED = "revision requested"
    APPROVED = "approved"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"


class RequestAction(StrEnum):
    """What a person does to a request."""

    SUBMIT = "submit"
    WITHDRAW = "withdraw"
    REVIEW = "review"
    REQUEST_REVISION = "request-revision"
    APPROVE = "approve"
    DECLINE = "decline"


class RequestKind(StrEnum):
    """What is asked for."""

    NEW = "new"
    INSTALMENT = "instalment"
    SUPPLEMENT = "supplement"
    EXTENSION = "extension"
    RENEWAL = "renewal"


# In which states of an allocation more is asked for and granted; a renewal has a time of its own.
MORE_IN_STATES: dict[RequestKind, frozenset[AllocationState]] = {
    RequestKind.INSTALMENT: USABLE_STATES,
    RequestKind.SUPPLEMENT: USABLE_STATES,
    RequestKind.EXTENSION: ALLOCATION_TRANSITIONS[AllocationAction.EXTEND].sources,
}


class Party(StrEnum):
    """In which part a person acts on a request."""

    APPLICANT = "applicant"
    REVIEWER = "reviewer"


@dataclass(frozen=True, slots=True)
class RequestTransition:
    """From which states, by whom, an action leads where."""

    sources: frozenset[RequestState]
    party: Party
    target: RequestState


WAITING_STATES = frozenset({RequestState.SUBMITTED, RequestState.IN_REVIEW})
"""In which a request waits for a reviewer."""

REQUEST_TRANSITIONS: dict[RequestAction, RequestTransition] = {
    RequestAction.SUBMIT: RequestTransition(
        frozenset({RequestState.DRAFT, RequestState.REVISION_REQUESTED}),
        Party.APPLICANT,
        RequestState.SUBMITTED,
    ),
    RequestAction.WITHDRAW: RequestTransition(
        WAITING_STATES | {RequestState.DRAFT, RequestState.REVISION_REQUESTED}, Party.APPLICANT, RequestState.WITHDRAWN
    ),
    RequestAction.REVIEW: RequestTransition(WAITING_STATES, Party.REVIEWER, RequestState.IN_REVIEW),
    RequestAction.REQUEST_REVISION: RequestTransition(WAITING_STATES, Party.REVIEWER, RequestState.REVISION_REQUESTED),
    RequestAction.APPROVE: RequestTransition(WAITING_STATES, Party.REVIEWER, RequestState.APPROVED),
    RequestAction.DECLINE: RequestTransition(WAITING_STATES, Party.REVIEWER, RequestState.DECLINED),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request for an allocation, or for more of one.

    `credits` is in whole credits; `asked` says what is asked for beside them, `awarded` what was given.
    """

    id: str
    kind: RequestKind
    applicant: str
    tier: str
    title: str
    justification: str
    credits: int
    state: RequestState
    allocation_id: str | None
    created_at_ms: int
    updated_at_ms: int
    asked: Award = field(default_factory=Award)
    awarded: Award | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """One reviewer's word on a request; a panel's carry a score from 1 to 5."""

    request_id: str
    reviewer: str
    score: int | None
    conflict: bool
    comment: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Which requests a reviewer looks for; what is None or empty does not matter.

    `reviewed_by` and `to_be_reviewed_by` are people: whose review there is, or who neither wrote one nor the request.
    `text` is contained in the title, the applicant's name or the id; case does not count.
    """

    states: frozenset[RequestState] = WAITING_STATES
    tier: str | None = None
    kind: RequestKind | None = None
    created_until_ms: int | None = None
    reviewed_by: str | None = None
    to_be_reviewed_by: str | None = None
    text: str = ""
