"""Puts notices into words: the policy's texts, filled with what is known of each notice's subject."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.policy.notices import PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.notify.models import StoredNotice
    from allocations.notify.store import NoticeStore
    from allocations.policy.models import Policy

SUBJECT_LENGTH_MAX = 150
VALUE_LENGTH_MAX = 200
GONE = "–"
# The details of notices that texts may say, and as what.
_DETAILS = {
    "name": "allocation",
    "role": "role",
    "answer": "answer",
    "title": "title",
    "reason": "reason",
    "why": "why",
}


@dataclass(frozen=True, slots=True)
class Wording:
    """One notice in words."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextService:
    """Notices and mails in words."""

    policy: Policy
    store: NoticeStore

    def words(self, connection: Connection, notice: StoredNotice, now_ms: int) -> Wording:
        """Return a notice's title and text as of a time; a value that nothing gives any more is shown as a dash.

        What the notice itself says goes before what its subject is now: whoever was removed reads the old name.
        """
        told = {_DETAILS[name]: value for name, value in notice.details.items() if name in _DETAILS and value != ""}
        ends_at_ms = notice.details.get("ends_at_ms")
        if isinstance(ends_at_ms, int):
            told |= {"end": to_date(ends_at_ms), "days": days_until(ends_at_ms, now_ms)}
        facts = self._facts(connection, notice.subject, now_ms) | told | {"person": notice.person}
        known = {name: one_line(str(facts.get(name, GONE))) for name in PLACEHOLDERS[notice.kind]}
        template = self.policy.notices.kinds[notice.kind]
        return Wording(
            one_line(template.subject.format_map(known), SUBJECT_LENGTH_MAX), template.text.format_map(known)
        )

    def digest(self, person: str, notices: Sequence[Wording]) -> Wording:
        """Return the subject and the body of a mail with some notices."""
        texts = self.policy.notices.digest
        subject = notices[0].title
        if len(notices) > 1:
            subject = texts.subject.format_map({"first": subject, "more": str(len(notices) - 1)})
        name = {"person": one_line(person)}
        parts = [texts.opening.format_map(name).strip()]
        parts += [f"{notice.title}\n{notice.text.strip()}" for notice in notices]
        parts.append(f"-- \n{texts.closing.format_map(name).strip()}")
        return Wording(one_line(subject, SUBJECT_LENGTH_MAX), "\n\n".join(parts) + "\n")

    # ------------------------------------------------------------------ inside

    def _facts(self, connection: Connection, subject: str, now_ms: int) -> dict[str, str]:
        """Return what is known of a subject, whose id is that of one row of one of four tables."""
        if found := self.store.allocation(connection, subject):
            return {
                "allocation": found["name"],
                "tier": self._tier(found["tier"]),
                "end": to_date(found["ends_at_ms"]),
                "days": days_until(found["ends_at_ms"], now_ms),
            }
        if found := self.store.invitation(connection, subject):
            return {
                "allocation": found["allocation"],
                "role": found["role"],
                "invited_by": found["invited_by"],
                "invited": found["person"],
                "answer": found["state"],
                "end": to_date(found["ends_at_ms"]),
            }
        if found := self.store.request(connection, subject):
            return {"title": found["title"], "tier": self._tier(found["tier"]), "applicant": found["applicant"]}
        if found := self.store.override(connection, subject):
            return {"reason": found["reason"], "author": found["author"], "end": to_date(found["ends_at_ms"])}
        return {}

    def _tier(self, name: str) -> str:
        return next((tier.title for tier in self.policy.tiers if tier.name == name), name)


def one_line(value: str, length_max: int = VALUE_LENGTH_MAX) -> str:
    """Return a value on one line of printable characters, cut to a length.

    Names are chosen by people: line breaks would become headers of a mail or lines of the text, and controls of the
    direction of writing would turn around what follows.
    """
    cleaned = " ".join("".join(character if character.isprintable() else " " for character in value).split())
    return cleaned if len(cleaned) <= length_max else cleaned[: length_max - 1] + "…"


def to_date(at_ms: int) -> str:
    """Return the day of a time, in UTC, as 2027-01-31."""
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).date().isoformat()


def days_until(at_ms: int, now_ms: int) -> str:
    """Return the days until a time in words, a begun day counted as whole."""
    days = max(0, -((now_ms - at_ms) // MS_PER_DAY))
    return f"{days} day{'' if days == 1 else 's'}"
