"""Puts notices into words: the policy's texts, filled with what is known of each notice's subject."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.policy.notices import PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection, RowMapping

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
    "server": "server",
    "area": "area",
    "files": "files",
    "size": "size",
    "list": "list",
    "left": "left",
    "gone": "gone",
    "folder": "folder",
    "where": "where",
    "storage": "storage",
    "used": "used",
    "limit": "limit",
}


@dataclass(frozen=True, slots=True)
class Wording:
    """One notice in words."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class _Known:
    """What notices are about, by id: read once for all of them."""

    allocations: Mapping[str, RowMapping]
    invitations: Mapping[str, RowMapping]
    requests: Mapping[str, RowMapping]
    overrides: Mapping[str, RowMapping]

    @classmethod
    def of(cls, connection: Connection, store: NoticeStore, subjects: Collection[str]) -> _Known:
        """Look subjects up."""
        tables = (store.allocations, store.invitations, store.requests, store.overrides)
        return cls(*(table(connection, subjects) for table in tables))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextService:
    """Notices and mails in words."""

    policy: Policy
    store: NoticeStore

    def words(
        self, connection: Connection, notices: Sequence[StoredNotice], now_ms: int | None = None
    ) -> list[Wording]:
        """Return the titles and texts of notices as of a time, or each as of its own day.

        A value that nothing gives any more is shown as a dash. What the notice itself says goes before what its
        subject is now: whoever was removed reads the old name.
        """
        known = _Known.of(connection, self.store, {notice.subject for notice in notices})
        return [self._words(known, one, one.created_at_ms if now_ms is None else now_ms) for one in notices]

    def subject(self, notices: Sequence[Wording]) -> str:
        """Return the subject of a mail with some notices."""
        subject = notices[0].title
        if len(notices) > 1:
            template = self.policy.notices.digest.subject
            subject = template.format_map({"first": subject, "more": str(len(notices) - 1)})
        return one_line(subject, SUBJECT_LENGTH_MAX)

    def frame(self, person: str) -> tuple[str, str]:
        """Return what a mail to a person begins and ends with."""
        texts, name = self.policy.notices.digest, {"person": one_line(person)}
        return texts.opening.format_map(name).strip(), texts.closing.format_map(name).strip()

    # ------------------------------------------------------------------ inside

    def _words(self, known: _Known, notice: StoredNotice, now_ms: int) -> Wording:
        told = {_DETAILS[name]: value for name, value in notice.details.items() if name in _DETAILS and value != ""}
        ends_at_ms = notice.details.get("ends_at_ms")
        if isinstance(ends_at_ms, int):
            told |= {"end": to_date(ends_at_ms), "days": days_until(ends_at_ms, now_ms), "time": to_time(ends_at_ms)}
        told["server"] = f"server “{told['server']}”" if "server" in told else "server"
        facts = self._facts(known, notice.subject, now_ms) | told | {"person": notice.person}
        values = {name: one_line(str(facts.get(name, GONE))) for name in PLACEHOLDERS[notice.kind]}
        template = self.policy.notices.kinds[notice.kind]
        return Wording(
            one_line(template.subject.format_map(values), SUBJECT_LENGTH_MAX), template.text.format_map(values)
        )

    def _facts(self, known: _Known, subject: str, now_ms: int) -> dict[str, str]:
        """Return what is known of a subject, whose id is that of one row of one of four tables."""
        if found := known.allocations.get(subject):
            return {
                "allocation": found["name"],
                "tier": self._tier(found["tier"]),
                "end": to_date(found["ends_at_ms"]),
                "days": days_until(found["ends_at_ms"], now_ms),
            }
        if found := known.invitations.get(subject):
            return {
                "allocation": found["allocation"],
                "role": found["role"],
                "invited_by": found["invited_by"],
                "invited": found["person"],
                "answer": found["state"],
                "end": to_date(found["ends_at_ms"]),
            }
        if found := known.requests.get(subject):
            return {"title": found["title"], "tier": self._tier(found["tier"]), "applicant": found["applicant"]}
        if found := known.overrides.get(subject):
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


def to_time(at_ms: int) -> str:
    """Return the time of day of a time, as 14:05 UTC."""
    return datetime.fromtimestamp(at_ms / MS_PER_SECOND, tz=UTC).strftime("%H:%M UTC")


def days_until(at_ms: int, now_ms: int) -> str:
    """Return the days until a time in words, a begun day counted as whole."""
    days = max(0, -((now_ms - at_ms) // MS_PER_DAY))
    return f"{days} day{'' if days == 1 else 's'}"
