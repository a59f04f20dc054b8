"""Pages of requests and awards: more is asked for on an allocation, a panel reads it, what is given may differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.clock import MS_PER_DAY
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, RequestAction, RequestKind
from allocations.policy.models import AtOnce, Shape
from tests.places import join

if TYPE_CHECKING:
    from tests.web.conftest import Browser, Site

HOSTILE = '"><script>alert(1)</script>'
WHY = {"justification": "The survey grew.", "key": "f"}


def pass_days(site: Site, days: int) -> None:
    site.clock.at_ms += days * MS_PER_DAY
    site.services.lifecycle.advance()


def sent_to(browser: Browser, allocation: str, kind: str, **fields: str) -> str:
    """Send the form of a kind and return the path of the request."""
    answer = browser.post(f"/allocations/{allocation}/ask", WHY | {"kind": kind} | fields)
    assert answer.status_code == 303, answer.text
    location: str = answer.headers["location"]
    assert location.endswith("?done=submitted")
    return location.removeprefix(PREFIX).partition("?")[0]


def row_of(page: str, title: str) -> list[str]:
    """The cells of a line of the award's table, as text."""
    row = re.search(rf'<th scope="row">{title}</th>(.*?)</tr>', page, re.DOTALL)
    assert row, title
    return [
        " ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td>(.*?)</td>", row[1], re.DOTALL)
    ]


def decide(browser: Browser, path: str, decision: str, why: str = "", **fields: str) -> int:
    status: int = browser.post(f"{path}/decide", {"decision": decision, "why": why} | fields).status_code
    return status


