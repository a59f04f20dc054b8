"""Mail through a real SMTP server: at once or daily, what is still true, at least once, recognisable, by any worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes, message_from_string, policy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select, update

from allocations.db.database import Database
from allocations.db.schema import invitations, mails, notices, people
from allocations.errors import InvalidInputError
from allocations.factory import mailer_from, make_mailer, make_services
from allocations.lifecycle.models import Award
from allocations.notify.mailer import retry_ms
from allocations.notify.transports import DeliveryError, FileTransport, SmtpTransport, Transport
from allocations.outbox import Notice, NoticeKind
from allocations.settings import MailSettings
from allocations.worker import Delivery, Worker
from tests.allocations.conftest import START_MS, Bench, TestClock
from tests.allocations.test_notices import ADMIN, change, outbox, queue, research
from tests.fresh import shipped_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from email.message import EmailMessage

    from sqlalchemy import Connection

    from allocations.notify.mailer import Mailer
    from allocations.notify.models import StoredNotice
    from allocations.notify.texts import TextService, Wording

DAY = 86_400
SENDER, DOMAIN = "Meridian <meridian@platform.example>", "people.example"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A running SMTP server and what it has accepted."""

    port: int
    folder: Path

    def received(self) -> list[tuple[list[str], EmailMessage]]:
        """Return (recipients, message) of each accepted mail, oldest first."""
        files = sorted(self.folder.glob("[!.]*"))
        kept = [json.loads(path.read_text()) for path in files]
        return [(mail["to"], message_from_string(mail["content"], policy=policy.default)) for mail in kept]

    def raw(self) -> list[str]:
        """Return each accepted mail as it came."""
        return [json.loads(path.read_text())["content"] for path in self.folder.glob("[!.]*")]

    def transport(self) -> SmtpTransport:
        return SmtpTransport(host="127.0.0.1", port=self.port, starttls=False)


@contextmanager
def running_server(folder: Path, *certificate: Path) -> Iterator[Server]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.smtp_server", str(folder), *map(str, certificate)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(int(process.stdout.readline()), folder)
    finally:
        process.stdin.close()
        process.wait(120)
        process.stdout.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "received") as running:
        yield running


def mailer_of(bench: Bench, transport: Transport, pages_url: str = "") -> Mailer:
    return make_mailer(bench.services, transport, SENDER, DOMAIN, pages_url)


def text_of(mail: EmailMessage, form: str = "plain") -> str:
    """Return a mail's text, or its HTML."""
    body = mail.get_body((form,))
    assert body is not None
    return str(body.get_content())


def bench_on(database_url: str, folder: Path) -> Bench:
    """Return the services over a database that exists, for another process."""
    clock = TestClock()
    return Bench(make_services(Database(database_url), shipped_policy(), folder / "runs", clock), clock)


def end_of(bench: Bench, days_before: int) -> str:
    """Open a research allocation and go to some days before its end."""
    allocation = research(bench)
    bench.clock.pass_seconds((365 - days_before) * DAY)
    bench.services.lifecycle.advance()
    bench.services.reminders.remind()
    return allocation


def news(person: str, number: int = 1) -> Notice:
    """Something that happened and stays true."""
    return Notice(person, NoticeKind.INVITATION_ANSWERED, f"i-{number}", details={"name": "Dark stars"})


def errors_of(bench: Bench) -> list[str | None]:
    with bench.services.database.read() as connection:
        return list(connection.execute(select(mails.c.last_error).order_by(mails.c.id)).scalars())


