"""The use by day: kept by the database with each entry, and always what the journal says."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text

from allocations.cli import main
from allocations.db.daily_use import fill
from allocations.db.schema import daily_use, journal, leases
from allocations.errors import InvalidInputError
from allocations.lifecycle.models import Person
from allocations.reports.exports import CHUNK_ROWS, FileFormat, to_csv
from allocations.reports.platform_use import PERIOD_DAYS_MAX, Period, UseBy, UseStep, day_of, rebuild_use
from tests.fresh import POLICIES

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from sqlalchemy import Connection

    from allocations.reports.platform_use import UseReport
    from tests.allocations.conftest import Bench

DAY_SECONDS = 86_400
SMALL = 13  # microcredits a second: 9 a core, 1 a GiB of 4
ACCOUNTS = ("budget", "free", "held", "posted")
entries = st.lists(
    st.fixed_dictionaries(
        {
            "at_ms": st.integers(1_800_000_000_000, 1_800_000_000_000 + 3 * DAY_SECONDS * 1000),
            "unit": st.sampled_from(["credits", "credits", "gpu_seconds"]),
            "debit": st.sampled_from(ACCOUNTS),
            "credit": st.sampled_from(ACCOUNTS),
            "amount": st.integers(1, 10**12),
            "kind": st.sampled_from(["settle", "storage"]),
            "lease_id": st.sampled_from([None, "lease-of-ann", "lease-of-bob", "lease-of-nobody"]),
            "quantities": st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {"core_seconds": st.integers(0, 10**9)},
                    optional={"gpu_seconds": st.integers(0, 10**6), "byte_days": st.integers(0, 10**16)},
                ),
            ),
        }
    ),
    max_size=12,
)


def kept(connection: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(daily_use).order_by(*daily_use.primary_key))]


def use(bench: Bench, by: UseBy = UseBy.TIER, days_back: int = 9, days_ahead: int = 0) -> UseReport:
    today = bench.services.platform_reports.today
    return bench.services.platform_reports.use(
        Period(today - timedelta(days=days_back), today + timedelta(days=days_ahead)), by
    )


def run_for(bench: Bench, allocation: str, person: str, seconds: int) -> None:
    lease = bench.acquire(allocation, person)
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(seconds)
    bench.services.leases.settle(lease.id)


@given(rounds=st.lists(entries, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_kept_is_what_is_rebuilt_from_the_journal(bench: Bench, rounds: list[list[dict[str, Any]]]) -> None:
    allocation = bench.accept("ann")
    with bench.services.database.engine.connect() as connection, connection.begin() as transaction:
        for person in ("ann", "bob"):
            connection.execute(insert(leases).values(**lease_of(person, allocation)))
        written: dict[tuple[int, str], tuple[int, int, int]] = {}
        for one in [entry for some in rounds for entry in some]:
            connection.execute(insert(journal).values(**entry_on(allocation, one)))
            if one["unit"] == "credits" and "posted" in (one["debit"], one["credit"]):
                day_ms, who = one["at_ms"] // 86_400_000 * 86_400_000, (one["lease_id"] or "")[9:]
                key = day_ms, who if who in ("ann", "bob") else "t"
                sign = 1 if one["credit"] == "posted" else -1
                stored = one["amount"] if one["kind"] == "storage" else 0
                byte_days = (one["quantities"] or {}).get("byte_days", 0)
                before = written.get(key, (0, 0, 0))
                added = (one["amount"], stored, byte_days)
                written[key] = tuple(had + sign * more for had, more in zip(before, added, strict=True))
        rows = kept(connection)
        assert {(row[0], row[2]): (row[3], row[4], row[8]) for row in rows} == written
        connection.execute(daily_use.delete())
        connection.execute(text(fill(connection.dialect.name)))
        assert kept(connection) == rows
        transaction.rollback()


def lease_of(person: str, allocation: str) -> dict[str, Any]:
    texts = dict.fromkeys(("kind", "size", "image", "server_name"), "")
    numbers = dict.fromkeys(
        ("cores", "memory_gib", "gpus", "microcredits_per_second", "idle_seconds", "acquired_at_ms", "ends_at_ms"), 0
    )
    rest = {"root_id": allocation, "state": "settled", "final": False, "latest_end_at_ms": 0}
    return {"id": f"lease-of-{person}", "allocation_id": allocation, "person": person, **texts, **numbers, **rest}


def entry_on(allocation: str, one: dict[str, Any]) -> dict[str, Any]:
    quantities = None if one["quantities"] is None else json.dumps(one["quantities"])
    fixed = {"transaction_id": "tx", "actor": "t", "policy_version": "x"}
    return one | {"allocation_id": allocation, "quantities": quantities, **fixed}


def test_what_is_not_as_the_journal_says_is_found_and_mended(bench: Bench) -> None:
    run_for(bench, bench.accept("ann"), "ann", 600)
    database = bench.services.database
    with database.write() as connection:
        right = kept(connection)
        assert rebuild_use(connection) == 0
        connection.execute(text("UPDATE daily_use SET byte_days = byte_days + 1"))
        connection.execute(insert(daily_use).values([1, "a", "b", 1, 1, 1, 1, 1, 1]))
        assert rebuild_use(connection) == 2
        assert kept(connection) == right


def test_use_is_counted_by_time_and_group(bench: Bench) -> None:
    register = bench.services.people.register
    register(Person("ann", "i", "1", None, None, "Example University", "GB"), adopt=True)
    entry, whole = bench.accept("ann"), bench.consortium()
    run_for(bench, entry, "ann", 600)
    bench.clock.pass_seconds(2 * DAY_SECONDS)
    run_for(bench, whole, "lead", 900)
    found = use(bench)
    assert found.total.model_dump() == {
        "microcredits": 1500 * SMALL,
        "storage_microcredits": 0,
        "core_seconds": 1500,
        "gib_seconds": 6000,
        "gpu_seconds": 0,
        "byte_days": 0,
    }
    used = {one.first_day: one.microcredits for one in found.steps}
    assert list(used.values()) == [0] * 7 + [600 * SMALL, 0, 900 * SMALL]
    assert [(one.key, one.title, one.core_seconds) for one in found.groups] == [
        ("consortium", "Consortium", 900),
        ("entry", "Entry", 600),
    ]
    for by, groups in {
        UseBy.INSTITUTION: [("", "not known", 900), ("Example University", "Example University", 600)],
        UseBy.COUNTRY: [("", "not known", 900), ("GB", "GB", 600)],
        UseBy.ALLOCATION: [(whole, "Deep fields", 900), (entry, "Entry allocation of ann", 600)],
    }.items():
        assert [(one.key, one.title, one.core_seconds) for one in use(bench, by).groups] == groups
    assert use(bench, days_back=1).total.core_seconds == 900


def test_a_refund_is_taken_off_on_the_day_on_which_it_is_given(bench: Bench) -> None:
    allocation = bench.accept("ann")
    lease = bench.acquire(allocation, "ann")
    bench.services.leases.start(lease.id)
    bench.clock.pass_seconds(800)
    seen_ms = bench.clock.at_ms
    bench.services.leases.renew(lease.id, seen_ms)
    bench.services.leases.settle(lease.id, ended_at_ms=seen_ms - 300_000)
    assert use(bench).total.core_seconds == 500


def test_a_forecast_goes_on_at_the_mean_of_the_whole_days_before(bench: Bench) -> None:
    allocation = bench.consortium()
    assert use(bench, days_ahead=3).forecast is not None
    for _ in range(4):
        run_for(bench, allocation, "lead", 1000)
        bench.clock.pass_seconds(DAY_SECONDS - 1000)
    run_for(bench, allocation, "lead", 10)
    found = use(bench, days_ahead=3).forecast
    assert found is not None
    assert (found.measured_days, found.days_left, found.microcredits_per_day) == (4, 3, 1000 * SMALL)
    assert found.microcredits == (4 * 1000 + 10 + 3 * 1000) * SMALL
    assert [one.forecast_microcredits for one in use(bench, days_ahead=3).steps][-4:] == [0, *[1000 * SMALL] * 3]
    today = bench.services.platform_reports.today
    before = Period(today - timedelta(days=9), today - timedelta(days=1))
    assert bench.services.platform_reports.use(before, UseBy.TIER).forecast is None


def test_cost_stands_beside_the_budget_and_what_runs_out_is_counted(bench: Bench) -> None:
    allocation = bench.consortium(credits=1)
    run_for(bench, allocation, "lead", 10_000)
    bench.clock.pass_seconds(DAY_SECONDS)
    report = bench.services.platform_reports.tiers()
    tier = next(one for one in report.tiers if one.tier == "consortium")
    assert (tier.granted_microcredits, tier.running_out) == (1_000_000, 1)
    assert tier.forecast_microcredits == 1_000_000, "no more than the limit"
    entry = next(one for one in report.tiers if one.tier == "entry")
    assert (entry.forecast_microcredits, entry.running_out) == (0, 0)


@pytest.mark.parametrize("step", UseStep)
def test_steps_tile_the_period(step: UseStep) -> None:
    period = Period(date(2027, 1, 15), date(2028, 3, 2))
    parts = list(period.parts(step))
    assert (parts[0].first, parts[-1].last) == (period.first, period.last)
    assert all(one.last + timedelta(days=1) == other.first for one, other in pairwise(parts))
    for one in parts[1:]:
        assert step.first_day(one.first) == one.first
        assert step.first_day(one.last) == one.first


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2027, 1, 2), date(2027, 1, 1)),
        (date(2027, 1, 1), date(2027, 1, 1) + timedelta(days=PERIOD_DAYS_MAX)),
        (date(1, 1, 1), date(1, 1, 2)),
        (date(9999, 12, 30), date(9999, 12, 31)),
    ],
)
def test_a_period_that_cannot_be_says_why(first: date, last: date) -> None:
    with pytest.raises(InvalidInputError, match="The period must"):
        Period(first, last)


def test_the_files_have_every_group_in_each_step(bench: Bench, tmp_path: Path) -> None:
    allocation = bench.accept("ann")
    for _ in range(2):
        run_for(bench, allocation, "ann", 3600)
        bench.clock.pass_seconds(DAY_SECONDS)
    today = day_of(bench.clock.at_ms)
    url = bench.services.database.url.render_as_string(hide_password=False)
    options = ["--database", url, "--policies", str(POLICIES), "--first", f"{today - timedelta(days=4)}"]
    asked = ["report", *options, "--last", f"{today}", "--step", "day"]
    rows = list(csv.DictReader(io.StringIO(CliRunner().invoke(main, [*asked, "--csv"]).output)))
    assert [(row["key"], row["credits"], row["core_hours"], row["gib_hours"]) for row in rows] == [
        ("entry", "0.0468", "1.0", "4.0")
    ] * 2
    said = json.loads(CliRunner().invoke(main, [*asked, "--json"]).output)
    assert said["total"]["core_seconds"] == 7200
    assert "2.0" in CliRunner().invoke(main, asked).output
    done = CliRunner().invoke(main, [*asked, "--parquet", str(tmp_path / "use.parquet")])
    assert done.exit_code == 0
    table = pq.read_table(tmp_path / "use.parquet").to_pylist()
    assert [(row["key"], row["core_hours"]) for row in table] == [("entry", 1.0)] * 2
    assert isinstance(table[0]["first_day"], date)
    mended = CliRunner().invoke(main, ["ledger", "rebuild-use", "--database", url, "--json"])
    assert json.loads(mended.output) == {"wrong": 0}


def test_a_file_is_written_in_pieces_and_no_text_is_a_formula() -> None:
    rows = ({"name": "=1+1" if number == 0 else "-", "n": -number} for number in range(CHUNK_ROWS + 1))
    parts = list(to_csv(["name", "n"], rows))
    assert [part.count("\r\n") for part in parts] == [CHUNK_ROWS + 1, 1, 0]
    assert parts[0].startswith("name,n\r\n'=1+1,0\r\n'-,-1\r\n")


def test_an_installation_without_pyarrow_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocations.reports.exports.find_spec", lambda name: None)
    today = bench.services.platform_reports.today
    with pytest.raises(Exception, match="does not write Parquet"):
        bench.services.platform_reports.use_file(Period(today, today), UseBy.TIER, None, FileFormat.PARQUET)
