"""The audit: each invariant, broken alone by hand in the database, is named; a ledger that was only used is clean."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from allocations.cli import main
from allocations.db.daily_use import SUMS
from allocations.duties import WORKER_DUTY, Duties
from allocations.ledger.audit import audit_ledger
from allocations.ledger.invariants import Invariant
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from tests.fresh import POLICIES

if TYPE_CHECKING:
    from pathlib import Path

    from allocations.ledger.audit import Violation
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD = Actor("lead")
ENTRY = (
    "INSERT INTO journal (transaction_id, at_ms, kind, allocation_id, unit, debit, credit, amount, lease_id, actor,"
    " policy_version) SELECT 'tx-x', at_ms, kind, allocation_id, unit, {debit}, {credit}, amount, lease_id, actor,"
    " policy_version FROM journal WHERE {which}"
)


def violations(bench: Bench, **options: int) -> list[Violation]:
    with bench.services.database.read() as connection:
        return list(audit_ledger(connection, **options).violations)


def broken(bench: Bench, **options: int) -> set[Invariant]:
    return {one.invariant for one in violations(bench, **options)}


def tamper(bench: Bench, *statements: str) -> None:
    """Write past the services, past the triggers that keep the journal append-only."""
    sqlite = bench.services.database.is_sqlite
    with bench.services.database.write() as connection:
        names = ("journal_no_update", "journal_no_delete") if sqlite else ("journal_append_only",)
        for name in names:
            connection.execute(text(f"DROP TRIGGER IF EXISTS {name}{'' if sqlite else ' ON journal'}"))
        for statement in statements:
            connection.execute(text(statement))


def used(bench: Bench) -> tuple[str, str, str]:
    """An allocation with a settled lease and an open one: (allocation, settled, open)."""
    allocation = bench.consortium()
    bench.accept("lead")
    settled = bench.acquire(allocation, "lead", server="a")
    bench.services.leases.start(settled.id)
    bench.clock.pass_seconds(600)
    bench.services.leases.settle(settled.id)
    return allocation, settled.id, bench.acquire(allocation, "lead", server="b").id


def test_a_ledger_that_was_only_used_is_clean(bench: Bench) -> None:
    used(bench)
    assert violations(bench) == []


def test_the_invariants_are_numbered_as_in_the_design() -> None:
    assert [one.number for one in Invariant] == list(range(1, 11))


def test_1_use_beyond_a_limit_that_was_never_lowered(bench: Bench) -> None:
    allocation, _, _ = used(bench)
    tamper(
        bench,
        f"UPDATE balances SET limit_amount = 1 WHERE allocation_id = '{allocation}'",
        f"UPDATE journal SET amount = 1 WHERE allocation_id = '{allocation}' AND kind = 'grant'",
    )
    assert broken(bench) == {Invariant.WITHIN_LIMIT}


def test_1_a_limit_lowered_later_is_no_difference_but_a_hold_after_it_is(bench: Bench) -> None:
    allocation, settled, _ = used(bench)
    with bench.services.database.write() as connection:
        limit = bench.services.lifecycle.ledger.balance(connection, allocation).limit
        bench.services.lifecycle.change_limit(connection, allocation, 1 - limit, "t", TransactionKind.GRANT, "lowered")
    assert violations(bench) == []
    tamper(
        bench,
        ENTRY.format(debit="debit", credit="credit", which=f"lease_id = '{settled}' AND credit = 'held'"),
        f"UPDATE balances SET held = 2 * held WHERE allocation_id = '{allocation}'",
    )
    assert Invariant.WITHIN_LIMIT in broken(bench)


def test_2_held_is_not_the_open_holds(bench: Bench) -> None:
    _, _, lease = used(bench)
    # Balance, journal and lease agree; the hold is no longer where the lease is.
    other = bench.accept("bob")
    tamper(bench, f"UPDATE leases SET allocation_id = '{other}' WHERE id = '{lease}'")
    assert broken(bench) == {Invariant.HELD_IS_OPEN_HOLDS}


@pytest.mark.parametrize(("debit", "credit"), [("'free'", "'free'"), ("'free'", "'elsewhere'")])
def test_2_an_entry_that_moves_nothing_between_accounts(bench: Bench, debit: str, credit: str) -> None:
    used(bench)
    tamper(bench, ENTRY.format(debit=debit, credit=credit, which="kind = 'grant'"))
    assert broken(bench) == {Invariant.HELD_IS_OPEN_HOLDS}


def test_3_a_hold_of_an_ended_lease_is_open(bench: Bench) -> None:
    _, _, lease = used(bench)
    tamper(bench, f"UPDATE leases SET state = 'voided' WHERE id = '{lease}'")
    assert broken(bench) == {Invariant.HOLD_ENDS_ONCE}


def test_3_a_hold_that_ended_twice_in_the_journal(bench: Bench) -> None:
    _, settled, _ = used(bench)
    # Another lease's hold seems to have been freed for this one: no balance shows it.
    tamper(
        bench,
        ENTRY.format(debit="debit", credit="credit", which=f"lease_id = '{settled}' AND credit = 'free'"),
        "UPDATE journal SET lease_id = NULL WHERE transaction_id = 'tx-x'",
        "INSERT INTO journal (transaction_id, at_ms, kind, allocation_id, unit, debit, credit, amount, lease_id, actor,"
        " policy_version) SELECT 'tx-y', at_ms, kind, allocation_id, unit, 'free', 'held', amount,"
        f" '{settled}', actor, policy_version FROM journal WHERE transaction_id = 'tx-x'",
    )
    assert broken(bench) == {Invariant.HOLD_ENDS_ONCE}


def test_3_a_charge_that_the_journal_does_not_have(bench: Bench) -> None:
    _, settled, _ = used(bench)
    tamper(bench, f"UPDATE holds SET charged = charged - per_second WHERE lease_id = '{settled}'")
    assert broken(bench) == {Invariant.HOLD_ENDS_ONCE}


def test_4_an_answer_that_names_what_is_not_there(bench: Bench) -> None:
    _, settled, _ = used(bench)
    tamper(bench, f"UPDATE idempotency SET answer = replace(answer, '{settled}', 'lease-lost')")
    assert [(one.invariant, one.subject) for one in violations(bench)] == [
        (Invariant.SAME_KEY_SAME_ANSWER, "lease-lost")
    ]


@pytest.mark.parametrize("answer", ["answer", "'{allocation}'"])
def test_4_one_thing_made_under_two_keys(bench: Bench, answer: str) -> None:
    allocation, settled, _ = used(bench)
    again = answer.format(allocation=allocation)
    for key in ("one", "two"):
        tamper(
            bench,
            "INSERT INTO idempotency (caller, key, request_hash, answer, created_at_ms) SELECT caller,"
            f" '{key}', request_hash, {again}, created_at_ms FROM idempotency"
            f" WHERE answer LIKE '%{settled}%' AND key LIKE 'key-%'",
        )
    (violation,) = violations(bench)
    assert violation.invariant is Invariant.SAME_KEY_SAME_ANSWER
    assert violation.subject == (settled if answer == "answer" else allocation)


def test_4_answers_of_every_shape_are_read(bench: Bench) -> None:
    root, _, _ = used(bench)
    for _ in range(2):
        bench.services.tree.divide(
            LEAD, root, name="Part", microcredits=CREDIT, guaranteed=True, lead="lead", idempotency_key="divide"
        )
    assert violations(bench) == []


@pytest.mark.parametrize("change", ["limit_amount = limit_amount + 1", "posted = posted + 1"])
def test_5_a_balance_that_the_journal_does_not_give(bench: Bench, change: str) -> None:
    allocation, _, _ = used(bench)
    tamper(bench, f"UPDATE balances SET {change} WHERE allocation_id = '{allocation}'")
    assert broken(bench) == {Invariant.JOURNAL_REBUILDS_BALANCES}


def test_6_a_lease_past_its_end_that_a_living_worker_left_open(bench: Bench) -> None:
    _, _, lease = used(bench)
    duties = Duties(bench.services.database, bench.clock)

    def worker_is_through() -> None:
        assert duties.take(WORKER_DUTY, "w", 20)
        duties.done(WORKER_DUTY, "w", bench.clock.at_ms)

    bench.clock.pass_seconds(900 + 120 + 60)
    worker_is_through()
    assert violations(bench) == []
    bench.clock.pass_seconds(1)
    assert violations(bench) == []
    worker_is_through()
    assert [(one.invariant, one.subject) for one in violations(bench)] == [(Invariant.NOTHING_PAST_ITS_LEASE, lease)]
    assert broken(bench, stop_grace_seconds=180) == set()


def test_6_a_worker_that_comes_back_from_a_pause_is_behind_and_the_ledger_is_not_wrong(bench: Bench) -> None:
    used(bench)
    duties = Duties(bench.services.database, bench.clock)

    def report() -> tuple[int, int]:
        with bench.services.database.read() as connection:
            found = audit_ledger(connection)
        return len(found.violations), found.leases_awaiting_worker

    def come_back() -> None:
        bench.clock.pass_seconds(3 * 3600)
        assert duties.take(WORKER_DUTY, "w", 20)

    come_back()
    # The first round of the first worker, and of one that slept, is under way: what it will find is not its fault.
    assert report() == (0, 1)
    assert duties.lag_seconds(WORKER_DUTY) is None
    duties.done(WORKER_DUTY, "another", bench.clock.at_ms)
    assert report() == (0, 1)
    duties.done(WORKER_DUTY, "w", bench.clock.at_ms)
    assert report() == (1, 0)


def test_6_the_command_takes_the_grace_from_the_policy(bench: Bench, tmp_path: Path) -> None:
    used(bench)
    bench.clock.pass_seconds(900 + 120 + 61)
    duties = Duties(bench.services.database, bench.clock)
    duties.take(WORKER_DUTY, "w", 20)
    duties.done(WORKER_DUTY, "w", bench.clock.at_ms)
    patient = tmp_path / "policies"
    shutil.copytree(POLICIES, patient)
    text_of = (patient / "leases.yaml").read_text()
    (patient / "leases.yaml").write_text(text_of.replace("stop_grace_seconds: 120", "stop_grace_seconds: 180"))
    url = bench.services.database.url.render_as_string(hide_password=False)
    command = ["ledger", "audit", "--database", url, "--policies"]
    assert CliRunner().invoke(main, [*command, str(POLICIES)]).exit_code == 1
    assert CliRunner().invoke(main, [*command, str(patient)]).exit_code == 0


def test_7_a_charge_beyond_the_lifetime(bench: Bench) -> None:
    _, settled, _ = used(bench)
    tamper(bench, f"UPDATE leases SET ended_at_ms = ended_at_ms - 1 WHERE id = '{settled}'")
    assert broken(bench) == {Invariant.CHARGE_WITHIN_LIFETIME}


def test_8_a_time_before_the_one_before(bench: Bench) -> None:
    _, settled, _ = used(bench)
    tamper(bench, f"UPDATE journal SET at_ms = 1 WHERE lease_id = '{settled}' AND credit = 'free'")
    assert broken(bench) == {Invariant.SERVICE_CLOCK}


@pytest.mark.parametrize("column", SUMS)
def test_10_an_amount_of_a_day_that_the_journal_does_not_give(bench: Bench, column: str) -> None:
    allocation, _, _ = used(bench)
    tamper(bench, f"UPDATE daily_use SET {column} = {column} + 1")
    (found,) = violations(bench)
    assert found.invariant is Invariant.JOURNAL_REBUILDS_DAILY_USE
    assert found.subject == f"{allocation} lead 2027-01-15"
    kept, rebuilt = re.findall(rf"'{column}': (\d+)", found.detail)
    assert int(kept) == int(rebuilt) + 1


@pytest.mark.parametrize(
    ("change", "person", "detail"),
    [
        ("DELETE FROM daily_use", "lead", "stored {}, rebuilt from the journal {'microcredits': 7800"),
        ("UPDATE daily_use SET person = 'eve'", "eve", "stored {'microcredits': 7800"),
    ],
)
def test_10_a_day_that_is_missing_or_another_s(bench: Bench, change: str, person: str, detail: str) -> None:
    used(bench)
    tamper(bench, change)
    found = {one.subject.split()[1]: one.detail for one in violations(bench)}
    assert found[person].startswith(detail)
    assert broken(bench) == {Invariant.JOURNAL_REBUILDS_DAILY_USE}


def test_the_command_names_the_first_difference_and_fails(bench: Bench) -> None:
    allocation, _, _ = used(bench)
    url = bench.services.database.url.render_as_string(hide_password=False)
    command = ["ledger", "audit", "--database", url]
    clean = CliRunner().invoke(main, [*command, "--json"])
    assert clean.exit_code == 0
    assert json.loads(clean.output) == {
        "clean": True,
        "journal_entries": 6,
        "allocations": 2,
        "leases": 2,
        "leases_awaiting_worker": 0,
        "violations": [],
    }
    tamper(bench, f"UPDATE balances SET posted = posted + 1 WHERE allocation_id = '{allocation}'")
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 1
    assert "JOURNAL_REBUILDS_BALANCES" in found.output
    answer = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert not answer["clean"]
    assert answer["violations"][0]["invariant"] == "JOURNAL_REBUILDS_BALANCES"