def test_what_is_pending_goes_out_as_one_mail_and_then_a_day_passes(bench: Bench, server: Server) -> None:
    allocation = end_of(bench, 7)
    queue(bench, Notice("ann", NoticeKind.RESUMED, allocation, "1"))
    mailer = mailer_of(bench, server.transport())
    assert mailer.deliver() == 1
    queue(bench, Notice("ann", NoticeKind.RESUMED, allocation, "2"))
    bench.clock.pass_seconds(DAY - 1)
    assert mailer.deliver() == 0
    [(recipients, mail)] = server.received()
    assert recipients == ["ann@people.example"]
    assert mail["Subject"] == "“Dark stars” ends in 7 days (and 1 more)"
    assert mail["From"] == SENDER
    body = text_of(mail)
    assert body.index("Dear ann,") < body.index("ends in 7 days") < body.index("can be used again")
    bench.clock.pass_seconds(1)
    assert mailer.deliver() == 1
    assert server.received()[1][1]["Subject"] == "“Dark stars” can be used again"
    assert [state for kind, threshold, state in outbox(bench, "ann") if threshold not in {"60", "30", "14"}] == [
        "sent"
    ] * 3


def test_what_comes_at_once_waits_for_no_day_and_takes_the_rest_along(bench: Bench, server: Server) -> None:
    allocation = end_of(bench, 7)
    mailer = mailer_of(bench, server.transport())
    assert mailer.deliver() == 1
    queue(bench, news("ann"))
    bench.clock.pass_seconds(60)
    assert mailer.deliver() == 0
    bench.services.lifecycle.suspend(ADMIN, allocation, "The hardware moves")
    assert mailer.deliver() == 1
    _, mail = server.received()[1]
    assert "The reason: The hardware moves" in text_of(mail)
    assert "has answered your invitation" in text_of(mail)
    bench.clock.pass_seconds(DAY)
    assert mailer.deliver() == 0


def test_each_person_gets_by_mail_what_they_chose(bench: Bench, server: Server) -> None:
    kind, choose = "invitation answered", bench.services.preferences.choose
    for person, way in (("at", "at once"), ("page", "page"), ("off", "off")):
        choose(person, {kind: way})
    mailer = mailer_of(bench, server.transport())
    everybody = ("at", "daily", "page", "off")
    queue(bench, *(news(person) for person in everybody))
    assert mailer.deliver() == 2
    queue(bench, *(news(person, 2) for person in everybody))
    bench.clock.pass_seconds(60)
    assert mailer.deliver() == 1
    assert {person: bench.services.inbox.unread(person) for person in everybody} == {
        "at": 2,
        "daily": 2,
        "page": 2,
        "off": 0,
    }
    choose("page", {kind: "daily"})
    bench.clock.pass_seconds(DAY)
    assert mailer.deliver() == 1, "what was not wanted by mail in its time is not mailed later"
    assert sorted(recipients[0].split("@")[0] for recipients, _ in server.received()) == ["at", "at", "daily", "daily"]


def test_who_turns_mail_off_while_it_is_on_its_way_does_not_get_it(bench: Bench, server: Server) -> None:
    queue(bench, news("ann"))
    mailer_of(bench, Refusing()).deliver()
    bench.services.preferences.choose("ann", {"invitation answered": "page"})
    bench.clock.pass_seconds(300)
    assert mailer_of(bench, server.transport()).deliver() == 0
    assert (server.received(), bench.services.inbox.unread("ann")) == ([], 1)


def test_a_mail_goes_to_the_address_that_a_person_gave(bench: Bench, server: Server) -> None:
    end_of(bench, 7)
    with bench.services.database.write() as connection:
        connection.execute(insert(people).values(name="ann", email="ann@observatory.example", first_seen_at_ms=0))
    assert mailer_of(bench, server.transport()).deliver() == 1
    assert server.received()[0][0] == ["ann@observatory.example"]


