"""The parts of an allocation on its pages: divided, drawn, changed, moved, closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.web.figures import tree_of
from tests.web.conftest import SCOPES

if TYPE_CHECKING:
    from allocations.reports.allocations import AllocationView
    from tests.web.conftest import Site

CREDIT = 1_000_000
ADMIN = Actor("admin", admin=True)
SHARE = {"name": "Lensing", "credits": "100", "kind": "guaranteed", "lead": "lead", "key": "f-1"}


@pytest.fixture
def consortium(site: Site) -> str:
    for person in ("ann", "bob", "lead"):
        site.accept(person)
    return site.open("consortium", "Deep fields", "lead")


def part(site: Site, parent: str, name: str, credits: int = 100, lead: str = "lead", guaranteed: bool = True) -> str:  # noqa: A002
    site.clock.at_ms += 1  # parts are listed in the order in which they were opened
    return site.services.tree.divide(
        Actor("lead"), parent, name=name, microcredits=credits * CREDIT, guaranteed=guaranteed, lead=lead
    )


def shown(site: Site, allocation: str) -> AllocationView:
    return site.services.reports.allocation(ADMIN, allocation).allocation


def credits_of(site: Site, allocation: str) -> int:
    return shown(site, allocation).limit_microcredits // CREDIT


def test_a_part_is_limited_in_hours_too(site: Site, consortium: str) -> None:
    lead, path = site.browser("lead"), f"/allocations/{consortium}"
    assert lead.post(f"{path}/suballocations", SHARE | {"gpu_hours": "50", "core_hours": " "}).status_code == 303
    child = site.services.reports.allocation(ADMIN, consortium).tree[1]
    page = lead.get(f"/allocations/{child.id}").text
    assert "<dt>GPU-hours</dt><dd>0 spent, 0 held of 50</dd>" in page
    assert "<dt>Core-hours</dt>" not in page
    refused = lead.post(f"{path}/suballocations", SHARE | {"key": "f-2", "gpu_hours": "1.5"})
    assert (refused.status_code, "GPU-hours: is not a whole number" in refused.text) == (422, True)
    assert 'value="1.5"' in refused.text


def test_the_tree_is_a_list_of_lists_with_bars_beside_the_numbers(site: Site, consortium: str) -> None:
    lensing = part(site, consortium, "Lensing", 1000)
    part(site, lensing, "Shear", 250)
    part(site, consortium, "Transients", 500, guaranteed=False)
    page = site.browser("lead").get(f"/allocations/{consortium}").text
    tree = page[page.index('<figure class="m-card p-tree"') : page.index("</figure>")]
    assert tree.count("<ul>") == 3
    names = re.findall(r">(Deep fields|Lensing|Shear|Transients)</(?:a|strong)>", tree)
    assert names == ["Deep fields", "Lensing", "Shear", "Transients"]
    assert "0.00 spent, 0.00 held, 250.00 free of 250.00 credits" in tree
    assert tree.count('aria-hidden="true"') == tree.count("<svg") == 4
    assert "style=" not in page
    assert "capped" in tree[tree.index("Transients") :]
    member = site.open("consortium", "Other", "lead")
    assert '<figure class="m-card p-tree"' not in site.browser("lead").get(f"/allocations/{member}").text


def test_bars_lie_below_their_parents_and_shrink_together_when_overcommitted(site: Site, consortium: str) -> None:
    whole = credits_of(site, consortium)
    first = part(site, consortium, "First", whole * 3 // 4, guaranteed=False)
    part(site, first, "Within", whole * 3 // 8)
    part(site, consortium, "Second", whole * 3 // 4, guaranteed=False)
    top = tree_of(site.services.reports.allocation(ADMIN, consortium).tree)
    assert (top.start, top.width, top.spent, top.held) == (0, 100, 0, 0)
    assert [(bar.start, bar.width) for bar in top.parts] == [(0, 50), (50, 50)]
    assert [(bar.start, bar.width) for bar in top.parts[0].parts] == [(0, 25)]


def test_a_lead_changes_moves_and_closes_shares(site: Site, consortium: str) -> None:
    lensing, transients = part(site, consortium, "Lensing"), part(site, consortium, "Transients")
    lead, path = site.browser("lead"), f"/allocations/{lensing}"
    home = f"{PREFIX}/allocations/{consortium}"
    page = lead.get(f"{path}/share").text
    assert "Move budget to another part" in page
    assert "Transients (100.00 free)" in page
    assert lead.post(f"{path}/share", {"credits": "150"}).headers["location"] == f"{home}?done=share"
    for _ in range(2):
        moved = lead.post(f"{path}/move", {"target": transients, "amount": "50", "key": "m-1"})
        assert moved.headers["location"] == f"{home}?done=moved"
    assert (credits_of(site, lensing), credits_of(site, transients)) == (100, 150)
    site.join(lensing, "ann")
    site.queue_run("ann", lensing)
    closing = lead.get(f"{path}/close").text
    assert "new starts on it by 2 people: ann, lead" in closing
    assert "may give 100.00 unused credits" in closing
    refused = lead.post(f"{path}/close", {"why": " ", "key": "c-1"})
    assert (refused.status_code, "A reason is needed" in refused.text) == (422, True)
    closed = lead.post(f"{path}/close", {"why": "Done.", "key": "c-2"})
    assert closed.headers["location"] == f"{home}?done=closed"
    assert shown(site, lensing).state == "closed"
    assert "It is closed already" in lead.get(f"{path}/close").text
    assert "cannot be changed any more" in lead.get(f"{path}/share").text
    assert f"{path}/share" not in lead.get(f"/allocations/{consortium}").text
    late = lead.post(f"{path}/share", {"credits": "10"})
    assert (late.status_code, "is closed" in late.text) == (409, True)


def test_closing_says_which_parts_end_too(site: Site, consortium: str) -> None:
    lensing = part(site, consortium, "Lensing")
    part(site, lensing, "Shear", 10, lead="ann")
    page = site.browser("lead").get(f"/allocations/{lensing}/close").text
    assert "1 part below it: Shear<" in page
    for number in range(12):
        part(site, lensing, f"Field {number:02d}", 1)
    page = site.browser("lead").get(f"/allocations/{lensing}/close").text
    assert "13 parts below it: Shear, Field 00, " in page
    assert "Field 08 and 3 more<" in page
    assert "what runs on it: nothing now" in page


@pytest.mark.parametrize(
    ("action", "fields", "status", "says"),
    [
        ("share", {"credits": "x"}, 422, "Credits: is not a number"),
        ("share", {"credits": "900000"}, 422, "Guaranteed shares must stay within"),
        ("move", {"target": "", "amount": "5"}, 422, "No other part is chosen"),
        ("move", {"target": "{other}", "amount": "101"}, 403, "has 100.00 credits free"),
        ("move", {"target": "{other}", "amount": "0"}, 422, "Amount: must be above 0"),
        ("move", {"target": "{itself}", "amount": "1"}, 422, "No other part is chosen"),
    ],
)
def test_a_share_that_cannot_be_says_why_and_keeps_what_was_typed(
    site: Site, consortium: str, action: str, fields: dict[str, str], status: int, says: str
) -> None:
    lensing, other = part(site, consortium, "Lensing"), part(site, consortium, "Other")
    fields = {name: value.format(other=other, itself=lensing) for name, value in fields.items()}
    response = site.browser("lead").post(f"/allocations/{lensing}/{action}", fields | {"key": "k"})
    assert (response.status_code, says in response.text) == (status, True)
    assert f'value="{fields.get("credits", fields.get("amount"))}"' in response.text
    assert (credits_of(site, lensing), credits_of(site, other)) == (100, 100)


def test_a_whole_allocation_has_no_share(site: Site, consortium: str) -> None:
    lead = site.browser("lead")
    for path in ("share", "close"):
        response = lead.get(f"/allocations/{consortium}/{path}")
        assert (response.status_code, "is a whole allocation" in response.text) == (403, True)
    assert lead.post(f"/allocations/{consortium}/close", {"why": "x"}).status_code == 403
    assert shown(site, consortium).state == "active"


def test_who_leads_only_the_part_does_not_learn_what_it_is_a_part_of(site: Site, consortium: str) -> None:
    lensing, other = part(site, consortium, "Lensing"), part(site, consortium, "Secret twin")
    site.join(lensing, "ann", MemberRole.LEAD)
    ann, path = site.browser("ann"), f"/allocations/{lensing}"
    answers = [
        ann.get(path),
        ann.get(f"{path}/share"),
        ann.get(f"{path}/close"),
        ann.post(f"{path}/share", {"credits": "200"}),
        ann.post(f"{path}/move", {"target": other, "amount": "1"}),
        ann.post(f"{path}/close", {"why": "x"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 403, 403, 403, 403, 403]
    for answer in answers:
        assert "Deep fields" not in answer.text
        assert "Secret twin" not in answer.text
    assert "a larger allocation" in answers[0].text
    assert ann.post(f"{path}/suballocations", SHARE | {"credits": "5"}).status_code == 303
    assert credits_of(site, lensing) == 100


@pytest.mark.parametrize("person", ["ann", "bob", "rev", "admin"])
def test_only_those_above_change_shares(site: Site, consortium: str, person: str) -> None:
    lensing, other = part(site, consortium, "Lensing"), part(site, consortium, "Other")
    site.join(consortium, "ann")
    site.join(lensing, "bob", MemberRole.MANAGER)
    browser, path = site.browser(person), f"/allocations/{lensing}"
    expected = {"ann": 403, "bob": 403, "rev": 404, "admin": 303}[person]
    assert browser.get(f"{path}/share").status_code == (200 if expected == 303 else expected)
    assert browser.post(f"{path}/share", {"credits": "50"}).status_code == expected
    assert browser.post(f"{path}/move", {"target": other, "amount": "1", "key": "k"}).status_code == expected
    assert browser.post(f"{path}/close", {"why": "Why not?", "key": "l"}).status_code == expected
    assert (shown(site, lensing).state == "closed") is (person == "admin")


@pytest.mark.parametrize("person", sorted(set(SCOPES) - {"lead", "admin", "nothing"}))
def test_a_stranger_learns_neither_that_a_part_exists_nor_its_name(site: Site, consortium: str, person: str) -> None:
    lensing, stranger = part(site, consortium, "Lensing"), site.browser(person)
    own = site.open("consortium", "Mine", person)
    answers = []
    for whole, share in [(consortium, lensing), ("a-" + "0" * 20, "a-" + "1" * 20)]:
        path = f"/allocations/{share}"
        found = [
            *(stranger.get(f"{path}{page}") for page in ("", "/share", "/close")),
            stranger.post(f"{path}/share", {"credits": "1"}),
            stranger.post(f"{path}/move", {"target": own, "amount": "1"}),
            stranger.post(f"{path}/close", {"why": "x"}),
            stranger.post(f"/allocations/{whole}/suballocations", SHARE),
            stranger.post(f"{path}/suballocations", SHARE),
            stranger.post(f"/allocations/{whole}/progress", {"report": "Done.", "key": "p"}),
        ]
        texts = [re.sub(r'value="[0-9a-f]{20,}"', "", one.text) for one in found]
        answers.append(
            [
                (one.status_code, text.replace(whole, "ID").replace(share, "ID"))
                for one, text in zip(found, texts, strict=True)
            ]
        )
    assert answers[0] == answers[1]
    assert {status for status, _ in answers[0]} == {404}
    assert shown(site, lensing).state == "active"


def test_budget_moves_between_parts_on_the_page_of_the_whole(site: Site, consortium: str) -> None:
    lensing, shear = part(site, consortium, "Lensing"), part(site, consortium, "Shear")
    below = part(site, lensing, "Masks", 5)
    lead, path = site.browser("lead"), f"/allocations/{consortium}"
    page = lead.get(path).text
    assert f'data-part="{lensing}"' in page
    assert f'data-part="{below}"' not in page
    fields = {"source": lensing, "target": shear, "amount": "40", "key": "f-1"}
    for _ in range(2):  # sent twice, it moves once
        done = lead.post(f"{path}/moves", fields)
        assert done.headers["location"] == f"{PREFIX}{path}?done=moved"
    assert (credits_of(site, lensing), credits_of(site, shear)) == (60, 140)
    for changes, status, says in (
        ({"amount": "61"}, 403, "were to be moved"),
        ({"target": lensing}, 422, "two different parts"),
        ({"source": below}, 422, "It is not said from which part"),
        ({"source": consortium}, 422, "It is not said from which part"),
        ({"amount": "x"}, 422, "Amount: is not a number"),
    ):
        refused = lead.post(f"{path}/moves", fields | {"key": f"f-{says}"} | changes)
        assert (refused.status_code, says in refused.text) == (status, True), refused.text
        assert f'value="{(fields | changes)["amount"]}"' in refused.text
    assert (credits_of(site, lensing), credits_of(site, shear)) == (60, 140)


def test_who_only_belongs_to_an_allocation_moves_nothing_in_it(site: Site, consortium: str) -> None:
    lensing, shear = part(site, consortium, "Lensing"), part(site, consortium, "Shear")
    site.join(consortium, "ann")
    fields = {"source": lensing, "target": shear, "amount": "40", "key": "f-1"}
    for person, status in (("ann", 403), ("bob", 404)):
        assert site.browser(person).post(f"/allocations/{consortium}/moves", fields).status_code == status
        assert "Move budget" not in site.browser(person).get(f"/allocations/{consortium}").text
    assert credits_of(site, lensing) == 100
