"""What is not one's own looks like what is not there, and a part does not tell of the whole that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import AllocationsError, NotAllowedError
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, MemberRole, RequestKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from allocations.factory import Services
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD, EVE = Actor("lead"), Actor("eve")
DOI = "10.3847/1538-4357/abcdef"
BY_ALLOCATION: dict[str, Callable[[Services, Actor, str], object]] = {
    "divide": lambda made, who, it: made.tree.divide(who, it, name="G", microcredits=1, guaranteed=True, lead="eve"),
    "change_share": lambda made, who, it: made.tree.change_share(who, it, 1),
    "move": lambda made, who, it: made.tree.move(who, it, "a-other", 1),
    "close": lambda made, who, it: made.tree.close(who, it, "over"),
    "close a whole": lambda made, who, it: made.lifecycle.close(who, it, "over"),
    "invite": lambda made, who, it: made.members.invite(who, it, "eve", MemberRole.MEMBER),
    "invitations_on": lambda made, who, it: made.members.invitations_on(who, it),
    "change a member": lambda made, who, it: made.members.change(who, it, "lead", cores_max=1),
    "remove": lambda made, who, it: made.members.remove(who, it, "lead"),
    "leave": lambda made, who, it: made.members.remove(who, it, "eve"),
    "add a publication": lambda made, who, it: made.publications.add(who, it, DOI, "Dark stars"),
    "publications": lambda made, who, it: made.publications.linked_to(who, it),
    "unlink": lambda made, who, it: made.publications.unlink(who, it, "p-1"),
    "ask": lambda made, who, it: made.requests.ask(who, it, RequestKind.EXTENSION, "J", asked=Award(term_days=1)),
    "read": lambda made, who, it: made.reports.allocation(who, it),
}


def error_of(act: Callable[[], object]) -> tuple[type, str, str]:
    with pytest.raises(AllocationsError) as caught:
        act()
    return type(caught.value), caught.value.detail, caught.value.remedy


@pytest.mark.parametrize("name", BY_ALLOCATION)
@pytest.mark.parametrize("whole", [True, False])
def test_anothers_allocation_looks_like_one_that_is_not_there(bench: Bench, name: str, *, whole: bool) -> None:
    root = bench.consortium()
    child = bench.services.tree.divide(LEAD, root, name="G", microcredits=CREDIT, guaranteed=True, lead="lead")
    another, act = root if whole else child, BY_ALLOCATION[name]
    kind, detail, remedy = error_of(lambda: act(bench.services, EVE, another))
    assert (kind, detail.replace(another, "a-none"), remedy) == error_of(lambda: act(bench.services, EVE, "a-none"))


@pytest.mark.parametrize("ended", [True, False])
def test_anothers_invitation_looks_like_one_that_is_not_there(bench: Bench, *, ended: bool) -> None:
    root = bench.consortium()
    members = bench.services.members
    invitation = members.invite(LEAD, root, "ann", MemberRole.MEMBER).id
    if ended:
        members.revoke(LEAD, invitation)
    for act in (lambda of: members.answer(EVE, of, accept=True), lambda of: members.revoke(EVE, of)):
        kind, detail, remedy = error_of(lambda act=act: act(invitation))  # type: ignore[misc]
        expected = error_of(lambda act=act: act("i-none"))  # type: ignore[misc]
        assert (kind, detail.replace(invitation, "i-none"), remedy) == expected


def test_who_leads_a_part_does_not_learn_the_name_of_the_whole_nor_of_its_other_parts(bench: Bench) -> None:
    root = bench.consortium()
    tree = bench.services.tree
    part, other = (
        tree.divide(LEAD, root, name=name, microcredits=CREDIT, guaranteed=True, lead="lead")
        for name in ("Lensing", "Secret")
    )
    invitation = bench.services.members.invite(LEAD, part, "eve", MemberRole.LEAD)
    bench.services.members.answer(EVE, invitation.id, accept=True)
    for act in (
        lambda: tree.change_share(EVE, part, 1),
        lambda: tree.move(EVE, part, other, 1),
        lambda: tree.close(EVE, part, "over"),
        lambda: bench.services.lifecycle.close(EVE, part, "over"),
    ):
        kind, detail, _ = error_of(act)
        assert kind is NotAllowedError
        assert "Lensing" in detail
        assert "Deep fields" not in detail
        assert "Secret" not in detail
    assert error_of(lambda: tree.move(LEAD, part, "a-none", 1)) == error_of(
        lambda: tree.move(LEAD, part, bench.accept("bob"), 1)
    )