def test_a_worker_that_slept_a_week_tells_what_is_still_true(bench: Bench, server: Server) -> None:
    allocation = end_of(bench, 14)
    queue(bench, Notice("bob", NoticeKind.INVITED, "i-1"), Notice("eve", NoticeKind.INVITED, "i-2"))
    queue(bench, news("bob"))
    with bench.services.database.write() as connection:
        for number, (person, days) in enumerate((("bob", 3), ("eve", 30)), start=1):
            connection.execute(
                insert(invitations).values(
                    id=f"i-{number}",
                    allocation_id=allocation,
                    person=person,
                    role="member",
                    invited_by="ann",
                    state="pending",
                    created_at_ms=bench.clock.at_ms,
                    ends_at_ms=bench.clock.at_ms + days * DAY * 1000,
                )
            )
    bench.clock.pass_seconds(7 * DAY)
    bench.services.reminders.remind()
    assert mailer_of(bench, server.transport()).deliver() == 3
    subjects = {recipients[0].split("@")[0]: str(mail["Subject"]) for recipients, mail in server.received()}
    assert subjects == {
        "ann": "“Dark stars” ends in 7 days",
        "bob": "bob has answered your invitation to “Dark stars”",
        "eve": "ann invites you to “Dark stars”",
    }
    assert ("ends soon", "14", "skipped") in outbox(bench, "ann")
    assert ("invited", "", "skipped") in outbox(bench, "bob")


@pytest.mark.parametrize(
    "values",
    [{"renewal": Award().model_dump_json()}, {"state": "closed"}, {"ends_at_ms": START_MS + 400 * DAY * 1000}],
)
def test_a_reminder_that_is_not_true_any_more_is_skipped(bench: Bench, values: dict[str, object]) -> None:
    change(bench, end_of(bench, 7), **values)
    assert mailer_of(bench, Refusing()).deliver() == 0
    assert {state for _, _, state in outbox(bench, "ann")} == {"skipped"}
    assert bench.services.inbox.unread("ann") == 0


