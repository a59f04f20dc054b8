"""The texts of notices: for each kind a subject and a text with the placeholders that can be filled, and its mail."""

from __future__ import annotations

from enum import StrEnum
from string import Formatter
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NoticeKind(StrEnum):
    """What a notice is about; each kind has a text in `policies/notices.yaml`."""

    ENDS_SOON = "ends soon"
    ENDED = "ended"
    ARCHIVED = "archived"
    RENEWED = "renewed"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    CLOSED = "closed"
    INVITED = "invited"
    INVITATION_ANSWERED = "invitation answered"
    MEMBER_REMOVED = "member removed"
    REQUEST_SUBMITTED = "request submitted"
    REQUEST_WAITS = "request waits"
    REVISION_REQUESTED = "revision requested"
    REQUEST_APPROVED = "request approved"
    REQUEST_DECLINED = "request declined"
    OVERRIDE_GRANTED = "override granted"
    PERSON_SUSPENDED = "person suspended"
    PERSON_RESUMED = "person resumed"
    SERVER_STOPS = "server stops"
    PURGE_PLANNED = "purge planned"
    PURGE_REMINDER = "purge reminder"
    PURGE_DONE = "purge done"
    PURGE_CALLED_OFF = "purge called off"
    PURGE_BROKE_OFF = "purge broke off"
    EXEMPTION_DECIDED = "exemption decided"
    RESTORE_DONE = "restore done"
    RESTORE_FAILED = "restore failed"
    STORAGE_NEARING = "storage nearing limit"
    STORAGE_OVER = "storage over limit"
    STORAGE_LOCKED = "storage locked"
    STORAGE_ENDED = "storage ended"
    STORAGE_ARCHIVED_SOON = "storage archived soon"
    STORAGE_RETURNED = "storage returned"
    ARCHIVE_EXPIRES = "archive expires"
    SCHEDULE_REFUSED = "schedule refused"
    SCHEDULE_PAUSED = "schedule paused"


class Delivery(StrEnum):
    """How a kind of notice reaches a person."""

    AT_ONCE = "at once"
    DAILY = "daily"
    PAGE = "page"
    OFF = "off"


MAILED = frozenset({Delivery.AT_ONCE, Delivery.DAILY})
"""The ways that nobody misses; a required kind is delivered by one of them."""

_ALLOCATION = frozenset({"person", "allocation", "tier", "end", "days", "why"})
_INVITATION = frozenset({"person", "allocation", "role", "invited_by", "answer", "end"})
_STORAGE = frozenset({"person", "storage", "used", "limit"})
_REQUEST = frozenset({"person", "title", "tier", "applicant", "why"})
_PURGE = frozenset({"person", "area", "files", "size", "end", "days", "list", "why"})
_STORAGE_END = frozenset({"person", "area", "end", "days"})
_SCHEDULE = frozenset({"person", "title", "end", "time", "why"})

