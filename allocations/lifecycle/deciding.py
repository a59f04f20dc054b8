"""Decides on requests: who may, when a panel has scored enough, and the award that an approval carries out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError, NotAllowedError, TransitionError
from allocations.lifecycle.asked import PANEL_KINDS, asked_in, require_award
from allocations.lifecycle.models import REQUEST_TRANSITIONS, Party, RequestAction, RequestKind

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.lifecycle.allocations import AllocationService
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.models import Award, Request
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.policy.models import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDecider:
    """The rules of a decision, and what it does, in the caller's transaction."""

    policy: Policy
    requests: RequestStore
    allocations: AllocationStore
    lifecycle: AllocationService
    authority: Authority

    def require_party(self, connection: Connection, actor: Actor, request: Request, party: Party) -> None:
        """Raise NotAllowedError unless somebody is of the party that the action is for, and has no conflict."""
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
        if request.allocation_id is not None:
            whole = self.authority.find(connection, request.allocation_id)
            nodes = [node.id for node in self.allocations.subtree(connection, whole)]
            if any(member.person == actor.name for member in self.allocations.members(connection, nodes)):
                raise NotAllowedError(
                    f"You are a member of “{whole.name}”: that is a conflict of interest.",
                    "Leave it to another reviewer.",
                )

    def require_source(self, request: Request, action: RequestAction) -> None:
        """Raise TransitionError when the request's state does not allow the action."""
        if request.state not in REQUEST_TRANSITIONS[action].sources:
            raise TransitionError(
                f"The request is {request.state}: it cannot be changed in this way.",
                "Reload the page to see it.",
            )

    def needs_panel(self, request: Request) -> bool:
        """Say whether a panel decides on a request."""
        return request.kind in PANEL_KINDS and self.policy.tier(request.tier).review == "panel"

    def require_panel(self, connection: Connection, request: Request) -> None:
        """Raise TransitionError until enough reviewers without a conflict have scored what a panel decides on."""
        if not self.needs_panel(request):
            return
        needed = self.policy.tier(request.tier).panel_reviewers_min
        scores = [
            review.score
            for review in self.requests.reviews(connection, request.id)
            if review.score is not None and not review.conflict
        ]
        if len(scores) < needed:
            raise TransitionError(
                f"A panel of {needed} must score the proposal first; it has {len(scores)}.",
                "Ask another reviewer to score it.",
            )

    def approve(
        self, connection: Connection, actor: Actor, request: Request, why: str, award: Award | None
    ) -> tuple[Request, dict[str, object]]:
        """Do what is approved; return the request as it is then, and what the audit log keeps of it."""
        request = self._carry_out(connection, actor, request, why, award)
        details: dict[str, object] = {"asked": asked_in(request).model_dump(mode="json", exclude_defaults=True)}
        if request.awarded is None:
            return request, details
        if request.awarded != asked_in(request) and not why.strip():
            raise InvalidInputError("The award differs from what was asked for.", "Say why: the applicant reads it.")
        return request, details | {"awarded": request.awarded.model_dump(mode="json", exclude_defaults=True)}

    def _carry_out(
        self, connection: Connection, actor: Actor, request: Request, why: str, award: Award | None
    ) -> Request:
        """Do what is approved; return the request with its allocation and what was awarded."""
        if request.kind is RequestKind.INSTALMENT:
            if award is not None:
                raise InvalidInputError("An instalment was awarded before.", "Approve it without an award.")
            assert request.allocation_id is not None  # asked for on an allocation
            self.lifecycle.release_instalment(connection, request.allocation_id, actor.name, why)
            return request
        given = asked_in(request) if award is None else award
        if given.credits is None and request.kind in {RequestKind.NEW, RequestKind.RENEWAL}:
            given = given.model_copy(update={"credits": request.credits})
        require_award(request.kind, given)
        if request.kind is RequestKind.NEW:
            opened = self.lifecycle.open(
                connection,
                self.policy.tier(request.tier),
                request.title,
                lead=request.applicant,
                actor=actor.name,
                award=given,
                why=why,
            )
            return replace(request, allocation_id=opened.id, awarded=given)
        assert request.allocation_id is not None  # asked for on an allocation
        if request.kind is RequestKind.SUPPLEMENT:
            self.lifecycle.supplement(connection, request.allocation_id, given, actor.name, why)
        elif request.kind is RequestKind.EXTENSION:
            assert given.term_days is not None  # required of an extension's award
            self.lifecycle.extend(connection, request.allocation_id, given.term_days, actor.name, why)
        else:
            self.lifecycle.renew(connection, request.allocation_id, given, actor.name, why)
        return replace(request, awarded=given)