def test_a_notice_without_words_keeps_nobody_elses_mail_back(
    bench: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(bench, news("ann"), news("bea"))
    mailer = mailer_of(bench, server.transport())
    words = type(mailer.composer.texts).words

    def without(
        self: TextService, connection: Connection, notices: Sequence[StoredNotice], now_ms: int
    ) -> list[Wording]:
        if any(notice.person == "ann" for notice in notices):
            raise OverflowError("no such year")
        return words(self, connection, notices, now_ms)

    monkeypatch.setattr(type(mailer.composer.texts), "words", without)
    assert mailer.deliver() == 1
    assert [recipients for recipients, _ in server.received()] == [["bea@people.example"]]


def test_what_is_older_than_two_weeks_is_not_mailed_and_stays_on_the_page(bench: Bench) -> None:
    queue(bench, news("ann"))
    bench.clock.pass_seconds(14 * DAY + 1)
    assert mailer_of(bench, Refusing()).deliver() == 0
    assert outbox(bench, "ann") == [("invitation answered", "", "skipped")]
    assert bench.services.inbox.unread("ann") == 1


class Refusing:
    """Takes nothing, for everybody."""

    def send(self, message: EmailMessage, name: str) -> None:
        raise DeliveryError("closed", everybody=True)


@dataclass(frozen=True)
class DyingTransport:
    """Sends, and dies before anybody can note it."""

    inner: Transport

    def send(self, message: EmailMessage, name: str) -> None:
        self.inner.send(message, name)
        os.kill(os.getpid(), signal.SIGKILL)


def deliver_and_die(database_url: str, folder: str, at_ms: int, port: int) -> None:
    """Be a worker that is killed between sending and marking."""
    bench = bench_on(database_url, Path(folder))
    bench.clock.at_ms = at_ms
    transport = SmtpTransport(host="127.0.0.1", port=port, starttls=False)
    mailer_of(bench, DyingTransport(transport)).deliver()


@pytest.mark.slow  # starts a process
def test_a_crash_between_sending_and_marking_sends_the_same_mail_again(
    bench: Bench, database_url: str, server: Server, tmp_path: Path
) -> None:
    end_of(bench, 7)
    arguments = (database_url, str(tmp_path), bench.clock.at_ms, server.port)
    process = multiprocessing.get_context("spawn").Process(target=deliver_and_die, args=arguments)
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    assert len(server.received()) == 1
    mailer = mailer_of(bench, server.transport())
    assert mailer.deliver() == 0, "the dead worker may still be sending"
    bench.clock.pass_seconds(300)
    assert mailer.deliver() == 1
    (_, first), (_, second) = server.received()
    assert first["Message-ID"] == second["Message-ID"]
    assert first.as_string() == second.as_string()
    assert [item.kind for item in bench.services.inbox.inbox("ann").notices] == [NoticeKind.ENDS_SOON]
    bench.clock.pass_seconds(DAY)
    assert mailer.deliver() == 0


def test_a_crash_between_writing_and_sending_loses_nothing(bench: Bench, server: Server) -> None:
    end_of(bench, 7)
    mailer_of(bench, Refusing())._write("ann")
    assert mailer_of(bench, server.transport()).deliver() == 1
    assert len(server.received()) == 1


def deliver_thrice(database_url: str, folder: str, at_ms: int, port: int) -> None:
    """Be one of several workers."""
    bench = bench_on(database_url, Path(folder))
    bench.clock.at_ms = at_ms
    for _ in range(3):
        mailer_of(bench, SmtpTransport(host="127.0.0.1", port=port, starttls=False)).deliver()


@pytest.mark.slow  # starts four workers
def test_workers_at_once_send_each_person_one_mail_a_day(
    bench: Bench, database_url: str, server: Server, tmp_path: Path
) -> None:
    names = [f"person{number}" for number in range(12)]
    for day in (1, 2):
        queue(bench, *(news(name, 10 * day + number) for name in names for number in range(3)))
        arguments = (database_url, str(tmp_path), bench.clock.at_ms, server.port)
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=deliver_thrice, args=arguments) for _ in range(2)]
        for worker in workers:
            worker.start()
        for number in range(3):
            queue(bench, *(news(name, 100 * day + number) for name in reversed(names)))
        for worker in workers:
            worker.join(200)
        assert [worker.exitcode for worker in workers] == [0, 0]
        received = sorted(recipients[0] for recipients, _ in server.received())
        assert received == sorted(f"{name}@{DOMAIN}" for name in names for _ in range(day))
        bench.clock.pass_seconds(DAY)
    # To whom the workers wrote before all was queued for them: nobody, everybody or some.
    assert mailer_of(bench, server.transport()).deliver() in range(len(names) + 1)
    told = sum(text_of(mail).count("has answered your invitation") for _, mail in server.received())
    assert told == 12 * 12


def test_a_server_that_is_away_is_tried_again_later_and_later(bench: Bench, server: Server) -> None:
    end_of(bench, 7)
    away = mailer_of(bench, SmtpTransport(host="127.0.0.1", port=1, starttls=False))
    tries = 0
    for _ in range(60):
        tried_before = attempts(bench)
        assert away.deliver() == 0
        tries += attempts(bench) - tried_before
        bench.clock.pass_seconds(60)
    assert tries == 4, "at once, after 5, 15 and 35 minutes"
    assert errors_of(bench) == ["ConnectionRefusedError"]
    bench.clock.pass_seconds(3600)
    assert mailer_of(bench, server.transport()).deliver() == 1
    assert errors_of(bench) == [None]


def attempts(bench: Bench) -> int:
    with bench.services.database.read() as connection:
        return sum(connection.execute(select(mails.c.attempts)).scalars())


def test_a_mail_that_nobody_takes_for_two_weeks_is_given_up_and_the_next_is_written(
    bench: Bench, server: Server
) -> None:
    allocation = research(bench)
    queue(bench, news("ann"))
    mailer_of(bench, Refusing()).deliver()
    bench.clock.pass_seconds(14 * DAY + 1)
    queue(bench, Notice("ann", NoticeKind.RESUMED, allocation, "1"))
    mailer = mailer_of(bench, server.transport())
    assert [mailer.deliver(), mailer.deliver()] == [0, 1]
    assert outbox(bench, "ann") == [("invitation answered", "", "skipped"), ("resumed", "1", "sent")]


