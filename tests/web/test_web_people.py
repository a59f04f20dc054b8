"""The people of an allocation on its pages: invited, answering, changed, removed, leaving."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from allocations.app import PREFIX
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from tests.web.conftest import SCOPES

if TYPE_CHECKING:
    from tests.web.conftest import Site

HOSTILE = '"><script>alert(1)</script>'
BOB = {"person": "bob", "role": "member", "servers_max": "", "cores_max": "", "gpus_max": ""}


@pytest.fixture
def consortium(site: Site) -> str:
    for person in ("ann", "bob", "lead"):
        site.accept(person)
    return site.open("consortium", "Deep fields", "lead")


def members(site: Site, allocation: str) -> dict[str, tuple[str, int | None, int | None, int | None]]:
    detail = site.services.reports.allocation(Actor("admin", admin=True), allocation)
    return {one.person: (one.role, one.servers_max, one.cores_max, one.gpus_max) for one in detail.members}


def invite(site: Site, allocation: str, person: str = "bob") -> str:
    return site.services.members.invite(Actor("lead"), allocation, person, MemberRole.MEMBER).id


def test_a_lead_invites_with_caps_and_the_person_accepts_on_the_home_page(site: Site, consortium: str) -> None:
    lead, path = site.browser("lead"), f"/allocations/{consortium}"
    done = lead.post(f"{path}/invitations", BOB | {"role": "manager", "servers_max": "1", "cores_max": "8"})
    assert done.headers["location"] == f"{PREFIX}{path}?done=invited"
    page = lead.get(path).text
    assert "Who has not answered yet" in page
    assert "1 server, 8 cores" in page
    assert "bob" not in members(site, consortium)
    home = site.browser("bob").get("/").text
    assert "Invitation to “Deep fields”" in home
    assert "lead invites you as a manager" in home
    assert path not in home
    answer = re.search(r'action="([^"]+/answer)"', home)
    assert answer
    done = site.browser("bob").post(answer[1].removeprefix(PREFIX), {"answer": "accept"})
    assert done.headers["location"] == f"{PREFIX}/?done=joined"
    assert members(site, consortium)["bob"] == ("manager", 1, 8, None)
    assert "Invitation to" not in site.browser("bob").get("/").text
    assert "1 server, 8 cores" in lead.get(path).text


def test_an_invitation_is_declined_or_revoked(site: Site, consortium: str) -> None:
    declined = invite(site, consortium)
    done = site.browser("bob").post(f"/invitations/{declined}/answer", {"answer": "decline"})
    assert done.headers["location"] == f"{PREFIX}/?done=refused"
    revoked = invite(site, consortium)
    done = site.browser("lead").post(f"/allocations/{consortium}/invitations/{revoked}/revoke")
    assert done.headers["location"].endswith("done=revoked")
    gone = site.browser("bob").post(f"/invitations/{revoked}/answer", {"answer": "accept"})
    assert (gone.status_code, "waits for your answer" in gone.text) == (404, True)
    assert list(members(site, consortium)) == ["lead"]
    again = site.browser("lead").post(f"/allocations/{consortium}/invitations/{revoked}/revoke")
    assert (again.status_code, "waits for no answer any more" in again.text) == (404, True)


def test_an_invitation_to_an_allocation_that_is_over_is_not_shown(site: Site, consortium: str) -> None:
    invite(site, consortium)
    site.services.lifecycle.close(Actor("admin", admin=True), consortium, "Ended.")
    assert "Invitation to" not in site.browser("bob").get("/").text
    page = site.browser("lead").get(f"/allocations/{consortium}").text
    assert "Invite a person" not in page
    assert "Who has not answered yet" not in page


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"person": " "}, "not a user name"),
        ({"person": "lead"}, "is a member already"),
        ({"role": "owner"}, "There is no role"),
        ({"servers_max": "-1"}, "Servers: is not a whole number"),
        ({"cores_max": "2.5"}, "Cores: is not a whole number"),
        ({"gpus_max": "9999999"}, "A cap lies between"),
    ],
)
def test_an_invitation_that_cannot_be_says_why_and_keeps_the_form(
    site: Site, consortium: str, changes: dict[str, str], says: str
) -> None:
    typed = BOB | {"servers_max": "3"} | changes
    response = site.browser("lead").post(f"/allocations/{consortium}/invitations", typed)
    assert response.status_code == 422
    assert says in response.text
    for name in ("person", "servers_max", "cores_max", "gpus_max"):
        assert f'name="{name}"' in response.text
    assert f'value="{typed["servers_max"]}"' in response.text
    assert site.services.members.invitations_of("bob") == []


def test_who_invites_and_where_are_text(site: Site) -> None:
    site.accept("bob")
    named = site.open("consortium", HOSTILE, HOSTILE)
    site.services.members.invite(Actor(HOSTILE), named, "bob", MemberRole.MEMBER)
    site.services.members.invite(Actor(HOSTILE), named, f"{HOSTILE}2", MemberRole.MEMBER)
    for person, path in [
        ("bob", "/"),
        ("admin", f"/allocations/{named}"),
        ("admin", f"/allocations/{named}/member?person=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
    ]:
        site.accept(person)
        page = site.browser(person).get(path)
        assert page.status_code == 200
        assert "alert(1)" in page.text
        assert "<script>alert" not in page.text


def test_a_place_is_changed_and_the_last_lead_stays(site: Site, consortium: str) -> None:
    site.join(consortium, "bob")
    lead, path = site.browser("lead"), f"/allocations/{consortium}/member"
    assert "Remove bob" in lead.get(f"{path}?person=bob").text
    done = lead.post(path, BOB | {"role": "manager", "gpus_max": "0"})
    assert done.headers["location"].endswith("done=member")
    assert members(site, consortium)["bob"] == ("manager", None, None, 0)
    assert "0 GPUs" in lead.get(f"/allocations/{consortium}").text
    lead.post(path, BOB | {"role": "manager"})
    assert members(site, consortium)["bob"] == ("manager", None, None, None)
    refused = lead.post(path, BOB | {"person": "lead", "role": "member", "cores_max": "7"})
    assert (refused.status_code, "needs a lead" in refused.text) == (403, True)
    assert 'name="cores_max" inputmode="numeric" maxlength="7" aria-describedby="caps-help" value="7"' in refused.text
    assert members(site, consortium)["lead"][0] == "lead"
    assert lead.get(f"{path}?person=nobody").status_code == 404
    assert lead.post(f"/allocations/{consortium}/members/remove", {"person": "lead"}).status_code == 403


def test_a_member_is_removed_or_leaves(site: Site, consortium: str) -> None:
    site.join(consortium, "bob")
    site.join(consortium, "ann")
    removed = site.browser("lead").post(f"/allocations/{consortium}/members/remove", {"person": "bob"})
    assert removed.headers["location"].endswith(f"{consortium}?done=removed")
    assert "Leave this allocation" in site.browser("ann").get(f"/allocations/{consortium}").text
    assert "Leave “Deep fields”?" in site.browser("ann").get(f"/allocations/{consortium}/leave").text
    left = site.browser("ann").post(f"/allocations/{consortium}/leave")
    assert left.headers["location"] == f"{PREFIX}/?done=left"
    assert list(members(site, consortium)) == ["lead"]
    assert "Leave this allocation" not in site.browser("lead").get(f"/allocations/{consortium}").text
    refused = site.browser("lead").post(f"/allocations/{consortium}/leave")
    assert (refused.status_code, "is the only one" in refused.text) == (403, True)


def test_a_member_manages_nobody(site: Site, consortium: str) -> None:
    site.join(consortium, "bob")
    pending, bob = invite(site, consortium, "ann"), site.browser("bob")
    path = f"/allocations/{consortium}"
    page = bob.get(path).text
    assert "Who has not answered yet" not in page
    assert "Invite a person" not in page
    assert bob.get(f"{path}/member?person=lead").status_code == 403
    for action, fields in [
        ("/invitations", BOB | {"person": "rev"}),
        (f"/invitations/{pending}/revoke", {}),
        ("/member", BOB | {"role": "lead"}),
        ("/members/remove", {"person": "lead"}),
    ]:
        assert bob.post(f"{path}{action}", fields).status_code == 403, action
    assert members(site, consortium) == {"lead": ("lead", None, None, None), "bob": ("member", None, None, None)}
    assert len(site.services.members.invitations_of("ann")) == 1


@pytest.mark.parametrize("person", sorted(set(SCOPES) - {"lead", "bob", "admin"}))
def test_a_stranger_learns_neither_that_it_exists_nor_its_name(site: Site, consortium: str, person: str) -> None:
    """Also a reviewer, and one without any role: what they get of it is what they get of nothing."""
    pending, stranger = invite(site, consortium), site.browser(person)
    none = "a-" + "0" * 20
    answers = []
    for allocation, invitation in [(consortium, pending), (none, "i-" + "0" * 20)]:
        path = f"/allocations/{allocation}"
        found = [
            stranger.get(path),
            stranger.get(f"{path}/member?person=lead"),
            stranger.get(f"{path}/leave"),
        ]
        if SCOPES[person]:
            found += [
                stranger.post(f"{path}/invitations", BOB),
                stranger.post(f"{path}/invitations/{invitation}/revoke"),
                stranger.post(f"{path}/member", BOB | {"person": person}),
                stranger.post(f"{path}/members/remove", {"person": person}),
                stranger.post(f"{path}/members/remove", {"person": "lead"}),
                stranger.post(f"{path}/leave"),
                stranger.post(f"/invitations/{invitation}/answer", {"answer": "accept"}),
                stranger.post(f"/invitations/{invitation}/answer", {"answer": "decline"}),
            ]
        texts = [re.sub(r'value="[0-9a-f]{20,}"', "", one.text).replace(allocation, "ID") for one in found]
        answers.append([(one.status_code, text) for one, text in zip(found, texts, strict=True)])
    assert answers[0] == answers[1]
    assert {status for status, _ in answers[0]} <= {403, 404} if person == "nothing" else {404}
    assert not any("Deep fields" in text for _, text in answers[0])
    assert len(site.services.members.invitations_of("bob")) == 1


def test_an_invitation_of_another_allocation_is_not_revoked_through_ones_own(site: Site, consortium: str) -> None:
    own = site.open("consortium", "Mine", "ann")
    pending = invite(site, consortium)
    response = site.browser("ann").post(f"/allocations/{own}/invitations/{pending}/revoke")
    assert response.status_code == 404
    assert "Deep fields" not in response.text
    assert len(site.services.members.invitations_of("bob")) == 1


def test_an_answer_comes_from_a_form_of_ours(site: Site, consortium: str) -> None:
    pending, bob = invite(site, consortium), site.browser("bob")
    assert bob.post(f"/invitations/{pending}/answer", {"answer": "perhaps"}).status_code == 422
    forged = bob.http.post(f"{PREFIX}/invitations/{pending}/answer", data={"answer": "accept"})
    assert forged.status_code == 403
    assert "bob" not in members(site, consortium)
