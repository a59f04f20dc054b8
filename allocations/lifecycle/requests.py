"""Requests for a tier or an instalment: drafted, submitted, reviewed by one or by a panel, decided, carried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
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
from allocations.outbox import Notice, NoticeKind

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
TERM_DAYS_MAX = 3660
HOURS_MAX = 100_000_000
SCORES = range(1, 6)
# Where a tier's review is a panel, it decides on these; one reviewer on the others.
PANEL_KINDS = frozenset({RequestKind.NEW, RequestKind.SUPPLEMENT, RequestKind.RENEWAL})
_MORE = frozenset({"credits", "gpu_hours", "core_hours", "largest", "at_once"})
# What an award of each kind may say.
FIELDS_OF: dict[RequestKind, frozenset[str]] = {
    RequestKind.NEW: _MORE | {"term_days"},
    RequestKind.INSTALMENT: frozenset({"credits"}),
    RequestKind.SUPPLEMENT: _MORE,
    RequestKind.EXTENSION: frozenset({"term_days"}),
    RequestKind.RENEWAL: _MORE | {"term_days"},
}
_NOTICE_OF = {
    RequestAction.SUBMIT: NoticeKind.REQUEST_SUBMITTED,
    RequestAction.REQUEST_REVISION: NoticeKind.REVISION_REQUESTED,
    RequestAction.APPROVE: NoticeKind.REQUEST_APPROVED,
    RequestAction.DECLINE: NoticeKind.REQUEST_DECLINED,
}


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
        _require_award(kind, asked)
        wanted = self._requestable(tier)
        key = _key(actor, idempotency_key, kind, tier, title, justification, credits, asked, draft=draft)
        return self._add(
            actor,
            kind,
            tier,
            title,
            justification,
            _require_credits(asked.credits or credits, wanted.budget.credits),
            None,
            draft=draft,
            asked=asked,
            key=key,
        )

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
        key = _key(actor, idempotency_key, kind, allocation_id, "", justification, credits, asked)
        with self.database.read() as connection:
            # Before all else: what was asked for may have been decided since, and could not be asked for anew.
            known = key.recall(connection) if key else None
            if known is not None:
                return self._find(connection, known)
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
            amount = _require_credits(amount, tier.budget.credits)
        elif amount is not None:
            amount = _require_credits(amount, amount)
        _require_award(kind, asked.model_copy(update={"credits": amount}))
        return self._add(
            actor,
            kind,
            allocation.tier,
            title[:TITLE_LENGTH_MAX],
            justification,
            amount or 0,
            allocation_id,
            asked=asked,
            key=key,
        )

    def report_progress(
        self, actor: Actor, allocation_id: str, report: str, idempotency_key: str | None = None
    ) -> Request:
        """Ask for the next instalment of an allocation with a short report."""
        return self.ask(actor, allocation_id, RequestKind.INSTALMENT, report, idempotency_key=idempotency_key)

    def revise(
        self, actor: Actor, request_id: str, title: str, justification: str, asked: Award | None = None
    ) -> Request:
        """Change a draft, or a request that was sent back for revision; `asked`, when given, with all that is asked."""
        title, justification = _require_texts(title, justification)
        with self.database.write() as connection:
            request = self._locked(connection, request_id)
            self._require_party(connection, actor, request, Party.APPLICANT)
            if request.state not in {RequestState.DRAFT, RequestState.REVISION_REQUESTED}:
                raise TransitionError(f"The request is {request.state}.", "It can be changed only as a draft.")
            revised = replace(request, title=title, justification=justification, updated_at_ms=self.clock.now_ms())
            if asked is not None:
                revised = self._asking(revised, asked)
            self.requests.change(
                connection,
                request_id,
                title=title,
                justification=justification,
                credits=revised.credits,
                asked=revised.asked.model_dump_json(),
                updated_at_ms=revised.updated_at_ms,
            )
            details: dict[str, object] = {}
            if asked_in(revised) != asked_in(request):
                details["asked"] = asked_in(revised).model_dump(mode="json", exclude_defaults=True)
            self.authority.record(connection, actor.name, "request.revise", request_id, "", **details)
            return revised

    def act(
        self, actor: Actor, request_id: str, action: RequestAction, why: str = "", award: Award | None = None
    ) -> Request:
        """Carry out a transition; approving does what was asked for in the same transaction.

        `award` is what is given when that differs from what was asked; its credits, when left out, are those asked
        for a new allocation or a renewal, and none for a supplement. TransitionError when the state does not allow it,
        NotAllowedError when the person may not, InvalidInputError for an award that makes no sense.
        """
        if action is RequestAction.REVIEW:
            raise InvalidInputError("A review carries a comment and a score.", "Use the review form.")
        if award is not None and action is not RequestAction.APPROVE:
            raise InvalidInputError("Only an approval carries an award.", "Leave the award out, or approve.")
        with self.database.write() as connection:
            request = self._locked(connection, request_id)
            transition = REQUEST_TRANSITIONS[action]
            self._require_party(connection, actor, request, transition.party)
            self._require_source(request, action)
            if action in {RequestAction.DECLINE, RequestAction.REQUEST_REVISION} and not why.strip():
                raise InvalidInputError("The applicant needs to know why.", "Write a sentence of explanation.")
            if action in {RequestAction.APPROVE, RequestAction.DECLINE}:
                self._require_panel(connection, request)
            details: dict[str, object] = {}
            if action is RequestAction.APPROVE:
                request = self._carry_out(connection, actor, request, why, award)
                details["asked"] = asked_in(request).model_dump(mode="json", exclude_defaults=True)
                differs = request.awarded is not None and request.awarded != asked_in(request)
                if differs and not why.strip():
                    raise InvalidInputError(
                        "The award differs from what was asked for.", "Say why: the applicant reads it."
                    )
                if request.awarded is not None:
                    details["awarded"] = request.awarded.model_dump(mode="json", exclude_defaults=True)
            if action is RequestAction.SUBMIT and request.state is RequestState.REVISION_REQUESTED:
                # The text has changed since: who scored it scores it again. What was given stays in the audit log.
                details["scores_to_be_given_again"] = self.requests.set_scores_aside(connection, request_id)
            return self._move(connection, actor, request, action, why, details)

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
            self._require_party(connection, actor, request, Party.REVIEWER)
            if self._needs_panel(request) and not conflict and score is None:
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
            return self._move(connection, actor, request, RequestAction.REVIEW, "", details)

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

    def _asking(self, request: Request, asked: Award) -> Request:
        """Return the request asking for something else; InvalidInputError when that makes no sense."""
        if request.kind is RequestKind.INSTALMENT:
            raise InvalidInputError("An instalment was awarded before.", "Change the report only.")
        _require_award(request.kind, asked)
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
        title, justification = _require_texts(title, justification)
        now_ms = self.clock.now_ms()
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return self._find(connection, known)
            if allocation_id is not None:
                self._require_none_waiting(connection, allocation_id, kind)
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
                self._tell(connection, request, RequestAction.SUBMIT, "")
            if key:
                key.remember(connection, request.id, now_ms)
            return request

    def _locked(self, connection: Connection, request_id: str) -> Request:
        return self._find(connection, request_id, lock=True)

    def _find(self, connection: Connection, request_id: str, *, lock: bool = False) -> Request:
        request = self.requests.get(connection, request_id, lock=lock)
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
        if request.allocation_id is not None:
            whole = self.authority.find(connection, request.allocation_id)
            nodes = [node.id for node in self.allocations.subtree(connection, whole)]
            if any(member.person == actor.name for member in self.allocations.members(connection, nodes)):
                raise NotAllowedError(
                    f"You are a member of “{whole.name}”: that is a conflict of interest.",
                    "Leave it to another reviewer.",
                )

    def _require_source(self, request: Request, action: RequestAction) -> None:
        if request.state not in REQUEST_TRANSITIONS[action].sources:
            raise TransitionError(
                f"The request is {request.state}: it cannot be changed in this way.",
                "Reload the page to see it.",
            )

    def _require_none_waiting(self, connection: Connection, allocation_id: str, kind: RequestKind) -> None:
        """Raise TransitionError when the same is asked for already.

        The allocation's balance is locked first: two requests at the same time would each not see the other.
        """
        self.lifecycle.ledger.lock(connection, [allocation_id])
        if self.requests.is_waiting(connection, allocation_id, kind):
            raise TransitionError(
                f"There is a request for this allocation already: {kind}.", "Wait for its decision, or withdraw it."
            )

    def _needs_panel(self, request: Request) -> bool:
        return request.kind in PANEL_KINDS and self.policy.tier(request.tier).review == "panel"

    def _require_panel(self, connection: Connection, request: Request) -> None:
        """Raise TransitionError until enough reviewers without a conflict have scored what a panel decides on."""
        if not self._needs_panel(request):
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
        _require_award(request.kind, given)
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

    def _move(
        self,
        connection: Connection,
        actor: Actor,
        request: Request,
        action: RequestAction,
        why: str,
        details: dict[str, object],
    ) -> Request:
        target = REQUEST_TRANSITIONS[action].target
        now_ms = self.clock.now_ms()
        self.requests.change(
            connection,
            request.id,
            state=target,
            allocation_id=request.allocation_id,
            awarded=request.awarded.model_dump_json() if request.awarded else None,
            updated_at_ms=now_ms,
        )
        self.authority.record(
            connection,
            actor.name,
            f"request.{action}",
            request.id,
            why.strip(),
            before=request.state,
            after=target,
            **details,
        )
        self._tell(connection, request, action, why)
        return replace(request, state=target, updated_at_ms=now_ms)

    def _tell(self, connection: Connection, request: Request, action: RequestAction, why: str) -> None:
        """Tell the applicant what became of the request."""
        kind = _NOTICE_OF.get(action)
        if kind is not None:
            details: dict[str, str | int] = {"title": request.title, "kind": request.kind, "why": why.strip()}
            threshold = str(self.clock.now_ms())
            self.authority.tell(connection, Notice(request.applicant, kind, request.id, threshold, details))


def _key(
    actor: Actor,
    key: str | None,
    kind: RequestKind,
    of: str,
    title: str,
    justification: str,
    credits: int | None,  # noqa: A002  # the unit's name
    asked: Award,
    *,
    draft: bool = False,
) -> IdempotencyKey | None:
    """Return the key of what was sent, a tier or an allocation's id and all else as it came, or None without one."""
    if not key:
        return None
    body = {
        "kind": kind,
        "of": of,
        "title": title,
        "justification": justification,
        "credits": credits,
        "asked": asked.model_dump(mode="json", exclude_defaults=True),
        "draft": draft,
    }
    return IdempotencyKey.for_request(actor.name, key, "request", body)