def test_one_refused_recipient_does_not_stop_the_others_and_the_reason_holds_no_secrets(
    bench: Bench, server: Server
) -> None:
    queue(bench, *(news(name) for name in ("ann", "bob", "eve")))
    with bench.services.database.write() as connection:
        rows = [("ann", "ann@refused.example"), ("bob", "not an address\r\nBcc: all@people.example")]
        for name, email in rows:
            connection.execute(insert(people).values(name=name, email=email, first_seen_at_ms=0))
    mailer = mailer_of(bench, server.transport())
    assert mailer.deliver() == 1
    assert [recipients for recipients, _ in server.received()] == [["eve@people.example"]]
    assert sorted(error for error in errors_of(bench) if error) == [
        "SMTPRecipientsRefused",
        "the address is not valid",
    ]


@pytest.mark.parametrize(
    "name",
    ["Stars\r\nBcc: victim@people.example", "Stars\n\nA body", "\u202estars\x00\x1b[2J", "S" * 5000, "=?utf-8?q?=0A?="],
)
def test_a_hostile_name_stays_within_the_subject(bench: Bench, server: Server, name: str) -> None:
    stored = name.replace("\x00", "")  # PostgreSQL cannot hold it
    change(bench, end_of(bench, 7), name=stored)
    person = 'x"@evil.example, y\r\nBcc: z'
    queue(bench, Notice(person, NoticeKind.INVITATION_ANSWERED, "gone", "1", {"name": name}))
    assert mailer_of(bench, server.transport()).deliver() >= 1
    for recipients, mail in server.received():
        assert len(recipients) == 1
        assert recipients[0].endswith("@people.example")
        assert set(mail.keys()) <= {
            *("Message-ID", "Date", "From", "To", "Subject", "Auto-Submitted", "MIME-Version", "X-Peer"),
            *("Content-Type", "Content-Transfer-Encoding", "X-MailFrom", "X-RcptTo"),
        }
        assert str(mail["Subject"]).isprintable()
        assert len(str(mail["Subject"])) <= 200
        assert "\x1b" not in text_of(mail)


def test_starttls_and_the_account_are_used_and_the_certificate_is_checked(bench: Bench, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    end_of(bench, 7)
    trusted = ssl.create_default_context(cafile=str(certificate))
    with running_server(tmp_path / "received", certificate, key) as server:

        def transport(*, password: str, tls: ssl.SSLContext | None, starttls: bool = True) -> SmtpTransport:
            return SmtpTransport(
                host="127.0.0.1", port=server.port, user="meridian", password=password, starttls=starttls, tls=tls
            )

        for wrong, reason in (
            (transport(password="correct horse", tls=None), "SSLCertVerificationError"),
            (transport(password="hunter2", tls=trusted), "SMTPAuthenticationError 535"),
            (transport(password="correct horse", tls=trusted, starttls=False), "SMTPNotSupportedError"),
        ):
            assert mailer_of(bench, wrong).deliver() == 0
            assert errors_of(bench) == [reason]
            bench.clock.pass_seconds(3600)
        assert mailer_of(bench, transport(password="correct horse", tls=trusted)).deliver() == 1
        assert len(server.received()) == 1


def test_a_folder_keeps_one_whole_file_a_mail(bench: Bench, tmp_path: Path) -> None:
    end_of(bench, 7)
    folder = tmp_path / "mail"
    assert mailer_of(bench, FileTransport(folder)).deliver() == 1
    with bench.services.database.write() as connection:
        connection.execute(update(mails).values(sent_at_ms=None))
        connection.execute(update(notices).values(state="pending"))
    bench.clock.pass_seconds(300)
    assert mailer_of(bench, FileTransport(folder)).deliver() == 1
    [file] = folder.iterdir()
    mail = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert mail["Message-ID"] == f"<{file.stem}@{DOMAIN}>"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DeliveryError, match="FileExistsError"):
        FileTransport(blocked).send(mail, "m")


