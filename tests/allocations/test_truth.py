"""Every kind of notice comes from something that people or the calendar do, in whole words, and holds until undone."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256 as sha256_of
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import mails, notices
from allocations.duties import Duties
from allocations.factory import make_mailer
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, OverrideLimits, OverrideSubject, RequestAction, RequestKind
from allocations.notify.texts import GONE
from allocations.notify.transports import DeliveryError
from allocations.outbox import NoticeKind
from allocations.runs.schedule_models import ScheduleTerms
from allocations.storage.archive.format import COMMIT
from allocations.storage.archive.places import ArchivePlaces
from allocations.storage.archive.write import write
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import (
    ArchiveKind,
    ArchiveState,
    Mount,
    PurgeState,
    RestoreTarget,
    Run,
    RunState,
    StoredArchive,
)
from allocations.storage.purge.service import new_purge
from allocations.storage.purge.store import ArchiveStore
from allocations.storage.restores.run import RestoreRunner
from allocations.storage.store import StorageStore
from allocations.storage.tree.beneath import Root
from tests.allocations.test_notices import ADMIN, DAY, research
from tests.allocations.test_preferences import run_low
from tests.allocations.test_requests import ANN, REVIEWER
from tests.allocations.test_storage_accounts import GB, home
from tests.allocations.test_storage_states import measure
from tests.places import join
from tests.storage.archive.trees import wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import EmailMessage

    from allocations.notify.mailer import Mailer
    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow

REQUEST_KINDS = frozenset(
    {
        NoticeKind.REQUEST_SUBMITTED,
        NoticeKind.REQUEST_WAITS,
        NoticeKind.REVISION_REQUESTED,
        NoticeKind.REQUEST_APPROVED,
        NoticeKind.REQUEST_DECLINED,
    }
)
OF_FILES = frozenset(
    {
        NoticeKind.ARCHIVE_EXPIRES,
        NoticeKind.EXEMPTION_DECIDED,
        NoticeKind.PURGE_PLANNED,
        NoticeKind.PURGE_REMINDER,
        NoticeKind.PURGE_DONE,
        NoticeKind.PURGE_CALLED_OFF,
        NoticeKind.PURGE_BROKE_OFF,
    }
)
OF_A_RESTORE = frozenset({NoticeKind.RESTORE_DONE, NoticeKind.RESTORE_FAILED})
LIMITS = OverrideLimits(servers_per_person=5)


class Keeping:
    """A way out that keeps what it is given, or is closed."""

    def __init__(self) -> None:
        self.closed = False
        self.taken: list[EmailMessage] = []

    def send(self, message: EmailMessage, name: str) -> None:
        if self.closed:
            raise DeliveryError("closed", everybody=True)
        assert name in str(message["Message-ID"])
        self.taken.append(message)


def pass_days(bench: Bench, days: int) -> None:
    bench.clock.pass_seconds(days * DAY)
    bench.services.lifecycle.advance()
    bench.services.reminders.remind()


def happen(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    """Let something of a kind be told to ann; return what undoes it, or makes it too old to tell."""
    if kind is NoticeKind.OVERRIDE_GRANTED:
        override = bench.services.overrides.grant(ADMIN, OverrideSubject.PERSON, "ann", LIMITS, "A deadline", 30)
        return lambda: bench.services.overrides.revoke(ADMIN, override.id, "Over")
    if kind is NoticeKind.SERVER_STOPS:
        _entry, lease = run_low(bench)
        bench.services.stop_warnings.warn()
        return lambda: bench.services.leases.settle(lease)
    if kind in OF_FILES | OF_A_RESTORE or kind.value.startswith("storage"):
        return happen_to_storage(bench, kind)
    to_a_person = {
        NoticeKind.PERSON_SUSPENDED: happen_to_ann,
        NoticeKind.PERSON_RESUMED: happen_to_ann,
        NoticeKind.SCHEDULE_REFUSED: happen_to_schedule,
        NoticeKind.SCHEDULE_PAUSED: happen_to_schedule,
        NoticeKind.INVITED: happen_to_members,
        NoticeKind.INVITATION_ANSWERED: happen_to_members,
        NoticeKind.MEMBER_REMOVED: happen_to_members,
    }
    if kind in to_a_person:
        return to_a_person[kind](bench, kind)
    return (
        happen_to_request(bench, kind) if kind in REQUEST_KINDS else happen_to_allocation(bench, kind, research(bench))
    )


def happen_to_ann(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    bench.accept("ann")
    bench.services.suspensions.suspend(ADMIN, "ann", "A token in a public place.", 0)
    if kind is NoticeKind.PERSON_SUSPENDED:

        def lift_late() -> None:
            """So late that the news of it is old, too."""
            bench.services.suspensions.lift(ADMIN, "ann", "It is revoked")
            bench.clock.pass_seconds(15 * DAY)

        return lift_late
    bench.services.suspensions.lift(ADMIN, "ann", "It is revoked")
    return lambda: bench.clock.pass_seconds(15 * DAY)


def happen_to_schedule(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    terms = ScheduleTerms(
        title="Nightly",
        allocation=bench.accept("ann"),
        size="small",
        name="n.ipynb",
        notebook={"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []},
        parameters={},
        cron="0 * * * *",
    )
    schedule = bench.services.schedules.add("ann", terms, bench.key()).id
    with bench.services.database.write() as connection:
        change = (-29_999_999, "t", TransactionKind.GRANT, "lowered")
        bench.services.lifecycle.change_limit(connection, terms.allocation, *change)
    for _ in range(5 if kind is NoticeKind.SCHEDULE_PAUSED else 1):
        bench.clock.pass_seconds(3600)
        bench.services.schedule_duty.submit_due()
    if kind is NoticeKind.SCHEDULE_PAUSED:
        return lambda: bench.services.schedules.resume("ann", schedule)
    return lambda: bench.services.schedules.pause("ann", schedule)


def happen_to_storage(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    if kind in {NoticeKind.STORAGE_ENDED, NoticeKind.STORAGE_ARCHIVED_SOON, NoticeKind.STORAGE_RETURNED}:
        return happen_to_what_ends(bench, kind)
    if kind in OF_A_RESTORE:
        happen_to_a_restore(bench, kind)
        return lambda: bench.clock.pass_seconds(15 * DAY)
    if kind in OF_FILES:
        happen_to_files(bench, kind)
        if kind in {NoticeKind.PURGE_PLANNED, NoticeKind.PURGE_REMINDER}:
            return lambda: bench.services.purges.cancel(ADMIN, "r", "The rules change")
        return lambda: bench.clock.pass_seconds(15 * DAY)
    bench.accept("ann")
    area = home(bench, "ann")
    measure(bench, area, 9 * GB if kind is NoticeKind.STORAGE_NEARING else 11 * GB)
    if kind is NoticeKind.STORAGE_LOCKED:
        bench.clock.pass_seconds(14 * DAY)
        measure(bench, area, 11 * GB)
    return lambda: measure(bench, area, GB)


def happen_to_what_ends(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    bench.accept("ann")
    home(bench, "ann")

    def end() -> None:
        pass_days(bench, 366)
        bench.services.ends.look()

    def come_back() -> None:
        bench.accept("ann")
        bench.services.ends.look()

    end()
    if kind is NoticeKind.STORAGE_RETURNED:
        come_back()
        return end
    if kind is NoticeKind.STORAGE_ARCHIVED_SOON:
        pass_days(bench, 62)
        bench.services.ends.look()
    return come_back


def happen_to_files(bench: Bench, kind: NoticeKind) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    services, now_ms = bench.services, bench.clock.now_ms()
    until_ms = now_ms + 20 * DAY * 1000
    if kind is NoticeKind.EXEMPTION_DECIDED:
        asked = services.exemptions.ask(ANN, area.id, "thesis", 30, "It is due")
        services.exemptions.grant(ADMIN, asked.id, 30, "Good luck")
        return
    archive = StoredArchive("ar", area.id, ArchiveKind.PURGE, "a", ArchiveState.KEPT, 3, GB, "0", now_ms, until_ms)
    run = Run(
        "r", StorageClass.HOME, now_ms, False, RunState.OPEN, "root", 3, GB, None, None, None, None, now_ms
    )  # columns in their order
    purge, notices_of = new_purge("p", run, area.id), services.purges.notices
    with services.database.write() as connection:
        services.purges.purges.add_run(connection, run)
        services.purges.purges.add(connection, purge)
        if kind is NoticeKind.ARCHIVE_EXPIRES:
            ArchiveStore().add(connection, archive)
        elif kind is NoticeKind.PURGE_PLANNED:
            notices_of.planned(connection, purge, area, until_ms, "lists/1.txt")
        elif kind is NoticeKind.PURGE_REMINDER:
            notices_of.reminder(connection, purge, area, days=3, ends_at_ms=until_ms, place="lists/1.txt")
        elif kind is NoticeKind.PURGE_BROKE_OFF:
            at_work = replace(purge, state=PurgeState.DELETING, window_ends_at_ms=until_ms, position=200)
            notices_of.called_off(connection, at_work, PurgeState.FAILED)
        elif kind is NoticeKind.PURGE_CALLED_OFF:
            noticed = {"state": PurgeState.NOTICED, "window_ends_at_ms": until_ms}
            assert services.purges.purges.change(connection, purge.id, purge.state, **noticed)
        else:
            notices_of.done(connection, purge, area, until_ms, "lists/1.txt")
    if kind is NoticeKind.PURGE_CALLED_OFF:
        services.purges.cancel(ADMIN, run.id, "The rules change")
    services.expiry.look()


def happen_to_a_restore(bench: Bench, kind: NoticeKind) -> None:
    bench.accept("ann")
    area, now_ms, database = home(bench, "ann"), bench.clock.now_ms(), bench.services.database
    with TemporaryDirectory() as work:
        places, tree = ArchivePlaces(f"{work}/archives"), Path(work, "home")
        tree.mkdir()
        (tree / "thesis").write_text("Stars.")
        place = places.place_of("ar")
        with Root(str(tree)) as root:
            write(places.open(place), root, wanted(tree), name="ar", made_at="", about={})
        sha256 = sha256_of(Path(place, COMMIT).read_bytes()).hexdigest()
        archive = StoredArchive("ar", area.id, ArchiveKind.PURGE, place, ArchiveState.KEPT, 1, 6, sha256, now_ms, None)
        with database.write() as connection:
            ArchiveStore().add(connection, archive)
        bench.services.restores.ask(ANN, "ar", ["thesis"], RestoreTarget.BESIDE)
        if kind is NoticeKind.RESTORE_FAILED:
            with database.write() as connection:
                ArchiveStore().change(connection, "ar", ArchiveState.KEPT, state=ArchiveState.EXPIRED)
        runner = RestoreRunner(
            database=database,
            clock=bench.clock,
            areas=StorageStore(),
            archives=ArchiveStore(),
            authority=bench.services.restores.authority,
            duties=Duties(database, bench.clock),
        )
        assert runner.carry_out("test", list(StorageClass), lambda _area: Mount(str(tree), "", places))


def happen_to_request(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    requests = bench.services.requests
    if kind is NoticeKind.REQUEST_WAITS:
        bench.services.reviewers.saw(Actor("ann", reviewer=True))
        waits = requests.submit(Actor("bob"), tier="research", title="Dark stars", justification="We look.").id
        return lambda: requests.act(REVIEWER, waits, RequestAction.DECLINE, "No room")
    request = requests.submit(ANN, tier="research", title="Dark stars", justification="We look.").id
    if kind is NoticeKind.REQUEST_SUBMITTED:
        return lambda: requests.act(ANN, request, RequestAction.WITHDRAW)
    if kind is NoticeKind.REVISION_REQUESTED:
        requests.act(REVIEWER, request, RequestAction.REQUEST_REVISION, "Say which stars")
        return lambda: requests.act(ANN, request, RequestAction.SUBMIT)
    action = RequestAction.DECLINE if kind is NoticeKind.REQUEST_DECLINED else RequestAction.APPROVE
    requests.act(REVIEWER, request, action, "As the panel says")
    return lambda: bench.clock.pass_seconds(15 * DAY)


def happen_to_members(bench: Bench, kind: NoticeKind) -> Callable[[], object]:
    members = bench.services.members
    allocation = research(bench, "bob")
    if kind is NoticeKind.INVITED:
        invitation = members.invite(Actor("bob"), allocation, "ann", MemberRole.MEMBER)
        return lambda: members.revoke(Actor("bob"), invitation.id)
    join(members, ADMIN, allocation, "ann", MemberRole.MANAGER)
    if kind is NoticeKind.MEMBER_REMOVED:
        members.remove(Actor("bob"), allocation, "ann")
        return lambda: join(members, ADMIN, allocation, "ann", MemberRole.MEMBER)
    invitation = members.invite(ANN, allocation, "eve", MemberRole.MEMBER)
    members.answer(Actor("eve"), invitation.id, accept=True)
    return lambda: bench.clock.pass_seconds(15 * DAY)


def happen_to_allocation(bench: Bench, kind: NoticeKind, allocation: str) -> Callable[[], object]:
    lifecycle, members, requests = bench.services.lifecycle, bench.services.members, bench.services.requests
    join(members, ADMIN, allocation, "bob", MemberRole.LEAD)

    def leave() -> None:
        members.remove(Actor("bob"), allocation, "ann")

    if kind in {NoticeKind.SUSPENDED, NoticeKind.RESUMED}:
        lifecycle.suspend(ADMIN, allocation, "The hardware moves")
        if kind is NoticeKind.SUSPENDED:
            return lambda: lifecycle.resume(ADMIN, allocation, "It is back")
        lifecycle.resume(ADMIN, allocation, "It is back")
        return lambda: lifecycle.suspend(ADMIN, allocation, "It moves again")
    if kind is NoticeKind.CLOSED:
        lifecycle.close(ADMIN, allocation, "Done")
        return leave
    if kind is NoticeKind.ENDS_SOON:
        pass_days(bench, 358)
        return leave
    if kind is NoticeKind.RENEWED:
        asked = requests.ask(ANN, allocation, RequestKind.EXTENSION, "We need it.", None, Award(term_days=30)).id
        requests.act(REVIEWER, asked, RequestAction.APPROVE, "Sound")
        return lambda: lifecycle.archive(ADMIN, allocation, "Nobody needs it")
    pass_days(bench, 366 if kind is NoticeKind.ENDED else 365 + 200)
    return leave


def mailer(bench: Bench, out: Keeping) -> Mailer:
    return make_mailer(bench.services, out, "Meridian <meridian@platform.example>", "people.example")


def states(bench: Bench, kind: NoticeKind) -> set[str]:
    """Return the states of ann's notices of a kind, but for the reminders of thresholds that were passed long ago."""
    with bench.services.database.read() as connection:
        rows = connection.execute(
            select(notices.c.state).where(
                notices.c.person == "ann", notices.c.kind == kind, notices.c.threshold.not_like("%/__")
            )
        )
        return set(rows.scalars())


