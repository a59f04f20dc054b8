"""Reminders and the list of notices: who is told what, once, and what is no longer worth telling."""

from __future__ import annotations

import re
import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import notices
from allocations.errors import NotFoundError, PolicyError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole
from allocations.notify.inbox import CURSOR_PATTERN
from allocations.notify.texts import days_until, one_line
from allocations.outbox import Notice, NoticeKind
from allocations.policy.loader import load_policy
from tests.fresh import POLICIES
from tests.places import join

if TYPE_CHECKING:
    from pathlib import Path

    from tests.allocations.conftest import Bench

DAY = 86_400
ADMIN = Actor("admin", admin=True)


def research(bench: Bench, lead: str = "ann", name: str = "Dark stars") -> str:
    """Open a research allocation of 365 days."""
    with bench.services.database.write() as connection:
        tier = bench.services.policy.tier("research")
        return bench.services.lifecycle.open(connection, tier, name, lead=lead, actor="t").id


def change(bench: Bench, allocation: str, **values: object) -> None:
    with bench.services.database.write() as connection:
        bench.services.lifecycle.allocations.change(connection, allocation, **values)


def queue(bench: Bench, *new: Notice) -> None:
    with bench.services.database.write() as connection:
        bench.services.lifecycle.authority.tell(connection, *new)


def outbox(bench: Bench, person: str) -> list[tuple[str, str, str]]:
    """Return (kind, threshold without the date, state) of a person's notices in the order of writing."""
    with bench.services.database.read() as connection:
        rows = connection.execute(select(notices).where(notices.c.person == person).order_by(notices.c.id))
        return [(row.kind, row.threshold.rpartition("/")[2], row.state) for row in rows]


def test_each_threshold_reminds_once(bench: Bench) -> None:
    research(bench)
    bench.clock.pass_seconds((365 - 62) * DAY)
    for _ in range(62):
        bench.services.lifecycle.advance()
        bench.services.reminders.remind()
        bench.services.reminders.remind()
        bench.clock.pass_seconds(DAY)
    assert outbox(bench, "ann") == [("ends soon", days, "pending") for days in ("60", "30", "14", "7", "1")]


def test_a_worker_that_slept_sends_the_nearest_threshold_only(bench: Bench) -> None:
    research(bench)
    bench.clock.pass_seconds((365 - 10) * DAY)
    bench.services.lifecycle.advance()
    assert bench.services.reminders.remind() == 1
    assert bench.services.reminders.remind() == 0
    assert sorted(outbox(bench, "ann")) == [
        ("ends soon", "14", "pending"),
        ("ends soon", "30", "skipped"),
        ("ends soon", "60", "skipped"),
    ]
    assert [item.title for item in bench.services.inbox.inbox("ann").notices] == ["“Dark stars” ends in 10 days"]


def test_leads_and_managers_are_reminded_and_members_are_not(bench: Bench) -> None:
    allocation = research(bench)
    join(bench.services.members, ADMIN, allocation, "bob", MemberRole.MANAGER)
    join(bench.services.members, ADMIN, allocation, "eve", MemberRole.MEMBER)
    bench.clock.pass_seconds((365 - 60) * DAY)
    bench.services.reminders.remind()
    reminded = {
        person: [kind for kind, _, _ in outbox(bench, person)].count("ends soon") for person in ("ann", "bob", "eve")
    }
    assert reminded == {"ann": 1, "bob": 1, "eve": 0}


def test_entry_reminds_the_person_by_its_own_thresholds(bench: Bench) -> None:
    bench.accept("ann")
    bench.clock.pass_seconds((365 - 60) * DAY)
    assert bench.services.reminders.remind() == 0
    bench.clock.pass_seconds(30 * DAY)
    assert bench.services.reminders.remind() == 1
    assert outbox(bench, "ann") == [("ends soon", "30", "pending")]


