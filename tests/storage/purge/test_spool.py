"""What plans spool is gone with them: at once, or after who made one was killed, and never while somebody makes one."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import PlanReader
from allocations.storage.purge.spool import SPOOLS, remove_left, spool
from tests.storage.test_plan import MUCH_LATER_MS, NOW_MS, rules_of

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from pathlib import Path

PATIENCE_SECONDS = 200
FILES = 3_000
ENTRIES_PER_SECOND = 300
_fork = multiprocessing.get_context("fork")


def spooled(folder: Path) -> list[str]:
    """The folders of plans that are being made, or were."""
    return [name for name in os.listdir(folder / SPOOLS) if name != "lock"]


def make_plan(area: Path, ours: Path, processes: int, entries_per_second: float) -> None:
    plan(
        str(area),
        rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS),
        str(ours / "plan"),
        arrivals=str(ours / "arrivals"),
        now_ms=NOW_MS,
        dry_run=True,
        processes=processes,
        entries_per_second=entries_per_second,
    )


def beginning(
    area: Path, ours: Path, processes: int, entries_per_second: float = ENTRIES_PER_SECOND
) -> tuple[BaseProcess, list[psutil.Process]]:
    """Make a plan in a process of its own; return it, and those of its scan, as soon as something is spooled."""
    process = _fork.Process(target=make_plan, args=(area, ours, processes, entries_per_second))
    process.start()
    ends = time.monotonic() + PATIENCE_SECONDS
    while not list((ours / SPOOLS).glob(f"*/{processes - 1}.lines")):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return process, psutil.Process(process.pid).children()


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A tree whose plan takes seconds, and a folder for it."""
    area, ours = tmp_path / "area", tmp_path / "ours"
    ours.mkdir()
    for number in range(FILES):
        (area / str(number % 30)).mkdir(parents=True, exist_ok=True)
        (area / str(number % 30) / str(number)).touch()
    return area, ours


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_killed_plan_spooled_is_removed_when_nobody_writes_there_any_more(place: tuple[Path, Path]) -> None:
    area, ours = place
    process, scanning = beginning(area, ours, processes=2, entries_per_second=ENTRIES_PER_SECOND / 10)
    assert len(scanning) == 2
    assert remove_left(str(ours)) == 0
    # One process of its scan is held, as if its disk were slow; they are nobody's then, and the other may end.
    scanning[0].suspend()
    process.kill()
    process.join()
    assert remove_left(str(ours)) == 0
    assert len(spooled(ours)) == 1
    for one in scanning:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(scanning, PATIENCE_SECONDS)
    assert remove_left(str(ours)) == 1
    assert spooled(ours) == []
    assert not (ours / "plan").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plan_is_whole_though_all_the_while_somebody_tidies_up(place: tuple[Path, Path]) -> None:
    area, ours = place
    (ours / SPOOLS / "of one who was killed").mkdir(parents=True)
    (ours / SPOOLS / "of one who was killed" / "0.lines").touch()
    process, _scanning = beginning(area, ours, processes=1)
    removed = 0
    while process.exitcode is None:
        removed += remove_left(str(ours))
        process.join(0.01)
    assert process.exitcode == 0
    reader = PlanReader(str(ours / "plan"))
    assert sum(one.type == "file" for one in reader) == FILES
    assert removed + remove_left(str(ours)) == 1
    assert spooled(ours) == []


def test_who_comes_while_what_is_left_is_removed_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spool(str(tmp_path)) as path:
        os.mkdir(f"{path}-left")
    comes: list[BaseProcess] = []
    begun = tmp_path / "begun"

    def begin() -> None:
        with spool(str(tmp_path)):
            begun.touch()

    rmdir = os.rmdir

    def rmdir_slowly(*args: object, **how: object) -> None:
        if not comes:
            comes.append(_fork.Process(target=begin))
            comes[0].start()
            comes[0].join(1)
            assert not begun.exists()
        rmdir(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rmdir", rmdir_slowly)
    assert remove_left(str(tmp_path)) == 1
    monkeypatch.undo()
    comes[0].join(PATIENCE_SECONDS)
    assert begun.exists()


def test_where_nothing_was_planned_there_is_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_left(str(tmp_path)) == 0
    assert os.listdir(tmp_path) == []
