"""Pages of publications, of an allocation's history and of the administrators' report."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

import pytest

from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, RequestAction, RequestKind
from tests.places import join

if TYPE_CHECKING:
    from tests.web.conftest import Browser, Site

HOSTILE = '"><script>alert(1)</script>'
DOI = "10.3847/1538-4357/ABC123"
CREDIT = 1_000_000


def link(browser: Browser, *allocations: str, identifier: str = DOI, title: str = "Dark stars") -> tuple[int, str]:
    fields = {"identifier": identifier, "title": title, "allocation": list(allocations)}
    answer = browser.post("/publications", fields)  # type: ignore[arg-type]  # a list is a field sent several times
    return answer.status_code, answer.text


def test_a_publication_is_linked_to_several_allocations_listed_once_and_unlinked(site: Site) -> None:
    research, entry = site.open("research", "Shear tests", "ann"), site.accept("ann")
    ann = site.browser("ann")
    assert "No publication is linked to your allocations yet." in ann.get("/publications").text
    assert link(ann, research, entry)[0] == 303
    assert link(ann, research, identifier=f"https://doi.org/{DOI}", title="In other words")[0] == 303
    page = ann.get("/publications").text
    assert "1 publication of your allocations, each counted once" in page
    assert f'href="https://doi.org/{DOI.lower()}"' in page
    assert "In other words" not in page
    assert page.count("/publications/unlink") == 2
    assert link(ann, entry, identifier="2020A&A...641A...6P", title="Planck")[0] == 303
    assert "https://ui.adsabs.harvard.edu/abs/2020A%26A...641A...6P" in ann.get("/publications").text
    publication = re.search(r'name="publication" value="([^"]+)">\s*<input[^>]*value="' + research, page)
    assert publication
    fields = {"publication": publication[1], "allocation": research}
    assert ann.post("/publications/unlink", fields).headers["location"].endswith("done=unlinked")
    assert "No publication is linked to “Shear tests”" in ann.get(f"/publications?allocation={research}").text
    assert "2 publications of your allocations" in ann.get("/publications").text
    again = ann.post("/publications/unlink", fields)
    assert (again.status_code, "is not linked here" in again.text) == (404, True)


def test_what_cannot_be_linked_keeps_what_was_typed(site: Site) -> None:
    entry, other = site.accept("ann"), site.accept("bob")
    ann = site.browser("ann")
    for allocations, fields, status, says in [
        ([], {}, 422, "No allocation is chosen"),
        ([entry], {"identifier": HOSTILE}, 422, "neither a DOI nor a bibcode"),
        ([entry], {"title": " "}, 422, "A title has"),
        ([entry, other], {}, 404, "There is no allocation"),
    ]:
        found, text = link(ann, *allocations, **fields)
        assert (found, says in text) == (status, True), says
        assert "<script>alert" not in text
        assert not allocations or f'value="{entry}" checked' in text
    assert "Entry allocation of bob" not in ann.get("/publications").text
    assert site.services.reports.publications(Actor("ann")) == []


def test_members_link_and_whoever_linked_or_manages_unlinks(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    for person in ("ann", "bob"):
        join(site.services.members, Actor("lead"), consortium, person, MemberRole.MEMBER)
    assert link(site.browser("ann"), consortium)[0] == 303
    (found,) = site.services.reports.publications(Actor("ann"))
    fields = {"publication": found.id, "allocation": consortium}
    for person, forms in [("ann", 1), ("bob", 0), ("lead", 1)]:
        assert site.browser(person).get("/publications").text.count("/publications/unlink") == forms
    refused = {"bob": 403, "rev": 404, "nothing": 403}
    for person, status in refused.items():
        token = "" if person == "nothing" else site.browser(person).token()
        answer = site.browser(person).http.post(
            "/services/allocations/publications/unlink", data=fields | {"_csrf": token}
        )
        assert answer.status_code == status, person
    assert site.browser("admin").get(f"/publications?allocation={consortium}").text.count("/publications/unlink") == 1
    assert site.browser("lead").post("/publications/unlink", fields).status_code == 303


def test_what_is_below_is_listed_with_a_whole_and_a_share_alone_by_its_own(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    share = site.services.tree.divide(
        Actor("lead"), consortium, name="Part", microcredits=CREDIT, guaranteed=True, lead="lead"
    )
    join(site.services.members, Actor("lead"), share, "ann", MemberRole.MEMBER)
    assert link(site.browser("ann"), share)[0] == 303
    assert link(site.browser("lead"), consortium, share)[0] == 303
    whole = site.browser("lead").get(f"/publications?allocation={consortium}").text
    assert "1 publication of “Deep fields” and what is below it, each counted once" in whole
    part = site.browser("ann").get("/publications").text
    assert "Part" in part
    assert "Deep fields" not in part
    assert site.browser("ann").get(f"/publications?allocation={consortium}").status_code == 404
    assert site.browser("rev").get(f"/publications?allocation={share}").status_code == 404


def test_publications_of_others_are_text_and_forms_of_other_sites_are_refused(site: Site) -> None:
    entry = site.accept("ann")
    ann = site.browser("ann")
    assert link(ann, entry, identifier=f"10.1234/{HOSTILE}", title=HOSTILE)[0] == 303
    page = ann.get("/publications").text
    assert "alert(1)" in page
    assert "<script>alert" not in page
    fields = {"identifier": DOI, "title": "Forged", "allocation": entry, "_csrf": "0" * 64}
    assert ann.post("/publications", fields).status_code == 403
    assert ann.post("/publications/unlink", {"publication": "x", "allocation": entry, "_csrf": ""}).status_code == 403
    assert "Forged" not in ann.get("/publications").text


def decided(site: Site) -> str:
    """An allocation of Ann's with a supplement, suspended and resumed."""
    asked = site.request("ann", title="Shear")
    opened = site.services.requests.act(Actor("rev", reviewer=True), asked, RequestAction.APPROVE, "Sound.")
    assert opened.allocation_id
    more = site.services.requests.ask(
        Actor("ann"), opened.allocation_id, RequestKind.SUPPLEMENT, "More.", asked=Award(credits=20, gpu_hours=5)
    )
    site.services.requests.act(Actor("rev", reviewer=True), more.id, RequestAction.APPROVE, HOSTILE)
    site.services.lifecycle.suspend(Actor("admin", admin=True), opened.allocation_id, "A shared token.")
    site.services.lifecycle.resume(Actor("admin", admin=True), opened.allocation_id, "Explained.")
    join(site.services.members, Actor("ann"), opened.allocation_id, "bob", MemberRole.MEMBER)
    return opened.allocation_id


