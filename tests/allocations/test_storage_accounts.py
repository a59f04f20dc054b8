"""Whose storage is whose, who pays for it, when days cost what, and how people are told that they have too much."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from allocations.errors import InsufficientBalanceError
from allocations.ids import random_id
from allocations.ledger.audit import audit_ledger
from allocations.ledger.explain import AllocationStory, explain
from allocations.ledger.invariants import Invariant
from allocations.ledger.models import Account, Movement, Transaction, TransactionKind, Unit
from allocations.ledger.service import Ledger
from allocations.ledger.storage import StorageCharged
from allocations.ledger.telling import tell
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.lifecycle.stores.allocations import AllocationStore
from allocations.storage.accrual import AccrualService
from allocations.storage.measures import NOT_THERE, MeasureService
from allocations.storage.models import (
    Owner,
    StorageClass,
    StorageState,
    Thresholds,
    due_microcredits,
    payer_of_home,
    state_of,
)
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.quotas.reconcile import Reconciled
from allocations.storage.store import StorageStore
from allocations.storage.tree.usage import FolderUse
from tests.allocations.test_audit import tamper, violations
from tests.fresh import shipped_policy
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from allocations.policy.models import Policy
    from allocations.storage.models import Day, StoredArea
    from tests.allocations.conftest import Bench

DAY = 86_400
GB = 1_000_000_000
CREDIT = 1_000_000
LEAD = Actor("lead")
HOME_BYTES = {"entry": 10 * GB, "research": 50 * GB, "consortium": 50 * GB}


def measures_of(bench: Bench) -> MeasureService:
    return MeasureService(database=bench.services.database, clock=bench.clock, new_id=random_id, store=StorageStore())


def accrual_of(bench: Bench, policy: Policy | None = None) -> AccrualService:
    return AccrualService(
        database=bench.services.database,
        clock=bench.clock,
        new_id=random_id,
        policy=policy or shipped_policy(),
        ledger=Ledger(),
        allocations=AllocationStore(),
        store=StorageStore(),
        home_bytes=HOME_BYTES,
    )


def record(bench: Bench, area: StoredArea, used: int, limit: int | None = None) -> None:
    measures_of(bench).record([area], Found(of={area.id: Use(used, 3)}), {area.id: limit})


def days(bench: Bench, area: StoredArea) -> list[Day]:
    with bench.services.database.read() as connection:
        return StorageStore().days(connection, area.id, 0)


def posted(bench: Bench, allocation: str) -> int:
    with bench.services.database.read() as connection:
        return bench.services.lifecycle.ledger.balance(connection, allocation).posted


def charge(bench: Bench, policy: Policy | None = None) -> int:
    accrual = accrual_of(bench, policy)
    accrual.assess()
    return accrual.collect()


def home(bench: Bench, person: str) -> StoredArea:
    return measures_of(bench).open(StorageClass.HOME, Owner(person=person), person)


def test_an_owner_has_one_area_of_a_class_and_keeps_it(bench: Bench) -> None:
    first = home(bench, "ann")
    assert home(bench, "ann") == first
    other = measures_of(bench).open(StorageClass.SCRATCH, Owner(person="ann"), "ann")
    assert (other.number, other.id) != (first.number, first.id)
    assert measures_of(bench).areas(StorageClass.HOME) == [first]


def test_two_who_open_the_same_areas_at_once_get_the_same(bench: Bench) -> None:
    people = [f"person{number}" for number in range(60)]

    def open_all(_who: int) -> list[str]:
        return [measures_of(bench).open(StorageClass.HOME, Owner(person=one), one).id for one in people]

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(open_all, range(4))
    assert len(set(first)) == len(people)
    assert others == [first] * 3
    with pytest.raises(IntegrityError):
        measures_of(bench).open(StorageClass.HOME, Owner(person="other"), "person0")


def test_a_day_is_charged_when_it_is_over_once_and_by_its_last_measure(bench: Bench) -> None:
    entry = bench.accept("ann")
    area = home(bench, "ann")
    record(bench, area, 50 * GB)
    record(bench, area, 20 * GB)
    assert charge(bench) == 0
    bench.clock.pass_seconds(DAY)
    assert charge(bench) == 20 * 10_000
    assert charge(bench) == 0
    assert posted(bench, entry) == 200_000
    (day,) = days(bench, area)
    assert (day.payer, day.due_microcredits, day.charged_microcredits) == (entry, 200_000, 200_000)
    bench.assert_clean()


def test_days_without_a_measure_count_as_the_lesser_of_their_neighbours(bench: Bench) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    record(bench, area, 4 * GB)
    bench.clock.pass_seconds(3 * DAY)
    record(bench, area, 9 * GB)
    bench.clock.pass_seconds(2 * DAY)
    record(bench, area, GB)
    assert [day.bytes // GB for day in days(bench, area)] == [4, 4, 4, 9, 1, 1]
    assert charge(bench) == (4 + 4 + 4 + 9 + 1) * 10_000


def test_a_measure_does_not_change_a_day_that_is_assessed(bench: Bench) -> None:
    """As of a machine whose clock is a little behind."""
    bench.accept("ann")
    area = home(bench, "ann")
    record(bench, area, 4 * GB)
    bench.clock.pass_seconds(DAY)
    charge(bench)
    bench.clock.pass_seconds(-DAY)
    record(bench, area, 9 * GB)
    assert [day.bytes for day in days(bench, area)] == [4 * GB]
    bench.assert_clean()


def test_what_the_balance_does_not_cover_stays_owed_and_is_collected_later(bench: Bench) -> None:
    root = bench.consortium(credits=1)
    area = measures_of(bench).open(StorageClass.SHARED, Owner(allocation_id=root), "shared")
    for _ in range(3):
        record(bench, area, 60 * GB)
        bench.clock.pass_seconds(DAY)
    assert charge(bench) == CREDIT
    assert [day.charged_microcredits for day in days(bench, area)] == [600_000, 400_000, 0]
    with bench.services.database.read() as connection:
        assert StorageStore().owed_by(connection, [root]) == 800_000
    bench.assert_clean()
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(connection, root, CREDIT, "t", TransactionKind.GRANT, "more")
    assert charge(bench) == 800_000
    assert posted(bench, root) == 1_800_000
    bench.assert_clean()


def test_a_day_is_assessed_once(bench: Bench) -> None:
    """As by a second one that found it not assessed before the first had done it."""
    entry = bench.accept("ann")
    area = home(bench, "ann")
    record(bench, area, 20 * GB)
    (before,) = days(bench, area)
    bench.clock.pass_seconds(DAY)
    charge(bench)
    with bench.services.database.write() as connection:
        assert not StorageStore().assess(connection, before, None, 0, 0, "later")
    assert [(day.payer, day.due_microcredits) for day in days(bench, area)] == [(entry, 200_000)]


def test_two_that_collect_at_once_take_no_more_than_is_left(bench: Bench) -> None:
    """Of two parts, of which the whole can pay for one: each waits until the other has read what is left, too."""
    root = bench.consortium(credits=1)
    areas = []
    for name in ("one", "other"):
        part = bench.services.tree.divide(
            LEAD, root, name=name, microcredits=3 * CREDIT // 4, guaranteed=False, lead="lead", idempotency_key=name
        )
        areas.append(measures_of(bench).open(StorageClass.SHARED, Owner(allocation_id=part), name))
        record(bench, areas[-1], 70 * GB)
    bench.clock.pass_seconds(DAY)
    accrual_of(bench).assess()
    both_have_read = threading.Barrier(2)

    class SlowLedger(Ledger):
        def available(self, connection: Connection, path: Sequence[str], unit: Unit = Unit.CREDITS) -> int:
            left = super().available(connection, path, unit)
            with suppress(threading.BrokenBarrierError):
                both_have_read.wait(1)
            return left

    slow = replace(accrual_of(bench), ledger=SlowLedger())
    payers = [area.owner.allocation_id or "" for area in areas]

    def collect(payer: str) -> int:
        with bench.services.database.write() as connection:
            return slow._collect(connection, payer)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(collect, payers)) == [300_000, 700_000]
    assert posted(bench, root) == CREDIT
    bench.assert_clean()


def test_what_servers_hold_is_not_taken(bench: Bench) -> None:
    root = bench.consortium(credits=1)
    bench.accept("lead")
    lease = bench.acquire(root, "lead")
    held = lease.held_microcredits
    area = measures_of(bench).open(StorageClass.SHARED, Owner(allocation_id=root), "shared")
    record(bench, area, 500 * GB)
    bench.clock.pass_seconds(DAY)
    assert charge(bench) == CREDIT - held
    bench.assert_clean()


def test_storage_of_a_part_counts_for_the_whole(bench: Bench) -> None:
    root = bench.consortium()
    part = bench.services.tree.divide(
        LEAD, root, name="Part", microcredits=CREDIT, guaranteed=True, lead="lead", idempotency_key="k"
    )
    area = measures_of(bench).open(StorageClass.OBJECT, Owner(allocation_id=part), "bucket/part")
    record(bench, area, 100 * GB)
    bench.clock.pass_seconds(DAY)
    assert charge(bench) == 76_700
    assert posted(bench, part) == posted(bench, root) == 76_700


def test_the_largest_home_pays_the_oldest_of_several_and_none_that_cannot(bench: Bench) -> None:
    entry = bench.accept("ann")
    older, younger = bench.consortium(), bench.consortium()
    for root in (younger, older):
        join(bench.services.members, LEAD, root, "ann", MemberRole.MEMBER)
    with bench.services.database.read() as connection:
        of_ann = [one for one, _ in AllocationStore().of_person(connection, "ann")]

    def payer(home_bytes: dict[str, int], **states: str) -> str | None:
        known = [replace(one, state=type(one.state)(states.get(one.id.replace("-", "_"), one.state))) for one in of_ann]
        found = payer_of_home(known, home_bytes)
        return found.id if found else None

    first = next(one.id for one in of_ann if one.tier == "consortium")
    second = ({older, younger} - {first}).pop()
    state_of_first = first.replace("-", "_")
    assert payer(HOME_BYTES) == first
    assert payer(HOME_BYTES, **{state_of_first: "archived"}) == second
    assert payer(HOME_BYTES, **{state_of_first: "suspended"}) == first
    assert payer({"entry": 60 * GB, "consortium": 50 * GB}) == entry
    assert payer(HOME_BYTES, **{one.id.replace("-", "_"): "closed" for one in of_ann}) is None


def test_a_home_that_nobody_pays_for_costs_nothing(bench: Bench) -> None:
    area = home(bench, "ann")
    record(bench, area, 5 * GB)
    bench.clock.pass_seconds(DAY)
    assert charge(bench) == 0
    bench.accept("ann")
    assert charge(bench) == 0
    (day,) = days(bench, area)
    assert (day.payer, day.due_microcredits) == (None, 0)
    bench.assert_clean()


def test_each_day_has_the_price_of_its_date(bench: Bench) -> None:
    policy = shipped_policy()
    dearer = policy.prices[0].model_copy(
        update={
            "effective": policy.prices[0].effective.replace(year=2027, month=1, day=17),
            "microcredits_per_gb_day": {"home": 30_000},
        }
    )
    changed = policy.model_copy(update={"prices": (*policy.prices, dearer)})
    bench.accept("ann")
    area = home(bench, "ann")
    bench.clock.at_ms = 1_800_144_000_000 - DAY * 1000  # the noon before 2027-01-17
    for _ in range(3):
        record(bench, area, GB)
        bench.clock.pass_seconds(DAY)
    assert charge(bench, changed) == 2 * 30_000 + 10_000
    bench.assert_clean()


def test_costs_are_rounded_down_and_do_not_overflow() -> None:
    assert due_microcredits(GB - 1, 1) == 0
    assert due_microcredits(1_500_000_000, 3) == 4
    assert due_microcredits(10**18, 10_000) == 10**13


@pytest.mark.parametrize(
    ("used", "days_over", "state"),
    [
        (89, 0, StorageState.OK),
        (90, 0, StorageState.NEARING),
        (100, 0, StorageState.NEARING),
        (101, 0, StorageState.OVER),
        (101, 6.99, StorageState.OVER),
        (101, 7, StorageState.LOCKED),
        (100, 30, StorageState.NEARING),
    ],
)
def test_states_follow_the_thresholds(used: int, days_over: float, state: StorageState) -> None:
    thresholds = Thresholds(nearing_percent=90, locked_after_days=7)
    now_ms = 1_800_000_000_000
    assert state_of(used, 100, now_ms - round(days_over * DAY * 1000), now_ms, thresholds) is state
    assert state_of(used, None, None, now_ms, thresholds) is StorageState.OK


def test_how_long_an_area_is_over_its_limit_is_known_and_forgotten_when_it_is_not(bench: Bench) -> None:
    bench.accept("ann")
    home(bench, "ann")

    def measured(used: int, limit: int | None) -> int | None:
        record(bench, home(bench, "ann"), used, limit)
        return home(bench, "ann").over_since_ms

    begun_ms = bench.clock.at_ms
    assert measured(11, 10) == begun_ms
    bench.clock.pass_seconds(5 * DAY)
    assert measured(12, 10) == begun_ms
    assert measured(10, 10) is None
    assert measured(12, 10) == bench.clock.at_ms
    assert measured(12, None) is None


def test_what_was_measured_and_what_failed_is_noted(bench: Bench) -> None:
    measures = measures_of(bench)
    ann, bob, eve = (home(bench, person) for person in ("ann", "bob", "eve"))
    largest = (FolderUse("data/\udcff", 5, 1), FolderUse("a", 2, 1))
    found = Found(of={ann.id: Use(7, 2, largest, 1)}, problems={bob.id: "Input/output error"}, missing={eve.id})
    measures.record([ann, bob, eve], found, {})
    ann, bob, eve = measures.areas(StorageClass.HOME)
    assert (ann.bytes, ann.files, ann.largest, ann.passed_over, ann.problem) == (7, 2, largest, 1, None)
    assert (bob.bytes, bob.problem) == (None, "Input/output error")
    assert (eve.bytes, eve.problem) == (None, NOT_THERE)
    measures.note(Reconciled(in_force={bob.id: 100, ann.id: None}, problems={eve.id: "no room", ann.id: "deaf"}))
    ann, bob, eve = measures.areas(StorageClass.HOME)
    assert [(one.limit_bytes, one.problem) for one in (ann, bob, eve)] == [
        (None, "deaf"),
        (100, None),
        (None, "no room"),
    ]


def test_the_ledger_charges_no_more_than_is_free_whoever_asks(bench: Bench) -> None:
    root = bench.consortium(credits=1)
    transaction = Transaction("tx-1", bench.clock.at_ms, TransactionKind.STORAGE, "t", "p")
    movement = Movement(transaction, [root], Unit.CREDITS, Account.FREE, Account.POSTED, CREDIT + 1)
    with pytest.raises(InsufficientBalanceError), bench.services.database.write() as connection:
        bench.services.lifecycle.ledger.move(connection, [movement])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE storage_days SET charged_microcredits = charged_microcredits - 1",
        "UPDATE storage_days SET bytes = 5",
        "UPDATE journal SET kind = 'settle' WHERE kind = 'storage'",
        (
            "INSERT INTO storage_charges (area_id, day, transaction_id, amount)"
            " SELECT area_id, day, 'tx-none', 1 FROM storage_days"
        ),
    ],
)
def test_9_a_day_that_was_charged_otherwise_than_it_seems(bench: Bench, change: str) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    record(bench, area, 20 * GB)
    bench.clock.pass_seconds(DAY)
    charge(bench)
    assert violations(bench) == []
    tamper(bench, change)
    # What is no charge of storage any more is missing from the use by day, too.
    also = {Invariant.JOURNAL_REBUILDS_DAILY_USE} if "settle" in change else set()
    assert {one.invariant for one in violations(bench)} == {Invariant.STORAGE_DAY_ONCE} | also


def test_charges_of_days_cannot_be_rewritten(bench: Bench) -> None:
    bench.accept("ann")
    record(bench, home(bench, "ann"), 20 * GB)
    bench.clock.pass_seconds(DAY)
    charge(bench)
    with pytest.raises(Exception, match="append-only"), bench.services.database.write() as connection:
        connection.execute(text("UPDATE storage_charges SET amount = 1"))
    with bench.services.database.read() as connection:
        assert audit_ledger(connection).violations == ()


def test_explain_tells_what_storage_was_charged_and_is_owed(bench: Bench) -> None:
    root = bench.consortium(credits=1)
    area = measures_of(bench).open(StorageClass.SHARED, Owner(allocation_id=root), "shared")
    for _ in range(3):
        record(bench, area, 60 * GB)
        bench.clock.pass_seconds(DAY)
    charge(bench)
    with bench.services.database.read() as connection:
        story = explain(connection, root)
    assert isinstance(story, AllocationStory)
    assert story.storage == (StorageCharged(area.id, "shared", root, 3, CREDIT, 800_000, 180 * GB),)
    assert [(one.name, one.amount) for one in story.by_person] == [("platform", CREDIT)]
    assert all(check.holds for check in story.checks)
    assert any("storage" in check.sentence for check in story.checks)
    out = StringIO()
    tell(Console(file=out, width=200), story)
    assert "0.8 credits" in out.getvalue()
    tamper(
        bench, "UPDATE storage_days SET charged_microcredits = charged_microcredits - 1 WHERE charged_microcredits > 0"
    )
    with bench.services.database.read() as connection:
        assert [check.holds for check in explain(connection, root).checks].count(False) == 1
