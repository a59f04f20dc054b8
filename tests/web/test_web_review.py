"""The reviewers' queue: filters, paging, the applicant's history beside a request, decisions on several at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.clock import MS_PER_DAY
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, RequestAction, RequestKind
from allocations.policy.models import AtOnce, Shape
from tests.places import join
from tests.web.test_web_requests import HOSTILE, decide, row_of, sent_to

if TYPE_CHECKING:
    from httpx2 import Response

    from tests.web.conftest import Browser, Site

REVIEWER = Actor("rev", reviewer=True)


def titles(page: str) -> list[str]:
    """The titles in the queue, in its order."""
    return re.findall(r'<th scope="row"><a [^>]*>([^<]*)</a>', page)


def boxes(page: str) -> dict[str, str]:
    """What the boxes send, by the title of their request."""
    found = re.findall(r'name="request" value="([^"]+)" aria-label="Choose “(.*?)”"', page)
    return {title: value for value, title in found}


def decide_on(browser: Browser, chosen: list[str], decision: str, why: str = "") -> Response:
    fields = {"_csrf": browser.token(), "decision": decision, "why": why, "request": chosen}
    return browser.post("/review/decide", fields)  # type: ignore[arg-type]  # a name with several values


def outcomes(page: str) -> dict[str, str]:
    rows = re.findall(r'<th scope="row"><a [^>]*>(.*?)</a></th>\s*<td>(.*?)</td>', page, re.DOTALL)
    return {title: " ".join(re.sub(r"<[^>]+>", " ", cell).split()) for title, cell in rows}


@pytest.fixture
def queue(site: Site) -> dict[str, str]:
    """Requests of several kinds, tiers, states and ages, by title."""
    found = {"Old": site.request("ann", title="Old")}
    site.clock.at_ms += 10 * MS_PER_DAY
    found["Panel"] = site.request("lead", tier="consortium", title="Panel")
    found["Own"] = site.request("rev", title="Own")
    research = site.open("research", "Shear", "bob")
    supplement = site.services.requests.ask(Actor("bob"), research, RequestKind.SUPPLEMENT, "More.", 5)
    found["Supplement of Shear"] = supplement.id
    declined = site.request("ann", title="Declined")
    site.services.requests.act(REVIEWER, declined, RequestAction.DECLINE, "No.")
    site.services.requests.submit(Actor("ann"), tier="research", title="Draft", justification="", draft=True)
    site.services.requests.review(REVIEWER, found["Supplement of Shear"], comment="Fine.")
    return found | {"Declined": declined}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"Old", "Panel", "Own", "Supplement of Shear"}),
        ("state=submitted", {"Old", "Panel", "Own"}),
        ("state=in+review", {"Supplement of Shear"}),
        ("state=declined", {"Declined"}),
        ("state=any", {"Old", "Panel", "Own", "Supplement of Shear", "Declined"}),
        ("state=draft", {"Old", "Panel", "Own", "Supplement of Shear"}),
        ("tier=consortium", {"Panel"}),
        ("tier=%00", {"Old", "Panel", "Own", "Supplement of Shear"}),
        ("kind=supplement", {"Supplement of Shear"}),
        ("age=7", {"Old"}),
        ("age=14", set()),
        ("mine=reviewed", {"Supplement of Shear"}),
        ("mine=to+do", {"Old", "Panel"}),
        ("find=SHEAR", {"Supplement of Shear"}),
        ("find=lead", {"Panel"}),
        ("find=%25", set()),
        ("find=%00old", {"Old"}),
        ("state=any&kind=new&find=ann", {"Old", "Declined"}),
    ],
)
def test_the_queue_shows_what_its_filters_let_through(
    site: Site, queue: dict[str, str], query: str, expected: set[str]
) -> None:
    assert expected <= set(queue)
    page = site.browser("rev").get(f"/review?{query}")
    assert page.status_code == 200
    assert set(titles(page.text)) == expected
    assert ("No request is like that" in page.text) == (not expected)


def test_the_queue_is_in_pages_that_keep_the_filters(site: Site) -> None:
    for number in range(30):
        site.clock.at_ms += 1
        site.request("ann", title=f"Request {number:02}")
    browser = site.browser("rev")
    first = browser.get("/review?tier=research&find=request").text
    assert titles(first) == [f"Request {number:02}" for number in range(25)]
    assert "1 to 25 of 30" in first
    (following,) = re.findall(r'href="[^"]*/review\?([^"]*start=25[^"]*)"', first)
    second = browser.get(f"/review?{following.replace('&amp;', '&')}").text
    assert titles(second) == [f"Request {number:02}" for number in range(25, 30)]
    assert "tier=research" in following
    assert "Previous" in second
    assert "Next<" not in second


def test_several_are_decided_each_on_its_own_and_told_line_by_line(site: Site, queue: dict[str, str]) -> None:
    browser = site.browser("rev")
    ticked = boxes(browser.get("/review").text)
    # What lacks its panel's scores, and what one asked for oneself, has no box.
    assert set(ticked) == {"Old", "Supplement of Shear"}
    forged = [f"{queue[title]}@{site.clock.at_ms}" for title in ("Own", "Panel")]
    answer = decide_on(browser, [*ticked.values(), *forged, "q-none@1"], "approve")
    assert answer.status_code == 200
    told = outcomes(answer.text)
    assert told["Old"] == told["Supplement of Shear"] == "approved"
    assert "Nobody decides on their own request" in told["Own"]
    assert "A panel of 2 must score" in told["Panel"]
    assert "There is no request" in told["q-none"]
    assert "2 of 5 approved" in answer.text
    assert set(titles(browser.get("/review").text)) == {"Panel", "Own"}
    again = outcomes(decide_on(browser, [ticked["Old"]], "decline", "No.").text)
    assert "The request is approved" in again["Old"]


def test_what_changed_since_it_was_looked_at_is_not_decided_in_bulk(site: Site, queue: dict[str, str]) -> None:
    browser = site.browser("rav")
    ticked = boxes(browser.get("/review").text)
    site.clock.at_ms += 1
    site.services.requests.act(REVIEWER, queue["Old"], RequestAction.REQUEST_REVISION, "How much?")
    site.services.requests.revise(Actor("ann"), queue["Old"], "Old", "Much.", Award(credits=900_000))
    site.services.requests.act(Actor("ann"), queue["Old"], RequestAction.SUBMIT)
    told = outcomes(decide_on(browser, [ticked["Old"], ticked["Own"]], "approve").text)
    assert "has changed since you looked at it" in told["Old"]
    assert told["Own"] == "approved"
    no_time = outcomes(decide_on(browser, [queue["Old"]], "approve").text)
    assert "has changed since" in no_time["Old"]


def test_a_bulk_decision_needs_a_choice_and_a_reason_and_keeps_what_was_ticked(
    site: Site, queue: dict[str, str]
) -> None:
    browser = site.browser("rev")
    old = boxes(browser.get("/review").text)["Old"]
    for chosen, decision, says in [
        ([old], "", "No decision is chosen"),
        ([old], "submit", "No decision is chosen"),
        ([], "approve", "No request is chosen"),
        ([old], "decline", "need to know why"),
        ([old], "request-revision", "need to know why"),
    ]:
        answer = decide_on(browser, chosen, decision, " ")
        assert (answer.status_code, says in answer.text) == (422, True)
        assert (f'value="{old}" aria-label="Choose “Old”" checked' in answer.text) == bool(chosen)
    told = outcomes(decide_on(browser, [old], "request-revision", "Which field?").text)
    assert told == {"Old": "sent back for a revision"}
    assert "Which field?" in site.browser("ann").get(f"/requests/{queue['Old']}").text


@pytest.mark.parametrize("person", ["ann", "nothing"])
def test_who_does_not_review_neither_sees_the_queue_nor_decides(site: Site, person: str) -> None:
    asked = site.request("bob")
    browser = site.browser(person)
    assert browser.get("/review").status_code == 403
    token = site.browser("bob").token()
    fields = {"_csrf": token, "decision": "approve", "request": f"{asked}@{site.clock.at_ms}"}
    assert browser.http.post("/services/allocations/review/decide", data=fields).status_code == 403
    assert [found.id for found in site.services.reports.request_queue()] == [asked]


def test_a_bulk_decision_of_another_site_is_refused(site: Site) -> None:
    asked = site.request("ann")
    fields = {"_csrf": "0" * 64, "decision": "approve", "request": f"{asked}@{site.clock.at_ms}"}
    assert site.browser("rev").post("/review/decide", fields).status_code == 403
    assert len(site.services.reports.request_queue()) == 1


def test_the_history_and_the_use_of_who_asks_stand_beside_a_request(site: Site, queue: dict[str, str]) -> None:
    site.accept("ann")
    research = site.open("research", HOSTILE, "ann")
    path = sent_to(site.browser("ann"), research, "supplement", credits="5")
    page = site.browser("rev").get(path).text
    beside = page[page.index("Who asks") : page.index(">Reviews<")]
    assert "500.00" in beside
    assert "0.00 of 500.00 credits spent" in beside
    assert "Old" in beside
    assert "Declined" in beside
    assert "Draft" not in beside
    assert "Panel" not in beside
    assert "<script>alert" not in page
    assert "Who asks" not in site.browser("ann").get(path).text


def test_nobody_else_reads_a_draft(site: Site) -> None:
    draft = site.services.requests.submit(Actor("ann"), tier="research", title="Secret", justification="", draft=True)
    assert "Secret" in site.browser("ann").get(f"/requests/{draft.id}").text
    for person in ("rev", "admin", "bob"):
        answer = site.browser(person).get(f"/requests/{draft.id}")
        assert (answer.status_code, "Secret" in answer.text) == (404, False)


def test_who_belongs_to_a_part_of_the_allocation_is_told_of_the_conflict(site: Site) -> None:
    consortium = site.open("consortium", "Deep fields", "lead")
    part = site.services.tree.divide(
        Actor("lead"), consortium, name="Part", microcredits=1_000_000, guaranteed=True, lead="lead"
    )
    join(site.services.members, Actor("lead"), part, "rev", MemberRole.MEMBER)
    path = sent_to(site.browser("lead"), consortium, "extension", term_days="30")
    reviewer = site.browser("rev")
    assert "You are a member of this allocation" in reviewer.get(path).text
    assert "Reason for the applicant" not in reviewer.get(path).text
    assert "conflict of yours" in reviewer.get("/review").text
    assert boxes(reviewer.get("/review").text) == {}
    assert boxes(site.browser("rav").get("/review").text) != {}


def test_larger_sizes_and_more_at_once_are_asked_for_and_awarded_in_forms(site: Site) -> None:
    research = site.open("research", "Shear tests", "ann")
    ann, reviewer = site.browser("ann"), site.browser("rev")
    form = ann.get(f"/allocations/{research}/ask").text
    assert "Now: 16 cores, 64 GiB." in form
    assert "Now: 2 servers a person, 64 cores, 0 GPUs." in form
    sizes = {"has_sizes": "yes", "largest_0_cores": "32", "largest_0_memory_gib": "128", "at_once_cores": "96"}
    path = sent_to(ann, research, "supplement", **sizes)
    page = reviewer.get(path).text
    assert row_of(page, "Largest sizes") == ["16 cores, 64 GiB", "32 cores, 128 GiB"]
    assert row_of(page, "At once")[1] == "2 servers a person, 96 cores, 0 GPUs"
    assert 'name="largest_0_memory_gib" inputmode="numeric" maxlength="7" value="128"' in page
    less = sizes | {"largest_0_memory_gib": "64", "largest_3_cores": "8", "largest_3_memory_gib": "32"}
    less |= {"largest_3_gpus": "1", "at_once_servers_per_person": "2", "at_once_gpus": "1"}
    assert decide(reviewer, path, "approve", "Memory is scarce.", **less) == 303
    assert row_of(ann.get(path).text, "Largest sizes")[1] == "32 cores, 64 GiB or 8 cores, 32 GiB, 1 GPU differs"
    with site.services.database.read() as connection:
        award = site.services.lifecycle.authority.find(connection, research).award
    assert award.largest == (Shape(cores=32, memory_gib=64), Shape(cores=8, memory_gib=32, gpus=1))
    assert award.at_once == AtOnce(servers_per_person=2, cores=96, gpus=1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"largest_0_cores": "8"}, "Largest size 1: cores and memory are both needed"),
        ({"largest_1_cores": "x", "largest_1_memory_gib": "1"}, "Largest size 2, Cores: is not a whole number"),
        ({"largest_0_cores": "8", "largest_0_memory_gib": "99999"}, "must lie between 1 and 10,000"),
        ({"at_once_servers_per_person": "0"}, "At once, Servers a person: must lie between 1"),
        ({"at_once_gpus": "-1"}, "At once, GPUs: is not a whole number"),
    ],
)
def test_sizes_that_make_no_sense_are_named_and_kept(site: Site, fields: dict[str, str], says: str) -> None:
    texts = {"tier": "research", "title": "Shear", "justification": "Yes.", "key": "f", "has_sizes": "yes"}
    answer = site.browser("ann").post("/requests", texts | fields)
    assert (answer.status_code, says in answer.text) == (422, True)
    for name, value in fields.items():
        assert f'name="{name}" inputmode="numeric" maxlength="7" value="{value}"' in answer.text
    assert site.services.reports.requests_of("ann") == []


def test_a_renewal_suggests_the_sizes_of_the_term(site: Site) -> None:
    award = Award(largest=(Shape(cores=32, memory_gib=64),), at_once=AtOnce(servers_per_person=3, cores=96, gpus=0))
    with site.services.database.write() as connection:
        tier = site.services.policy.tier("research")
        found = site.services.lifecycle.open(connection, tier, "Shear", lead="ann", actor="t", award=award)
    site.clock.at_ms += 330 * MS_PER_DAY
    site.services.lifecycle.advance()
    form = site.browser("ann").get(f"/allocations/{found.id}/ask").text
    assert 'id="renewal-largest-0-cores" name="largest_0_cores" inputmode="numeric" maxlength="7" value="32"' in form
    path = sent_to(site.browser("ann"), found.id, "renewal", has_sizes="yes", at_once_cores="64")
    page = site.browser("rev").get(path).text
    assert row_of(page, "Largest sizes") == ["32 cores, 64 GiB", "as the tier says"]
    assert row_of(page, "At once")[1] == "3 servers a person, 64 cores, 0 GPUs"


def test_the_history_says_what_was_changed_scored_and_awarded(site: Site) -> None:
    path = f"/requests/{site.request('ann', tier='consortium')}"
    ann, reviewers = site.browser("ann"), [site.browser("rev"), site.browser("rav")]
    assert decide(reviewers[0], path, "request-revision", "And GPUs?") == 303
    asked = {"title": "Galaxies", "justification": "Yes.", "has_amounts": "yes", "credits": "70", "gpu_hours": "5"}
    assert ann.post(f"{path}/revise", asked | {"action": "submit"}).status_code == 303
    for reviewer, score in zip(reviewers, "35", strict=True):
        reviewer.post(f"{path}/review", {"comment": "Hm.", "score": score})
    fields = {"credits": "60", "gpu_hours": "5", "core_hours": "", "term_days": "", "has_renewable": "yes"}
    assert decide(reviewers[0], path, "approve", "Once.", **fields) == 303
    page = reviewers[0].get(path).text
    awarded = "Awarded: 60 credits, 5 GPU-hours, not renewable"
    for words in ("Asks for 70 credits, 5 GPU-hours", "Score 3 of 5", awarded):
        assert f"<p>{words}</p>" in page
    own = ann.get(path).text
    assert f"<p>{awarded}</p>" in own
    assert "Score 3 of 5" not in own
    assert "rev," not in own
