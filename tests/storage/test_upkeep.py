"""Areas are there for whom the policy gives some, limited as it says; what was there and is gone is never made anew."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocations.factory import StorageServices, make_storage_services
from allocations.lifecycle.authority import Actor
from allocations.lifecycle.models import MemberRole
from allocations.storage.measures import NOT_THERE
from allocations.storage.models import Owner, StorageClass
from allocations.storage.owners import place_of
from allocations.storage.quotas.backends import Area, BackendError, Found, Use
from allocations.storage.quotas.scanned import ScannedFolders
from allocations.storage.upkeep import OF_LIMIT, ROOM_BYTES, ClassUpkeep
from hub.spawner.homes import is_safe_name
from hub.spawner.manifests import label_value
from tests.allocations.conftest import bench, database_url, postgres_server
from tests.places import join
from tests.storage.test_reconcile import Pretended

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from allocations.storage.models import StoredArea
    from allocations.storage.quotas.backends import Backend
    from tests.allocations.conftest import Bench

__all__ = ["bench", "database_url", "postgres_server"]

GB = 1_000_000_000
HOUR = 3600
HOME, SCRATCH, SHARED = StorageClass.HOME, StorageClass.SCRATCH, StorageClass.SHARED


def upkeep_of(bench: Bench, backend: Backend, of: StorageClass = HOME, *, one_by_one: bool = True) -> ClassUpkeep:
    storage = storage_of(bench)
    return ClassUpkeep(
        storage_class=of,
        backend=backend,
        clock=bench.clock,
        owners=storage.owners,
        measures=storage.measures,
        hard_percent=110,
        one_by_one=one_by_one,
        ended_bytes=bench.services.ends.limits_bytes,
    )


def storage_of(bench: Bench) -> StorageServices:
    return make_storage_services(bench.services)


def places(bench: Bench, of: StorageClass = HOME) -> dict[str, StoredArea]:
    return {area.place: area for area in storage_of(bench).measures.areas(of)}


def scanned(folder: Path) -> ScannedFolders:
    return ScannedFolders(str(folder), owner=(0, 0), processes=1)


@dataclass
class Metered(Pretended):
    """Says that areas take so much, by place, and notes which it is asked for together."""

    takes: dict[str, int] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        self.asked.append([area.place for area in areas])
        return Found(of={area.id: Use(self.takes.get(area.place, 0)) for area in areas})


def test_people_have_homes_and_allocations_the_rest_as_their_tiers_give(bench: Bench) -> None:
    bench.accept("ann")
    deep = bench.consortium("lead")
    owners = storage_of(bench).owners
    assert owners.entitled(HOME) == [Owner(person="ann"), Owner(person="lead")]
    assert owners.entitled(SHARED) == [Owner(allocation_id=deep)]
    assert {one.allocation_id for one in owners.entitled(SCRATCH)} == {
        one.id for person in ("ann", "lead") for one in bench.services.reports.allocations_of(person)
    }


def test_the_most_that_an_allocation_in_force_gives_is_a_persons(bench: Bench) -> None:
    entry, deep = bench.accept("ann"), bench.consortium("lead")
    join(bench.services.members, Actor("lead"), deep, "ann", MemberRole.MEMBER)
    backend = Metered({})
    upkeep_of(bench, backend).keep()
    by_id = {area.id: place for place, area in places(bench).items()}
    assert {by_id[id_]: limit for id_, limit in backend.there.items()} == {"ann": 55 * GB, "lead": 55 * GB}
    admin = Actor("root", admin=True)
    bench.services.lifecycle.close(admin, deep, "over")
    upkeep_of(bench, backend).keep()
    assert backend.there[places(bench)["ann"].id] == 11 * GB
    # With nothing in force, what was given last stays: no area is suddenly without a limit.
    bench.services.lifecycle.close(admin, entry, "over")
    upkeep_of(bench, backend).keep()
    assert backend.there[places(bench)["ann"].id] == 55 * GB
    assert places(bench)["ann"].limit_bytes == 55 * GB
    # Who would come new to it then gets none.
    assert Owner(person="ann") not in storage_of(bench).owners.entitled(HOME)


def test_what_has_ended_takes_nothing_new_until_it_is_given_again(bench: Bench) -> None:
    allocation = bench.accept("ann")
    backend = Metered({}, takes={"ann": 3 * GB})
    upkeep = upkeep_of(bench, backend)
    upkeep.keep()
    upkeep.measure(lambda: True, 0)
    home = places(bench)["ann"].id
    assert backend.there[home] == 11 * GB
    bench.clock.pass_seconds(366 * 24 * HOUR)
    bench.services.lifecycle.advance()
    bench.services.ends.look()
    upkeep.keep()
    room = bench.services.policy.storage.ended.room_bytes
    assert backend.there[home] == 3 * GB + room
    backend.takes["ann"] = 2 * GB
    upkeep.measure(lambda: True, 0)
    bench.services.ends.look()
    upkeep.keep()
    assert backend.there[home] == 2 * GB + room
    bench.services.agreements.accept("ann", bench.services.policy.agreement.version)
    assert bench.services.reports.allocations_of("ann")[0].id == allocation
    bench.services.ends.look()
    upkeep.keep()
    assert backend.there[home] == 11 * GB


def test_what_the_policy_gives_no_more_keeps_its_limit(bench: Bench) -> None:
    bench.accept("ann")
    measures = storage_of(bench).measures
    eve = measures.open(HOME, Owner(person="eve"), "eve")
    backend = Metered({})
    backend.there[eve.id] = 7 * GB
    upkeep_of(bench, backend).keep()
    upkeep_of(bench, backend).keep()
    assert backend.there[eve.id] == 7 * GB


def test_folders_are_made_once_and_stay_as_they_are(bench: Bench, tmp_path: Path) -> None:
    bench.accept("ann")
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "thesis").write_text("years")
    bench.accept("bob")
    upkeep = upkeep_of(bench, scanned(tmp_path))
    done = upkeep.keep()
    assert (done.opened, done.made, done.applied, done.problems) == (2, 1, 0, 0)
    assert (upkeep.keep().opened, upkeep.keep().made) == (0, 0)
    assert (tmp_path / "ann" / "thesis").read_text() == "years"
    assert (tmp_path / "bob").stat().st_mode & 0o777 == 0o700


def test_what_is_gone_is_told_and_not_made_anew(bench: Bench, tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        bench.accept(person)
    upkeep = upkeep_of(bench, scanned(tmp_path))
    upkeep.keep()
    upkeep.measure(lambda: True, 0)
    shutil.rmtree(tmp_path / "ann")
    bench.accept("eve")
    done = upkeep.keep()
    assert (done.made, done.problems) == (1, 1)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"bob", "eve"}
    assert not (tmp_path / "ann").exists()
    bench.clock.pass_seconds(1)
    upkeep.measure(lambda: True, 0)
    assert places(bench)["ann"].problem == NOT_THERE


def test_with_another_disk_in_its_place_nothing_is_made_at_all(bench: Bench, tmp_path: Path) -> None:
    bench.accept("ann")
    mount, other = tmp_path / "mount", tmp_path / "other"
    mount.mkdir()
    upkeep_of(bench, scanned(mount)).keep()
    upkeep_of(bench, scanned(mount)).measure(lambda: True, 0)
    bench.accept("bob")
    other.mkdir()
    for folder in (other, tmp_path / "nothing"):
        with pytest.raises(BackendError, match="none of the 1 areas of home is not there"):
            upkeep_of(bench, scanned(folder)).keep()
    assert list(other.iterdir()) == []


def test_one_whose_place_is_taken_holds_up_nobody(bench: Bench, tmp_path: Path) -> None:
    storage_of(bench).measures.open(HOME, Owner(person="somebody"), "ann")
    bench.accept("ann")
    bench.accept("bob")
    assert upkeep_of(bench, scanned(tmp_path)).keep().opened == 1
    assert set(places(bench)) == {"ann", "bob"}


def test_the_oldest_measure_comes_first_and_what_is_broken_off_goes_on_there(bench: Bench) -> None:
    for person in ("ann", "bob", "eve"):
        bench.accept(person)
    backend = Metered({}, takes={"ann": 5, "bob": 6, "eve": 7})
    upkeep = upkeep_of(bench, backend)
    upkeep.keep()
    left = [True, True, False]
    broken = upkeep.measure(lambda: left.pop(0), HOUR)
    assert (broken.areas, broken.bytes, broken.whole) == (2, 11, False)
    bench.clock.pass_seconds(60)
    rest = upkeep.measure(lambda: True, HOUR)
    assert (rest.areas, rest.bytes, rest.whole) == (1, 7, True)
    assert backend.asked == [["ann"], ["bob"], ["eve"]]
    bench.clock.pass_seconds(HOUR - 60)
    backend.asked.clear()
    assert upkeep.measure(lambda: True, HOUR).areas == 2
    upkeep_of(bench, backend, one_by_one=False).measure(lambda: True, 0)
    assert backend.asked == [["ann"], ["bob"], ["eve", "ann", "bob"]]


def test_over_the_limit_of_the_policy_counts_though_the_hard_one_is_not_reached(bench: Bench) -> None:
    bench.accept("ann")
    backend = Metered({}, takes={"ann": 10 * GB + 1})
    upkeep = upkeep_of(bench, backend)
    upkeep.keep()
    upkeep.measure(lambda: True, 0)
    assert (places(bench)["ann"].over_since_ms, places(bench)["ann"].limit_bytes) == (bench.clock.now_ms(), 11 * GB)


def test_problems_of_limits_and_of_measures_do_not_hide_each_other_and_end(bench: Bench) -> None:
    bench.accept("ann")
    backend = Metered({})
    upkeep = upkeep_of(bench, backend)
    upkeep.keep()
    (ann,) = places(bench).values()

    def problem() -> str | None:
        return places(bench)["ann"].problem

    measures = storage_of(bench).measures
    measures.record([ann], Found(problems={ann.id: "Input/output error"}), {})
    upkeep.keep()
    assert problem() == "Input/output error"
    backend.there[ann.id] = None
    backend.broken.add(ann.id)
    upkeep.keep()
    assert problem() == f"{OF_LIMIT}Input/output error"
    backend.broken.clear()
    upkeep.keep()
    assert problem() is None
    measures.record([ann], Found(problems={ann.id: "Input/output error"}), {})
    upkeep.measure(lambda: True, 0)
    assert problem() is None


def test_nothing_is_written_where_nothing_has_changed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.accept("ann")
    backend = Metered({})
    upkeep = upkeep_of(bench, backend)
    upkeep.keep()
    written: list[str] = []
    monkeypatch.setattr(
        type(upkeep.measures.store), "change", lambda _store, _connection, area_id, **_values: written.append(area_id)
    )
    upkeep.keep()
    assert written == []
    backend.there[places(bench)["ann"].id] = 1
    upkeep.keep()
    assert backend.there[places(bench)["ann"].id] == 11 * GB
    assert written == []


NAMES = st.text(min_size=1, max_size=80) | st.text("ab_.-@A/ 0", min_size=1, max_size=70)


@given(first=NAMES, second=NAMES, plain=st.booleans())
def test_places_are_safe_and_nobodys_else(first: str, second: str, plain: bool) -> None:
    one, two = place_of(Owner(person=first), plain=plain), place_of(Owner(person=second), plain=plain)
    assert "/" not in one
    assert "\0" not in one
    assert one not in {"", ".", ".."}
    assert one[0].isalnum()
    assert len(one) <= 64
    assert one.isascii()
    assert (one == two) == (first == second)


@pytest.mark.parametrize("plain", [False, True])
def test_nobody_is_called_like_anothers_folder(plain: bool) -> None:
    theirs = place_of(Owner(person="ann example"), plain=plain)
    assert place_of(Owner(person=theirs), plain=plain) != theirs


@given(name=NAMES)
def test_folders_are_those_that_servers_have(name: str) -> None:
    """On Kubernetes by labels, in local mode by names that can have a home there."""
    assert place_of(Owner(person=name)) == label_value(name)
    if is_safe_name(name):
        assert place_of(Owner(person=name), plain=True) == name


def test_an_area_that_is_purged_has_room_beyond_what_it_takes(bench: Bench) -> None:
    """btrfs lets no name be moved in one that is full; when the purge is over, the limit is what it was."""
    bench.accept("ann")
    bench.accept("bob")
    backend = Metered({}, takes={"ann": 70 * GB})
    upkeep = upkeep_of(bench, backend)
    upkeep.keep()
    upkeep.measure(lambda: True, 0)
    ann, bob = places(bench)["ann"].id, places(bench)["bob"].id
    before = dict(backend.there)
    replace(upkeep, purged=lambda: {ann}).keep()
    assert backend.there == {ann: 70 * GB + ROOM_BYTES, bob: before[bob]}
    replace(upkeep, purged=lambda: {ann, bob}).keep()
    assert backend.there[bob] == (before[bob] or 0) + ROOM_BYTES
    upkeep.keep()
    assert backend.there == before
