"""What is reported of storage, on both databases: whose areas are listed, in which order, and what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import InvalidInputError, NotFoundError
from allocations.ids import random_id
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.reports.storage_views import RawPath, from_json_path
from allocations.storage.measures import MeasureService
from allocations.storage.models import Owner, StorageClass
from allocations.storage.purge.models import Amount, PlannedPath, PurgeState, Summary
from allocations.storage.purge.store import PurgeStore
from allocations.storage.quotas.backends import Found, Use
from allocations.storage.store import StorageStore
from allocations.storage.tree.usage import FolderUse
from tests.places import join

if TYPE_CHECKING:
    from allocations.reports.storage_views import PathInJson
    from allocations.storage.models import StoredArea
    from tests.allocations.conftest import Bench

GB = 1_000_000_000
DAY = 86_400
ADMIN = Actor("admin", admin=True)


def measures_of(bench: Bench) -> MeasureService:
    return MeasureService(database=bench.services.database, clock=bench.clock, new_id=random_id, store=StorageStore())


def measured(bench: Bench, storage_class: StorageClass, owner: Owner, used: int | None, **more: object) -> StoredArea:
    """An area that takes so much; None: that was not measured."""
    area = measures_of(bench).open(storage_class, owner, f"{owner.person or owner.allocation_id}")
    if used is not None:
        use = Use(used, 3, **more)  # type: ignore[arg-type]  # what the test gives
        measures_of(bench).record([area], Found(of={area.id: use}), {})
    return area


def test_ones_own_areas_come_first_and_others_never(bench: Bench) -> None:
    for person in ("ann", "bob"):
        bench.accept(person)
    whole = bench.consortium()
    join(bench.services.members, Actor("lead"), whole, "ann", MemberRole.MEMBER)
    of_all = [
        measured(bench, one, Owner(allocation_id=whole), GB) for one in (StorageClass.OBJECT, StorageClass.SCRATCH)
    ]
    own = measured(bench, StorageClass.HOME, Owner(person="ann"), GB)
    reports = bench.services.storage_reports
    assert [one.id for one in reports.areas_of("ann")] == [own.id, of_all[1].id, of_all[0].id]
    assert [one.id for one in reports.areas_of("lead")] == [of_all[1].id, of_all[0].id]
    assert reports.areas_of("bob") == []
    with pytest.raises(NotFoundError):
        reports.area(Actor("bob"), own.id)


def test_all_areas_come_by_size_a_page_at_a_time_those_not_measured_last(bench: Bench) -> None:
    sizes = [5, None, 0, 70, 5, None]
    areas = [measured(bench, StorageClass.HOME, Owner(person=f"p{number}"), size) for number, size in enumerate(sizes)]
    reports = bench.services.storage_reports
    expected = [areas[number].id for number in (3, 0, 4, 2, 1, 5)]
    found, start = [], 0
    while True:
        page = reports.largest(StorageClass.HOME, start, 4)
        assert page.count == len(areas)
        found += [one.id for one in page.areas]
        if page.next_start is None:
            break
        start = page.next_start
    assert found == expected
    assert reports.largest(StorageClass.SCRATCH).areas == []
    assert reports.largest(None, 50).next_start is None


def test_a_trend_has_ninety_days_and_paths_that_are_no_text(bench: Bench) -> None:
    bench.accept("ann")
    largest = (FolderUse("caf\udce9\n", GB, 1),)
    for _day in range(95):
        area = measured(bench, StorageClass.HOME, Owner(person="ann"), GB, largest=largest)
        bench.clock.pass_seconds(DAY)
    reports = bench.services.storage_reports
    days = reports.trend(Actor("ann"), area.id).days
    assert len(days) == 89, "today is not measured yet"
    assert reports.area(Actor("ann"), area.id).model_dump(mode="json")["largest"][0]["path"] == {"b64": "Y2Fm6Qo="}


@pytest.mark.parametrize("told", [RawPath(b64="\x80"), RawPath(b64="Y2Fm"[:3]), RawPath(b64="AA=="), "\ud800", "\0"])
def test_what_is_no_path_is_refused(told: PathInJson) -> None:
    with pytest.raises(InvalidInputError, match="A path"):
        from_json_path(told)


def test_problems_are_for_administrators(bench: Bench) -> None:
    area = measured(bench, StorageClass.HOME, Owner(person="ann"), GB)
    assert bench.services.storage_reports.failing() == []
    measures_of(bench).record([area], Found(problems={area.id: "The mount is away."}), {})
    reports = bench.services.storage_reports
    assert [(one.id, one.problem) for one in reports.failing()] == [(area.id, "The mount is away.")]
    assert reports.area(Actor("ann"), area.id).problem is None
    assert reports.area(ADMIN, area.id).problem == "The mount is away."


def test_a_purge_is_told_to_those_whose_files_may_be_there_until_it_is_over(bench: Bench) -> None:
    whole = bench.consortium()
    area = measured(bench, StorageClass.SCRATCH, Owner(allocation_id=whole), GB)
    run = bench.services.purges.plan(ADMIN, StorageClass.SCRATCH)
    purges = PurgeStore()
    summary = Summary(
        by_rule=(Amount("scratch-consortium", 2, 9),), paths=(PlannedPath("a\n\udce9", 9, "scratch-consortium"),)
    )
    ends_at_ms = bench.clock.at_ms + 7 * DAY * 1000
    with bench.services.database.write() as connection:
        (purge,) = purges.of_run(connection, run.id)
        told = {"state": PurgeState.NOTICED, "files": 2, "bytes": 9, "summary": summary}
        purges.change(connection, purge.id, purge.state, **told, window_ends_at_ms=ends_at_ms)
    reports, calendar = bench.services.purge_reports, bench.services.calendar
    (found,) = reports.under_way("lead").values()
    assert (found.area, found.files, found.by_rule[0].age_days) == (area.id, 2, 30)
    assert found.paths[0].path == "a\\x0a\\xe9"
    assert found.full_list.startswith(".meridian/purges/2027-01-15-")
    assert reports.under_way("bob") == {}
    assert [one.id for one in reports.of_area(Actor("lead"), area.id)] == [found.id]
    with pytest.raises(NotFoundError):
        reports.of_area(Actor("bob"), area.id)
    assert f"purge-{found.id}@meridian" in calendar.feed(calendar.renew("lead")).decode()
    assert "purge-" not in calendar.feed(calendar.renew("bob")).decode()
    with bench.services.database.write() as connection:
        purges.change(connection, found.id, PurgeState.NOTICED, state=PurgeState.DONE, deleted_files=2)
    assert reports.under_way("lead") == {}
    assert reports.of_area(Actor("lead"), area.id)[0].full_list.endswith("-done.txt")
    assert "purge-" not in calendar.feed(calendar.renew("lead")).decode()


def test_the_limit_that_is_shown_is_the_one_that_is_applied(bench: Bench) -> None:
    area = measured(bench, StorageClass.HOME, Owner(person="ann"), GB)
    owners, reports = bench.services.storage_states.owners, bench.services.storage_reports
    allocation = bench.accept("ann")
    for nobody_pays in (False, True):
        if nobody_pays:
            bench.services.lifecycle.archive(ADMIN, allocation, "It is over.")
        shown = reports.area(Actor("ann"), area.id)
        assert shown.limit_bytes == owners.limits_bytes(StorageClass.HOME, [area])[area.id] == 10 * GB
        assert shown.payer == (None if nobody_pays else allocation)