@pytest.mark.parametrize("kind", NoticeKind)
def test_each_kind_comes_from_an_event_and_is_mailed_in_whole_words(bench: Bench, kind: NoticeKind) -> None:
    happen(bench, kind)
    out = Keeping()
    assert mailer(bench, out).deliver() >= 1
    assert states(bench, kind) == {"sent"}
    [item] = [item for item in bench.services.inbox.inbox("ann").notices if item.kind is kind]
    [mail] = [mail for mail in out.taken if mail["To"] == "ann@people.example"]
    body = mail.get_body(("plain",))
    assert body is not None
    told = body.get_content()
    assert f"{item.title}\n{item.text}" in told
    assert not {GONE, "{", "}"} & set(told)


@pytest.mark.parametrize("kind", NoticeKind)
def test_what_is_undone_while_the_worker_sleeps_is_skipped(bench: Bench, kind: NoticeKind) -> None:
    undo = happen(bench, kind)
    undo()
    mailer(bench, Keeping()).deliver()
    assert states(bench, kind) == {"skipped"}


@pytest.mark.parametrize("kind", NoticeKind)
def test_what_is_undone_while_the_mail_server_is_away_is_taken_out_of_the_mail(bench: Bench, kind: NoticeKind) -> None:
    undo = happen(bench, kind)
    out = Keeping()
    out.closed = True
    mailer(bench, out).deliver()
    assert states(bench, kind) == {"pending"}
    undo()
    bench.clock.pass_seconds(DAY / 2)
    out.closed = False
    mailer(bench, out).deliver()
    assert states(bench, kind) == {"skipped"}
    with bench.services.database.read() as connection:
        left = connection.execute(select(mails.c.sent_at_ms).where(mails.c.person == "ann")).scalars().all()
    assert len(left) == sum(mail["To"] == "ann@people.example" for mail in out.taken)
    assert None not in left


