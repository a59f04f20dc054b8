"""What the process with the mounts is told is checked: a mistake is named, and nobody's files lie in another's way."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from allocations.errors import InvalidInputError
from allocations.storage.archive.s3 import S3
from allocations.storage.models import Owner, StorageClass, StoredArea
from allocations.storage.quotas.backends import BackendError
from allocations.storage.quotas.btrfs import BtrfsSubvolumes
from allocations.storage.quotas.objects import BucketPrefixes
from allocations.storage.quotas.scanned import ScannedFolders
from allocations.storage.quotas.xfs import XfsProjects
from allocations.storage.rights import CAPABILITIES, FILES, keep_only
from allocations.storage.settings import StorageSettings
from allocations.up import PORT_NAMES, SECRET_NAMES, Platform
from tests.fresh import POLICIES

if TYPE_CHECKING:
    from pathlib import Path

OURS = {"uid": 1000, "gid": 100}
WHOLE: dict[str, Any] = {
    "classes": {
        "home": {"backend": "xfs", "mount": "/srv", "folder": "/srv/home", **OURS},
        "scratch": {"backend": "btrfs", "folder": "/scratch", **OURS},
        "shared": {"backend": "scan", "folder": "/shared", **OURS},
        "object": {"backend": "objects", "bucket": "data", "prefix": "areas", "endpoint_url": "http://127.0.0.1:9"},
    },
    "archive": "s3://archives/purged",
    "archive_endpoint_url": "http://127.0.0.1:9",
    "state": "/var/lib/meridian",
}


def test_each_class_has_the_backend_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    settings = StorageSettings.model_validate(WHOLE)
    kinds = {name: type(settings.backend(name, None)) for name in settings.classes}
    assert kinds == {
        StorageClass.HOME: XfsProjects,
        StorageClass.SCRATCH: BtrfsSubvolumes,
        StorageClass.SHARED: ScannedFolders,
        StorageClass.OBJECT: BucketPrefixes,
    }
    assert settings.folder_of(StorageClass.HOME) == "/srv/home"
    assert settings.folder_of(StorageClass.OBJECT) is None


@pytest.mark.parametrize(("own", "policys", "expected"), [(None, 7.0, 7.0), (5.0, 7.0, 5.0), (None, None, None)])
def test_scans_are_as_fast_as_this_machine_or_else_the_policy_says(own, policys, expected) -> None:
    settings = StorageSettings.model_validate(WHOLE | {"entries_per_second": own, "processes": 3})
    backend = settings.backend(StorageClass.SHARED, policys)
    assert isinstance(backend, ScannedFolders)
    assert (backend._entries_per_second, backend._processes) == (expected, 3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"clases": {}}, "clases"),
        ({"classes": {"hme": WHOLE["classes"]["home"]}}, "hme"),
        ({"classes": {"home": {"backend": "zfs", "folder": "/h", **OURS}}}, "backend"),
        ({"classes": {"home": {"backend": "scan", "folder": "homes", **OURS}}}, "absolute"),
        ({"classes": {"home": {"backend": "scan", "folder": "/", **OURS}}}, "absolute"),
        ({"classes": {"home": {"backend": "scan", "folder": "/a/../b", **OURS}}}, "absolute"),
        ({"classes": {"home": {"backend": "scan", "folder": "/h", "uid": -1, "gid": 0}}}, "uid"),
        ({"classes": {"home": WHOLE["classes"]["object"]}}, "not for this class"),
        ({"classes": {"object": WHOLE["classes"]["shared"]}}, "not for this class"),
        ({"classes": {"object": {"backend": "objects", "bucket": "b", "prefix": "/p"}}}, "prefix"),
        ({"archive": "archives"}, "absolute"),
        ({"archive": "s3://"}, "s3://bucket/prefix"),
        ({"archive": "s3://key:secret@bucket/x"}, "s3://bucket/prefix"),
        ({"archive_secret_key": "secret"}, "archive_secret_key"),
        ({"state": "/shared/state"}, "must lie apart"),
        ({"state": "/srv/home"}, "must lie apart"),
        ({"archive": "/scratch/old"}, "must lie apart"),
        ({"classes": WHOLE["classes"] | {"shared": {"backend": "scan", "folder": "/srv", **OURS}}}, "must lie apart"),
        ({"intervals_seconds": {"measure": 0}}, "measure"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "storage.yaml"
    path.write_text(yaml.safe_dump(WHOLE | change))
    with pytest.raises(InvalidInputError, match=sentence):
        StorageSettings.from_file(str(path))


def test_a_file_that_is_not_there_or_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        StorageSettings.from_file(str(tmp_path / "none"))
    for text in (":\n- [", "- 1"):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(InvalidInputError):
            StorageSettings.from_file(str(tmp_path / "bad"))
    monkeypatch.delenv("MERIDIAN_STORAGE_CONFIG", raising=False)
    with pytest.raises(InvalidInputError, match="is not set"):
        StorageSettings.required()


def test_the_settings_that_the_documentation_shows_are_settings() -> None:
    text = (POLICIES.parent / "docs" / "storage.md").read_text()
    (block,) = re.findall(r"```yaml\n(classes:.*?)```", text, re.DOTALL)
    shown = yaml.safe_load(block)
    settings = StorageSettings.model_validate(shown)
    defaults = StorageSettings.model_validate({"state": "/var/lib/meridian-storage"})
    assert settings.classes.keys() == set(StorageClass)
    assert (settings.intervals_seconds, settings.duty_seconds) == (defaults.intervals_seconds, defaults.duty_seconds)
    assert set(shown) == set(StorageSettings.model_fields)


def area(place: str, of: StorageClass = StorageClass.SHARED) -> StoredArea:
    return StoredArea(
        7, "s-7", of, Owner(person="ann"), place, None, None, None, None, largest=(), over_since_ms=None,
        limit_bytes=None, problem=None,
    )  # fmt: skip


def test_an_area_has_its_folder_and_its_archives_a_place_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    settings = StorageSettings.model_validate(WHOLE)
    mount = settings.mount(area("ann"))
    assert (mount.area, mount.state) == ("/shared/ann", "/var/lib/meridian")
    place = mount.places.place_of("x-1")
    assert place == "s3://archives/purged/x-1"
    store = mount.places.open(place)
    assert isinstance(store, S3)
    assert store.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert set(settings.purged_classes) == {StorageClass.HOME, StorageClass.SCRATCH, StorageClass.SHARED}


@pytest.mark.parametrize("place", ["..", "a/b", ""])
def test_no_place_leads_out_of_the_folder_of_its_class(place: str) -> None:
    with pytest.raises(BackendError):
        StorageSettings.model_validate(WHOLE).mount(area(place))


def test_without_a_folder_or_a_place_for_archives_nothing_is_taken_away() -> None:
    for settings, of in (
        (WHOLE, StorageClass.OBJECT),
        (WHOLE | {"archive": None}, StorageClass.SHARED),
        (WHOLE | {"classes": {}}, StorageClass.SHARED),
    ):
        checked = StorageSettings.model_validate(settings)
        assert of not in checked.purged_classes
        with pytest.raises(InvalidInputError, match="no folder or no archive"):
            checked.mount(area("ann", of))


def test_a_local_installation_keeps_the_folders_that_its_servers_get(tmp_path: Path) -> None:
    platform = Platform("127.0.0.1", 8000, tmp_path / "state", lambda _line: None)
    platform._open_state()
    plan = platform._plan("proxy", dict.fromkeys(SECRET_NAMES, "x"), dict.fromkeys(PORT_NAMES, 1))
    environments = {process.name: process.environment for process in plan}
    settings = StorageSettings.from_file(environments["storage"]["MERIDIAN_STORAGE_CONFIG"])
    hub, batch = environments["hub"], environments["batch"]
    assert settings.folder_of(StorageClass.HOME) == hub["MERIDIAN_HOMES"] == batch["MERIDIAN_HOMES"]
    assert settings.folder_of(StorageClass.SCRATCH) == hub["MERIDIAN_SCRATCH_FOLDERS"]
    assert settings.folder_of(StorageClass.SHARED) == hub["MERIDIAN_SHARED_FOLDERS"]
    assert all(os.path.isdir(settings.folder_of(name) or "") for name in settings.classes)
    assert all(one.plain_names for one in settings.classes.values())
    assert platform._lock is not None
    platform._lock.close()
    # Who has rights over files has no token of the platform.
    assert "x" not in environments["storage"].values()


def rights_of_child(kept: set[str]) -> tuple[dict[str, int], int]:
    """Keep some rights in a process of its own; return its capabilities by their set, and whether it may get new."""
    receive, send = os.pipe()
    if (child := os.fork()) == 0:
        keep_only(kept)
        with open("/proc/self/status", "rb") as status:
            os.write(send, status.read())
        os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8") as text:
        told = dict(line.split(":", 1) for line in text.read().splitlines())
    assert os.waitpid(child, 0)[1] == 0
    return {name: int(told[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, int(
        told["NoNewPrivs"]
    )


@pytest.mark.parametrize("kept", [set(), set(FILES), {"DAC_READ_SEARCH"}])
def test_every_right_that_is_not_needed_is_given_up(kept: set[str]) -> None:
    assert os.geteuid() == 0, "run this test as root: nobody else has rights to give up"
    allowed = sum(1 << CAPABILITIES[name] for name in kept)
    found, no_new = rights_of_child(kept)
    assert {name: caps & ~allowed for name, caps in found.items()} == dict.fromkeys(found, 0)
    assert (found["CapEff"], found["CapPrm"], no_new) == (allowed, allowed, 1)
