"""A limit from the policy to the last byte and back: the kernel refuses, people are shown and charged it, more heals.

Everything real: btrfs, both databases, the services. What the policy gives is read as megabytes, so that it fits.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from allocations.lifecycle.authority import Actor
from allocations.outbox import NoticeKind
from allocations.policy import storage as policy_storage
from allocations.reports.use import By
from allocations.storage.models import StorageState, due_microcredits
from allocations.storage.owners import hard_limit
from allocations.storage.quotas.btrfs import BtrfsSubvolumes
from allocations.storage.quotas.reconcile import reconcile
from tests.allocations.test_storage_accounts import DAY, charge, days, home, measures_of
from tests.allocations.test_storage_states import told
from tests.storage.file_systems import done_by, mounted, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allocations.leases.views import HomeOffer
    from allocations.storage.models import StoredArea
    from tests.allocations.conftest import Bench

pytestmark = pytest.mark.slow

MB = 10**6
OWNER = (65534, 65534)


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(policy_storage, "BYTES_PER_GB", MB)
    with mounted("btrfs", 512) as mount:
        run("btrfs", "quota", "enable", mount)
        (mount / "homes").mkdir()
        yield mount / "homes"


def upkeep(bench: Bench, homes: Path, area: StoredArea) -> StoredArea:
    """Do what the agent does each time: limit, measure, tell. Return what is known of the area then."""
    states, measures = bench.services.storage_states, measures_of(bench)
    backend = BtrfsSubvolumes(str(homes), owner=OWNER)
    soft = states.owners.limits_bytes(area.storage_class, [area])[area.id]
    assert soft is not None
    measures.note(reconcile(backend, [area.area], {area.id: hard_limit(soft, 110)}))
    measures.record([area], backend.usage([area.area]), {area.id: soft})
    states.tell(area.storage_class)
    return measures.areas(area.storage_class)[0]


def write(path: Path, count_bytes: int) -> int:
    """Write that much, to the disk, as the owner; return 0 or the error."""

    def do() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for _ in range(count_bytes // MB):
            os.write(descriptor, os.urandom(MB))
            os.fsync(descriptor)

    return done_by(OWNER, do)


def shown(bench: Bench) -> HomeOffer:
    offer = bench.services.offers.start_options("ann").home
    assert offer is not None
    return offer


def test_a_hard_limit_from_the_first_refusal_to_its_cure(bench: Bench, homes: Path) -> None:
    entry = bench.accept("ann")
    area = upkeep(bench, homes, home(bench, "ann"))
    assert (area.limit_bytes, area.problem) == (11 * MB, None)
    assert write(homes / "ann" / "data", 9 * MB) == 0
    area = upkeep(bench, homes, area)
    assert shown(bench).state == StorageState.NEARING

    # Ten are promised and eleven fit: the write that goes beyond fails.
    assert write(homes / "ann" / "data", 9 * MB) == errno.EDQUOT
    area = upkeep(bench, homes, area)
    assert area.bytes is not None
    assert 10 * MB < area.bytes <= 11 * MB
    assert (shown(bench).state, shown(bench).full, shown(bench).used_bytes) == (StorageState.OVER, True, area.bytes)
    assert [kind for kind, _ in told(bench, "ann")] == [NoticeKind.STORAGE_NEARING, NoticeKind.STORAGE_OVER]

    # The day is charged for what was measured, and the charge says so.
    bench.clock.pass_seconds(DAY)
    price = bench.services.policy.prices[-1].microcredits_per_gb_day["home"]
    assert charge(bench) == due_microcredits(area.bytes, price) > 0
    [one] = bench.services.reports.overview("ann").charges
    assert (one.storage, one.person, one.allocation, one.quantities) == (
        "home",
        "ann",
        entry,
        {"byte_days": days(bench, area)[0].bytes},
    )

    # Locked after two weeks, though not one byte more was written.
    bench.clock.pass_seconds(13 * DAY)
    upkeep(bench, homes, area)
    assert shown(bench).state == StorageState.LOCKED
    assert not bench.services.offers.start_options("ann").allocations[0].usable

    # A larger allocation gives more: by the next round the kernel lets her write, and servers start at once.
    with bench.services.database.write() as connection:
        more = bench.services.lifecycle.open(
            connection, bench.services.policy.tier("research"), "Lenses", lead="ann", actor="t"
        ).id
    assert shown(bench).state == StorageState.OK
    bench.acquire(more)
    area = upkeep(bench, homes, area)
    assert area.limit_bytes == 55 * MB
    assert write(homes / "ann" / "data", 9 * MB) == 0
    area = upkeep(bench, homes, area)
    assert area.bytes is not None
    assert area.bytes > 19 * MB
    assert (area.over_since_ms, shown(bench).state) == (None, StorageState.OK)

    # From then on the larger allocation pays, and everything adds up.
    bench.clock.pass_seconds(DAY)
    charge(bench)
    assert bench.services.reports.use(Actor("ann"), more, By.MEMBER).lines[0].storage_microcredits > 0
    bench.assert_clean()
