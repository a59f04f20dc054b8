"""The record of a request: found, moved from state to state, and those told whom it concerns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.db.idempotency import IdempotencyKey
from allocations.errors import NotFoundError, TransitionError
from allocations.lifecycle.models import REQUEST_TRANSITIONS, RequestAction
from allocations.lifecycle.reviewers import REMEMBERED_MS
from allocations.outbox import Notice, NoticeKind

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.ledger.service import Ledger
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.lifecycle.models import Award, Request, RequestKind
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.lifecycle.stores.requests import RequestStore
    from allocations.lifecycle.stores.reviewers import ReviewerStore

_NOTICE_OF = {
    RequestAction.SUBMIT: NoticeKind.REQUEST_SUBMITTED,
    RequestAction.REQUEST_REVISION: NoticeKind.REVISION_REQUESTED,
    RequestAction.APPROVE: NoticeKind.REQUEST_APPROVED,
    RequestAction.DECLINE: NoticeKind.REQUEST_DECLINED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecords:
    """Requests as they are kept, in the caller's transaction."""

    clock: Clock
    ledger: Ledger
    requests: RequestStore
    reviewers: ReviewerStore
    allocations: AllocationStore
    authority: Authority

    def locked(self, connection: Connection, request_id: str) -> Request:
        """Return a request, locked against other writers; NotFoundError when there is none."""
        return self.find(connection, request_id, lock=True)

    def find(self, connection: Connection, request_id: str, *, lock: bool = False) -> Request:
        """Return a request; NotFoundError when there is none."""
        request = self.requests.get(connection, request_id, lock=lock)
        if request is None:
            raise NotFoundError(f"There is no request {request_id!r}.", "Look it up in the list of requests.")
        return request

    def require_none_waiting(self, connection: Connection, allocation_id: str, kind: RequestKind) -> None:
        """Raise TransitionError when the same is asked for already.

        The allocation's balance is locked first: two requests at the same time would each not see the other.
        """
        self.ledger.lock(connection, [allocation_id])
        if self.requests.is_waiting(connection, allocation_id, kind):
            raise TransitionError(
                f"There is a request for this allocation already: {kind}.", "Wait for its decision, or withdraw it."
            )

    def move(
        self,
        connection: Connection,
        actor: Actor,
        request: Request,
        action: RequestAction,
        why: str,
        details: dict[str, object],
    ) -> Request:
        """Write where an action takes a request, in the audit log too; tell whom it concerns."""
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
        self.tell(connection, request, action, why)
        return replace(request, state=target, updated_at_ms=now_ms)

    def tell(self, connection: Connection, request: Request, action: RequestAction, why: str) -> None:
        """Tell the applicant what became of the request, and the reviewers that one waits."""
        kind = _NOTICE_OF.get(action)
        if kind is not None:
            details: dict[str, str | int] = {"title": request.title, "kind": request.kind, "why": why.strip()}
            threshold = str(self.clock.now_ms())
            told = [Notice(request.applicant, kind, request.id, threshold, details)]
            if action is RequestAction.SUBMIT:
                told += [
                    Notice(person, NoticeKind.REQUEST_WAITS, request.id, threshold, {"title": request.title})
                    for person in self._reviewers_of(connection, request)
                ]
            self.authority.tell(connection, *told)

    def _reviewers_of(self, connection: Connection, request: Request) -> set[str]:
        """Return the reviewers who may decide on a request."""
        found = set(self.reviewers.since(connection, self.clock.now_ms() - REMEMBERED_MS)) - {request.applicant}
        found -= {review.reviewer for review in self.requests.reviews(connection, request.id) if review.conflict}
        if request.allocation_id is not None:
            whole = self.authority.find(connection, request.allocation_id)
            nodes = [node.id for node in self.allocations.subtree(connection, whole)]
            found -= {member.person for member in self.allocations.members(connection, nodes)}
        return found


def request_key(
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


def draft_key(actor: Actor, form_key: str) -> IdempotencyKey:
    """Return the key of the draft that a form is kept as, whatever the form holds."""
    return IdempotencyKey.for_request(actor.name, f"{form_key}-draft", "draft", {})
