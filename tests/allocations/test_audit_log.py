"""The audit log: found by person, action, subject, time and words; read in pages by key; taken away whole."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from allocations.lifecycle.stores.audit import AuditFilter, AuditStore
from allocations.reports import audit as reports_audit
from allocations.reports.audit import AUDIT_PAGE
from allocations.reports.exports import FileFormat

if TYPE_CHECKING:
    from typing import Any

    from tests.allocations.conftest import START_MS, Bench
else:
    from tests.allocations.conftest import START_MS

PEOPLE = ("ann", "bob", "cleo")


@pytest.fixture
def log(bench: Bench) -> Bench:
    """250 entries a second apart, two at each second: by three people, of five actions, on seven subjects."""
    with bench.services.database.write() as connection:
        for number in range(250):
            AuditStore().add(
                connection,
                at_ms=START_MS + number // 2 * 1000,
                actor=PEOPLE[number % 3],
                action=f"thing.{number % 5}",
                subject=f"s-{number % 7}",
                policy_version="v",
                why=f"Because of 100 % étoile {number}",
                details={"note": f"N{number}_", "amount": number},
            )
    return bench


def numbers(bench: Bench, **fields: Any) -> list[int]:
    """The numbers of all entries that are found, page by page."""
    found, before = [], None
    while True:
        page = bench.services.platform_reports.audit_page(AuditFilter(**fields), before)
        assert len(page.entries) <= AUDIT_PAGE
        found += [entry.details["amount"] for entry in page.entries]
        if page.next_before is None:
            return found
        before = page.next_before


@pytest.mark.parametrize(
    ("fields", "keep"),
    [
        ({}, lambda number: True),
        ({"actor": "bob"}, lambda number: number % 3 == 1),
        ({"action": "thing.2"}, lambda number: number % 5 == 2),
        ({"subject": "s-4"}, lambda number: number % 7 == 4),
        ({"actor": "ann", "subject": "s-0"}, lambda number: number % 21 == 0),
        ({"from_ms": START_MS + 7000, "to_ms": START_MS + 9000}, lambda number: 14 <= number < 18),
        ({"words": "100 % ét"}, lambda number: True),
        ({"words": "n17_"}, lambda number: number == 17),
        ({"words": "S-3", "actor": "cleo"}, lambda number: number % 7 == 3 and number % 3 == 2),
        ({"words": "n1%"}, lambda number: False),
        ({"actor": "an"}, lambda number: False),
    ],
)
def test_the_filters_find_what_they_say_newest_first(log: Bench, fields: dict[str, Any], keep: Any) -> None:
    wanted = [number for number in range(249, -1, -1) if keep(number)]
    assert numbers(log, **fields) == wanted


def test_a_page_looks_for_words_only_so_far_and_says_where_to_go_on(
    log: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports_audit, "SEARCHED_AT_ONCE", 50)
    first = log.services.platform_reports.audit_page(AuditFilter(words="N3_"))
    assert (first.entries, first.next_before is None) == ([], False)
    assert numbers(log, words="N3_") == [3]
    assert numbers(log, words="N199_") == [199]
    assert numbers(log, words="étoile") == list(range(249, -1, -1))
    assert numbers(log, words="nowhere") == []


def test_each_action_is_named_once(log: Bench) -> None:
    assert log.services.platform_reports.audit_actions() == [f"thing.{number}" for number in range(5)]


def test_the_files_have_every_entry_and_are_read_in_pieces(log: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_audit, "EXPORTED_AT_ONCE", 40)
    statements: list[str] = []
    event.listen(log.services.database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    lines = "".join(log.services.platform_reports.audit_file(AuditFilter(), FileFormat.JSON_LINES)).splitlines()
    assert [json.loads(line)["details"]["amount"] for line in lines] == list(range(249, -1, -1))
    assert sum("FROM audit" in one for one in statements) == 7
    table = "".join(log.services.platform_reports.audit_file(AuditFilter(actor="bob"), FileFormat.CSV))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [json.loads(row["details"])["amount"] for row in rows] == list(range(247, 0, -3))
    assert rows[0]["actor"] == "bob"