def test_a_renewed_allocation_is_not_reminded_until_the_end_of_the_next_term(bench: Bench) -> None:
    allocation = research(bench)
    bench.clock.pass_seconds((365 - 60) * DAY)
    bench.services.reminders.remind()
    change(bench, allocation, renewal=Award().model_dump_json())
    bench.clock.pass_seconds(30 * DAY)
    assert bench.services.reminders.remind() == 0
    end_ms = bench.clock.at_ms + (30 + 365) * DAY * 1000
    change(bench, allocation, renewal=None, ends_at_ms=end_ms, state="active")
    assert bench.services.reminders.remind() == 0
    bench.clock.pass_seconds(335 * DAY)
    assert bench.services.reminders.remind() == 1
    assert [threshold for _, threshold, _ in outbox(bench, "ann")] == ["60", "60"]


def test_a_threshold_longer_than_the_term_never_reminds(bench: Bench) -> None:
    allocation = research(bench)
    change(bench, allocation, ends_at_ms=bench.clock.at_ms + 14 * DAY * 1000)
    assert bench.services.reminders.remind() == 0
    bench.clock.pass_seconds(7 * DAY)
    bench.services.reminders.remind()
    assert outbox(bench, "ann") == [("ends soon", "7", "pending")]


@pytest.mark.parametrize("state", ["suspended", "grace", "archived", "closed"])
def test_what_cannot_be_used_is_not_reminded(bench: Bench, state: str) -> None:
    change(bench, research(bench), state=state)
    bench.clock.pass_seconds((365 - 7) * DAY)
    assert bench.services.reminders.remind() == 0


