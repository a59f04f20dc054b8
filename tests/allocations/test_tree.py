"""Trees of allocations: dividing, moving budget between siblings, shrinking and closing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from allocations.db.schema import notices
from allocations.errors import (
    AllocationNotActiveError,
    AllocationsError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
    TransitionError,
    UnknownAllocationError,
)
from allocations.ledger.models import Balance, Unit
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award
from allocations.outbox import NoticeKind

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD = Actor("lead")


def divide(bench: Bench, parent: str, credits: int, *, guaranteed: bool = True, name: str = "Group") -> str:  # noqa: A002  # the unit's name
    return bench.services.tree.divide(
        LEAD, parent, name=name, microcredits=credits * CREDIT, guaranteed=guaranteed, lead="lead"
    )


def balance(bench: Bench, node: str, unit: Unit = Unit.CREDITS) -> Balance:
    with bench.services.database.read() as connection:
        return bench.services.tree.ledger.balance(connection, node, unit)


def spend(bench: Bench, node: str) -> int:
    """Run a server there for a quantum and return what it cost."""
    lease = bench.acquire(node, "lead", "compute")
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(600)
    return bench.services.leases.settle(lease.id).charged_microcredits or 0


def test_budget_moves_between_siblings_up_to_what_is_free(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    first, second = divide(bench, root, 60), divide(bench, root, 40)
    spent = spend(bench, first)
    tree = bench.services.tree
    with pytest.raises(InsufficientBalanceError, match="free"):
        tree.move(LEAD, first, second, 60 * CREDIT)
    for _ in range(2):
        tree.move(LEAD, first, second, 60 * CREDIT - spent, "once")
    assert (balance(bench, first).available, balance(bench, second).limit) == (0, 100 * CREDIT - spent)
    with pytest.raises(IdempotencyConflictError):
        tree.move(LEAD, first, second, 1, "once")
    assert balance(bench, root).limit == 100 * CREDIT
    bench.assert_clean()


def test_budget_moves_between_siblings_only_and_by_managers_of_the_parent(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    first, second = divide(bench, root, 60), divide(bench, root, 40)
    below = divide(bench, first, 10)
    tree = bench.services.tree
    for source, target in ((first, below), (below, second), (first, first)):
        with pytest.raises(InvalidInputError):
            tree.move(LEAD, source, target, CREDIT)
    with pytest.raises(NotAllowedError):
        tree.move(LEAD, root, first, CREDIT)
    with pytest.raises(UnknownAllocationError):
        tree.move(Actor("bob"), first, second, CREDIT)
    with pytest.raises(InvalidInputError):
        tree.move(LEAD, first, second, 0)


def test_a_move_breaks_no_guarantee(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    sure, capped = divide(bench, root, 90), divide(bench, root, 50, guaranteed=False)
    divide(bench, sure, 80)
    tree = bench.services.tree
    with pytest.raises(InvalidInputError, match="left to guarantee"):
        tree.move(LEAD, capped, sure, 11 * CREDIT)
    tree.move(LEAD, capped, sure, 10 * CREDIT)
    with pytest.raises(InvalidInputError, match=r"80\.00 credits are guaranteed"):
        tree.move(LEAD, sure, capped, 21 * CREDIT)
    with pytest.raises(InvalidInputError, match=r"80\.00 credits are guaranteed"):
        tree.change_share(LEAD, sure, 79 * CREDIT)
    tree.move(LEAD, sure, capped, 20 * CREDIT)
    bench.assert_clean()


def test_opposite_moves_at_the_same_time_take_turns(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    first, second = divide(bench, root, 50), divide(bench, root, 50)
    failures: list[BaseException] = []

    def move(source: str, target: str) -> None:
        for _ in range(10):
            try:
                bench.services.tree.move(LEAD, source, target, 7 * CREDIT)
            except InsufficientBalanceError:
                continue
            except Exception as error:  # noqa: BLE001  # whatever it is, the test must see it
                failures.append(error)

    threads = [threading.Thread(target=move, args=pair) for pair in ((first, second), (second, first)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert balance(bench, first).limit + balance(bench, second).limit == 100 * CREDIT
    bench.assert_clean()


def test_a_share_below_what_is_spent_blocks_new_starts_and_rewrites_nothing(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    child = divide(bench, root, 60)
    spent = spend(bench, child)
    bench.services.tree.change_share(LEAD, child, spent - 1)
    assert (balance(bench, child).posted, balance(bench, child).available) == (spent, -1)
    with pytest.raises(InsufficientBalanceError):
        bench.acquire(child, "lead")
    bench.assert_clean()


def test_closing_frees_what_is_unused_for_the_others_and_keeps_what_is_spent(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    child = divide(bench, root, 60)
    below = divide(bench, child, 20)
    spent = spend(bench, below) + spend(bench, child)
    running = bench.acquire(below, "lead", "compute")
    tree = bench.services.tree
    with pytest.raises(InvalidInputError):
        tree.close(LEAD, child, " ")
    with pytest.raises(UnknownAllocationError):
        tree.close(Actor("bob"), child, "over")
    with pytest.raises(NotAllowedError):
        tree.close(LEAD, root, "over")
    for _ in range(2):
        tree.close(LEAD, child, "The survey is over.", "once")
    assert balance(bench, child).limit == spent + running.held_microcredits
    assert balance(bench, below).available == 0
    with pytest.raises(AllocationNotActiveError):
        bench.acquire(below, "lead")
    bench.services.leases.start(running.id)
    bench.clock.pass_seconds(10)
    used = bench.services.leases.settle(running.id).charged_microcredits
    assert used is not None
    for change in (
        lambda: tree.close(LEAD, child, "again"),
        lambda: tree.change_share(LEAD, child, CREDIT),
        lambda: divide(bench, below, 1),
    ):
        with pytest.raises(TransitionError):
            change()
    # Of the root's 100, what the closed ones spent is gone and the rest may be guaranteed anew.
    rest = 100 * CREDIT - spent - used
    with pytest.raises(InvalidInputError, match="left to guarantee"):
        tree.divide(LEAD, root, name="New", microcredits=rest + 1, guaranteed=True, lead="lead")
    tree.divide(LEAD, root, name="New", microcredits=rest, guaranteed=True, lead="lead")
    bench.assert_clean()


def test_closing_is_audited_for_each_part_and_tells_each_person_once(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    child = divide(bench, root, 60)
    below = divide(bench, child, 20)
    bench.services.tree.close(LEAD, child, "over")
    for node in (child, below):
        entry = bench.services.reports.audit_log(subject=node)[0]
        assert (entry.action, entry.why) == ("allocation.close", "over")
    with bench.services.database.read() as connection:
        closed = select(notices.c.person, notices.c.subject).where(notices.c.kind == NoticeKind.CLOSED)
        assert [tuple(row) for row in connection.execute(closed)] == [("lead", child)]


def test_a_division_during_a_closing_leaves_nothing_open(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    child = divide(bench, root, 60)
    refused: list[AllocationsError] = []

    def divide_on() -> None:
        for _ in range(8):
            try:
                divide(bench, child, 1)
            except AllocationsError as error:
                refused.append(error)

    thread = threading.Thread(target=divide_on)
    thread.start()
    bench.services.tree.close(LEAD, child, "over")
    thread.join()
    assert all(isinstance(error, TransitionError) for error in refused)
    views = {view.id: view.state for view in bench.services.reports.find_allocations("")[0]}
    assert {state for node, state in views.items() if node != root} <= {"closed", "active"}
    with bench.services.database.read() as connection:
        tree = bench.services.tree
        inside = tree.allocations.subtree(connection, tree.authority.find(connection, child))
    assert {node.state for node in inside} == {"closed"}
    bench.assert_clean()


def test_a_tree_has_four_levels(bench: Bench) -> None:
    node = bench.consortium(credits=100)
    for _ in range(3):
        node = divide(bench, node, 10)
    with pytest.raises(NotAllowedError, match="4 levels"):
        divide(bench, node, 1)


def test_hours_are_limits_of_their_own(bench: Bench) -> None:
    root = bench.consortium(credits=100)
    tree = bench.services.tree

    def limited(parent: str, gpu_hours: int | None, core_hours: int | None = None) -> str:
        return tree.divide(
            LEAD,
            parent,
            name="Group",
            microcredits=CREDIT,
            guaranteed=True,
            lead="lead",
            gpu_hours=gpu_hours,
            core_hours=core_hours,
        )

    child = limited(root, 10, 100)
    assert balance(bench, child, Unit.GPU_SECONDS).limit == 36_000
    assert balance(bench, child, Unit.CORE_SECONDS).limit == 360_000
    with pytest.raises(InvalidInputError, match=r"10\.00 GPU-hours are left"):
        tree.divide(LEAD, child, name="x", microcredits=1, guaranteed=True, lead="lead", gpu_hours=11)
    with pytest.raises(InvalidInputError):
        limited(root, -1)
    tree.close(LEAD, child, "over")
    assert balance(bench, child, Unit.GPU_SECONDS).limit == 0
    bench.assert_clean()


def used_of(bench: Bench, node: str, unit: Unit) -> tuple[int, int, int]:
    found = balance(bench, node, unit)
    return found.limit, found.held, found.posted


def supplement(bench: Bench, root: str, **award: int) -> None:
    with bench.services.database.write() as connection:
        bench.services.lifecycle.supplement(connection, root, Award(**award), "admin", "more")


def test_a_whole_that_is_limited_in_hours_after_its_part_begins_with_what_the_part_has_used(bench: Bench) -> None:
    """The part holds and has spent core-hours before the whole is limited in them at all."""
    root = bench.consortium(credits=100)
    part = bench.services.tree.divide(
        LEAD, root, name="Group", microcredits=50 * CREDIT, guaranteed=True, lead="lead", core_hours=100
    )
    inner = divide(bench, part, 10)
    spent = bench.acquire(inner, "lead", "compute", "a")
    bench.services.leases.start(spent.id)
    bench.clock.pass_seconds(600)
    bench.services.leases.settle(spent.id)
    running = bench.acquire(inner, "lead", "compute", "b")
    bench.services.leases.start(running.id)
    used = 32 * 600
    held = 32 * 900
    assert used_of(bench, part, Unit.CORE_SECONDS) == (360_000, held, used)
    supplement(bench, root, core_hours=10)
    # What was used is no part of what is granted now.
    assert used_of(bench, root, Unit.CORE_SECONDS) == (held + used + 36_000, held, used)
    bench.assert_clean()
    for _ in range(2):
        bench.clock.pass_seconds(600)
        bench.services.leases.renew(running.id)
    bench.assert_clean()
    bench.clock.pass_seconds(60)
    bench.services.leases.settle(running.id)
    assert used_of(bench, root, Unit.CORE_SECONDS)[1:] == (0, used + 32 * 1260)
    assert used_of(bench, part, Unit.CORE_SECONDS)[1:] == (0, used + 32 * 1260)
    supplement(bench, root, core_hours=1)
    assert used_of(bench, root, Unit.CORE_SECONDS)[0] == held + used + 39_600
    bench.assert_clean()


def test_a_part_that_is_limited_in_hours_later_begins_at_nothing(bench: Bench) -> None:
    """What the whole holds in the unit is of its own leases and of other parts."""
    root = bench.consortium(credits=100)
    supplement(bench, root, core_hours=100)
    other = divide(bench, root, 10)
    leases = [bench.acquire(node, "lead", "compute", node) for node in (root, other)]
    part = bench.services.tree.divide(
        LEAD, root, name="Group", microcredits=10 * CREDIT, guaranteed=True, lead="lead", core_hours=10
    )
    assert used_of(bench, part, Unit.CORE_SECONDS) == (36_000, 0, 0)
    for lease in leases:
        bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(100)
    for lease in leases:
        bench.services.leases.settle(lease.id)
    assert used_of(bench, root, Unit.CORE_SECONDS)[1:] == (0, 2 * 32 * 100)
    assert used_of(bench, part, Unit.CORE_SECONDS) == (36_000, 0, 0)
    bench.assert_clean()
