"""Requests for a tier or an instalment: drafted, submitted, reviewed by one or by a panel, decided, carried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.lifecycle.models import (
    MANAGING_ROLES,
    REQUEST_TRANSITIONS,
    Party,
    Request,
    RequestAction,
    RequestKind,
    RequestState,
    Review,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.allocations import AllocationService
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.policy.models import Policy, Tier

TEXT_LENGTH_MAX = 20_000
TITLE_LENGTH_MAX = 80
CREDITS_MAX = 1_000_000
SCORES = range(1, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestService:
    """The way from a wish to an award; transitions are the data of `lifecycle.models`."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    requests: RequestStore
    allocations: AllocationStore
    lifecycle: AllocationService
    authority: Authority

    def submit(
        self,
        actor: Actor,
        *,
        tier: str,
        title: str,
        justification: str,
        credits: int | None = None,  # noqa: A002  # the unit's name
        draft: bool = False,
        idempotency_key: str | None = None,
    ) -> Request:
        """Ask for an allocation of a tier; `credits` (whole) where more or less than the tier's is needed."""
        wanted = self._requestable(tier)
        asked = credits if credits is not None else wanted.budget.credits
        if not 0 < asked <= CREDITS_MAX:
            raise InvalidInputError(
                f"Credits must lie between 1 and {CREDITS_MAX:,}.",
                "Enter how many credits a year are needed.",
            )
        return self._add(
            actor, RequestKind.NEW, tier, title, justification, asked, None, draft=draft, key=idempotency_key
        )

    def report_progress(
        self, actor: Actor, allocation_id: str, report: str, idempotency_key: str | None = None
    ) -> Request:
        """Ask for the next instalment of an allocation with a short report."""
        with self.database.read() as connection:
            allocation = self.allocations.get(connection, allocation_id)
            member = self.allocations.member(connection, allocation_id, actor.name)
        if allocation is None or member is None or member.role not in MANAGING_ROLES:
            raise NotAllowedError("Only leads and managers report on an allocation.", "Ask one of them.")
        instalments = self.policy.tier(allocation.tier).budget.instalments
        released = allocation.award.instalments_released
        if released >= len(instalments):
            raise TransitionError("Every instalment of this allocation has been granted.", "Request more instead.")
        return self._add(
            actor,
            RequestKind.INSTALMENT,
            allocation.tier,
            f"Instalment {released + 1} of {allocation.name}"[:TITLE_LENGTH_MAX],
            report,
            instalments[released],
            allocation_id,
            key=idempotency_key,
        )

    def revise(self, actor: Actor, request_id: str, title: str, justification: str) -> Request:
        """Change a draft, or a request that was sent back for revision."""
        title, justification = _require_texts(title, justification)
        with self.database.write() as connection:
            request = self._locked(connection, request_id)
            self._require_party(connection, actor, request, Party.APPLICANT)
            if request.state not in {RequestState.DRAFT, RequestState.REVISION_REQUESTED}:
                raise TransitionError(f"The request is {request.state}.", "It can be changed only as a draft.")
            now_ms = self.clock.now_ms()
            self.requests.change(connection, request_id, title=title, justification=justification, updated_at_ms=now_ms)
            self.authority.record(connection, actor.name, "request.revise", request_id)
            return replace(request, title=title, justification=justification, updated_at_ms=now_ms)

    def act(self, actor: Actor, request_id: str, action: RequestAction, why: str = "") -> Request:
        """Carry out a transition; approving opens the allocation or grants the instalment in the same transaction.

        TransitionError when the state does not allow it, NotAllowedError when the person may not.
        """
        if action is RequestAction.REVIEW:
            raise InvalidInputError("A review carries a comment and a score.", "Use the review form.")
        with self.database.write() as connection:
            request = self._locked(connection, request_id)
            transition = REQUEST_TRANSITIONS[action]
            self._require_party(connection, actor, request, transition.party)
            self._require_source(request, action)
            if action in {RequestAction.DECLINE, RequestAction.REQUEST_REVISION} and not why.strip():
                raise InvalidInputError("The applicant needs to know why.", "Write a sentence of explanation.")
            allocation_id = request.allocation_id
            if action is RequestAction.APPROVE:
                allocation_id = self._carry_out(connection, actor, request, why)
            return self._move(connection, actor, request, action, why, allocation_id)

    def review(
        self,
        actor: Actor,
        request_id: str,
        *,
        comment: str,
        score: int | None = None,
        conflict: bool = False,
    ) -> Request:
        """Record a reviewer's word: a comment, a panel's score from 1 to 5, or a conflict of interest."""
        if score is not None and score not in SCORES:
            raise InvalidInputError("A score lies between 1 and 5.", "Choose one of them.")
        with self.database.write() as connection:
            request = self._locked(connection, request_id)
            self._require_source(request, RequestAction.REVIEW)
            if not actor.reviewer or actor.name == request.applicant:
                raise NotAllowedError("Only reviewers other than the applicant review.", "Leave it to another.")
            if self.policy.tier(request.tier).review == "panel" and not conflict and score is None:
                raise InvalidInputError("A panel's review needs a score.", "Choose a score from 1 to 5.")
            self.requests.put_review(
                connection,
                Review(
                    request_id,
                    actor.name,
                    None if conflict else score,
                    conflict,
                    comment.strip()[:TEXT_LENGTH_MAX],
                    self.clock.now_ms(),
                ),
            )
            return self._move(connection, actor, request, RequestAction.REVIEW, "", request.allocation_id)

    # ------------------------------------------------------------------ inside

    def _requestable(self, name: str) -> Tier:
        tiers = [tier for tier in self.policy.tiers if tier.review != "none"]
        for tier in tiers:
            if tier.name == name:
                return tier
        raise InvalidInputError(
            f"The tier {name!r} cannot be requested.",
            f"Choose one of: {', '.join(tier.name for tier in tiers)}.",
        )

    @answered_once
    def _add(
        self,
        actor: Actor,
        kind: RequestKind,
        tier: str,
        title: str,
        justification: str,
        credits: int,  # noqa: A002  # the unit's name
        allocation_id: str | None,
        *,
        draft: bool = False,
        key: str | None = None,
    ) -> Request:
        title, justification = _require_texts(title, justification)
        body: dict[str, object] = {
            "kind": kind,
            "tier": tier,
            "title": title,
            "justification": justification,
            "credits": credits,
            "allocation": allocation_id,
        }
        idempotency = IdempotencyKey.for_request(actor.name, key, "request", body) if key else None
        now_ms = self.clock.now_ms()
        with self.database.write() as connection:
            known = idempotency.recall(connection) if idempotency else None
            if known is not None:
                return self._locked(connection, known)
            request = Request(
                id=self.new_id("q"),
                kind=kind,
                applicant=actor.name,
                tier=tier,
                title=title,
                justification=justification,
                credits=credits,
                state=RequestState.DRAFT if draft else RequestState.SUBMITTED,
                allocation_id=allocation_id,
                created_at_ms=now_ms,
                updated_at_ms=now_ms,
            )
            self.requests.add(connection, request)
            action = "request.draft" if draft else "request.submit"
            self.authority.record(connection, actor.name, action, request.id, tier=tier, credits=credits)
            if idempotency:
                idempotency.remember(connection, request.id, now_ms)
            return request

    def _locked(self, connection: Connection, request_id: str) -> Request:
        request = self.requests.get(connection, request_id, lock=True)
        if request is None:
            raise NotFoundError(f"There is no request {request_id!r}.", "Look it up in the list of requests.")
        return request

    def _require_party(self, connection: Connection, actor: Actor, request: Request, party: Party) -> None:
        if party is Party.APPLICANT:
            if actor.name != request.applicant:
                raise NotAllowedError("Only the applicant may do this.", "Ask the applicant.")
            return
        if not actor.reviewer:
            raise NotAllowedError("Only reviewers may do this.", "Ask one of them.")
        if actor.name == request.applicant:
            raise NotAllowedError("Nobody decides on their own request.", "Leave it to another reviewer.")
        if any(
            review.conflict and review.reviewer == actor.name
            for review in self.requests.reviews(connection, request.id)
        ):
            raise NotAllowedError("You declared a conflict of interest.", "Leave it to another reviewer.")

    def _require_source(self, request: Request, action: RequestAction) -> None:
        if request.state not in REQUEST_TRANSITIONS[action].sources:
            raise TransitionError(
                f"The request is {request.state}: it cannot be changed in this way.",
                "Reload the page to see it.",
            )

    def _carry_out(self, connection: Connection, actor: Actor, request: Request, why: str) -> str:
        """Do what is approved; return the allocation's id."""
        if request.kind is RequestKind.INSTALMENT:
            assert request.allocation_id is not None  # an instalment is asked for on an allocation
            self.lifecycle.release_instalment(connection, request.allocation_id, actor.name, why)
            return request.allocation_id
        tier = self.policy.tier(request.tier)
        if tier.review == "panel":
            scores = [
                review.score
                for review in self.requests.reviews(connection, request.id)
                if review.score is not None and not review.conflict
            ]
            if len(scores) < tier.panel_reviewers_min:
                raise TransitionError(
                    f"A panel of {tier.panel_reviewers_min} must score the proposal first; it has {len(scores)}.",
                    "Ask another reviewer to score it.",
                )
        return self.lifecycle.open(
            connection,
            tier,
            request.title,
            lead=request.applicant,
            actor=actor.name,
            credits=request.credits,
            why=why,
        ).id

    def _move(
        self,
        connection: Connection,
        actor: Actor,
        request: Request,
        action: RequestAction,
        why: str,
        allocation_id: str | None,
    ) -> Request:
        target = REQUEST_TRANSITIONS[action].target
        now_ms = self.clock.now_ms()
        self.requests.change(connection, request.id, state=target, allocation_id=allocation_id, updated_at_ms=now_ms)
        self.authority.record(
            connection,
            actor.name,
            f"request.{action}",
            request.id,
            why.strip(),
            before=request.state,
            after=target,
        )
        return replace(request, state=target, allocation_id=allocation_id, updated_at_ms=now_ms)


def _require_texts(title: str, justification: str) -> tuple[str, str]:
    title = " ".join(title.split())
    justification = justification.strip()
    if not 0 < len(title) <= TITLE_LENGTH_MAX:
        raise InvalidInputError(f"A title has 1 to {TITLE_LENGTH_MAX} characters.", "Enter another title.")
    if not 0 < len(justification) <= TEXT_LENGTH_MAX:
        raise InvalidInputError(
            f"A justification has 1 to {TEXT_LENGTH_MAX:,} characters.",
            "Say in a few sentences what it is for.",
        )
    return title, justification