# What each kind's text may say. The values are looked up when a notice is shown or sent.
PLACEHOLDERS: dict[NoticeKind, frozenset[str]] = {
    NoticeKind.ENDS_SOON: _ALLOCATION,
    NoticeKind.ENDED: _ALLOCATION,
    NoticeKind.ARCHIVED: _ALLOCATION,
    NoticeKind.RENEWED: _ALLOCATION,
    NoticeKind.SUSPENDED: _ALLOCATION,
    NoticeKind.RESUMED: _ALLOCATION,
    NoticeKind.CLOSED: _ALLOCATION,
    NoticeKind.INVITED: _INVITATION,
    NoticeKind.INVITATION_ANSWERED: _INVITATION | {"invited"},
    NoticeKind.MEMBER_REMOVED: _ALLOCATION,
    NoticeKind.REQUEST_SUBMITTED: _REQUEST,
    NoticeKind.REQUEST_WAITS: _REQUEST,
    NoticeKind.REVISION_REQUESTED: _REQUEST,
    NoticeKind.REQUEST_APPROVED: _REQUEST,
    NoticeKind.REQUEST_DECLINED: _REQUEST,
    NoticeKind.OVERRIDE_GRANTED: frozenset({"person", "reason", "author", "end"}),
    NoticeKind.PERSON_SUSPENDED: frozenset({"person", "why"}),
    NoticeKind.PERSON_RESUMED: frozenset({"person"}),
    NoticeKind.SERVER_STOPS: frozenset({"person", "server", "allocation", "time", "end", "why"}),
    NoticeKind.PURGE_PLANNED: _PURGE,
    NoticeKind.PURGE_REMINDER: _PURGE,
    NoticeKind.PURGE_DONE: _PURGE | {"left"},
    NoticeKind.PURGE_CALLED_OFF: frozenset({"person", "area", "files", "size", "why"}),
    NoticeKind.PURGE_BROKE_OFF: frozenset({"person", "area", "files", "size", "gone"}),
    NoticeKind.RESTORE_DONE: frozenset({"person", "area", "files", "size", "where", "why"}),
    NoticeKind.RESTORE_FAILED: frozenset({"person", "area", "why"}),
    NoticeKind.EXEMPTION_DECIDED: frozenset({"person", "area", "folder", "answer", "why", "end"}),
    NoticeKind.STORAGE_NEARING: _STORAGE,
    NoticeKind.STORAGE_OVER: _STORAGE | {"end", "days"},
    NoticeKind.STORAGE_LOCKED: _STORAGE,
    NoticeKind.STORAGE_ENDED: _STORAGE_END,
    NoticeKind.STORAGE_ARCHIVED_SOON: _STORAGE_END,
    NoticeKind.STORAGE_RETURNED: frozenset({"person", "area"}),
    NoticeKind.ARCHIVE_EXPIRES: _STORAGE_END | {"files", "size"},
    NoticeKind.SCHEDULE_REFUSED: _SCHEDULE,
    NoticeKind.SCHEDULE_PAUSED: _SCHEDULE,
}
DIGEST_SUBJECT_PLACEHOLDERS = frozenset({"first", "more"})
DIGEST_TEXT_PLACEHOLDERS = frozenset({"person"})

Line = Annotated[str, Field(min_length=1, max_length=150, pattern=r"^[^\n]*$")]


class NoticeText(BaseModel):
    """The subject and the text of one kind of notice, and how it is delivered until a person chooses otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Line
    text: Annotated[str, Field(min_length=1)]
    delivery: Annotated[
        Delivery, Field(description="at once, daily (one mail with all that is new), page (no mail) or off")
    ] = Delivery.DAILY
    required: Annotated[bool, Field(description="Nobody can turn off the mail of this kind")] = False

    @model_validator(mode="after")
    def _required_is_mailed(self) -> NoticeText:
        if self.required and self.delivery not in MAILED:
            raise ValueError("required: true needs delivery: at once or daily")
        return self

    @property
    def choices(self) -> tuple[Delivery, ...]:
        """The ways that a person may choose among."""
        return tuple(way for way in Delivery if way in MAILED or not self.required)

    def effective(self, chosen: Delivery | None) -> Delivery:
        """Return how it is delivered to somebody who chose so (None: not at all), as far as that may be chosen."""
        return chosen if chosen in self.choices else self.delivery


class DigestText(BaseModel):
    """What stands around the notices of a mail; `subject` is for mails with more than one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Line
    opening: str
    closing: str

    @model_validator(mode="after")
    def _placeholders_are_known(self) -> DigestText:
        require_placeholders("digest.subject", self.subject, DIGEST_SUBJECT_PLACEHOLDERS)
        require_placeholders("digest.opening", self.opening, DIGEST_TEXT_PLACEHOLDERS)
        require_placeholders("digest.closing", self.closing, DIGEST_TEXT_PLACEHOLDERS)
        return self


class NoticeTexts(BaseModel):
    """Every text that the platform sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: DigestText
    kinds: dict[NoticeKind, NoticeText]

    @model_validator(mode="after")
    def _every_kind_has_a_text_that_can_be_filled(self) -> NoticeTexts:
        missing = [kind for kind in NoticeKind if kind not in self.kinds]
        if missing:
            raise ValueError(f"no text for {missing[0].value!r}")
        for kind, text in self.kinds.items():
            require_placeholders(f"kinds.{kind}.subject", text.subject, PLACEHOLDERS[kind])
            require_placeholders(f"kinds.{kind}.text", text.text, PLACEHOLDERS[kind])
        return self


def require_placeholders(where: str, template: str, known: frozenset[str]) -> None:
    """Raise ValueError unless a template holds plain `{name}` placeholders only, each of them known.

    Attributes, indices, conversions and formats are refused: a text must not reach into objects.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{where}: {error}: write a brace of the text twice") from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in known or form or conversion:
            raise ValueError(f"{where}: unknown placeholder {{{name}}}: it may be one of {', '.join(sorted(known))}")
