"""Simultaneous requests are decided together, and each as if it were alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from allocations.errors import (
    AllocationsError,
    AtOnceLimitError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    NotAMemberError,
    SizeNotAllowedError,
    UnknownSizeError,
)
from allocations.leases import batching as batching_module
from allocations.leases.admission import Asked
from allocations.leases.batching import HELD_UP_SECONDS, Batching
from allocations.leases.models import LeaseKind
from allocations.leases.rules import SourceKind, effective_limits
from allocations.leases.views import LeaseView
from allocations.ledger.models import TransactionKind
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import Award, Member, MemberRole, Override, OverrideLimits, OverrideSubject
from allocations.policy.models import AtOnce, Shape, Size
from tests.places import join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.allocations.conftest import Bench

CREDIT = 1_000_000
LEAD = Actor("lead")
SMALL_QUANTUM = 13 * 900  # microcredits: 9 a core and 1 a GiB, a second, for 15 minutes


def people(bench: Bench, root: str, count: int) -> list[str]:
    names = [f"p{number}" for number in range(count)]
    for name in names:
        bench.accept(name)
        join(bench.services.members, LEAD, root, name, MemberRole.MEMBER)
    return names


def decide(bench: Bench, asked: Sequence[Asked]) -> list[LeaseView | AllocationsError]:
    with bench.services.database.write() as connection:
        return bench.services.leases.admission.decide(connection, asked)


def test_one_transaction_decides_each_request_by_itself(bench: Bench) -> None:
    root = bench.consortium(credits=1)
    with bench.services.database.write() as connection:
        spare = CREDIT - 3 * SMALL_QUANTUM
        bench.services.lifecycle.change_limit(connection, root, -spare, "t", TransactionKind.GRANT, "poor")
    names = people(bench, root, 3)
    asked = [
        Asked(bench.request(root, names[0]), "spawner", bench.key()),
        Asked(bench.request(root, "stranger"), "spawner", bench.key()),
        Asked(bench.request(root, names[1]), "spawner", bench.key()),
        Asked(bench.request(root, names[1]), "spawner", bench.key()),
        Asked(bench.request(root, names[2]), "spawner", bench.key()),
    ]
    bench.accept("stranger")
    answers = decide(bench, asked)
    assert [type(one) for one in answers] == [
        LeaseView,
        NotAMemberError,
        LeaseView,
        LeaseView,
        InsufficientBalanceError,
    ]
    bench.assert_clean()


def test_what_runs_at_once_is_counted_within_a_batch(bench: Bench) -> None:
    root = bench.consortium()
    (name,) = people(bench, root, 1)
    answers = decide(bench, [Asked(bench.request(root, name), "spawner", bench.key()) for _ in range(3)])
    assert [type(one) for one in answers] == [LeaseView, LeaseView, AtOnceLimitError]
    bench.assert_clean()


def test_what_others_run_in_the_tree_is_counted_within_a_batch(bench: Bench) -> None:
    root = bench.consortium()
    names = people(bench, root, 3)
    bench.services.overrides.grant(
        Actor("root", admin=True), OverrideSubject.ALLOCATION, root, OverrideLimits(cores=2), "A small pool.", 7
    )
    answers = decide(bench, [Asked(bench.request(root, name), "spawner", bench.key()) for name in names])
    assert [type(one) for one in answers] == [LeaseView, LeaseView, AtOnceLimitError]
    assert "2 cores at once; 2 run now" in str(answers[2])
    bench.assert_clean()


def test_a_key_that_stands_twice_in_a_batch_holds_once(bench: Bench) -> None:
    root = bench.consortium()
    (name,) = people(bench, root, 1)
    key = bench.key(key="same")
    other = replace(key, request_hash="another request")
    request = bench.request(root, name)
    first, again, conflict = decide(
        bench, [Asked(request, "spawner", key), Asked(request, "spawner", key), Asked(request, "spawner", other)]
    )
    assert isinstance(first, LeaseView)
    assert again == first
    assert isinstance(conflict, IdempotencyConflictError)
    bench.assert_clean()


def test_simultaneous_requests_share_transactions(bench: Bench) -> None:
    root = bench.consortium()
    names = people(bench, root, 20)
    commits = 0

    def count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    # The lane's thread is kept busy until everybody has asked.
    everybody_asked = threading.Event()
    decided = bench.services.leases.queue
    first = threading.Event()
    within = type(decided)._once

    def slow(self, asked):
        if not first.is_set():
            first.set()
            assert everybody_asked.wait(120)
        return within(self, asked)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(20) as pool:
        patch.setattr(type(decided), "_once", slow)
        # However long it takes to ask, no lane comes to its help.
        patch.setattr(batching_module, "HELD_UP_SECONDS", 600.0)
        event.listen(bench.services.database.engine, "commit", count)
        waiting = [bench.services.leases.submit(bench.request(root, name), bench.key()) for name in names]
        before = commits
        everybody_asked.set()
        leases = list(pool.map(lambda one: one.result(120), waiting))
        event.remove(bench.services.database.engine, "commit", count)
    assert len({lease.id for lease in leases}) == len(names)
    assert commits - before <= 2
    bench.assert_clean()


def test_a_batch_that_fails_is_carried_out_one_by_one() -> None:
    def carry_out(items: Sequence[int]) -> Sequence[int | Exception]:
        if len(items) > 1:
            raise RuntimeError("the whole batch")
        if items[0] == 3:
            raise ValueError("this one")
        return [items[0] * 10]

    batching: Batching[int, int] = Batching("test", carry_out, lanes=2)
    futures = [batching.submit(number) for number in range(6)]
    assert [one.exception(120) or one.result() for one in futures[:3]] == [0, 10, 20]
    assert isinstance(futures[3].exception(120), ValueError)
    assert [one.result(120) for one in futures[4:]] == [40, 50]


def test_a_lane_decides_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching_module, "HELD_UP_SECONDS", 600)
    begun: list[Sequence[str]] = []
    go_on, one_begun = threading.Event(), threading.Semaphore(0)

    def carry_out(items: Sequence[str]) -> Sequence[str | Exception]:
        begun.append(list(items))
        one_begun.release()
        assert go_on.wait(120)
        return list(items)

    batching: Batching[str, str] = Batching("test", carry_out, lanes=4)
    first = batching.submit("a")
    assert one_begun.acquire(timeout=120)
    later = [batching.submit(item) for item in ("b", "c")]
    assert not one_begun.acquire(timeout=0.2), "a second began while the lane was at work"
    go_on.set()
    assert [one.result(120) for one in (first, *later)] == ["a", "b", "c"]
    assert begun == [["a"], ["b", "c"]]


def test_a_batch_that_waits_for_somebody_holds_up_nobody_who_comes_later() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def carry_out(items: Sequence[str]) -> Sequence[str | Exception]:
        if "stuck" in items:
            begun.set()
            assert go_on.wait(120)
        return list(items)

    batching: Batching[str, str] = Batching("test", carry_out, lanes=2)
    stuck = batching.submit("stuck")
    assert begun.wait(120)
    threading.Event().wait(2 * HELD_UP_SECONDS)
    assert [batching.submit(item).result(120) for item in ("a", "b")] == ["a", "b"]
    assert not stuck.done()
    go_on.set()
    assert stuck.result(120) == "stuck"


def test_batches_that_ask_for_the_same_trees_in_opposite_orders_never_wait_for_each_other_both(bench: Bench) -> None:
    roots = [bench.consortium() for _ in range(4)]
    (name,) = people(bench, roots[0], 1)
    for root in roots[1:]:
        join(bench.services.members, LEAD, root, name, MemberRole.MEMBER)
    barrier = threading.Barrier(4)

    def work(order: Sequence[str]) -> None:
        barrier.wait(30)
        for _ in range(10):
            for answer in decide(bench, [Asked(bench.request(root, name), "spawner", bench.key()) for root in order]):
                assert isinstance(answer, LeaseView | AtOnceLimitError)
                if isinstance(answer, LeaseView):
                    bench.services.leases.void(answer.id)

    orders = (roots, roots[::-1], roots[2:] + roots[:2], [roots[1], roots[0], roots[3], roots[2]])
    with ThreadPoolExecutor(len(orders)) as pool:
        for done in [pool.submit(work, order) for order in orders]:
            done.result(120)
    bench.assert_clean()


def test_an_asker_who_goes_away_harms_nobody() -> None:
    begun, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def carry_out(items: Sequence[int]) -> Sequence[int | Exception]:
        begun.set()
        assert go_on.wait(120)
        seen.extend(items)
        return list(items)

    batching: Batching[int, int] = Batching("test", carry_out, lanes=1)
    first = batching.submit(1)
    assert begun.wait(120)
    gone, last = batching.submit(2), batching.submit(3)
    assert gone.cancel()
    assert not first.cancel()
    go_on.set()
    assert (first.result(120), last.result(120)) == (1, 3)
    assert seen == [1, 3]


def test_an_award_comes_before_the_tier_an_override_before_both_and_a_cap_lowers(bench: Bench) -> None:
    root = bench.consortium()
    with bench.services.database.read() as connection:
        allocation = bench.services.lifecycle.allocations.get(connection, root)
    assert allocation is not None
    policy, member = bench.services.policy, Member(root, "ann", MemberRole.MEMBER, 0)

    def override(kind: OverrideSubject, subject: str, **limits: int) -> Override:
        return Override("o", kind, subject, OverrideLimits.model_validate(limits), "why", "admin", 0, 1)

    limits = effective_limits(policy, [allocation], member, [])
    assert (limits.cores, limits.sources["cores"].kind) == (512, SourceKind.POLICY)
    awarded = replace(allocation, award=Award(at_once=AtOnce(servers_per_person=3, cores=64, gpus=2)))
    limits = effective_limits(policy, [awarded], member, [])
    assert (limits.cores, limits.gpus, limits.sources["gpus"].kind) == (64, 2, SourceKind.AWARD)
    overrides = [
        override(OverrideSubject.PERSON, "ann", cores=8),
        override(OverrideSubject.ALLOCATION, root, cores=16, gpus=4),
        override(OverrideSubject.PERSON, "bob", cores=1),
    ]
    limits = effective_limits(policy, [awarded], member, overrides)
    assert (limits.cores, limits.gpus, limits.sources["cores"].kind) == (8, 4, SourceKind.OVERRIDE)
    limits = effective_limits(policy, [awarded], replace(member, servers_max=1), overrides)
    assert (limits.servers_per_person, limits.sources["servers_per_person"].kind) == (1, SourceKind.MEMBER)
    limits = effective_limits(policy, [awarded], replace(member, servers_max=9), overrides)
    assert (limits.servers_per_person, limits.sources["servers_per_person"].kind) == (3, SourceKind.AWARD)


def test_a_lead_caps_what_a_member_runs_at_once(bench: Bench) -> None:
    root = bench.consortium()
    (name,) = people(bench, root, 1)
    with bench.services.database.write() as connection:
        allocations = bench.services.lifecycle.allocations
        allocations.remove_member(connection, root, name)
        allocations.add_member(connection, Member(root, name, MemberRole.MEMBER, 0, cores_max=2))
    bench.acquire(root, name)
    bench.acquire(root, name)
    with pytest.raises(AtOnceLimitError, match="lets each person run 2 servers"):
        bench.acquire(root, name)
    with pytest.raises(AtOnceLimitError, match="A lead of this allocation lets you run 2 cores"):
        bench.services.leases.acquire(
            replace(bench.request(root, name), kind=LeaseKind.BATCH, max_seconds=60), bench.key()
        )
    bench.assert_clean()


@pytest.mark.parametrize(("what", "size"), [("cores", "small"), ("GPUs", "gpu")])
def test_what_runs_at_once_is_counted_over_the_whole_tree_and_all_its_people(
    bench: Bench, what: str, size: str
) -> None:
    root = bench.consortium()
    cores = bench.services.policy.size(size).cores
    award = Award(
        largest=(Shape(cores=cores, memory_gib=64, gpus=1),),
        at_once=AtOnce(servers_per_person=5, cores=2 * cores, gpus=2),
    )
    if what == "GPUs":
        award = award.model_copy(update={"at_once": AtOnce(servers_per_person=5, cores=99, gpus=2)})
    with bench.services.database.write() as connection:
        bench.services.lifecycle.allocations.change(connection, root, award=award.model_dump_json())
    parts = [
        bench.services.tree.divide(LEAD, root, name="Group", microcredits=CREDIT, guaranteed=True, lead="lead")
        for _ in range(2)
    ]
    (name,) = people(bench, root, 1)
    bench.acquire(root, name, size)
    bench.acquire(parts[0], "lead", size)
    with pytest.raises(AtOnceLimitError, match=f"{what} at once"):
        bench.acquire(parts[1], "lead", size)
    bench.assert_clean()


def test_resources_of_ones_own_are_priced_and_limited_like_a_size(bench: Bench) -> None:
    entry = bench.accept("ann")
    own = Size(name="custom", title="Custom", cores=2, memory_gib=5)
    lease = bench.services.leases.acquire(replace(bench.request(entry), size=own), bench.key())
    assert (lease.size, lease.microcredits_per_second) == ("custom", 2 * 9 + 5)
    larger = replace(bench.request(entry), size=own.model_copy(update={"memory_gib": 17}))
    with pytest.raises(SizeNotAllowedError):
        bench.services.leases.acquire(larger, bench.key())
    unpriced = replace(bench.request(entry), size=own.model_copy(update={"gpus": 1, "gpu_type": "none-such"}))
    with pytest.raises(UnknownSizeError, match="no GPU of type"):
        bench.services.leases.acquire(unpriced, bench.key())
    bench.assert_clean()
