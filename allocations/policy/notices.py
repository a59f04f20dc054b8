"""The texts of notices: for each kind a subject and a text, with the placeholders that can be filled for it."""

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
    REVISION_REQUESTED = "revision requested"
    REQUEST_APPROVED = "request approved"
    REQUEST_DECLINED = "request declined"
    OVERRIDE_GRANTED = "override granted"


_ALLOCATION = frozenset({"person", "allocation", "tier", "end", "days", "why"})
_INVITATION = frozenset({"person", "allocation", "role", "invited_by", "answer", "end"})
_REQUEST = frozenset({"person", "title", "tier", "applicant", "why"})

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
    NoticeKind.REVISION_REQUESTED: _REQUEST,
    NoticeKind.REQUEST_APPROVED: _REQUEST,
    NoticeKind.REQUEST_DECLINED: _REQUEST,
    NoticeKind.OVERRIDE_GRANTED: frozenset({"person", "reason", "author", "end"}),
}
DIGEST_SUBJECT_PLACEHOLDERS = frozenset({"first", "more"})
DIGEST_TEXT_PLACEHOLDERS = frozenset({"person"})

Line = Annotated[str, Field(min_length=1, max_length=150, pattern=r"^[^\n]*$")]


class NoticeText(BaseModel):
    """The subject and the text of one kind of notice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Line
    text: Annotated[str, Field(min_length=1)]


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
