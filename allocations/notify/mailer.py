"""Delivers the outbox: one mail a day for each person, with what is still true when it is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.notify.models import Mail
from allocations.notify.texts import one_line
from allocations.notify.transports import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.notify.models import StoredNotice
    from allocations.notify.store import NoticeStore
    from allocations.notify.texts import TextService, Wording
    from allocations.notify.transports import Transport
    from allocations.notify.truth import TruthService

log = logging.getLogger(__name__)

BETWEEN_MAILS_MS = MS_PER_DAY
# Longer than one try can last, so that a mail that is being sent is not taken by another worker.
FIRST_RETRY_MS = 300 * MS_PER_SECOND
LONGEST_RETRY_MS = 6 * 3600 * MS_PER_SECOND
# A round begins no more mails after writing, and after sending, for so long: a worker that is to stop waits for it.
ROUND_MS = 3 * MS_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailer:
    """Writes mails from pending notices and sends them, each at least once and under one Message-ID."""

    database: Database
    clock: Clock
    new_id: IdFactory
    notices: NoticeStore
    texts: TextService
    truth: TruthService
    transport: Transport
    sender: str
    domain: str

    def deliver(self) -> int:
        """Write and send what is due; return how many mails were sent."""
        self._write_due()
        return self._send_due()

    # ---------------------------------------------------------------- writing

    def _write_due(self) -> None:
        begin_ms = self.clock.now_ms()
        with self.database.read() as connection:
            people = self.notices.people_with_news(connection, begin_ms - BETWEEN_MAILS_MS)
        for person in people:
            if self.clock.now_ms() - begin_ms > ROUND_MS:
                break
            try:
                self._write(person)
            except SQLAlchemyError:
                raise
            except Exception:
                # One notice that cannot be put into words keeps nobody else's news back.
                log.exception("no mail could be written", extra={"person": person})

    def _write(self, person: str) -> None:
        """Write one person's mail.

        Two workers that write for one person at once meet at the notices' locks: the second waits, then finds them
        taken or, of notices that came in between, the mail that the first wrote; so it looks for a mail after locking.
        """
        with self.database.write() as connection:
            now_ms = self.clock.now_ms()
            waiting = self.notices.lock_waiting(connection, person)
            if self.notices.has_mail(connection, person, now_ms - BETWEEN_MAILS_MS):
                return
            words, kept = self._put_into_words(connection, person, waiting, now_ms)
            if words is not None:
                mail = Mail(self.new_id("mail"), person, words.title, words.text, now_ms, next_try_at_ms=now_ms)
                self.notices.add_mail(connection, mail, kept)

    def _put_into_words(
        self, connection: Connection, person: str, pending: Sequence[StoredNotice], now_ms: int
    ) -> tuple[Wording | None, list[int]]:
        """Skip what is no longer true; return the words of the rest, None when there is none, and its ids."""
        true = self.truth.still_true(connection, pending, now_ms)
        kept = [notice.id for notice in true]
        self.notices.skip(connection, [notice.id for notice in pending if notice.id not in kept])
        if not true:
            return None, kept
        return self.texts.digest(person, [self.texts.words(connection, notice, now_ms) for notice in true]), kept

    # ---------------------------------------------------------------- sending

    def _send_due(self) -> int:
        begin_ms = self.clock.now_ms()
        with self.database.read() as connection:
            due = self.notices.due_mails(connection, begin_ms)
        sent = 0
        for mail in due:
            if self.clock.now_ms() - begin_ms > ROUND_MS:
                break
            try:
                sent += self._send(mail)
            except DeliveryError as error:
                log.warning("mail %s was not taken: %s", mail.id, error.reason)
                if error.everybody:
                    break
            except SQLAlchemyError:
                raise
            except Exception:
                log.exception("mail %s could not be put into words", mail.id)
        return sent

    def _send(self, mail: Mail) -> bool:
        """Send a mail unless another worker has it; DeliveryError, after keeping the reason, when it was not taken.

        The claim moves the next try on before sending: a worker that dies between sending and marking leaves a mail
        that goes out again later under the same Message-ID, by which readers recognise it.
        """
        with self.database.write() as connection:
            if not self.notices.claim(connection, mail, self.clock.now_ms() + retry_ms(mail.attempts)):
                return False
            current = self._renewed(connection, mail.id)
            email = self.notices.email(connection, mail.person)
        if current is None:
            return False
        try:
            self.transport.send(self._message(current, email), mail.id)
        except DeliveryError as error:
            with self.database.write() as connection:
                self.notices.mark_failed(connection, mail.id, error.reason)
            raise
        with self.database.write() as connection:
            self.notices.mark_sent(connection, mail.id, self.clock.now_ms())
        return True

    def _renewed(self, connection: Connection, mail_id: str) -> Mail | None:
        """Return a claimed mail as it reads now, which may be long after it was written; None when nothing is left.

        News that came since wait for the next mail: a reader who has this one already may drop its repetition unread.
        """
        mail = self.notices.mail(connection, mail_id)
        now_ms = self.clock.now_ms()
        words, _ = self._put_into_words(connection, mail.person, self.notices.of_mail(connection, mail_id), now_ms)
        if words is None:
            self.notices.remove_mail(connection, mail_id)
            return None
        if (words.title, words.text) == (mail.subject, mail.body):
            return mail
        self.notices.rewrite(connection, mail_id, words.title, words.text, now_ms)
        return replace(mail, subject=words.title, body=words.text, created_at_ms=now_ms)

    def _message(self, mail: Mail, email: str | None) -> EmailMessage:
        """Return the message; the same one for each try."""
        message = EmailMessage()
        message["Message-ID"] = f"<{mail.id}@{self.domain}>"
        message["Date"] = format_datetime(datetime.fromtimestamp(mail.created_at_ms / MS_PER_SECOND, tz=UTC))
        message["From"] = self.sender
        try:
            message["To"] = Address(addr_spec=email) if email else Address(username=mail.person, domain=self.domain)
        except (ValueError, IndexError, HeaderParseError):
            raise DeliveryError("the address is not valid", everybody=False) from None
        # A name may spell an encoded word, such as that of a line break, which the header would decode.
        message["Subject"] = one_line(mail.subject).replace("=?", "= ?")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.body)
        return message


def retry_ms(attempts: int) -> int:
    """Return how long to wait after a try, given those before it: 5, 10, 20 minutes and so on up to 6 hours."""
    return int(min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** min(attempts, 16)))
