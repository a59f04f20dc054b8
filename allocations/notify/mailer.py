"""Delivers the outbox, at once or once a day as people choose, with what is still true when it is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from allocations.clock import MS_PER_DAY, MS_PER_SECOND
from allocations.notify.models import Mail
from allocations.notify.transports import DeliveryError
from allocations.outbox import NoticeState
from allocations.policy.notices import MAILED, Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.ids import IdFactory
    from allocations.notify.composer import Composed, MailComposer
    from allocations.notify.models import StoredNotice, Waiting
    from allocations.notify.preferences import PreferenceService
    from allocations.notify.store import NoticeStore
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
    """Writes mails from pending notices and sends them, each at least once and under one Message-ID.

    A mail tells all that waits: what comes at once takes along what would come with the daily mail.
    """

    database: Database
    clock: Clock
    new_id: IdFactory
    notices: NoticeStore
    preferences: PreferenceService
    truth: TruthService
    composer: MailComposer
    transport: Transport

    def deliver(self) -> int:
        """Write and send what is due; return how many mails were sent."""
        self._write_due()
        return self._send_due()

    # ---------------------------------------------------------------- writing

    def _write_due(self) -> None:
        begin_ms = self.clock.now_ms()
        with self.database.read() as connection:
            waiting = self.notices.waiting(connection, begin_ms - BETWEEN_MAILS_MS)
        for person in sorted({one.person for one in waiting if self._is_due(one)}):
            if self.clock.now_ms() - begin_ms > ROUND_MS:
                break
            try:
                self._write(person)
            except SQLAlchemyError:
                raise
            except Exception:
                # One notice that cannot be put into words keeps nobody else's news back.
                log.exception("no mail could be written", extra={"person": person})

    def _is_due(self, one: Waiting) -> bool:
        """Say whether something is to be done now: a mail, or to note that none is wanted."""
        return not one.was_mailed or self.preferences.effective(one.kind, one.chosen) is not Delivery.DAILY

    def _write(self, person: str) -> None:
        """Write one person's mail.

        Two workers that write for one person at once meet at the notices' locks: the second waits, then finds them
        taken or, of notices that came in between, the mail that the first wrote; so it looks for a mail after locking.
        """
        with self.database.write() as connection:
            now_ms = self.clock.now_ms()
            waiting = self.notices.lock_waiting(connection, person)
            if self.notices.has_unsent(connection, person):
                return
            told, at_once = self._sift(connection, person, waiting, now_ms)
            if not told or (not at_once and self.notices.was_mailed(connection, person, now_ms - BETWEEN_MAILS_MS)):
                return
            words = self.composer.compose(connection, person, told, now_ms, now_ms)
            mail = Mail(self.new_id("mail"), person, words.subject, words.text, now_ms, next_try_at_ms=now_ms)
            self.notices.add_mail(connection, mail, [notice.id for notice in told])

    def _sift(
        self, connection: Connection, person: str, pending: Sequence[StoredNotice], now_ms: int
    ) -> tuple[list[StoredNotice], bool]:
        """Take out of the mail what is not true any more or not wanted by mail; return the rest.

        And whether some of it is to come at once.
        """
        true = self.truth.still_true(connection, pending, now_ms)
        gone = {notice.id for notice in pending} - {notice.id for notice in true}
        self.notices.keep_from_mail(connection, gone, NoticeState.SKIPPED)
        deliveries = self.preferences.deliveries(connection, person)
        told = [notice for notice in true if deliveries[notice.kind] in MAILED]
        unwanted = {notice.id for notice in true} - {notice.id for notice in told}
        self.notices.keep_from_mail(connection, unwanted, NoticeState.UNMAILED)
        return told, any(deliveries[notice.kind] is Delivery.AT_ONCE for notice in told)

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
            self.transport.send(self.composer.message(*current, email), mail.id)
        except DeliveryError as error:
            with self.database.write() as connection:
                self.notices.mark_failed(connection, mail.id, error.reason)
            raise
        with self.database.write() as connection:
            self.notices.mark_sent(connection, mail.id, self.clock.now_ms())
        return True

    def _renewed(self, connection: Connection, mail_id: str) -> tuple[Mail, Composed] | None:
        """Return a claimed mail as it reads now, which may be long after it was written; None when nothing is left.

        News that came since wait for the next mail: a reader who has this one already may drop its repetition unread.
        """
        mail = self.notices.mail(connection, mail_id)
        now_ms = self.clock.now_ms()
        told, _ = self._sift(connection, mail.person, self.notices.of_mail(connection, mail_id), now_ms)
        if not told:
            self.notices.remove_mail(connection, mail_id)
            return None
        words = self.composer.compose(connection, mail.person, told, now_ms, mail.created_at_ms)
        if (words.subject, words.text) == (mail.subject, mail.body):
            return mail, words
        self.notices.rewrite(connection, mail_id, words.subject, words.text, now_ms)
        rewritten = replace(mail, subject=words.subject, body=words.text, created_at_ms=now_ms)
        return rewritten, self.composer.compose(connection, mail.person, told, now_ms, now_ms)


def retry_ms(attempts: int) -> int:
    """Return how long to wait after a try, given those before it: 5, 10, 20 minutes and so on up to 6 hours."""
    return int(min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** min(attempts, 16)))
