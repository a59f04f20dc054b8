"""Whatever the owner of an area does while it is purged: nothing outside of it is read or removed.

`make attack ROUNDS=10000` plays as many rounds as are asked for; the tests play a few.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pytest
import zstandard

from allocations.storage.archive.stores import Folder
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.purge.archived import archived_lines, to_wanted
from allocations.storage.purge.delete import Deleted, delete
from allocations.storage.purge.looking import GONE_ELSEWHERE
from allocations.storage.purge.plan import plan
from allocations.storage.purge.planfile import PlanReader
from allocations.storage.purge.trash import TrashError
from allocations.storage.tree.beneath import Root
from tests.storage.archive.trees import told
from tests.storage.attack.attackers import (
    FOLDERS,
    NAMES,
    OLD_NS,
    UID,
    Attacker,
    Keeper,
    Mover,
    Swapper,
    become_nobody_else,
)
from tests.storage.attack.watching import ACCESS, ATTRIB, MODIFY, MOVED_OR_GONE, OPEN, Watch
from tests.storage.test_plan import MUCH_LATER_MS, NOW_MS, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("MERIDIAN_ATTACK_ROUNDS", "150"))
SEED = int(os.environ.get("MERIDIAN_ATTACK_SEED", "1"))
SECRET = b"what only root may read, and no archive may hold"


@pytest.fixture
def base() -> Iterator[Path]:
    """The folder of all, on a disk; where everybody may go, as not everybody may in pytest's own."""
    assert os.geteuid() == 0, "run this test as root: it becomes somebody else"
    path = Path(mkdtemp(prefix="meridian-attack-", dir="/tmp"))
    path.chmod(0o755)
    for name in ("area", "theirs"):
        (path / name).mkdir()
        os.chown(path / name, UID, UID)
    for above, mode in (("canaries", 0o600), ("linkable", 0o666)):
        for folder in ("", *FOLDERS) if above == "canaries" else ("",):
            (path / above / folder).mkdir(exist_ok=True)
            for name in NAMES:
                canary = path / above / folder / name
                canary.write_bytes(SECRET if above == "canaries" else b"linkable")
                canary.chmod(mode)
                # Reading it would set its atime even where the mount saves itself most of that (relatime).
                os.utime(canary, ns=(OLD_NS - 10**9, OLD_NS))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ours() -> Iterator[Path]:
    """Our own folder, in memory: what is written there is synced, which is not what is tried here."""
    path = Path(mkdtemp(prefix="meridian-attack-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@contextmanager
def attacked(*attackers: Attacker) -> Iterator[None]:
    """Let attackers go about their business as long as the block lasts."""

    def attack(attacker: Attacker) -> None:
        become_nobody_else()
        attacker.run()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=attack, args=(one,), daemon=True) for one in attackers]
    for process in processes:
        process.start()
    try:
        yield
        assert all(process.is_alive() for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def purge(area: Path, ours: Path, archived: set[str]) -> Deleted:
    """Plan all that there is, archive it, verify the archive, and delete; adds what was archived, by sha256.

    Raises TrashError.
    """
    shutil.rmtree(ours / "archive", ignore_errors=True)
    store = Folder(str(ours / "archive"))
    rules = rules_of({"age_days": 30}, as_of_ms=MUCH_LATER_MS)
    path = str(ours / "plan")
    plan(str(area), rules, path, arrivals=str(ours / "none"), now_ms=NOW_MS, dry_run=True, processes=1)
    with Root(str(area)) as root:
        write(store, root, to_wanted(root, PlanReader(path)), name="a", made_at="now", about={})
        verified = verify(store)
        lines = list(archived_lines(store, verified))
        archived.update(line.sha256 for line in lines)
        deleted = delete(root, PlanReader(path), lines)
    for part in (ours / "archive").glob("part-*"):
        assert SECRET not in zstandard.ZstdDecompressor().stream_reader(
            part.read_bytes(), read_across_frames=True
        ).read(1 << 30)
    return deleted


def dates(folder: Path) -> dict[str, tuple[int, int]]:
    """atime and mtime of all files."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_atime_ns, path.stat().st_mtime_ns) for path in paths}


@pytest.mark.timeout(12 * 3600)
def test_nothing_outside_is_read_or_removed(base, ours):
    before = {name: told(base / name) for name in ("canaries", "linkable")}
    for path in (base / "canaries").rglob("*"):
        os.utime(path, ns=(OLD_NS - 10**9, OLD_NS))
    dated = dates(base / "canaries")
    canaries = [base / "canaries", *(base / "canaries").rglob("*")]
    sums: Counter[str] = Counter()
    archived: set[str] = set()
    events = ACCESS | MODIFY | ATTRIB | OPEN | MOVED_OR_GONE
    with Watch(canaries, events) as watch, Watch((base / "linkable").iterdir(), MODIFY) as changed:
        seeds = range(SEED, SEED + 4)
        kinds: tuple[type[Attacker], ...] = (Swapper, Swapper, Mover, Keeper)
        with attacked(*(kind(base, seed) for kind, seed in zip(kinds, seeds, strict=True))):
            for number in range(1, ROUNDS + 1):
                try:
                    deleted = purge(base / "area", ours, archived)
                except TrashError:
                    sums["no trash"] += 1
                    continue
                finally:
                    assert watch.seen() == [], f"round {number}"
                sums["files"] += deleted.files
                sums["folders"] += deleted.folders
                sums["gone"] += deleted.gone
                sums.update(why.partition(";")[0] for _path, why in deleted.left)
                assert not (base / "theirs" / "lost").exists(), (base / "theirs" / "lost").read_text()
                if number % 500 == 0:
                    sys.stdout.write(f"{number} rounds: {dict(sums)}\n")
                    sys.stdout.flush()
        assert changed.seen() == []
        assert watch.seen() == []
        assert dates(base / "canaries") == dated
        watch.seen()  # our own looking
        # That it would have been seen: this is how a canary is read.
        assert (base / "canaries" / "f").read_bytes() == SECRET
        assert str(base / "canaries" / "f") in {path for path, _events in watch.seen()}
    for name, canary in before.items():
        now = told(base / name)
        assert {path: entry[:2] + entry[5:] for path, entry in now.items()} == {
            path: entry[:2] + entry[5:] for path, entry in canary.items()
        }
    there = {path.read_text() for path in (base / "area").rglob("*") if path.is_file() and not path.is_symlink()}
    vanished = (base / "theirs" / "vanished").read_text().splitlines()
    lost = [text for text in vanished if hashlib.sha256(text.encode()).hexdigest() not in archived]
    assert [text for text in lost if text not in there] == []
    sums["vanished"] = len(vanished)
    # It was an attack: much went, and much was found to be something else just then.
    sys.stdout.write(f"{ROUNDS} rounds: {dict(sums)}\n")
    assert sums["no trash"] < ROUNDS / 2
    assert sums["files"] > ROUNDS
    assert sums[GONE_ELSEWHERE] > 0
    assert sums["gone"] > 0
    assert vanished
