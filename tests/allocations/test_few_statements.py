"""What pages show takes as many statements for many allocations as for one, and says the same as before."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select

from allocations.db.schema import journal
from allocations.ledger.models import Account
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole, OverrideLimits, OverrideSubject
from allocations.outbox import Notice, NoticeKind
from allocations.reports.charges import JOURNAL_PAGE
from allocations.reports.use import By
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow

CREDIT = 1_000_000
LEAD, ADMIN = Actor("lead"), Actor("admin", admin=True)


@contextmanager
def counted(bench: Bench) -> Iterator[list[str]]:
    """Note the statements that are sent."""
    sent: list[str] = []

    def note(*told: object) -> None:
        sent.append(str(told[2]))

    event.listen(bench.services.database.engine, "before_cursor_execute", note)
    yield sent
    event.remove(bench.services.database.engine, "before_cursor_execute", note)


def divide(bench: Bench, root: str, count: int) -> list[str]:
    """Open parts that ann belongs to, capped by the lead, each in two units."""
    parts = []
    for number in range(count):
        part = bench.services.tree.divide(
            LEAD, root, name=f"Part {number}", microcredits=CREDIT, guaranteed=True, lead="lead", core_hours=9
        )
        join(bench.services.members, LEAD, part, "ann", MemberRole.MEMBER)
        bench.services.members.change(LEAD, part, "ann", microcredits_max=CREDIT // 2)
        parts.append(part)
    return parts


@pytest.mark.parametrize(
    "look",
    [
        lambda made: made.offers.start_options("ann"),
        lambda made: made.quotas.of_person("ann"),
        lambda made: made.reports.overview("ann"),
        lambda made: made.reports.recent_burn_downs("lead"),
        lambda made: made.reports.publications(Actor("ann")),
        lambda made: made.inbox.inbox("ann"),
        lambda made: made.members.offers_to("bob"),
        lambda made: made.reports.names([one.id for one in made.reports.allocations_of("lead")]),
        lambda made: made.reports.allocation(LEAD, made.reports.allocations_of("lead")[0].id),
        lambda made: made.reports.use(LEAD, made.reports.allocations_of("lead")[0].id, By.PART),
    ],
    ids=["offers", "quotas", "home", "burn-downs", "publications", "notices", "invitations", "names", "tree", "use"],
)
def test_it_takes_no_more_statements_for_more_allocations(bench: Bench, look: Callable[[object], object]) -> None:
    root = bench.consortium()
    bench.accept("ann")
    numbers = []
    for _ in range(2):
        for part in divide(bench, root, 3):
            bench.services.members.invite(LEAD, part, "bob", MemberRole.MEMBER)
            with bench.services.database.write() as connection:
                bench.services.lifecycle.authority.tell(connection, Notice("ann", NoticeKind.SUSPENDED, part))
        with counted(bench) as sent:
            look(bench.services)
        numbers.append(len(sent))
    assert numbers[0] == numbers[1] < 40


def test_every_part_is_offered_with_what_binds_there(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    first, second = divide(bench, root, 2)
    limits = OverrideLimits(servers_per_person=0)
    bench.services.overrides.grant(ADMIN, OverrideSubject.ALLOCATION, first, limits, "A test.", 9)
    offers = {one.id: one for one in bench.services.offers.start_options("ann").allocations}
    assert offers[second].available_microcredits == CREDIT // 2, "the lead's cap"
    assert (offers[first].usable, offers[second].usable) == (False, True), "an exception for one part alone"
    lease = bench.acquire(second)
    held = lease.held_microcredits
    offers = {one.id: one for one in bench.services.offers.start_options("ann").allocations}
    assert offers[second].available_microcredits == CREDIT // 2 - held
    assert offers[first].available_microcredits == CREDIT // 2
    bench.services.suspensions.suspend(ADMIN, "ann", "A stolen password.", 60)
    offers = {one.id: one for one in bench.services.offers.start_options("ann").allocations}
    assert all("stolen" in (offers[part].reason or "") for part in (first, second))


def test_the_latest_charges_of_a_tree_are_the_latest_of_all_of_them(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    bench.accept("lead")
    nodes = [*divide(bench, root, 2), root]
    for number in range(JOURNAL_PAGE + 20):
        # Most of them on one part, the last on it long before the end.
        node = nodes[0] if number < JOURNAL_PAGE + 5 else nodes[number % 3]
        lease = bench.acquire(node, "lead")
        bench.services.leases.start(lease.id)
        bench.clock.pass_seconds(1)
        bench.services.leases.settle(lease.id)
    with bench.services.database.read() as connection:
        every = connection.execute(select(journal).order_by(journal.c.id.desc())).all()
    charged = [row.id for row in every if Account.POSTED in {row.debit, row.credit}]
    assert len(charged) > JOURNAL_PAGE
    charges = bench.services.reports.allocation(LEAD, root).charges
    assert [one.id for one in charges] == charged[:JOURNAL_PAGE]
    assert {one.allocation for one in charges} == set(nodes)
    assert [one.id for one in bench.services.reports.allocation(LEAD, nodes[1]).charges] == [
        row.id for row in every if row.id in charged and row.allocation_id == nodes[1]
    ]
