"""The pages of storage in a real browser, with all that may be on them: axe finds nothing, nothing scrolls sideways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from allocations.lifecycle.authority import Actor
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import PurgeState, RestoreState, RestoreTarget
from allocations.storage.purge.store import ArchiveStore, PurgeStore
from allocations.storage.quotas.backends import Found
from allocations.storage.tree.usage import FolderUse
from tests.serving import serving
from tests.web.looking import faults_of
from tests.web.storage_site import DAY_MS, GB, HOSTILE, StorageSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.web.conftest import Site

ADMIN = Actor("admin", admin=True)
LEAD = Actor("lead")
# Names without a place to break, and as deep as people make them.
LONG = "Photometric_redshifts_of_faint_galaxies_in_the_deep_fields_of_the_first_season"
DEEP = "/".join([LONG] * 4)


@pytest.fixture
def served(site: Site, tmp_path: Path) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """A home in each state, a scratch with a purge, exemptions, archives and restores of all kinds."""
    storage = StorageSite(site)
    for person in ("ann", "bob", "lead", "rev", "admin"):
        site.accept(person)
    whole = site.open("consortium", LONG, "lead")
    scratch = storage.area(StorageClass.SCRATCH, whole)
    homes = {person: storage.home(person) for person in ("ann", "bob", "lead", "rev")}
    largest = tuple(FolderUse(name, (9 - number) * 100 * GB, 10**6) for number, name in enumerate([DEEP, *HOSTILE]))
    for day in range(60):
        site.clock.at_ms += DAY_MS
        storage.record(scratch, (1500 + 20 * day + 90 * (day % 7)) * GB, largest=largest)
        storage.record(homes["ann"], (6 + day // 20) * GB, 10 * GB)
        storage.record(homes["bob"], 12 * GB, 10 * GB)
        if day > 50:
            storage.record(homes["rev"], 12 * GB, 10 * GB)
    storage.assess()
    first = storage.plan(ADMIN)
    archive = storage.archive(scratch, tmp_path, [*HOSTILE, f"{LONG}.fits", *(f"{LONG}/{one:03}" for one in range(60))])
    with site.services.database.write() as connection:
        (purge,) = PurgeStore().of_run(connection, first.id)
        over = {"state": PurgeState.DONE, "deleted_files": 1_100, "deleted_bytes": 30 * GB, "left_files": 100}
        PurgeStore().change(connection, purge.id, purge.state, **over, archive_id=archive.id)
    run = storage.plan(ADMIN, files=2_000_000)
    exemptions = site.services.exemptions
    for number, folder in enumerate([DEEP, "night-1", "night-2", ""]):
        asked = exemptions.ask(LEAD, scratch.id, folder, 30 + number, "The paper is not out. " * 9)
        if folder == "night-1":
            exemptions.grant(Actor("rev", reviewer=True), asked.id, 20, "Until then.")
        elif folder == "night-2":
            exemptions.refuse(Actor("rev", reviewer=True), asked.id, "Move it to your home.")
    for wanted in ([LONG], []):
        asked_back = site.services.restores.ask(LEAD, archive.id, wanted, RestoreTarget.BESIDE)
    with site.services.database.write() as connection:
        failed = {"state": RestoreState.FAILED, "problem": "There is no room: make some, and ask again."}
        ArchiveStore().change_restore(connection, asked_back.id, [RestoreState.ASKED], **failed)
    storage.measures.record([homes["lead"]], Found(problems={homes["lead"].id: "The mount is away."}), {})
    paths = {
        "ann": ["/storage"],
        "bob": ["/storage", f"/storage/areas/{homes['bob'].id}"],
        "rev": ["/storage", "/review/exemptions"],
        "lead": [
            "/storage",
            f"/storage/areas/{scratch.id}?folder=old/runs",
            f"/storage/areas/{homes['lead'].id}",
            f"/storage/archives/{archive.id}",
            f"/storage/archives/{archive.id}?find=nothing",
        ],
        "admin": ["/admin/storage", "/admin/storage/purges", f"/admin/storage/purges/{run.id}"],
    }
    with serving(site.app) as url:
        yield url, paths


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    served: tuple[str, dict[str, list[str]]], scheme: Literal["light", "dark"], width: int
) -> None:
    assert faults_of(*served, scheme, width) == {}