def test_the_history_says_what_when_who_why_and_under_which_policy(site: Site) -> None:
    allocation = decided(site)
    page = site.browser("ann").get(f"/allocations/{allocation}/history").text
    for words in (
        "Supplement granted",
        "20 credits, 5 GPU-hours",
        "active → suspended",
        "A shared token.",
        "bob, member",
        "a reviewer",
        site.services.policy.version,
        "alert(1)",
    ):
        assert words in page, words
    assert "<script>alert" not in page
    assert "<td>rev</td>" not in page
    assert "<td>rev</td>" in site.browser("admin").get(f"/allocations/{allocation}/history").text
    assert f"/allocations/{allocation}/history" in site.browser("ann").get(f"/allocations/{allocation}").text
    assert f"/allocations/{allocation}/history" not in site.browser("bob").get(f"/allocations/{allocation}").text


@pytest.mark.parametrize(
    ("person", "status"),
    [("ann", 200), ("admin", 200), ("bob", 403), ("lead", 404), ("rev", 404), ("nothing", 403), (None, 303)],
)
def test_the_history_is_for_who_manages_and_administrators(site: Site, person: str | None, status: int) -> None:
    path = f"/allocations/{decided(site)}/history"
    answer = site.browser(person).get(path)
    assert answer.status_code == status
    assert ("A shared token." in answer.text) == (status == 200)


def test_the_history_of_a_share_does_not_name_the_whole(site: Site) -> None:
    consortium = site.open("consortium", "Secret fields", "lead")
    share = site.services.tree.divide(
        Actor("lead"), consortium, name="Part", microcredits=CREDIT, guaranteed=True, lead="lead"
    )
    join(site.services.members, Actor("lead"), share, "ann", MemberRole.MANAGER)
    page = site.browser("ann").get(f"/allocations/{share}/history").text
    assert "Opened as a share" in page
    assert "Secret fields" not in page
    assert consortium not in page


def test_the_history_is_paged(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    for _ in range(60):
        site.services.lifecycle.suspend(Actor("admin", admin=True), research, "Off.")
        site.services.lifecycle.resume(Actor("admin", admin=True), research, "On.")
    browser = site.browser("ann")
    older = re.search(r'href="([^"]+before=\d+)"', browser.get(f"/allocations/{research}/history").text)
    assert older
    second = browser.http.get(older[1]).text
    assert "Opened" in second
    assert "Newest" in second
    assert browser.get(f"/allocations/{research}/history?before=x").status_code == 422


def test_the_report_counts_a_publication_once_on_the_page_and_in_the_file(site: Site) -> None:
    research, entry = site.open("research", "Shear tests", "ann"), site.accept("ann")
    link(site.browser("ann"), research, entry)
    admin = site.browser("admin")
    page = admin.get("/admin/report").text
    foot = page.partition("<tfoot>")[2]
    assert re.findall(r'<td class="m-number">([^<]*)</td>', foot) == [
        *("2", "2", "530.00", "0.00", "0.00", "0.00", "0"),
        "1",
    ]
    answer = admin.get("/admin/report.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = {row["tier"]: row for row in csv.DictReader(answer.text.splitlines())}
    assert [rows[tier]["publications"] for tier in ("entry", "research", "consortium", "all")] == ["1", "1", "0", "1"]
    assert rows["all"]["granted_microcredits"] == str(530 * CREDIT)
    for person, status in {"ann": 403, "rev": 403, "nothing": 403, None: 303}.items():
        for path in ("/admin/report", "/admin/report.csv"):
            assert site.browser(person).get(path).status_code == status