def test_a_reminder_is_for_those_who_still_lead_or_manage(bench: Bench) -> None:
    allocation = research(bench)
    join(bench.services.members, ADMIN, allocation, "bob", MemberRole.MANAGER)
    pass_days(bench, 358)
    bench.services.members.change(ANN, allocation, "bob", role=MemberRole.MEMBER)
    out = Keeping()
    assert mailer(bench, out).deliver() == 1
    assert [str(mail["To"]) for mail in out.taken] == ["ann@people.example"]


def test_a_mail_that_waited_says_the_days_that_are_left(bench: Bench) -> None:
    research(bench)
    pass_days(bench, 358)
    out = Keeping()
    out.closed = True
    mailer(bench, out).deliver()
    bench.clock.pass_seconds(3 * DAY)
    out.closed = False
    mailer(bench, out).deliver()
    [mail] = out.taken
    assert mail["Subject"] == "“Dark stars” ends in 4 days"
    assert mail["Date"].datetime.timestamp() * 1000 == bench.clock.at_ms


def test_what_a_person_reads_later_is_as_it_was_told(bench: Bench) -> None:
    allocation = research(bench)
    pass_days(bench, 358)
    bench.services.lifecycle.suspend(ADMIN, allocation, "The hardware moves")
    pass_days(bench, 100)
    titles = [item.title for item in bench.services.inbox.inbox("ann").notices]
    assert "“Dark stars” ends in 7 days" in titles


def test_what_was_read_on_the_page_is_not_mailed_and_stays_on_it(bench: Bench) -> None:
    research(bench)
    pass_days(bench, 358)
    [reminder] = bench.services.inbox.inbox("ann").notices
    bench.services.inbox.mark_read("ann", reminder.id)
    assert mailer(bench, Keeping()).deliver() == 0
    assert [item.id for item in bench.services.inbox.inbox("ann").notices] == [reminder.id]