def asked_in(request: Request) -> Award:
    """Return all that is asked for, credits included."""
    return request.asked.model_copy(update={"credits": request.credits or None})


def _require_credits(credits: int | None, otherwise: int) -> int:  # noqa: A002  # the unit's name
    amount = otherwise if credits is None else credits
    if not 0 < amount <= CREDITS_MAX:
        raise InvalidInputError(
            f"Credits must lie between 1 and {CREDITS_MAX:,}.",
            "Enter how many credits a year are needed.",
        )
    return amount


def _require_award(kind: RequestKind, award: Award) -> None:
    """Raise InvalidInputError when an award of this kind makes no sense, naming what to leave out or to add."""
    given = {name for name, value in award if value is not None and name not in {"renewable", "instalments_released"}}
    allowed = FIELDS_OF[kind]
    if given - allowed:
        raise InvalidInputError(
            f"What is asked for here ({kind}) has no {sorted(given - allowed)[0]}.", "Leave it out."
        )
    if kind in {RequestKind.SUPPLEMENT, RequestKind.EXTENSION}:
        if not given:
            raise InvalidInputError("Nothing more is asked for.", f"Say how much: {', '.join(sorted(allowed))}.")
        if not award.renewable:
            raise InvalidInputError("Whether it is renewed is decided for a whole term.", "Leave it out.")
    if award.instalments_released != 1:
        raise InvalidInputError("Instalments are released one by one.", "Leave instalments_released out.")
    if award.credits is not None:
        _require_credits(award.credits, award.credits)
    if award.term_days is not None and award.term_days > TERM_DAYS_MAX:
        raise InvalidInputError(f"A term has at most {TERM_DAYS_MAX:,} days.", "Enter fewer days.")
    if max(award.gpu_hours or 0, award.core_hours or 0) > HOURS_MAX:
        raise InvalidInputError(f"Hours must lie between 0 and {HOURS_MAX:,}.", "Enter fewer hours.")


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
