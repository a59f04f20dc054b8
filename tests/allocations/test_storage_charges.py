"""What storage costs is told wherever charges are, by class and bytes, and the sums are the balances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.ledger.invariants import Invariant
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import PLATFORM, Actor
from allocations.lifecycle.models import MemberRole
from allocations.reports import charges as reports_charges
from allocations.reports.platform_use import Period, UseBy, day_of, rebuild_use
from allocations.reports.use import By
from allocations.storage.models import Owner, StorageClass
from tests.allocations.test_audit import tamper, violations
from tests.allocations.test_storage_accounts import DAY, GB, charge, days, home, measures_of, record
from tests.allocations.test_use import ran
from tests.places import join

if TYPE_CHECKING:
    import pytest

    from allocations.reports.charges import JournalEntryView
    from tests.allocations.conftest import Bench

LEAD = Actor("lead")


def stored(bench: Bench, credits: int | None = None) -> str:  # noqa: A002  # the unit's name
    """Three days of a consortium: two homes and what is shared, and with credits enough a server of ann's."""
    bench.accept("ann")
    root = bench.consortium(credits=credits)
    join(bench.services.members, LEAD, root, "ann", MemberRole.MEMBER)
    shared = measures_of(bench).open(StorageClass.SHARED, Owner(allocation_id=root), root)
    for _ in range(3):
        record(bench, home(bench, "lead"), 7 * GB + 1)
        record(bench, home(bench, "ann"), 3 * GB)
        record(bench, shared, 90 * GB)
        if credits is None:
            ran(bench, root, "ann", 1000)
        bench.clock.pass_seconds(DAY if credits else DAY - 1000)
        charge(bench)
    return root


def posted(bench: Bench, allocation: str) -> int:
    return bench.services.reports.allocation(LEAD, allocation).allocation.posted_microcredits


def summed(entries: list[JournalEntryView]) -> dict[tuple[str | None, str | None], tuple[int, int]]:
    """Microcredits and bytes by days, by class and person."""
    found: dict[tuple[str | None, str | None], tuple[int, int]] = {}
    for one in entries:
        before = found.get((one.storage, one.person), (0, 0))
        found[one.storage, one.person] = (before[0] + one.amount, before[1] + one.quantities.get("byte_days", 0))
    return found


def test_every_charge_has_its_class_and_bytes_and_all_add_up_to_the_balance(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports_charges, "JOURNAL_LOT", 2)
    root = stored(bench)
    per_gb = bench.services.policy.prices[-1].microcredits_per_gb_day
    everything = list(bench.services.reports.all_charges(LEAD, root))
    assert summed(everything) == {
        (None, "ann"): (3 * 13 * 1000, 0),
        ("home", "ann"): (9 * per_gb["home"], 9 * GB),
        ("home", "lead"): (21 * per_gb["home"], 21 * GB + 3),
        ("shared", None): (270 * per_gb["shared"], 270 * GB),
    }
    assert sum(one.amount for one in everything) == posted(bench, root)
    latest = bench.services.reports.allocation(LEAD, root).charges
    assert sorted(one.id for one in latest) == sorted(one.id for one in everything)
    # A member sees their own home, not those of others or what is stored together.
    own = list(bench.services.reports.all_charges(Actor("ann"), root))
    assert set(summed(own)) == {(None, "ann"), ("home", "ann")}
    assert summed(bench.services.reports.overview("ann").charges) == summed(own)
    bench.assert_clean()


def test_use_tells_storage_apart_and_agrees_with_the_balance(bench: Bench) -> None:
    root = stored(bench)
    per_gb = bench.services.policy.prices[-1].microcredits_per_gb_day
    for by in By:
        use = bench.services.reports.use(LEAD, root, by)
        assert use.microcredits == sum(line.microcredits for line in use.lines) == posted(bench, root)
        assert sum(series.spent_microcredits[-1] for series in use.series) == use.microcredits
        assert sum(line.storage_microcredits for line in use.lines) == use.microcredits - 3 * 13 * 1000
        assert sum(line.core_seconds for line in use.lines) == 3000
    lines = {line.key: line for line in bench.services.reports.use(LEAD, root, By.MEMBER).lines}
    assert set(lines) == {"ann", "lead", PLATFORM}
    assert lines["ann"].storage_microcredits == 9 * per_gb["home"]
    assert lines[PLATFORM].name == "storage of all together"
    both = bench.services.reports.use_by_both(LEAD, root)
    assert {one.person: one.storage_microcredits for one in both} == {
        key: line.storage_microcredits for key, line in lines.items()
    }


