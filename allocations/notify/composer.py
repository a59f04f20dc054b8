"""Writes the mail of some notices: its words in text and HTML, the ends that it speaks of as events, its headers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from allocations.clock import MS_PER_SECOND
from allocations.notify.links import Purpose
from allocations.notify.places import place_of
from allocations.notify.texts import one_line
from allocations.notify.transports import DeliveryError
from allocations.policy.mail import MailContent, MailNotice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.notify.calendar import CalendarService
    from allocations.notify.links import LinkStore
    from allocations.notify.models import Mail, StoredNotice
    from allocations.notify.preferences import PreferenceService
    from allocations.notify.texts import TextService
    from allocations.policy.models import Policy

EVENTS_FILE = "ends.ics"
# Between the parts of a mail stands its own id and one of these: the same for each try.
_BOUNDARY = "=_{}_{}"


class _WholeHeader(UnstructuredHeader):
    """A header that is neither folded nor encoded: of a long address mail programs would make nothing then."""

    def fold(self, *, policy: Any) -> str:
        """Return the header on one line."""
        return f"{self.name}: {self}{policy.linesep}"  # type: ignore[attr-defined]  # the registry gives it its base


_HEADERS = HeaderRegistry()
_HEADERS.map_to_type("list-unsubscribe", _WholeHeader)  # type: ignore[arg-type]  # it gives them their base
_POLICY = EmailPolicy(header_factory=_HEADERS)


@dataclass(frozen=True, slots=True)
class Composed:
    """What a mail says; `unsubscribe_url` is empty when nothing of it can be turned off, or not by an address."""

    subject: str
    text: str
    html: str
    events: bytes | None
    unsubscribe_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MailComposer:
    """`pages_url` is where the pages are, without a slash at its end; empty, a mail has no links."""

    policy: Policy
    texts: TextService
    preferences: PreferenceService
    calendar: CalendarService
    links: LinkStore
    sender: str
    domain: str
    pages_url: str

    def compose(
        self, connection: Connection, person: str, notices: Sequence[StoredNotice], now_ms: int, stamp_ms: int
    ) -> Composed:
        """Return what a mail with some notices, at least one, says now; its events were made at `stamp_ms`."""
        words = self.texts.words(connection, notices, now_ms)
        opening, closing = self.texts.frame(person)
        required = [self.preferences.required(notice.kind) for notice in notices]
        unsubscribe_url = ""
        if self.pages_url and not all(required):
            token = self.links.make(connection, person, Purpose.UNSUBSCRIBE, now_ms)
            unsubscribe_url = f"{self.pages_url}/unsubscribe/{token}"
        content = MailContent(
            subject=self.texts.subject(words),
            person=one_line(person),
            opening=opening,
            closing=closing,
            notices=tuple(
                self._notice(notice, one.title, one.text.strip()) for notice, one in zip(notices, words, strict=True)
            ),
            required=any(required),
            home_url=f"{self.pages_url}/" if self.pages_url else "",
            settings_url=f"{self.pages_url}/notices/settings" if self.pages_url else "",
            unsubscribe_url=unsubscribe_url,
        )
        return Composed(
            content.subject,
            self.policy.mail.render_text(content),
            self.policy.mail.render_html(content),
            self.calendar.of_notices(connection, notices, stamp_ms),
            unsubscribe_url,
        )

    def message(self, mail: Mail, composed: Composed, email: str | None) -> EmailMessage:
        """Return the message, the same one for each try; DeliveryError when the address is none."""
        message = EmailMessage(_POLICY)
        message["Message-ID"] = f"<{mail.id}@{self.domain}>"
        message["Date"] = format_datetime(datetime.fromtimestamp(mail.created_at_ms / MS_PER_SECOND, tz=UTC))
        message["From"] = self.sender
        try:
            message["To"] = Address(addr_spec=email) if email else Address(username=mail.person, domain=self.domain)
        except (ValueError, IndexError, HeaderParseError):
            raise DeliveryError("the address is not valid", everybody=False) from None
        # A name may spell an encoded word, such as that of a line break, which the header would decode.
        message["Subject"] = one_line(composed.subject).replace("=?", "= ?")
        message["Auto-Submitted"] = "auto-generated"
        if composed.unsubscribe_url:
            message["List-Unsubscribe"] = f"<{composed.unsubscribe_url}>"
        if composed.unsubscribe_url.startswith("https:"):
            # RFC 8058, for HTTPS only: the mail program sends this to that address, without a sign-in.
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        # As ASCII, whatever mail servers on the way can carry.
        message.set_content(composed.text, cte="quoted-printable")
        message.add_alternative(composed.html, subtype="html", cte="quoted-printable")
        message.set_boundary(_BOUNDARY.format(mail.id, "forms"))
        if composed.events is not None:
            message.add_attachment(
                composed.events,
                maintype="text",
                subtype="calendar",
                filename=EVENTS_FILE,
                params={"method": "PUBLISH", "charset": "utf-8"},
            )
            message.set_boundary(_BOUNDARY.format(mail.id, "parts"))
        return message

    def _notice(self, notice: StoredNotice, title: str, text: str) -> MailNotice:
        place = place_of(notice.kind, notice.subject) if self.pages_url else None
        if place is None:
            return MailNotice(title, text, "", "")
        return MailNotice(title, text, self.pages_url + place.path, place.title)