class NoServers:
    """A hub without servers."""

    def active(self) -> dict[tuple[str, str], object]:
        return {}

    def stop(self, key: tuple[str, str]) -> None:
        raise AssertionError(key)


class Failing(FileTransport):
    """Fails at first in a way that nobody foresaw."""

    failed = False

    def send(self, message: EmailMessage, name: str) -> None:
        if not Failing.failed:
            Failing.failed = True
            raise LookupError(name)
        super().send(message, name)


def test_the_worker_reminds_and_a_delivery_beside_it_goes_on_after_a_failure(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    research(bench)
    bench.clock.pass_seconds((365 - 7) * DAY)
    assert Worker(bench.services, NoServers(), "w1").tick()  # type: ignore[arg-type]  # it never has a status
    monkeypatch.setattr("allocations.worker.MAIL_SECONDS", 0.01)
    stopped = threading.Event()
    delivery = Delivery(mailer_of(bench, Failing(tmp_path / "mail")), stopped)
    delivery.start()
    wait_for(lambda: Failing.failed)
    bench.clock.pass_seconds(300)
    wait_for((tmp_path / "mail").exists)
    stopped.set()
    delivery.join(120)
    assert not delivery.is_alive()
    assert len(list((tmp_path / "mail").glob("*.eml"))) == 1


def wait_for(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_environment_says_how_mail_leaves(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="MERIDIAN_MAIL_DOMAIN"):
        MailSettings.from_environment()
    monkeypatch.setenv("MERIDIAN_MAIL_DOMAIN", DOMAIN)
    monkeypatch.setenv("MERIDIAN_MAIL_FROM", SENDER)
    with pytest.raises(InvalidInputError, match="MERIDIAN_MAIL_FOLDER"):
        MailSettings.from_environment()
    monkeypatch.setenv("MERIDIAN_MAIL_FOLDER", str(tmp_path))
    local = mailer_from(bench.services, MailSettings.from_environment())
    assert local.transport == FileTransport(tmp_path)
    monkeypatch.setenv("MERIDIAN_SMTP_HOST", "mail.example")
    monkeypatch.setenv("MERIDIAN_SMTP_USER", "meridian")
    monkeypatch.setenv("MERIDIAN_SMTP_PASSWORD", "correct horse")
    settings = MailSettings.from_environment()
    assert "correct horse" not in repr(settings)
    assert mailer_from(bench.services, settings).transport == SmtpTransport(
        host="mail.example", port=587, user="meridian", password="correct horse", starttls=True
    )
    assert mailer_from(bench.services, settings).composer.pages_url == ""
    monkeypatch.setenv("MERIDIAN_PAGES_URL", "https://platform.example/pages/")
    settings = MailSettings.from_environment()
    assert mailer_from(bench.services, settings).composer.pages_url == "https://platform.example/pages"
    monkeypatch.setenv("MERIDIAN_PAGES_URL", "platform.example")
    with pytest.raises(InvalidInputError, match="MERIDIAN_PAGES_URL"):
        MailSettings.from_environment()
    monkeypatch.delenv("MERIDIAN_PAGES_URL")
    monkeypatch.setenv("MERIDIAN_SMTP_STARTTLS", "perhaps")
    with pytest.raises(InvalidInputError, match="MERIDIAN_SMTP_STARTTLS"):
        MailSettings.from_environment()
    monkeypatch.setenv("MERIDIAN_SMTP_STARTTLS", "off")
    monkeypatch.setenv("MERIDIAN_SMTP_PORT", "0")
    with pytest.raises(InvalidInputError, match="MERIDIAN_SMTP_PORT"):
        MailSettings.from_environment()


def test_tries_grow_apart_up_to_six_hours() -> None:
    assert [retry_ms(attempts) // 60_000 for attempts in (0, 1, 2, 6, 7, 10_000)] == [5, 10, 20, 320, 360, 360]