def test_days_burn_down_and_the_platform_s_report_count_storage(bench: Bench) -> None:
    root = stored(bench)
    shown = bench.services.reports.allocation(LEAD, root)
    burned = shown.burn_down.days
    assert sum(one.charged_microcredits for one in burned) == posted(bench, root)
    assert burned[-1].left_microcredits == shown.allocation.limit_microcredits - posted(bench, root)
    now = day_of(bench.clock.now_ms())
    report = bench.services.platform_reports.use(Period(day_of(bench.clock.now_ms() - 9 * DAY * 1000), now), UseBy.TIER)
    assert report.total.microcredits == posted(bench, root)
    entries = list(bench.services.reports.all_charges(LEAD, root))
    stored_bytes = sum(one.quantities.get("byte_days", 0) for one in entries)
    stored_microcredits = sum(one.amount for one in entries if one.storage)
    assert (stored_microcredits, stored_bytes) == (posted(bench, root) - 3 * 13 * 1000, 300 * GB + 3)
    for parts in ([report.total], report.steps, report.groups):
        assert sum(one.storage_microcredits for one in parts) == stored_microcredits
        assert sum(one.byte_days for one in parts) == stored_bytes
    with bench.services.database.write() as connection:
        assert rebuild_use(connection) == 0


def test_all_that_is_charged_to_one_on_a_day_is_added_up(bench: Bench) -> None:
    bench.accept("lead")
    root = bench.consortium()
    for storage_class in (StorageClass.SHARED, StorageClass.SCRATCH):
        record(bench, measures_of(bench).open(storage_class, Owner(allocation_id=root), root), 10 * GB)
    bench.clock.pass_seconds(DAY)
    charge(bench)
    today = day_of(bench.clock.at_ms)
    total = bench.services.platform_reports.use(Period(today, today), UseBy.TIER).total
    assert total.byte_days == 20 * GB
    assert total.storage_microcredits == total.microcredits == posted(bench, root) > 0
    bench.assert_clean()


def test_what_the_balance_paid_for_in_parts_has_its_bytes_once(bench: Bench) -> None:
    root = stored(bench, credits=1)
    assert posted(bench, root) < 2_000_000
    with bench.services.database.write() as connection:
        bench.services.lifecycle.change_limit(connection, root, 10_000_000, "t", TransactionKind.GRANT, "More")
    charge(bench)
    for area in [measures_of(bench).areas(StorageClass.SHARED)[0], *measures_of(bench).areas(StorageClass.HOME)]:
        assert all(day.owed_microcredits == 0 for day in days(bench, area) if day.due_microcredits is not None)
    found = summed(list(bench.services.reports.all_charges(LEAD, root)))
    # Each part is rounded down: never more bytes than there were.
    for kind, byte_days in ((("home", "ann"), 9 * GB), (("shared", None), 270 * GB)):
        assert byte_days - 10 <= found[kind][1] <= byte_days
    assert sum(amount for amount, _ in found.values()) == posted(bench, root)
    bench.assert_clean()


def test_the_audit_names_the_day_whose_storage_is_not_what_the_journal_says(bench: Bench) -> None:
    root = stored(bench)
    assert violations(bench) == []
    day = day_of(bench.clock.at_ms)
    tamper(
        bench,
        "UPDATE daily_use SET storage_microcredits = 0, byte_days = 0 WHERE byte_days > 0"
        f" AND person = '{PLATFORM}' AND day_ms = (SELECT max(day_ms) FROM daily_use)",
    )
    assert [(one.invariant, one.subject) for one in violations(bench)] == [
        (Invariant.JOURNAL_REBUILDS_DAILY_USE, f"{root} {PLATFORM} {day}")
    ]