def test_a_supplement_is_asked_for_and_given_in_part_and_the_applicant_reads_why(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    ann, reviewer = site.browser("ann"), site.browser("rev")
    form = ann.get(f"/allocations/{research}/ask").text
    assert "500.00" in form
    assert "no limit but the credits" in form
    path = sent_to(ann, research, "supplement", credits="200", gpu_hours="50", core_hours="")
    queue = reviewer.get("/review").text
    assert "Supplement, research" in queue
    assert "200 credits, 50 GPU-hours" in queue
    page = reviewer.get(path).text
    assert row_of(page, "Credits") == ["1,000 for the term; 500.00 granted, 0.00 spent", "200 more"]
    assert row_of(page, "GPU-hours") == ["none", "50 more"]
    assert 'id="award-gpu_hours" name="gpu_hours" inputmode="numeric" value="50"' in page
    less = {"credits": "200", "gpu_hours": "20", "core_hours": ""}
    refused = reviewer.post(f"{path}/decide", {"decision": "approve", "why": " "} | less)
    assert (refused.status_code, "differs from what was asked for" in refused.text) == (422, True)
    assert 'name="gpu_hours" inputmode="numeric" value="20"' in refused.text
    assert decide(reviewer, path, "approve", "GPUs are scarce.", **less) == 303
    page = ann.get(path).text
    assert row_of(page, "Credits") == ["200 more", "200 more"]
    assert row_of(page, "GPU-hours") == ["50 more", "20 more differs"]
    assert re.search(r"Why it differs:</strong> <span[^>]*>GPUs are scarce\.</span>", page)
    assert "700.00" in ann.get(f"/allocations/{research}/ask").text
    assert "Supplement, research" in ann.get("/requests").text


def test_what_is_approved_as_asked_keeps_what_the_form_does_not_have(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    asked = Award(largest=(Shape(cores=32, memory_gib=128),), at_once=AtOnce(servers_per_person=3, cores=96, gpus=1))
    found = site.services.requests.ask(Actor("ann"), research, RequestKind.SUPPLEMENT, "More.", 5, asked)
    reviewer = site.browser("rev")
    page = reviewer.get(f"/requests/{found.id}").text
    assert row_of(page, "Largest sizes") == ["16 cores, 64 GiB", "32 cores, 128 GiB"]
    assert "5 credits, larger sizes, more at once" in reviewer.get("/review").text
    assert decide(reviewer, f"/requests/{found.id}", "approve", credits="5", gpu_hours="", core_hours="") == 303
    page = site.browser("ann").get(f"/requests/{found.id}").text
    assert row_of(page, "At once") == [*["3 servers a person, 96 cores, 1 GPU"] * 2]
    assert "differs" not in page


def test_an_extension_moves_the_end_and_suggests_a_month(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    ann = site.browser("ann")
    assert 'id="extension-term_days" name="term_days" inputmode="numeric" value="30"' in (
        ann.get(f"/allocations/{research}/ask").text
    )
    path = sent_to(ann, research, "extension", term_days="30")
    assert row_of(site.browser("rev").get(path).text, "Days") == ["365, until 15 Jan 2028", "30 more"]
    assert decide(site.browser("rev"), path, "approve", "A little.", term_days="10") == 303
    assert "25 Jan 2028" in ann.get(f"/allocations/{research}/ask").text


def test_a_renewal_says_when_it_opens_then_suggests_the_last_term_and_is_asked_for_once(site: Site) -> None:
    with site.services.database.write() as connection:
        tier = site.services.policy.tier("research")
        award = Award(credits=800, gpu_hours=40)
        found = site.services.lifecycle.open(connection, tier, "Shear", lead="ann", actor="t", award=award)
    ann, reviewer = site.browser("ann"), site.browser("rev")
    early = ann.get(f"/allocations/{found.id}/ask").text
    assert "renewed from 60 days before its end" in early
    assert 'Renewals open on <time datetime="2027-11-16' in early
    assert 'value="renewal"' not in early
    pass_days(site, 310)
    form = ann.get(f"/allocations/{found.id}/ask").text
    assert 'id="renewal-credits" name="credits" inputmode="numeric" value="800"' in form
    assert 'id="renewal-gpu_hours" name="gpu_hours" inputmode="numeric" value="40"' in form
    path = sent_to(ann, found.id, "renewal", credits="900", gpu_hours="40", core_hours="", term_days="365")
    assert "is not decided yet" in ann.get(f"/allocations/{found.id}/ask").text
    page = reviewer.get(path).text
    assert "It may be renewed" in page
    fields = {"credits": "900", "gpu_hours": "40", "core_hours": "", "term_days": "365", "has_renewable": "yes"}
    assert decide(reviewer, path, "approve", "The last one.", **fields) == 303
    page = ann.get(path).text
    assert row_of(page, "Credits") == ["900", "900"]
    assert row_of(page, "Renewable") == ["yes", "no: it ends for good differs"]
    assert "renewed already" in ann.get(f"/allocations/{found.id}/ask").text


def test_what_cannot_be_asked_for_says_why(site: Site) -> None:
    entry = site.accept("ann")
    ann = site.browser("ann")
    assert ann.get(f"/allocations/{entry}/ask").text.count("renewed with the user agreement") == 3
    research = site.open("research", "Shear tests", "ann")
    path = f"/allocations/{research}/ask"
    for fields, says in [
        ({"kind": "supplement", "credits": "x"}, "Credits: is not a whole number"),
        ({"kind": "supplement", "credits": "0"}, "Credits: must be above 0"),
        ({"kind": "supplement", "gpu_hours": "0"}, "Nothing more is asked for"),
        ({"kind": "supplement", "credits": "999999999"}, "Credits must lie between"),
        ({"kind": "extension", "term_days": "99999"}, "at most 3,660 days"),
        ({"kind": "supplement", "credits": "5", "justification": " "}, "A justification has"),
        ({"kind": "new", "credits": "5"}, "Nothing is chosen"),
    ]:
        answer = ann.post(path, WHY | {"justification": HOSTILE} | fields)
        assert (answer.status_code, says in answer.text) == (422, True), says
        assert "<script>alert" not in answer.text
        if fields["kind"] == "supplement" and "justification" not in fields:
            assert "&lt;script&gt;alert(1)&lt;/script&gt;</textarea>" in answer.text
    assert ann.post(path, WHY | {"kind": "renewal"}).status_code == 409
    site.services.lifecycle.archive(Actor("admin", admin=True), research, "Over.")
    over = ann.get(path).text
    for kind in ("supplement", "extension"):
        assert f"is archived: it gets no {kind}. Request a new allocation instead." in over


def test_sent_twice_is_asked_once(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    first, second = (sent_to(site.browser("ann"), research, "supplement", credits="5") for _ in range(2))
    assert first == second
    changed = site.browser("ann").post(f"/allocations/{research}/ask", WHY | {"kind": "supplement", "credits": "6"})
    assert (changed.status_code, "was sent before" in changed.text) == (409, True)


def test_a_revision_changes_what_is_asked_for(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    ann, reviewer = site.browser("ann"), site.browser("rev")
    path = sent_to(ann, research, "supplement", credits="200")
    assert decide(reviewer, path, "request-revision", "Rather GPUs?") == 303
    page = ann.get(path).text
    assert "Rather GPUs?" in page
    assert 'id="asked-credits" name="credits" inputmode="numeric" value="200"' in page
    texts = {"title": "More", "justification": "Yes.", "action": "submit", "has_amounts": "yes"}
    wrong = ann.post(f"{path}/revise", texts | {"credits": "many", "gpu_hours": "", "core_hours": ""})
    assert (wrong.status_code, 'value="many"' in wrong.text) == (422, True)
    assert ann.post(f"{path}/revise", texts | {"credits": "", "gpu_hours": "9", "core_hours": ""}).status_code == 303
    assert "9 GPU-hours" in reviewer.get("/review").text
    assert "200 credits" not in reviewer.get("/review").text


def test_a_panel_scores_a_supplement_of_a_consortium_and_members_are_kept_out(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    join(site.services.members, Actor("lead"), consortium, "admin", MemberRole.MEMBER)
    path = sent_to(site.browser("lead"), consortium, "supplement", credits="200")
    first, second = site.browser("rev"), site.browser("rav")
    assert first.post(f"{path}/review", {"comment": "No score."}).status_code == 422
    first.post(f"{path}/review", {"comment": "Good.", "score": "5"})
    assert "1 of 2 scores, mean 5" in second.get("/review").text
    assert decide(second, path, "approve") == 409
    member = site.browser("admin").get(path).text
    assert "You are a member of this allocation" in member
    assert "Reason for the applicant" not in member
    assert decide(site.browser("admin"), path, "approve") == 403
    second.post(f"{path}/review", {"comment": "Fine.", "score": "4"})
    assert "2 of the 2 scores that an approval needs; their mean is 4.5 of 5" in second.get(path).text
    assert decide(second, path, "approve", credits="200", gpu_hours="", core_hours="") == 303


def test_a_declared_conflict_is_said_and_takes_the_forms_away(site: Site) -> None:
    path = f"/requests/{site.request('ann', tier='consortium')}"
    reviewer = site.browser("rev")
    reviewer.post(f"{path}/review", {"comment": "Co-author.", "conflict": "yes"})
    page = reviewer.get(path).text
    assert "You declared a conflict of interest." in page
    assert "Record the review" not in page
    assert "1 conflict declared" in reviewer.get("/review").text
    assert reviewer.post(f"{path}/review", {"comment": "And yet.", "score": "5"}).status_code == 403


def test_a_new_allocation_is_asked_for_with_other_units_and_terms(site: Site) -> None:
    ann, reviewer = site.browser("ann"), site.browser("rev")
    texts = {
        "tier": "research",
        "title": "Shear",
        "credits": "",
        "gpu_hours": "50",
        "core_hours": "",
        "term_days": "90",
    }
    sent = ann.post("/requests", WHY | texts)
    path = sent.headers["location"].removeprefix(PREFIX).partition("?")[0]
    assert row_of(reviewer.get(path).text, "Days") == ["90"]
    fields = {"credits": "1000", "gpu_hours": "50", "core_hours": "700", "term_days": "", "has_renewable": "yes"}
    assert decide(reviewer, path, "approve", "A full year.", renewable="yes", **fields) == 303
    page = ann.get(path).text
    assert row_of(page, "Days") == ["90", "365 differs"]
    assert row_of(page, "Core-hours") == ["no limit but the credits", "700 differs"]
    assert row_of(page, "Renewable") == ["yes", "yes"]


@pytest.mark.parametrize(
    ("person", "status"),
    [
        ("lead", 200),
        ("bob", 200),
        ("ann", 403),
        ("rev", 404),
        ("rav", 404),
        ("admin", 403),
        ("nothing", 403),
        ("", 303),
    ],
)
def test_only_leads_and_managers_ask(site: Site, person: str, status: int) -> None:
    consortium = site.open("consortium", "Secret fields", "lead")
    join(site.services.members, Actor("lead"), consortium, "bob", MemberRole.MANAGER)
    join(site.services.members, Actor("lead"), consortium, "ann", MemberRole.MEMBER)
    path = f"/allocations/{consortium}/ask"
    browser = site.browser(person or None)
    page = browser.get(path)
    assert page.status_code == status
    assert ("Secret fields" in page.text) == (status == 200)
    if person not in {"", "nothing"}:
        answer = browser.post(path, WHY | {"kind": "supplement", "credits": "5"})
        assert answer.status_code == (303 if status == 200 else status)
    assert len(site.services.reports.request_queue()) == (status == 200)


def test_of_a_share_who_leads_the_whole_is_asked(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    share = site.services.tree.divide(
        Actor("lead"), consortium, name="Part", microcredits=1_000_000, guaranteed=True, lead="lead"
    )
    join(site.services.members, Actor("lead"), share, "ann", MemberRole.MANAGER)
    assert "/ask" not in site.browser("ann").get(f"/allocations/{share}").text
    assert f"/allocations/{consortium}/ask" in site.browser("lead").get(f"/allocations/{consortium}").text
    answer = site.browser("ann").get(f"/allocations/{share}/ask")
    assert (answer.status_code, "a part of another allocation" in answer.text) == (403, True)


def test_forms_of_other_sites_are_refused(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    fields = WHY | {"kind": "supplement", "credits": "5"}
    for changes in ({"_csrf": "0" * 64}, {"_csrf": ""}):
        assert site.browser("ann").post(f"/allocations/{research}/ask", fields | changes).status_code == 403
    cross = {"sec-fetch-site": "cross-site"}
    assert site.browser("ann").post(f"/allocations/{research}/ask", fields, headers=cross).status_code == 403
    assert site.services.reports.requests_of("ann") == []


def test_texts_of_others_are_text_on_the_pages_of_awards(site: Site) -> None:
    research = site.open("research", HOSTILE, "ann")
    path = sent_to(site.browser("ann"), research, "supplement", credits="5", justification=HOSTILE)
    reviewer = site.browser("rev")
    reviewer.post(f"{path}/review", {"comment": HOSTILE})
    pages = [
        reviewer.get(path).text,
        reviewer.get("/review").text,
        site.browser("ann").get(f"/allocations/{research}/ask").text,
    ]
    assert decide(reviewer, path, "approve", HOSTILE, credits="4", gpu_hours="", core_hours="") == 303
    pages += [site.browser("ann").get(path).text]
    for page in pages:
        assert "alert(1)" in page
        assert "<script>alert" not in page
        assert "style=" not in page


def test_a_withdrawn_request_leaves_room_for_another(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    ann = site.browser("ann")
    path = sent_to(ann, research, "supplement", credits="5")
    site.services.requests.act(Actor("ann"), path.rpartition("/")[2], RequestAction.WITHDRAW)
    assert sent_to(ann, research, "supplement", credits="6", key="g") != path
