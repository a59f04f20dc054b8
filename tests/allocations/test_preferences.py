"""How people want their notices, as far as the policy lets them, and warnings of servers that will stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from allocations.db.schema import notice_choices
from allocations.errors import InvalidInputError, NotFoundError
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.notify.links import LinkStore, Purpose
from allocations.outbox import NoticeKind
from allocations.policy.notices import MAILED, Delivery
from allocations.worker import Worker
from tests.allocations.test_mail import NoServers, Refusing, mailer_of, news, server, text_of
from tests.allocations.test_notices import ADMIN, change, outbox, queue, research
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench
    from tests.allocations.test_mail import Server

__all__ = ["server"]

SMALL = 13  # microcredits a second
CREDIT = 1_000_000


def chosen(bench: Bench, person: str) -> dict[NoticeKind, Delivery]:
    return {one.kind: one.delivery for one in bench.services.preferences.of_person(person)}


def test_until_somebody_chooses_the_policy_says_how(bench: Bench) -> None:
    kinds = bench.services.policy.notices.kinds
    assert chosen(bench, "ann") == {kind: kinds[kind].delivery for kind in NoticeKind}
    bench.services.preferences.choose("ann", {"renewed": "at once", "invited": "off"})
    bench.services.preferences.choose("ann", {"renewed": "page"})
    changed = {NoticeKind.RENEWED: Delivery.PAGE, NoticeKind.INVITED: Delivery.OFF}
    assert chosen(bench, "ann") == {kind: kinds[kind].delivery for kind in NoticeKind} | changed
    assert chosen(bench, "bob") == {kind: kinds[kind].delivery for kind in NoticeKind}


@pytest.mark.parametrize("kind", ["suspended", "ends soon", "ended", "archived", "closed"])
@pytest.mark.parametrize("way", ["page", "off"])
def test_what_nobody_may_miss_is_mailed_whatever_is_chosen(bench: Bench, kind: str, way: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be turned off"):
        bench.services.preferences.choose("ann", {kind: way})
    # As the policy may have let them before.
    with bench.services.database.write() as connection:
        connection.execute(insert(notice_choices).values(person="ann", kind=kind, delivery=way))
    assert chosen(bench, "ann")[NoticeKind(kind)] in MAILED
    bench.services.preferences.choose("ann", {kind: "daily"})
    assert chosen(bench, "ann")[NoticeKind(kind)] is Delivery.DAILY


@pytest.mark.parametrize("wanted", [{"renewed": "sometimes"}, {"birthdays": "daily"}])
def test_what_there_is_not_cannot_be_chosen(bench: Bench, wanted: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError):
        bench.services.preferences.choose("ann", {"invited": "off"} | wanted)
    assert chosen(bench, "ann")[NoticeKind.INVITED] is Delivery.AT_ONCE


def test_a_kind_that_is_off_is_neither_listed_nor_counted(bench: Bench) -> None:
    allocation, inbox = research(bench), bench.services.inbox
    queue(bench, news("ann"), news("ann", 2))
    bench.services.lifecycle.suspend(ADMIN, allocation, "The hardware moves")
    inbox.mark_read("ann", inbox.inbox("ann").notices[-1].id)
    bench.services.preferences.choose("ann", {"invitation answered": "off"})
    listed = inbox.inbox("ann")
    assert [one.kind for one in listed.notices] == [NoticeKind.SUSPENDED]
    assert listed.unread == inbox.unread("ann") == 1
    bench.services.preferences.choose("ann", {"invitation answered": "page"})
    assert len(inbox.inbox("ann").notices) == 3


def test_unsubscribing_turns_off_the_mail_that_can_be(bench: Bench) -> None:
    with bench.services.database.write() as connection:
        token = LinkStore().make(connection, "ann", Purpose.UNSUBSCRIBE, 0)
    bench.services.preferences.choose("ann", {"renewed": "off"})
    for _ in range(2):
        bench.services.unsubscribing.unsubscribe(token)
        for one in bench.services.preferences.of_person("ann"):
            expected = MAILED if one.required else {Delivery.OFF if one.kind is NoticeKind.RENEWED else Delivery.PAGE}
            assert one.delivery in expected
    assert chosen(bench, "bob")[NoticeKind.INVITED] is Delivery.AT_ONCE


@pytest.mark.parametrize("token", ["", "x" * 32, "x" * 33, "\x00" * 32, "é" * 32])
def test_a_token_that_is_nobodys_or_of_another_purpose_does_nothing(bench: Bench, token: str) -> None:
    with bench.services.database.write() as connection:
        of_calendar = LinkStore().make(connection, "ann", Purpose.CALENDAR, 0)
    for wrong in (token, of_calendar):
        with pytest.raises(NotFoundError):
            bench.services.unsubscribing.unsubscribe(wrong)
        with pytest.raises(NotFoundError):
            bench.services.unsubscribing.require(wrong)


# ----------------------------------------------------------------- servers that stop


def run_low(bench: Bench) -> tuple[str, str]:
    """Let ann's server use up her entry allocation; return the allocation and the lease, which is not renewed again."""
    entry = bench.accept("ann")
    limit(bench, entry, SMALL * 1000 - 30 * CREDIT)
    lease = bench.acquire(entry, server="big")
    bench.services.leases.start(lease.id)
    assert bench.services.stop_warnings.warn() == 0
    bench.clock.pass_seconds(700)
    assert bench.services.leases.renew(lease.id).final
    return entry, lease.id


