"""An archive is removed for good: all of it, nothing else, and what commits it first; killed, it is gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
import pytest

from allocations.storage.archive.format import COMMIT, MANIFEST, Archive, Stored, part_name
from allocations.storage.archive.removal import OtherArchiveError, remove_archive
from allocations.storage.archive.s3 import S3, Patience
from allocations.storage.archive.stores import Folder, StoreError
from tests.storage.archive.buckets import BUCKET, proxy, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allocations.storage.archive.stores import Store

PARTS = 4
SHA256 = "0" * 64


class _Killed(BaseException):
    """The process ends here."""


def fill(store: Store, name: str) -> None:
    """An archive of a name, as far as its removal knows archives."""
    objects = {MANIFEST: Stored(4, SHA256), **{part_name(number): Stored(4, SHA256) for number in range(PARTS)}}
    for one in objects:
        put(store, one, b"data")
    put(store, COMMIT, Archive(name, "now", objects, 1, 1, 0, {}).to_json())


def put(store: Store, name: str, data: bytes) -> None:
    with store.create(name) as sink:
        sink.write(data)
        sink.commit()


def test_all_of_an_archive_goes_and_its_commit_first(tmp_path: Path) -> None:
    store, seen = Folder(str(tmp_path / "a")), list[bool]()
    fill(store, "a")
    (tmp_path / "a" / ".unfinished-x").write_bytes(b"of one who was killed")
    assert remove_archive(store, "a", reached=lambda _point: seen.append(store.size(COMMIT) is None)) == PARTS + 2
    assert all(seen)
    assert list(tmp_path.iterdir()) == []
    assert remove_archive(store, "a") == 0


@pytest.mark.parametrize("after", range(PARTS + 3))
def test_killed_after_any_object_it_is_gone_on_with(tmp_path: Path, after: int) -> None:
    store = Folder(str(tmp_path / "a"))
    fill(store, "a")
    seen = 0

    def reached(_point: str) -> None:
        nonlocal seen
        seen += 1
        if seen > after:
            raise _Killed

    with pytest.raises(_Killed):
        remove_archive(store, "a", reached=reached)
    assert store.size(COMMIT) is None
    remove_archive(store, "a")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_archives_stays(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "a"))
    fill(store, "a")
    for name in ("part-1.tar.zst", "part-00001.tar.zst.bak", "notes", "part-00001.tar.zst\n"):
        (tmp_path / "a" / name).write_text("mine")
    remove_archive(store, "a")
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_another_archive_at_its_place_stays_whole(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "a"))
    fill(store, "b")
    with pytest.raises(OtherArchiveError, match="is b"):
        remove_archive(store, "a")
    assert len(store.names()) == PARTS + 2


def test_one_that_was_never_finished_goes_too(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "a"))
    put(store, part_name(0), b"data")
    assert remove_archive(store, "a") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        with s3_server() as address:
            boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
            yield address


def connect(address: str, prefix: str) -> S3:
    patience = Patience(tries=4, timeout_seconds=30, first_wait_seconds=0.0)
    return S3(BUCKET, prefix, endpoint_url=address, patience=patience, sleep=lambda _seconds: None)


@pytest.mark.slow
def test_in_a_bucket_its_neighbours_stay_and_unfinished_uploads_go(server: str) -> None:
    first, second = connect(server, "archives/ar-1"), connect(server, "archives/ar-10")
    for store, name in ((first, "ar-1"), (second, "ar-10")):
        fill(store, name)
        store.client.create_multipart_upload(Bucket=BUCKET, Key=store.key(part_name(PARTS)))
    assert remove_archive(first, "ar-1") == PARTS + 2
    assert (first.names(), len(second.names())) == ([], PARTS + 2)
    uploads = second.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [one["Key"] for one in uploads] == [second.key(part_name(PARTS))]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["throttle", "error", "drop", "lose answer"])
def test_a_bucket_that_fails_in_passing_is_asked_again(server: str, fault: str) -> None:
    with proxy(server) as (address, faults):
        store = connect(address, f"faulty/{fault}")
        fill(store, "a")
        faults.choose = lambda number, _method, _path: fault if number % 3 else ""
        assert remove_archive(store, "a") == PARTS + 2
        faults.choose = lambda _number, _method, _path: ""
        assert store.names() == []
        assert fault in faults.done


@pytest.mark.slow
def test_a_bucket_that_refuses_is_told(server: str) -> None:
    with proxy(server) as (address, faults):
        store = connect(address, "refusing")
        fill(store, "a")
        faults.choose = lambda _number, method, _path: "throttle" if method == "DELETE" else ""
        with pytest.raises(StoreError, match="throttled"):
            remove_archive(store, "a")
        assert len(store.names()) == PARTS + 2
