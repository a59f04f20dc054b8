"""What is intended comes into force and stays, nothing else is touched, and one area that fails holds up none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocations.storage.quotas.backends import Area, BackendError, Found, Use
from allocations.storage.quotas.reconcile import reconcile
from allocations.storage.quotas.scanned import ScannedFolders

if TYPE_CHECKING:
    from collections.abc import Sequence

AREAS = [Area(f"s-{number}", number, f"home{number}") for number in range(6)]
LIMITS = st.one_of(st.none(), st.integers(1, 4))


@dataclass
class Pretended:
    """A backend in memory, which fails as it is told to."""

    there: dict[str, int | None]
    unreadable: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    enforces = True
    grain_bytes = 1

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        raise NotImplementedError

    def limits(self, areas: Sequence[Area]) -> Found[int | None]:
        found: Found[int | None] = Found()
        for area in areas:
            if area.id in self.unreadable:
                found.problems[area.id] = "cannot be read"
            elif area.id in self.there:
                found.of[area.id] = self.there[area.id]
            else:
                found.missing.add(area.id)
        return found

    def apply(self, area: Area, limit_bytes: int | None) -> None:
        self.calls.append(area.id)
        if area.id in self.broken:
            raise OSError(5, "Input/output error")
        if area.id not in self.deaf:
            self.there[area.id] = limit_bytes

    def make(self, area: Area) -> None:
        if area.id in self.broken:
            raise BackendError("no room")
        self.there[area.id] = None


@settings(deadline=None)
@given(
    there=st.dictionaries(st.sampled_from([area.id for area in AREAS]), LIMITS),
    wanted=st.lists(LIMITS, min_size=len(AREAS), max_size=len(AREAS)),
    faults=st.lists(st.sampled_from(["", "", "", "unreadable", "broken", "deaf"]), min_size=6, max_size=6),
)
def test_what_works_is_as_intended_what_does_not_is_told_and_again_changes_nothing(there, wanted, faults):
    intended = dict(zip([area.id for area in AREAS], wanted, strict=True))
    kind = dict(zip(intended, faults, strict=True))
    before = dict(there)
    unreadable, broken, deaf = (
        {id_ for id_, one in kind.items() if one == fault} for fault in ("unreadable", "broken", "deaf")
    )
    backend = Pretended(there, unreadable, broken, deaf)
    done = reconcile(backend, AREAS, intended)
    for area in AREAS:
        right = area.id in before and before[area.id] == intended[area.id]
        untouched = area.id not in done.applied
        match kind[area.id]:
            case "":
                assert backend.there[area.id] == done.in_force[area.id] == intended[area.id]
                assert area.id not in done.problems
                assert untouched == (right or (area.id not in before and intended[area.id] is None))
            case "unreadable":
                assert (area.id in done.problems, area.id in done.in_force) == (True, False)
                assert backend.there.get(area.id) == before.get(area.id)
            case "broken":
                assert (area.id in done.problems) == (not right)
                assert backend.there.get(area.id) == before.get(area.id)
            case "deaf":
                assert (area.id in done.problems) == (before.get(area.id) != intended[area.id])
    backend.calls.clear()
    again = reconcile(backend, AREAS, intended)
    assert {id_ for id_ in again.applied if not kind[id_]} == set()
    assert {id_ for id_ in backend.calls if not kind[id_]} == set()


@pytest.mark.parametrize(("limit", "rounded"), [(None, None), (0, 1024), (1500, 1024), (2048, 2048)])
def test_limits_are_rounded_as_the_backend_takes_them_and_nothing_is_not_everything(limit, rounded):
    backend = Pretended({AREAS[0].id: 5})
    backend.grain_bytes = 1024
    assert reconcile(backend, AREAS[:1], {AREAS[0].id: limit}).in_force == {AREAS[0].id: rounded}
    assert reconcile(backend, AREAS[:1], {AREAS[0].id: limit}).applied == []


def test_where_nothing_is_enforced_nothing_is_applied_and_areas_are_made(tmp_path):
    (tmp_path / "home1").mkdir()
    backend = ScannedFolders(str(tmp_path), owner=(65534, 65534))
    done = reconcile(backend, AREAS[:3], {area.id: 5 for area in AREAS[:3]})
    assert (done.made, done.applied, done.problems) == (["s-0", "s-2"], [], {})
    assert done.in_force == {"s-0": None, "s-1": None, "s-2": None}
    assert (tmp_path / "home0").stat().st_mode & 0o777 == 0o700


def test_scanned_areas_are_measured_each_by_itself(tmp_path):
    backend = ScannedFolders(str(tmp_path), owner=(0, 0), processes=1)
    for area in AREAS[:2]:
        backend.make(area)
    (tmp_path / "home0" / "data").mkdir()
    (tmp_path / "home0" / "data" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "home3").symlink_to("home0")
    (tmp_path / "home4").write_bytes(b"")
    found = backend.usage(AREAS)
    assert found.of["s-0"].files == 1
    assert found.of["s-0"].bytes >= 100_000
    assert [folder.path for folder in found.of["s-0"].largest] == ["data"]
    assert found.of["s-1"].files == 0
    assert found.problems.keys() == {"s-3", "s-4"}
    assert found.missing == {"s-2", "s-5"}
