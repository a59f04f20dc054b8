"""An archive's page: whose it is, what is in it whatever it is called, and asking files back."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from allocations.lifecycle.authority import Actor
from allocations.storage.models import StorageClass
from allocations.storage.purge.models import RestoreState, RestoreTarget
from allocations.storage.purge.store import ArchiveStore
from allocations.web.archives import FILES_PAGE
from tests.web.storage_site import DAY_MS, GB, HOSTILE, StorageSite
from tests.web.test_web_storage import words

if TYPE_CHECKING:
    from allocations.storage.models import StoredArea
    from allocations.storage.purge.models import StoredArchive
    from tests.web.conftest import Site

NAMES = [f"run/{number:03}.fits" for number in range(100)]


@pytest.fixture
def storage(site: Site) -> StorageSite:
    return StorageSite(site)


@pytest.fixture
def home(site: Site, storage: StorageSite) -> StoredArea:
    site.accept("ann")
    area = storage.home("ann")
    storage.record(area, 3 * GB)
    return area


@pytest.fixture
def archive(storage: StorageSite, home: StoredArea, tmp_path: Path) -> StoredArchive:
    return storage.archive(home, tmp_path, [*NAMES, *HOSTILE])


def shown(page: str) -> list[str]:
    return re.findall(r'<th scope="row"><bdi class="p-path">(.*?)</bdi>', page)


def asked(site: Site, area: StoredArea) -> list[tuple[tuple[str, ...], RestoreTarget]]:
    return [(one.paths, one.target) for one in site.services.restores.asked_of(Actor("ann"), area.id)]


def test_it_is_its_owners_and_looks_to_others_like_none(
    site: Site, storage: StorageSite, home: StoredArea, archive: StoredArchive, tmp_path: Path
) -> None:
    path = f"/storage/archives/{archive.id}"
    assert path in site.browser("ann").get(f"/storage/areas/{home.id}").text
    assert [site.browser(who).get(path).status_code for who in ("ann", "admin", "bob", "lead")] == [200, 200, 404, 404]
    others, none = (site.browser("bob").get(one).text for one in (path, "/storage/archives/ar-0"))
    assert words(others).replace(archive.id, "ar-0") == words(none)
    fields = {"what": "all", "target": "beside"}
    assert site.browser("bob").post(f"{path}/restores", fields).status_code == 404
    assert asked(site, home) == []
    # Members see what is kept of an allocation; its leads ask it back.
    whole = site.open("consortium", "Deep fields", "lead")
    site.accept("lead")
    site.join(whole, "ann")
    of_all = storage.archive(storage.area(StorageClass.SHARED, whole), tmp_path, ["a"])
    path = f"/storage/archives/{of_all.id}"
    assert "Bring it back" not in site.browser("ann").get(path).text
    assert site.browser("ann").post(f"{path}/restores", fields).status_code == 403
    assert "Bring it back" in site.browser("lead").get(path).text
    assert site.browser("lead").post(f"{path}/restores", fields).status_code == 303


def test_an_archive_whose_time_is_over_is_none(site: Site, home: StoredArea, archive: StoredArchive) -> None:
    site.clock.at_ms += 180 * DAY_MS
    ann = site.browser("ann")
    assert ann.get(f"/storage/archives/{archive.id}").status_code == 404
    assert archive.id not in ann.get(f"/storage/areas/{home.id}").text
    fields = {"what": "all", "target": "beside"}
    assert ann.post(f"/storage/archives/{archive.id}/restores", fields).status_code == 404


def test_every_file_is_on_one_page_and_only_one(site: Site, archive: StoredArchive) -> None:
    ann, address, found, pages = site.browser("ann"), f"/storage/archives/{archive.id}", [], 0
    while address:
        page = ann.get(address).text
        assert len(shown(page)) <= FILES_PAGE
        found += shown(page)
        pages += 1
        following = re.search(r'href="[^"]*(/storage/archives/[^"]+)">Go on</a>', page)
        address = unescape(following[1]) if following else ""
    assert sorted(found) == sorted([*NAMES, *HOSTILE.values()])
    assert pages == 3
    assert "There is nothing further" in ann.get(f"/storage/archives/{archive.id}?start=5000").text


def test_names_are_looked_for_as_they_are_shown(site: Site, archive: StoredArchive) -> None:
    ann = site.browser("ann")

    def find(text: str) -> list[str]:
        return shown(ann.http.get(f"/services/allocations/storage/archives/{archive.id}", params={"find": text}).text)

    assert sorted(find("RUN/09")) == NAMES[90:]
    assert find("\\xe9") == ["caf\\xe9"]
    assert sorted(find("\\x0a")) == ["back\\\\x0aslash", "two\\x0alines"]
    assert find("<script>") == ["&lt;script&gt;alert(1)&lt;"]
    assert find("nothing like that") == []
    assert ann.get(f"/storage/archives/{archive.id}?find={'x' * 501}").status_code == 422


def test_where_nothing_is_listed_nothing_can_be_ticked(site: Site, archive: StoredArchive) -> None:
    ann = site.browser("ann")
    assert 'value="ticked" checked' in ann.get(f"/storage/archives/{archive.id}").text
    page = ann.get(f"/storage/archives/{archive.id}?find=nothing-like-that").text
    assert 'value="ticked"' not in page
    assert 'value="path" id="what-path" checked' in page


def test_what_is_ticked_is_asked_for_by_its_very_name(site: Site, home: StoredArea, archive: StoredArchive) -> None:
    ann = site.browser("ann")
    page = ann.http.get(f"/services/allocations/storage/archives/{archive.id}", params={"start": 80}).text
    values = [unescape(one) for one in re.findall(r'name="ticked" value="([^"]*)"', page)]
    fields = {"what": "ticked", "ticked": values, "target": "beside", "_csrf": ann.token()}
    path = f"/services/allocations/storage/archives/{archive.id}/restores"
    for _sent_twice in range(2):
        assert ann.http.post(path, data=fields).status_code == 303
    ((paths, target),) = asked(site, home)
    assert target is RestoreTarget.BESIDE
    assert set(HOSTILE) <= set(paths)
    assert len(paths) == len(values) > len(HOSTILE)


def test_a_folder_or_all_is_asked_for_and_its_state_is_shown(
    site: Site, home: StoredArea, archive: StoredArchive
) -> None:
    ann, path = site.browser("ann"), f"/storage/archives/{archive.id}/restores"
    folder = {"what": "path", "path": "/run/", "target": "in place"}
    assert ann.post(path, folder).status_code == 303
    assert ann.post(path, folder).status_code == 303, "sent twice, asked once"
    assert ann.post(path, {"what": "all", "target": "beside"}).status_code == 303
    assert set(asked(site, home)) == {(("run",), RestoreTarget.IN_PLACE), ((), RestoreTarget.BESIDE)}
    with site.services.database.write() as connection:
        (one,) = [one for one in ArchiveStore().restores_of(connection, [archive.id]) if one.paths]
        values = {"state": RestoreState.FAILED, "problem": "There is no <room> for \u202egnp."}
        ArchiveStore().change_restore(connection, one.id, [RestoreState.ASKED], **values)
    page = ann.get(f"/storage/archives/{archive.id}").text
    assert "There is no &lt;room&gt; for \\u202egnp." in page
    assert "all of the archive restored/ waiting" in words(page)
    assert ann.post(path, folder).status_code == 303, "what failed may be asked for again"


@pytest.mark.parametrize(
    "wrong",
    [
        {"what": "ticked"},
        {"what": "ticked", "ticked": ""},
        {"what": "path", "path": ""},
        {"what": "path", "path": "/"},
        {"what": "path", "path": "../home"},
        {"what": "path", "path": "a/./b"},
        {"what": "path", "path": "\\q"},
        {"what": "path", "path": "x" * 9000},
        {"what": ""},
        {"target": "elsewhere"},
    ],
)
def test_nothing_chosen_is_never_everything(
    site: Site, home: StoredArea, archive: StoredArchive, wrong: dict[str, str]
) -> None:
    fields = {"what": "all", "target": "beside"} | wrong
    answer = site.browser("ann").post(f"/storage/archives/{archive.id}/restores", fields)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert asked(site, home) == []


def test_an_archive_that_cannot_be_read_says_so_and_its_files_may_be_asked_for(
    site: Site, home: StoredArea, archive: StoredArchive
) -> None:
    ann = site.browser("ann")
    manifest = Path(archive.place) / "manifest.jsonl.zst"
    whole = manifest.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"?" * len(whole), None):
        manifest.unlink()
        if damage is not None:
            manifest.write_bytes(damage)
        page = ann.get(f"/storage/archives/{archive.id}")
        assert page.status_code == 503, damage
        assert "cannot be listed now" in page.text
        assert str(archive.place) not in page.text
        assert "Bring it back" in page.text
    fields = {"what": "all", "target": "beside"}
    assert ann.post(f"/storage/archives/{archive.id}/restores", fields).status_code == 303
    assert asked(site, home) == [((), RestoreTarget.BESIDE)]
