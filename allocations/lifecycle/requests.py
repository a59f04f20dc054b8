"""Requests for a tier or an instalment: drafted, submitted, reviewed by one or by a panel, decided, carried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.db.idempotency import answered_once
from allocations.errors import InvalidInputError, NotAllowedError, TransitionError
from allocations.lifecycle.asked import (
    SCORES,
    TEXT_LENGTH_MAX,
    TITLE_LENGTH_MAX,
    asked_in,
    require_award,
    require_credits,
    require_texts,
)
from allocations.lifecycle.models import (
    MANAGING_ROLES,
    REQUEST_TRANSITIONS,
    Award,
    Party,
    Request,
    RequestAction,
    RequestKind,
    RequestState,
    Review,
)
from allocations.lifecycle.request_records import draft_key, request_key

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.db.idempotency import IdempotencyKey
    from allocations.ids import IdFactory
    from allocations.lifecycle.allocations import AllocationService
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.deciding import RequestDecider
    from allocations.lifecycle.request_records import RequestRecords
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.policy.models import Policy, Tier


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
    records: RequestRecords
    decider: RequestDecider

    def submit(
        self,
        actor: Actor,
        *,
        tier: str,
        title: str,
        justification: str,
        credits: int | None = None,  # noqa: A002  # the unit's name
        draft: bool = False,
        kind: RequestKind = RequestKind.NEW,
        allocation_id: str | None = None,
        asked: Award | None = None,
        idempotency_key: str | None = None,
    ) -> Request:
        """Ask for an allocation of a tier; `credits` (whole) where more or less than the tier's is needed.

        `asked` says what is needed beside credits. Any other kind is asked for on an allocation, as by `ask`.
        """
        if kind is not RequestKind.NEW:
            if allocation_id is None:
                raise InvalidInputError("Which allocation is it for?", "Name one that you lead or manage.")
            return self.ask(actor, allocation_id, kind, justification, credits, asked, idempotency_key)
        asked = asked or Award()
        key = request_key(actor, idempotency_key, kind, tier, title, justification, credits, asked, draft=draft)
        return self._new(actor, tier, title, justification, credits, asked, key, draft=draft)

    def ask(
        self,
        actor: Actor,
        allocation_id: str,
        kind: RequestKind,
        justification: str,
        credits: int | None = None,  # noqa: A002  # the unit's name
        asked: Award | None = None,
        idempotency_key: str | None = None,
    ) -> Request:
        """Ask for more of an allocation: an instalment, more now (supplement), more days (extension), another term.

        For leads and managers of a whole allocation. `asked` says what beside `credits` (whole): `gpu_hours`,
        `core_hours`, `largest` and `at_once` for more now, `term_days` for more days.
        """
        if kind is RequestKind.NEW:
            raise InvalidInputError("A new allocation is not asked for on another.", "Request a tier instead.")
        asked = asked or Award()
        key = request_key(actor, idempotency_key, kind, allocation_id, "", justification, credits, asked)
        return self._more(actor, allocation_id, kind, justification, credits, asked, key)

    def save_draft(
        self, actor: Actor, form_key: str, kind: RequestKind, of: str, title: str, justification: str, asked: Award
    ) -> Request:
        """Keep what a form holds as a draft: a new one at first, then in place of what was kept of that form.

        `of` is a tier, or for more of an allocation its id. What a request needs may still be missing; it is required
        when the draft is submitted. TransitionError when that has happened, InvalidInputError for what makes no sense.
        """
        if not form_key:
            raise InvalidInputError("The form does not say which one it is.", "Reload the page and send it again.")
        draft = self.draft_of(actor, form_key)
        if draft is not None:
            if kind is RequestKind.NEW:
                return self.revise(actor, draft.id, title, justification, asked, tier=of)
            return self.revise(actor, draft.id, draft.title, justification, asked)
        key = draft_key(actor, form_key)
        if kind is RequestKind.NEW:
            return self._new(actor, of, title, justification, None, asked, key, draft=True)
        return self._more(actor, of, kind, justification, None, asked, key, draft=True)

    def draft_of(self, actor: Actor, form_key: str) -> Request | None:
        """Return the request that was kept of a form as a draft, whatever has become of it; None when none was."""
        if not form_key:
            return None
        with self.database.read() as connection:
            known = draft_key(actor, form_key).recall(connection)
            return self.records.find(connection, known) if known else None

    def report_progress(
        self, actor: Actor, allocation_id: str, report: str, idempotency_key: str | None = None
    ) -> Request:
        """Ask for the next instalment of an allocation with a short report."""
        return self.ask(actor, allocation_id, RequestKind.INSTALMENT, report, idempotency_key=idempotency_key)

    def revise(
        self,
        actor: Actor,
        request_id: str,
        title: str,
        justification: str,
        asked: Award | None = None,
        tier: str | None = None,
    ) -> Request:
        """Change a draft, or a request that was sent back for revision; `asked`, when given, with all that is asked.

        A draft of a new allocation may change its tier too, and what it needs to be submitted may be missing.
        """
        with self.database.write() as connection:
            request = self.records.locked(connection, request_id)
            self.decider.require_party(connection, actor, request, Party.APPLICANT)
            if request.state not in {RequestState.DRAFT, RequestState.REVISION_REQUESTED}:
                raise TransitionError(f"The request is {request.state}.", "It can be changed only as a draft.")
            draft = request.state is RequestState.DRAFT
            title, justification = require_texts(title, justification, draft=draft)
            revised = replace(request, title=title, justification=justification, updated_at_ms=self.clock.now_ms())
            if tier is not None and draft and request.kind is RequestKind.NEW:
                revised = replace(revised, tier=self._requestable(tier).name)
            if asked is not None:
                revised = self._asking(revised, asked, draft=draft)
            self.requests.change(
                connection,
                request_id,
                tier=revised.tier,
                title=title,
                justification=justification,
                credits=revised.credits,
                asked=revised.asked.model_dump_json(),
                updated_at_ms=revised.updated_at_ms,
            )
            self._record_revision(connection, request, revised)
            return revised

    def act(
        self,
        actor: Actor,
        request_id: str,
        action: RequestAction,
        why: str = "",
        award: Award | None = None,
        seen_at_ms: int | None = None,
    ) -> Request:
        """Carry out a transition; approving does what was asked for in the same transaction.

        `award` is what is given when that differs from what was asked; its credits, when left out, are those asked
        for a new allocation or a renewal, and none for a supplement. `seen_at_ms`, where given, is the time of the
        request's last change that whoever decides has seen. TransitionError when the state does not allow it or it has
        changed since, NotAllowedError when the person may not, InvalidInputError for an award that makes no sense.
        """
        if action is RequestAction.REVIEW:
            raise InvalidInputError("A review carries a comment and a score.", "Use the review form.")
        if award is not None and action is not RequestAction.APPROVE:
            raise InvalidInputError("Only an approval carries an award.", "Leave the award out, or approve.")
        with self.database.write() as connection:
            request = self.records.locked(connection, request_id)
            transition = REQUEST_TRANSITIONS[action]
            self.decider.require_party(connection, actor, request, transition.party)
            self.decider.require_source(request, action)
            if seen_at_ms is not None and seen_at_ms != request.updated_at_ms:
                raise TransitionError("The request has changed since you looked at it.", "Read it, then decide on it.")
            if action in {RequestAction.DECLINE, RequestAction.REQUEST_REVISION} and not why.strip():
                raise InvalidInputError("The applicant needs to know why.", "Write a sentence of explanation.")
            if action in {RequestAction.APPROVE, RequestAction.DECLINE}:
                self.decider.require_panel(connection, request)
            details: dict[str, object] = {}
            if action is RequestAction.SUBMIT:
                self._require_complete(connection, request)
            if action is RequestAction.APPROVE:
                request, details = self.decider.approve(connection, actor, request, why, award)
            if action is RequestAction.SUBMIT and request.state is RequestState.REVISION_REQUESTED:
                # The text has changed since: who scored it scores it again. What was given stays in the audit log.
                details["scores_to_be_given_again"] = self.requests.set_scores_aside(connection, request_id)
            return self.records.move(connection, actor, request, action, why, details)

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
            request = self.records.locked(connection, request_id)
            self.decider.require_source(request, RequestAction.REVIEW)
            self.decider.require_party(connection, actor, request, Party.REVIEWER)
            if self.decider.needs_panel(request) and not conflict and score is None:
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
            details: dict[str, object] = {"conflict": True} if conflict else {"score": score}
            return self.records.move(connection, actor, request, RequestAction.REVIEW, "", details)

    # ------------------------------------------------------------------ inside

    def _new(
        self,
        actor: Actor,
        tier: str,
        title: str,
        justification: str,
        credits: int | None,  # noqa: A002  # the unit's name
        asked: Award,
        key: IdempotencyKey | None,
        *,
        draft: bool,
    ) -> Request:
        require_award(RequestKind.NEW, asked, draft=draft)
        wanted = self._requestable(tier)
        amount = require_credits(asked.credits or credits, wanted.budget.credits)
        return self._add(
            actor, RequestKind.NEW, tier, title, justification, amount, None, draft=draft, asked=asked, key=key
        )

    def _more(
        self,
        actor: Actor,
        allocation_id: str,
        kind: RequestKind,
        justification: str,
        credits: int | None,  # noqa: A002  # the unit's name
        asked: Award,
        key: IdempotencyKey | None,
        *,
        draft: bool = False,
    ) -> Request:
        with self.database.read() as connection:
            # Before all else: what was asked for may have been decided since, and could not be asked for anew.
            known = key.recall(connection) if key else None
            if known is not None:
                return self.records.find(connection, known)
            allocation = self.authority.seen(connection, actor, allocation_id)
            member = self.allocations.member(connection, allocation_id, actor.name)
        if member is None or member.role not in MANAGING_ROLES:
            raise NotAllowedError("Only leads and managers ask for more of an allocation.", "Ask one of them.")
        if allocation.parent_id is not None:
            raise NotAllowedError(
                f"“{allocation.name}” is a part of another allocation.", "Ask who leads or manages that one."
            )
        tier = self.policy.tier(allocation.tier)
        if tier.review == "none":
            raise NotAllowedError(
                f"An allocation of the {tier.title} tier is renewed with the user agreement, and not made larger.",
                "Request a higher tier instead.",
            )
        self.lifecycle.require_open_to(allocation, kind)
        amount = credits or asked.credits
        if kind is RequestKind.INSTALMENT:
            released = allocation.award.instalments_released
            if released >= len(tier.budget.instalments):
                raise TransitionError("Every instalment of this allocation has been granted.", "Request more instead.")
            amount = tier.budget.instalments[released]
            title = f"Instalment {released + 1} of {allocation.name}"
        else:
            title = f"{kind.capitalize()} of {allocation.name}"
        if kind is RequestKind.RENEWAL:
            amount = require_credits(amount, tier.budget.credits)
        elif amount is not None:
            amount = require_credits(amount, amount)
        require_award(kind, asked.model_copy(update={"credits": amount}), draft=draft)
        return self._add(
            actor,
            kind,
            allocation.tier,
            title[:TITLE_LENGTH_MAX],
            justification,
            amount or 0,
            allocation_id,
            draft=draft,
            asked=asked,
            key=key,
        )

    def _requestable(self, name: str) -> Tier:
        tiers = [tier for tier in self.policy.tiers if tier.review != "none"]
        for tier in tiers:
            if tier.name == name:
                return tier
        raise InvalidInputError(
            f"The tier {name!r} cannot be requested.",
            f"Choose one of: {', '.join(tier.name for tier in tiers)}.",
        )

    def _record_revision(self, connection: Connection, before: Request, after: Request) -> None:
        """Keep that a request was changed; of a draft nothing, and of a text that is saved while written once."""
        if before.state is RequestState.DRAFT:
            return
        details: dict[str, object] = {}
        if asked_in(after) != asked_in(before):
            details["asked"] = asked_in(after).model_dump(mode="json", exclude_defaults=True)
        elif self.authority.last_action(connection, before.id) == "request.revise":
            return
        self.authority.record(connection, before.applicant, "request.revise", before.id, "", **details)

    def _require_complete(self, connection: Connection, request: Request) -> None:
        """Raise an error unless a draft has all that its request needs, and could be asked for now."""
        require_texts(request.title, request.justification)
        require_award(request.kind, asked_in(request))
        if request.allocation_id is None:
            return
        if request.state is RequestState.DRAFT:
            self.records.require_none_waiting(connection, request.allocation_id, request.kind)
        member = self.allocations.member(connection, request.allocation_id, request.applicant)
        if member is None or member.role not in MANAGING_ROLES:
            raise NotAllowedError("Only leads and managers ask for more of an allocation.", "Ask one of them.")
        self.lifecycle.require_open_to(self.authority.find(connection, request.allocation_id), request.kind)

    def _asking(self, request: Request, asked: Award, *, draft: bool) -> Request:
        """Return the request asking for something else; InvalidInputError when that makes no sense."""
        if request.kind is RequestKind.INSTALMENT:
            raise InvalidInputError("An instalment was awarded before.", "Change the report only.")
        require_award(request.kind, asked, draft=draft)
        amount = asked.credits
        if amount is None and request.kind in {RequestKind.NEW, RequestKind.RENEWAL}:
            amount = self.policy.tier(request.tier).budget.credits
        return replace(request, credits=amount or 0, asked=asked)

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
        asked: Award,
        draft: bool = False,
        key: IdempotencyKey | None = None,
    ) -> Request:
        title, justification = require_texts(title, justification, draft=draft)
        now_ms = self.clock.now_ms()
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return self.records.find(connection, known)
            if allocation_id is not None and not draft:
                self.records.require_none_waiting(connection, allocation_id, kind)
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
                asked=asked,
            )
            self.requests.add(connection, request)
            action = "request.draft" if draft else "request.submit"
            self.authority.record(
                connection,
                actor.name,
                action,
                request.id,
                kind=kind,
                tier=tier,
                credits=credits,
                asked=asked.model_dump(mode="json", exclude_defaults=True),
            )
            if not draft:
                self.records.tell(connection, request, RequestAction.SUBMIT, "")
            if key:
                key.remember(connection, request.id, now_ms)
            return request
