"""The administrators' reports and the audit log, on pages and as files."""

from __future__ import annotations

import csv
import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from allocations.db.idempotency import IdempotencyKey
from allocations.leases.models import LeaseKind, LeaseRequest
from allocations.lifecycle.models import Person
from allocations.web.charts import ColumnChart, percent_of, round_above

if TYPE_CHECKING:
    from tests.web.conftest import Site

HOSTILE = '"><script>alert(1)</script>'
DAY_MS = 86_400_000
PATHS = (
    "/admin/report",
    "/admin/report.csv",
    "/admin/report/use.csv",
    "/admin/report/use.parquet",
    "/admin/audit",
    "/admin/audit/log.csv",
    "/admin/audit/log.jsonl",
)


def charge(site: Site, allocation: str, person: str, seconds: int) -> None:
    """Let a small server run for a time and end."""
    key = IdempotencyKey.for_request("spawner", f"{person}-{site.clock.at_ms}", "test", {})
    lease = site.services.leases.acquire(
        LeaseRequest(allocation, person, LeaseKind.INTERACTIVE, "small", None, ""), key
    )
    site.services.leases.start(lease.id)
    site.clock.at_ms += seconds * 1000
    site.services.leases.settle(lease.id)


@pytest.fixture
def used(site: Site) -> Site:
    """A site on which ann, of an institution with a hostile name, ran for an hour on each of three days."""
    person = Person("ann", "issuer", "1", None, None, HOSTILE, "GB")
    site.services.people.register(person, adopt=True)
    entry = site.accept("ann")
    for _ in range(3):
        charge(site, entry, "ann", 600)
        site.clock.at_ms += DAY_MS
    return site


def test_the_report_shows_use_with_a_chart_in_words_and_in_a_table(used: Site) -> None:
    page = used.browser("admin").get("/admin/report").text
    assert re.search(r'role="img" aria-label="Credits used by day from [^"]+: 0\.023 in all', page)
    assert page.count('<rect class="p-bar-spent" x=') == 30
    assert '<th scope="row">Entry</th>' in page
    assert "Forecast" not in page.partition("Cost and budget")[0]
    today = used.services.platform_reports.today
    ahead = used.browser("admin").get(f"/admin/report?first={today}&last={today + timedelta(days=5)}&by=country").text
    assert "the mean of the 3 whole days before today" in ahead
    assert "Nothing was charged in these days" not in ahead
    assert ahead.count('<rect class="p-bar-held" x=') >= 5


def test_every_division_is_shown_and_nothing_in_it_is_carried_out(used: Site) -> None:
    admin = used.browser("admin")
    for by, says in {
        "tier": "Entry",
        "institution": "alert(1)",
        "country": "GB",
        "allocation": "Entry allocation",
    }.items():
        page = admin.get(f"/admin/report?by={by}").text
        assert says in page
        assert "<script>alert" not in page
    assert "Nothing was charged in these days" in admin.get("/admin/report?first=2020-01-01&last=2020-01-31").text


@pytest.mark.parametrize(
    "query",
    ["first=x", "last=2027-02-30", "first=2027-02-01&last=2027-01-01", "by=person", "step=year", f"by={HOSTILE}"],
)
def test_a_period_that_cannot_be_is_said_and_kept_in_the_form(site: Site, query: str) -> None:
    admin = site.browser("admin")
    response = admin.get(f"/admin/report?{query}")
    assert (response.status_code, 'id="error"' in response.text) == (422, True)
    assert "<script>alert" not in response.text
    assert admin.get(f"/admin/report/use.csv?{query}").status_code == 422


def test_the_files_hold_what_the_page_shows(used: Site) -> None:
    admin = used.browser("admin")
    answer = admin.get("/admin/report/use.csv?by=institution&step=month")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="meridian-use.csv"'
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert sum(float(row["core_hours"]) for row in rows) == pytest.approx(0.5)
    assert {row["title"] for row in rows} == {HOSTILE}
    assert admin.get("/admin/report/use.jsonl").status_code == 422
    assert admin.get("/admin/report/use.xlsx").status_code == 422
    parquet = admin.get("/admin/report/use.parquet")
    assert (parquet.content[:4], parquet.headers["content-type"]) == (b"PAR1", "application/vnd.apache.parquet")


def test_without_pyarrow_parquet_is_not_offered(used: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocations.reports.exports.find_spec", lambda name: None)
    admin = used.browser("admin")
    assert "use.parquet" not in admin.get("/admin/report").text
    refused = admin.get("/admin/report/use.parquet")
    assert (refused.status_code, "Take the CSV instead" in refused.text) == (422, True)


def test_the_audit_log_is_filtered_and_taken_away(used: Site) -> None:
    used.accept("bob")
    admin = used.browser("admin")
    assert "bob" in admin.get("/admin/audit").text
    page = admin.get("/admin/audit?person=ann").text
    assert "Show everything" in page
    assert re.search(r'name="person" value="ann"', page)
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    assert "ann" in body
    assert ">bob<" not in body
    for query in ("action=none.such", "subject=nothing", "words=nothing", "first=2020-01-01&last=2020-01-02"):
        assert "Nothing is recorded of what you look for" in admin.get(f"/admin/audit?{query}").text
    for query in ("first=x", "last=9999-12-31"):
        response = admin.get(f"/admin/audit?{query}")
        assert (response.status_code, "A day is none that there is" in response.text) == (422, True)
        assert admin.get(f"/admin/audit/log.csv?{query}").status_code == 422
    assert (
        "<script>alert"
        not in admin.get(
            "/admin/audit",
        ).text
    )
    for field in ("person", "action", "subject", "words", "first"):
        assert "<script>alert" not in admin.http.get("/services/allocations/admin/audit", params={field: HOSTILE}).text
    lines = admin.get("/admin/audit/log.jsonl?person=ann").text.splitlines()
    assert lines
    assert {json.loads(line)["actor"] for line in lines} == {"ann"}
    rows = list(csv.DictReader(admin.get("/admin/audit/log.csv?person=bob").text.splitlines()))
    assert {row["actor"] for row in rows} == {"bob"}
    assert admin.get("/admin/audit/log.parquet").status_code == 422


@pytest.mark.parametrize(("person", "status"), [("ann", 403), ("rev", 403), ("nothing", 403), (None, 303)])
@pytest.mark.parametrize("path", PATHS)
def test_only_administrators_read_reports_and_the_log(used: Site, path: str, person: str | None, status: int) -> None:
    response = used.browser(person).get(path)
    assert response.status_code == status
    assert "GB" not in response.text


@pytest.mark.parametrize(("amount", "top"), [(0, 1), (1, 1), (3, 5), (10, 10), (11, 20), (5_000_001, 10_000_000)])
def test_the_scale_of_a_chart_is_round_and_high_enough(amount: int, top: int) -> None:
    assert round_above(amount) == top


def test_columns_fill_their_frame_and_never_leave_it(used: Site) -> None:
    today = used.services.platform_reports.today
    page = used.browser("admin").get(
        f"/admin/report?first={today - timedelta(days=4)}&last={today + timedelta(days=40)}"
    )
    found = [
        float(one)
        for one in re.findall(r'<rect class="p-bar-(?:spent|held)" x="[^"]+" width="[^"]+" y="([^"]+)"', page.text)
    ]
    assert found
    assert all(0 <= one <= 100 for one in found)
    assert ColumnChart.of([]).columns == ()
    assert [percent_of(*one) for one in ((1, 4), (5, 4), (-1, 4), (1, 0))] == [25.0, 100.0, 0.0, 0.0]