def limit(bench: Bench, allocation: str, microcredits: int) -> None:
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(
            connection, allocation, microcredits, "t", TransactionKind.GRANT, "changed"
        )


def test_whose_server_cannot_be_renewed_is_warned_once_and_mailed_at_once(bench: Bench, server: Server) -> None:
    run_low(bench)
    assert bench.services.stop_warnings.warn() == 1
    assert bench.services.stop_warnings.warn() == 0
    assert mailer_of(bench, server.transport()).deliver() == 1
    [(recipients, mail)] = server.received()
    assert recipients == ["ann@people.example"]
    assert mail["Subject"] == "Your server “big” stops at 08:16 UTC"
    assert "stops at 08:16 UTC on 2027-01-15: the balance does not cover more. Save your work" in " ".join(
        text_of(mail).split()
    )


def test_a_server_that_is_renewed_after_all_is_not_told_of(bench: Bench) -> None:
    entry, lease = run_low(bench)
    bench.services.stop_warnings.warn()
    limit(bench, entry, CREDIT)
    assert not bench.services.leases.renew(lease).final
    assert mailer_of(bench, Refusing()).deliver() == 0
    assert [state for kind, _, state in outbox(bench, "ann") if kind == "server stops"] == ["skipped"]
    assert bench.services.inbox.unread("ann") == 0


@pytest.mark.parametrize("end", ["settled", "over"])
def test_a_server_that_has_stopped_is_not_told_of(bench: Bench, end: str) -> None:
    _, lease = run_low(bench)
    bench.services.stop_warnings.warn()
    if end == "settled":
        bench.services.leases.settle(lease)
    else:
        bench.clock.pass_seconds(301)
        assert bench.services.stop_warnings.warn() == 0
    assert mailer_of(bench, Refusing()).deliver() == 0
    assert [state for kind, _, state in outbox(bench, "ann") if kind == "server stops"] == ["skipped"]


def reason(bench: Bench, person: str) -> str:
    assert bench.services.stop_warnings.warn() == 1
    [warning] = [one for one in bench.services.inbox.inbox(person).notices if one.kind is NoticeKind.SERVER_STOPS]
    return warning.text


def test_a_warning_names_the_longest_session(bench: Bench) -> None:
    lease = bench.acquire(bench.accept("ann"))
    bench.services.leases.start(lease.id)
    while not bench.services.leases.renew(lease.id).final:
        bench.clock.pass_seconds(600)
    assert "no server runs longer at a stretch" in reason(bench, "ann")


def test_a_warning_names_the_end_of_an_allocation_above(bench: Bench) -> None:
    whole = bench.consortium()
    part = bench.services.tree.divide(
        Actor("lead"), whole, name="Group", microcredits=CREDIT, guaranteed=True, lead="lead"
    )
    lease = bench.acquire(part, "lead")
    bench.services.leases.start(lease.id)
    change(bench, whole, ends_at_ms=bench.clock.at_ms + 100_000)
    bench.clock.pass_seconds(700)
    assert bench.services.leases.renew(lease.id).final
    assert "the allocation ends." in reason(bench, "lead")


def test_a_warning_names_a_suspension_and_the_loss_of_a_place(bench: Bench) -> None:
    whole = bench.consortium()
    bench.accept("ann")
    join(bench.services.members, Actor("lead"), whole, "ann", MemberRole.MEMBER)
    leases = {person: bench.acquire(whole, person).id for person in ("ann", "lead")}
    for lease in leases.values():
        bench.services.leases.start(lease)
    bench.clock.pass_seconds(700)
    bench.services.members.remove(Actor("lead"), whole, "ann")
    assert bench.services.leases.renew(leases["ann"]).final
    assert "you are no longer a member there." in reason(bench, "ann")
    bench.services.lifecycle.suspend(ADMIN, whole, "The hardware moves")
    assert bench.services.leases.renew(leases["lead"]).final
    assert "it has been suspended, archived or closed." in reason(bench, "lead")


def test_the_worker_warns(bench: Bench) -> None:
    run_low(bench)
    assert Worker(bench.services, NoServers(), "w1").tick()  # type: ignore[arg-type]  # it never has a status
    assert ("server stops", "2027-01-15", "pending") in outbox(bench, "ann")
