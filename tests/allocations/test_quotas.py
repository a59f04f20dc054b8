"""Quotas: every limit that applies to a person, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from allocations.leases.rules import SourceKind, effective_limits
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import (
    Award,
    Member,
    MemberRole,
    Override,
    OverrideLimits,
    OverrideSubject,
)
from allocations.lifecycle.stores.overrides import OverrideStore
from allocations.policy.models import AtOnce
from tests.places import join

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

DAY_MS = 86_400_000


def override(number: int, kind: OverrideSubject, subject: str, **limits: int) -> Override:
    at_ms = 1_800_000_000_000 + number
    return Override(
        f"o-{number}", kind, subject, OverrideLimits(**limits), "a workshop", "admin", at_ms, at_ms + DAY_MS
    )


def test_each_limit_is_the_tiers_then_the_awards_then_the_newest_overrides_and_members_caps_only_lower(
    bench: Bench,
) -> None:
    policy = bench.services.policy
    with bench.services.database.read() as connection:
        store = bench.services.quotas.allocations
        root = store.get(connection, bench.consortium())
    assert root is not None
    awarded = replace(root, award=Award(at_once=AtOnce(servers_per_person=3, cores=100, gpus=8)))
    given = [
        override(1, OverrideSubject.PERSON, "ann", cores=300),
        override(2, OverrideSubject.ALLOCATION, root.id, cores=200, gpus=9),
        override(3, OverrideSubject.ALLOCATION, root.id, gpus=10),
    ]
    member = Member(root.id, "ann", MemberRole.MEMBER, 0, servers_max=5, cores_max=16)
    limits = effective_limits(policy, [awarded], member, given)
    shown = {name: (getattr(limits, name), source.kind) for name, source in limits.sources.items()}
    assert shown["servers_per_person"] == (3, SourceKind.AWARD), "a cap above the limit lowers nothing"
    assert shown["cores"] == (300, SourceKind.OVERRIDE), "the person's comes after the allocation's"
    assert shown["gpus"] == (10, SourceKind.OVERRIDE), "the newest wins"
    assert shown["idle_seconds"] == (10_800, SourceKind.POLICY)
    assert shown["member_cores"] == (16, SourceKind.MEMBER)
    assert shown["member_gpus"] == (None, SourceKind.POLICY)
    assert "a workshop" in limits.sources["gpus"].why
    capped = effective_limits(policy, [awarded], replace(member, servers_max=1), given)
    assert (capped.servers_per_person, capped.sources["servers_per_person"].kind) == (1, SourceKind.MEMBER)


def test_quotas_say_what_is_used_what_binds_and_why(bench: Bench) -> None:
    root = bench.consortium()
    bench.accept("ann")
    child = bench.services.tree.divide(
        Actor("lead"), root, name="Group", microcredits=5_000_000_000, guaranteed=False, lead="lead"
    )
    join(bench.services.members, Actor("lead"), child, "ann", MemberRole.LEAD)
    bench.acquire(child)
    with bench.services.database.write() as connection:
        OverrideStore().add(connection, override(1, OverrideSubject.PERSON, "ann", servers_per_person=4))
    entry, group = bench.services.quotas.of_person("ann").allocations
    assert (entry.budgets[0].source, entry.budgets[0].binds) == (SourceKind.AWARD, entry.allocation)
    limits = {limit.name: limit for limit in group.limits}
    servers = limits["servers_per_person"]
    assert (servers.value, servers.used, servers.source) == (4, 1, SourceKind.OVERRIDE)
    assert (limits["cores"].used, limits["member_cores"].used) == (1, 1)
    budget = group.budgets[0]
    assert (budget.binds, budget.source) == (root, SourceKind.PARENT), "it was given more than the whole has"
    assert "Deep fields" in budget.why
    assert group.state.usable
    bench.clock.pass_seconds(86_401)
    limits = {limit.name: limit for limit in bench.services.quotas.of_person("ann").allocations[1].limits}
    assert (limits["servers_per_person"].value, limits["servers_per_person"].source) == (2, SourceKind.POLICY)
    bench.services.lifecycle.suspend(Actor("root", admin=True), root, "an inquiry")
    state = bench.services.quotas.of_person("ann").allocations[1].state
    assert (state.usable, state.source) == (False, SourceKind.PARENT)
    assert "suspended" in state.why
