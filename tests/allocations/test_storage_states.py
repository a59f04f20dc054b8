"""People are told once of each change for the worse; and a lock refuses everything but what frees space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.notify.truth import TruthService
from allocations.outbox import NoticeKind, NoticeState
from allocations.storage.models import Owner, StorageClass, StorageState
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.states import to_gb
from tests.allocations.test_storage_accounts import DAY, GB, home, measures_of
from tests.places import join

if TYPE_CHECKING:
    from allocations.storage.models import StoredArea
    from tests.allocations.conftest import Bench

NEARING, OVER, LOCKED = NoticeKind.STORAGE_NEARING, NoticeKind.STORAGE_OVER, NoticeKind.STORAGE_LOCKED


def measure(bench: Bench, area: StoredArea, used: int) -> int:
    """Measure as the agent does; return how many notices that made."""
    states = bench.services.storage_states
    measures_of(bench).record(
        [area], Found(of={area.id: Use(used, 3)}), states.owners.limits_bytes(area.storage_class, [area])
    )
    return states.tell(area.storage_class)


def told(bench: Bench, person: str) -> list[tuple[NoticeKind, str]]:
    """What a person was told of storage, oldest first."""
    found = bench.services.inbox.inbox(person).notices
    return [(one.kind, one.title) for one in reversed(found) if one.kind in (NEARING, OVER, LOCKED)]


def test_each_state_is_told_once_until_it_comes_again(bench: Bench) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    assert [measure(bench, area, used) for used in (7 * GB, 8 * GB, 9 * GB)] == [0, 1, 0]
    assert [measure(bench, area, used) for used in (11 * GB, 12 * GB)] == [1, 0]
    bench.clock.pass_seconds(13 * DAY)
    assert measure(bench, area, 12 * GB) == 0
    bench.clock.pass_seconds(DAY)
    assert [measure(bench, area, 12 * GB) for _ in range(2)] == [1, 0]
    assert told(bench, "ann") == [
        (NEARING, "Your home nears its limit: 8 GB of 10 GB"),
        (OVER, "Your home is over its limit and is locked on 2027-01-29"),
        (LOCKED, "Your home is locked: it is over its limit"),
    ]
    # On the way down nothing is told; over again is told again.
    bench.clock.pass_seconds(DAY)
    assert [measure(bench, area, used) for used in (9 * GB, 11 * GB, 3 * GB)] == [0, 1, 0]
    bench.clock.pass_seconds(DAY)
    assert [measure(bench, area, 9 * GB) for _ in range(2)] == [1, 0]


def test_nearing_for_weeks_is_told_once(bench: Bench) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    made = []
    for _ in range(5):
        bench.clock.pass_seconds(DAY)
        made.append(measure(bench, area, 9 * GB))
    assert made == [1, 0, 0, 0, 0]
    bench.clock.pass_seconds(DAY)
    assert measure(bench, area, GB) == 0
    bench.clock.pass_seconds(DAY)
    assert [measure(bench, area, 9 * GB) for _ in range(2)] == [1, 0]
    bench.clock.pass_seconds(DAY)
    assert measure(bench, area, 9 * GB) == 0


def test_a_larger_allocation_ends_the_lock_at_once(bench: Bench) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    measure(bench, area, 12 * GB)
    bench.clock.pass_seconds(15 * DAY)
    assert standing(bench, "ann") is StorageState.LOCKED
    with bench.services.database.write() as connection:
        bench.services.lifecycle.open(
            connection, bench.services.policy.tier("research"), "Lenses", lead="ann", actor="t"
        )
    assert standing(bench, "ann") is StorageState.OK


def standing(bench: Bench, person: str) -> StorageState:
    with bench.services.database.read() as connection:
        found = bench.services.storage_states.standings(connection, [person], [], bench.clock.now_ms())
    return StorageState(found.homes[person].state)


def test_those_who_divide_an_allocation_hear_that_it_nears_and_all_that_it_is_over(bench: Bench) -> None:
    node = bench.consortium()
    invite(bench, node, "bob")
    area = measures_of(bench).open(StorageClass.SHARED, Owner(allocation_id=node), node)
    assert measure(bench, area, 190 * GB) == 1
    assert measure(bench, area, 201 * GB) == 2
    assert told(bench, "bob") == [
        (OVER, "The shared storage of “Deep fields” is over its limit and is locked on 2027-01-29")
    ]
    assert [kind for kind, _ in told(bench, "lead")] == [NEARING, OVER]


def invite(bench: Bench, node: str, person: str) -> None:
    bench.accept(person)
    join(bench.services.members, Actor("lead"), node, person, MemberRole.MEMBER)


@pytest.mark.parametrize("then", [3 * GB, 9 * GB])
def test_what_is_deleted_before_the_mail_is_not_told_by_it(bench: Bench, then: int) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    measure(bench, area, 12 * GB)
    assert still_true(bench, "ann") == [OVER]
    measure(bench, area, then)
    assert OVER not in still_true(bench, "ann")


def test_a_mail_tells_the_last_state_alone(bench: Bench) -> None:
    bench.accept("ann")
    area = home(bench, "ann")
    for used in (9 * GB, 11 * GB, GB, 12 * GB):
        measure(bench, area, used)
        bench.clock.pass_seconds(60)
    assert [kind for kind, _ in told(bench, "ann")] == [NEARING, OVER, OVER]
    assert still_true(bench, "ann") == [OVER]


def still_true(bench: Bench, person: str) -> list[NoticeKind]:
    notices = bench.services.inbox.notices
    with bench.services.database.write() as connection:
        waiting = notices.lock_waiting(connection, person)
        assert all(notice.state is NoticeState.PENDING for notice in waiting)
        found = TruthService(notices=notices).still_true(connection, waiting, bench.clock.now_ms())
    return [notice.kind for notice in found if notice.kind in (NEARING, OVER, LOCKED)]


def test_bytes_are_told_so_that_what_is_over_reads_as_over() -> None:
    assert [to_gb(one) for one in (0, 1, 10 * GB, 10 * GB + 1, 1234 * GB + GB // 2)] == [
        "0 GB",
        "0.1 GB",
        "10 GB",
        "10.1 GB",
        "1,234.5 GB",
    ]
