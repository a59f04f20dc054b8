"""Exemptions from purges: asked for by those whose files they are, granted by somebody else, and never for ever."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY
from allocations.db.idempotency import IdempotencyKey, answered_once
from allocations.errors import InvalidInputError, NotAllowedError, NotFoundError, TransitionError
from allocations.outbox import Notice, NoticeKind
from allocations.storage.purge.models import ExemptionState, StoredExemption

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.lifecycle.authority import Actor, Authority
    from allocations.policy.models import Policy
    from allocations.storage.access import AreaAccess
    from allocations.storage.purge.store import ExemptionStore

TEXT_LENGTH_MAX = 1_000
# The longest path that Linux takes at once.
FOLDER_BYTES_MAX = 4_095


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemptionService:
    """Requests to leave files alone, and what becomes of them. What is granted counts from that moment on."""

    database: Database
    clock: Clock
    new_id: IdFactory
    policy: Policy
    access: AreaAccess
    exemptions: ExemptionStore
    authority: Authority

    @answered_once
    def ask(
        self,
        actor: Actor,
        area_id: str,
        folder: str,
        days: int,
        reason: str,
        idempotency_key: str | None = None,
    ) -> StoredExemption:
        """Ask that a file, or a folder with all in it, is left alone for some days; `""` is the whole area.

        For the area's person, or the leads and managers of its allocation. Raises NotFoundError, NotAllowedError, and
        InvalidInputError for a path that is none, no reason, or more days than the policy grants.
        """
        path = _path(folder)
        why = _text(reason, "Say why: who decides on it reads that.")
        body = {"area": area_id, "folder": path, "days": days, "reason": why}
        key = IdempotencyKey.for_request(actor.name, idempotency_key, "exemption", body) if idempotency_key else None
        with self.database.write() as connection:
            known = key.recall(connection) if key else None
            if known is not None:
                return self._find(connection, known)
            area = self.access.managed(connection, actor, area_id)
            now_ms = self.clock.now_ms()
            asked = StoredExemption(
                id=self.new_id("x"),
                area_id=area.id,
                folder=path,
                reason=why,
                state=ExemptionState.ASKED,
                until_ms=now_ms + self._days(days) * MS_PER_DAY,
                asked_by=actor.name,
                asked_at_ms=now_ms,
            )
            self.exemptions.add(connection, asked)
            self.authority.record(
                connection, actor.name, "exemption.ask", asked.id, why, area=area.id, folder=path, days=days
            )
            if key:
                key.remember(connection, asked.id, now_ms)
            return asked

    def grant(self, actor: Actor, exemption_id: str, days: int, answer: str = "") -> StoredExemption:
        """Grant one for some days from now; administrators and reviewers, for others than themselves.

        Raises NotFoundError, NotAllowedError, InvalidInputError for more days than the policy grants, and
        TransitionError when it is decided already.
        """
        until_ms = self.clock.now_ms() + self._days(days) * MS_PER_DAY
        return self._decide(actor, exemption_id, ExemptionState.GRANTED, answer, until_ms)

    def refuse(self, actor: Actor, exemption_id: str, answer: str) -> StoredExemption:
        """Refuse one, with a reason; who and raises as `grant`."""
        return self._decide(actor, exemption_id, ExemptionState.REFUSED, _text(answer, "Say why: who asked reads it."))

    def end(self, actor: Actor, exemption_id: str, why: str) -> StoredExemption:
        """End one that was asked for or granted: for who may ask, and administrators; a purge that is under way does
        not take up again what it has left. Raises NotFoundError, NotAllowedError, InvalidInputError, TransitionError.
        """
        reason = _text(why, "Say why: it is kept in the audit log.")
        with self.database.write() as connection:
            found = self._find(connection, exemption_id)
            try:
                self.access.managed(connection, actor, found.area_id)
            except NotFoundError:
                raise _unknown(exemption_id) from None
            if found.state not in {ExemptionState.ASKED, ExemptionState.GRANTED} or not self.exemptions.change(
                connection, found.id, found.state, state=ExemptionState.ENDED
            ):
                raise TransitionError("The exemption has ended already.", "Nothing was changed.")
            self.authority.record(connection, actor.name, "exemption.end", found.id, reason, area=found.area_id)
            return replace(found, state=ExemptionState.ENDED)

    def of_area(self, actor: Actor, area_id: str) -> list[StoredExemption]:
        """Return those of an area, whatever became of them, those asked for last first; raises NotFoundError."""
        with self.database.read() as connection:
            area = self.access.seen(connection, actor, area_id)
            return self.exemptions.of_areas(connection, [area.id])

    def get(self, actor: Actor, exemption_id: str) -> StoredExemption:
        """Return one to those who may know of its area; raises NotFoundError."""
        with self.database.read() as connection:
            found = self._find(connection, exemption_id)
            try:
                self.access.seen(connection, actor, found.area_id)
            except NotFoundError:
                raise _unknown(exemption_id) from None
            return found

    def waiting(self, actor: Actor) -> list[StoredExemption]:
        """Return those that nobody has decided on, oldest first; administrators and reviewers only."""
        _require_decider(actor)
        with self.database.read() as connection:
            return self.exemptions.asked(connection)

    # ------------------------------------------------------------------ inside

    def _decide(
        self, actor: Actor, exemption_id: str, state: ExemptionState, answer: str, until_ms: int | None = None
    ) -> StoredExemption:
        _require_decider(actor)
        if len(answer) > TEXT_LENGTH_MAX:
            raise InvalidInputError(f"An answer has {TEXT_LENGTH_MAX} characters at most.", "Shorten it.")
        with self.database.write() as connection:
            found = self._find(connection, exemption_id)
            if found.asked_by == actor.name:
                raise NotAllowedError("Nobody decides on what they asked for.", "Ask another reviewer.")
            now_ms = self.clock.now_ms()
            decided = replace(
                found,
                state=state,
                until_ms=found.until_ms if until_ms is None else until_ms,
                decided_by=actor.name,
                decided_at_ms=now_ms,
                answer=answer.strip(),
            )
            # Two that decide at once: the second waits for the first's row, and finds it decided.
            if not self.exemptions.change(
                connection,
                found.id,
                ExemptionState.ASKED,
                state=decided.state,
                until_ms=decided.until_ms,
                decided_by=decided.decided_by,
                decided_at_ms=decided.decided_at_ms,
                answer=decided.answer,
            ):
                raise TransitionError("It was decided on, or ended, already.", "Nothing was changed.")
            action = "exemption.grant" if state is ExemptionState.GRANTED else "exemption.refuse"
            self.authority.record(
                connection,
                actor.name,
                action,
                found.id,
                decided.answer,
                area=found.area_id,
                folder=found.folder,
                until_ms=decided.until_ms,
            )
            self._tell(connection, decided)
            return decided

    def _tell(self, connection: Connection, decided: StoredExemption) -> None:
        area = self.access.areas.find(connection, decided.area_id)
        assert area is not None, "an exemption is of an area"
        details: dict[str, str | int] = {
            "area": self.access.name(connection, area),
            "folder": decided.folder or "/",
            "answer": str(decided.state),
            "why": decided.answer,
        }
        if decided.state is ExemptionState.GRANTED:
            details["ends_at_ms"] = decided.until_ms
        self.authority.tell(
            connection, Notice(decided.asked_by, NoticeKind.EXEMPTION_DECIDED, decided.id, details=details)
        )

    def _find(self, connection: Connection, exemption_id: str) -> StoredExemption:
        found = self.exemptions.get(connection, exemption_id)
        if found is None:
            raise _unknown(exemption_id)
        return found

    def _days(self, days: int) -> int:
        longest = self.policy.storage.purge.exempt_days_max
        if not 1 <= days <= longest:
            raise InvalidInputError(f"An exemption lasts 1 to {longest} days.", "Choose a number of days within that.")
        return days


def _unknown(exemption_id: str) -> NotFoundError:
    return NotFoundError(f"There is no exemption {exemption_id!r}.", "Choose one from the list.")


def _require_decider(actor: Actor) -> None:
    if not (actor.admin or actor.reviewer):
        raise NotAllowedError("Only administrators and reviewers decide on exemptions.", "Write to them.")


def _path(folder: str) -> str:
    """Return a path as plans have it, without slashes at its ends."""
    path = folder.strip("/")
    try:
        too_long = len(path.encode()) > FOLDER_BYTES_MAX
    except UnicodeEncodeError:
        too_long = True
    parts = path.split("/") if path else []
    if too_long or "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise InvalidInputError(
            f"{folder!r} is no path within the area.", "Give it as it stands in the list: results/night-1, say."
        )
    return path


def _text(text: str, remedy: str) -> str:
    if not text.strip():
        raise InvalidInputError("A reason is needed.", remedy)
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidInputError(f"A reason has {TEXT_LENGTH_MAX} characters at most.", "Shorten it.")
    return text.strip()