def test_two_writers_of_one_notice_leave_one(bench: Bench) -> None:
    allocation = research(bench)
    same = [Notice(person, NoticeKind.SUSPENDED, allocation, "1") for person in ("ann", "bob", "eve")]
    ready = threading.Barrier(4)

    def write(new: list[Notice]) -> None:
        ready.wait()
        for _ in range(20):
            queue(bench, *new)

    writers = [threading.Thread(target=write, args=(same[:: 1 - 2 * (number % 2)],)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [len(outbox(bench, person)) for person in ("ann", "bob", "eve")] == [1, 1, 1]


def test_the_inbox_is_ones_own_unread_first_and_remembers_what_was_read(bench: Bench) -> None:
    inbox, allocation = bench.services.inbox, research(bench)
    queue(bench, Notice("ann", NoticeKind.SUSPENDED, allocation, "1"))
    bench.clock.pass_seconds(60)
    queue(bench, Notice("ann", NoticeKind.RESUMED, allocation, "1"), Notice("bob", NoticeKind.CLOSED, allocation, "1"))
    newest, oldest = inbox.inbox("ann").notices
    assert (newest.kind, oldest.kind) == (NoticeKind.RESUMED, NoticeKind.SUSPENDED)
    assert newest.title == "“Dark stars” can be used again"
    read = inbox.mark_read("ann", newest.id)
    bench.clock.pass_seconds(60)
    assert inbox.mark_read("ann", newest.id) == read
    listed = inbox.inbox("ann")
    assert [(item.id, item.read_at) for item in listed.notices] == [(oldest.id, None), (newest.id, read.read_at)]
    assert listed.unread == inbox.unread("ann") == 1
    with pytest.raises(NotFoundError):
        inbox.mark_read("bob", newest.id)
    assert inbox.unread("bob") == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
def test_pages_of_the_inbox_hold_each_notice_once_the_unread_first(bench: Bench, limit: int) -> None:
    inbox = bench.services.inbox
    queue(bench, *(Notice("ann", NoticeKind.INVITATION_ANSWERED, f"i-{number}") for number in range(5)))
    ids = [item.id for item in inbox.inbox("ann").notices]
    inbox.mark_read("ann", ids[0])
    inbox.mark_read("ann", ids[2])
    found, before = [], None
    while True:
        page = inbox.inbox("ann", before, limit)
        assert 0 < len(page.notices) <= limit
        found += [item.id for item in page.notices]
        before = page.next_before
        if before is None:
            break
        assert re.fullmatch(CURSOR_PATTERN, before)
    assert found == [ids[1], ids[3], ids[4], ids[0], ids[2]]


def test_all_are_marked_as_read_but_for_what_came_since(bench: Bench) -> None:
    inbox = bench.services.inbox
    queue(bench, *(Notice(person, NoticeKind.INVITATION_ANSWERED, "i-1") for person in ("ann", "bob")))
    seen = inbox.inbox("ann").notices[0]
    queue(bench, Notice("ann", NoticeKind.INVITATION_ANSWERED, "i-2"))
    inbox.mark_all_read("ann", seen.id)
    assert [item.read_at is None for item in inbox.inbox("ann").notices] == [True, False]
    assert inbox.unread("bob") == 1


def test_every_kind_can_be_put_into_words_even_when_its_subject_is_gone(bench: Bench) -> None:
    queue(bench, *(Notice("ann", kind, "gone", "1") for kind in NoticeKind))
    items = bench.services.inbox.inbox("ann").notices
    assert {item.kind for item in items} == set(NoticeKind)
    assert all("{" not in item.title + item.text for item in items)


def test_the_details_of_a_notice_go_before_what_is_looked_up(bench: Bench) -> None:
    queue(bench, Notice("ann", NoticeKind.CLOSED, research(bench), "1", {"name": "Its {old} name"}))
    assert bench.services.inbox.inbox("ann").notices[0].title == "“Its {old} name” has been closed"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ends in {days}", "ends in {dais}", "kinds.ends soon.subject: unknown placeholder {dais}"),
        ("ends in {days}", "ends in {title}", "unknown placeholder {title}"),
        ("ends in {days}", "ends in {days.__class__}", "unknown placeholder {days.__class__}"),
        ("ends in {days}", "ends in {days!r}", "unknown placeholder {days}"),
        ("ends in {days}", "ends in {", "kinds.ends soon.subject"),
        ("Dear {person}", "Dear {allocation}", "digest.opening: unknown placeholder {allocation}"),
        ("    closed:", "    shut:", "notices.yaml: notices.kinds.shut"),
        ("delivery: at once", "delivery: at twice", "notices.yaml: notices.kinds.suspended.delivery"),
        ("delivery: at once", "delivery: page", "required: true needs delivery: at once or daily"),
        ("and {more} more", "and {lots} more", "digest.subject: unknown placeholder {lots}"),
    ],
)
def test_a_mistake_in_a_text_is_named_when_it_is_loaded(tmp_path: Path, old: str, new: str, message: str) -> None:
    directory = shutil.copytree(POLICIES, tmp_path / "policies")
    content = (directory / "notices.yaml").read_text()
    assert old in content
    (directory / "notices.yaml").write_text(content.replace(old, new, 1))
    with pytest.raises(PolicyError) as raised:
        load_policy(directory)
    assert message in raised.value.detail


def test_a_kind_without_a_text_and_rising_reminders_are_errors(tmp_path: Path) -> None:
    directory = shutil.copytree(POLICIES, tmp_path / "policies")
    texts = (directory / "notices.yaml").read_text()
    (directory / "notices.yaml").write_text(texts[: texts.index("    server stops:")])
    tiers = (directory / "tiers.yaml").read_text()
    (directory / "tiers.yaml").write_text(tiers.replace("[30, 14, 7, 1]", "[1, 7]", 1))
    with pytest.raises(PolicyError) as raised:
        load_policy(directory)
    assert "no text for 'server stops'" in raised.value.detail
    assert "reminders_days must fall" in raised.value.detail


def test_values_stand_on_one_line_without_controls() -> None:
    assert one_line("a\r\nBcc: b@c\x00\u202ed\u2028e") == "a Bcc: b@c d e"
    assert len(one_line("x" * 1000)) == 200


@pytest.mark.parametrize(("left_ms", "words"), [(1, "1 day"), (DAY * 1000, "1 day"), (DAY * 1000 + 1, "2 days")])
def test_a_begun_day_counts_as_whole(left_ms: int, words: str) -> None:
    assert days_until(1000 + left_ms, 1000) == words
