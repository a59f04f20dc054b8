"""A bucket that fails, stalls, throttles, loses answers and corrupts: archived whole and right, or told."""

from __future__ import annotations

import os
import random
import shutil
import uuid

import boto3
import pytest

from allocations.storage.archive import s3
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.restore import restore
from allocations.storage.archive.s3 import S3, Patience
from allocations.storage.archive.stores import AbsentError, PresentError, StoreError
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import write
from allocations.storage.tree.beneath import Root
from tests.storage.archive.buckets import BUCKET, FAULTS, proxy, s3_server
from tests.storage.archive.trees import make_everything, told, wanted

pytestmark = pytest.mark.slow
TRIES = 6
# What no honest answer takes at each of the tries, even on a machine that does much else; a stall is longer by far.
WAITED_SECONDS, STALL_SECONDS = 3, 10


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with s3_server() as address:
            boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
            yield address


@pytest.fixture
def faulty(server, monkeypatch):
    # Small pieces, so that there are many; moto allows it.
    monkeypatch.setattr(s3, "PIECE_BYTES", 5 << 20)
    with proxy(server) as (address, faults):
        faults.stall_seconds = STALL_SECONDS
        yield connect(address, timeout_seconds=30), faults


def connect(address, *, timeout_seconds):
    patience = Patience(tries=TRIES, timeout_seconds=timeout_seconds, first_wait_seconds=0.0)
    return S3(BUCKET, str(uuid.uuid4()), endpoint_url=address, patience=patience, sleep=lambda _seconds: None)


def impatient(store, fault):
    """The store, but for stalls one that does not wait as long as these last."""
    return connect(store.client.meta.endpoint_url, timeout_seconds=WAITED_SECONDS) if fault == "stall" else store


def put(store, name, data):
    with store.create(name) as sink:
        sink.write(data)
        sink.commit()


def get(store, name, start=0, end=None):
    with store.read(name, start, end) as stream:
        return b"".join(iter(lambda: stream.read(100_000), b""))


DATA = os.urandom(11 << 20)


def uploads(store):
    # Other tests leave some of their own in the bucket.
    return store.client.list_multipart_uploads(Bucket=BUCKET, Prefix=store.key("")).get("Uploads", [])


@pytest.mark.parametrize("data", [b"", b"small", DATA], ids=["empty", "small", "in pieces"])
def test_objects_come_back_and_are_never_overwritten(faulty, data):
    store, _faults = faulty
    assert store.size("a") is None
    put(store, "a", data)
    assert store.size("a") == len(data)
    if data:
        assert get(store, "a") == data
        assert get(store, "a", 2, 5) == data[2:5]
    with pytest.raises(PresentError, match="not overwritten"):
        put(store, "a", b"other")
    with pytest.raises(AbsentError):
        get(store, "b")


@pytest.mark.parametrize("data", [b"small", DATA], ids=["small", "in pieces"])
def test_one_who_was_faster_is_not_overwritten(faulty, data):
    store, _faults = faulty

    def be_late():
        with store.create("a") as sink:
            sink.write(data)
            store.client.put_object(Bucket=BUCKET, Key=store.key("a"), Body=b"theirs")
            sink.commit()

    with pytest.raises(PresentError):
        be_late()
    assert get(store, "a") == b"theirs"
    assert uploads(store) == []


def test_what_is_not_committed_is_not_there_and_not_charged(faulty):
    store, _faults = faulty
    with store.create("a") as sink:
        sink.write(DATA)
    assert store.size("a") is None
    assert uploads(store) == []
    # Killed, one cannot tidy up; whoever goes on does.
    store.client.create_multipart_upload(Bucket=BUCKET, Key=store.key("a"))
    store.client.create_multipart_upload(Bucket=BUCKET, Key=store.key("ab"))
    put(store, "a", b"x")
    assert [upload["Key"] for upload in uploads(store)] == [store.key("ab")]
    store.abort(store.key("ab"), uploads(store)[0]["UploadId"])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "corrupt"])
@pytest.mark.parametrize("data", [b"small", DATA], ids=["small", "in pieces"])
def test_what_fails_in_passing_is_done_again(faulty, fault, data):
    """Each request fails at first: that the server did not get, and that whose answer was lost, the commit too."""
    store, faults = faulty
    store = impatient(store, fault)
    seen = set()

    def choose(_number, method, path):
        is_new = (method, path) not in seen
        seen.add((method, path))
        return fault if is_new else ""

    faults.choose = choose
    put(store, "a", data)
    assert get(store, "a") == data
    # Creating an upload twice leaves one that is not ours to see; the next who writes there lets go of it.
    assert len(faults.done) >= 4


@pytest.mark.parametrize("fault", ["throttle", "error", "drop", "stall"])
def test_tries_are_bounded_and_the_error_says_what_to_do(faulty, fault):
    store, faults = faulty
    store = impatient(store, fault)
    faults.choose = lambda _number, _method, _path: fault
    with pytest.raises(StoreError, match="go on"):
        put(store, "a", b"small")
    assert len(faults.requests) == TRIES


def test_waits_grow_and_are_bounded(faulty):
    store, faults = faulty
    waits: list[float] = []
    store = S3(
        BUCKET,
        "waits",
        endpoint_url=store.client.meta.endpoint_url,
        patience=Patience(tries=6, first_wait_seconds=1, longest_wait_seconds=5),
        sleep=waits.append,
    )
    faults.choose = lambda _number, _method, _path: "throttle"
    with pytest.raises(StoreError):
        store.size("a")
    assert waits == [1, 2, 4, 5, 5]


def test_a_bucket_that_is_not_there_is_told(faulty):
    store, _faults = faulty
    store.bucket = "nobodys"
    with pytest.raises(StoreError, match="make the bucket"):
        put(store, "a", b"small")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    make_everything(tmp_path / "tree")
    return tmp_path / "tree"


def archive(store, tree):
    with Root(str(tree)) as root:
        return write(store, root, wanted(tree), name="a", made_at="now", about={}, part_paths=4)


def test_an_archive_survives_faults_at_random(faulty, tree):
    """Whatever happens to a third of the requests but corruption, the tree comes back bit by bit."""
    store, faults = faulty
    chance = random.Random(1)
    kinds = [fault for fault in FAULTS if fault not in ("corrupt", "stall")]
    faults.choose = lambda _number, _method, _path: chance.choice(kinds) if chance.random() < 0.3 else ""
    before = told(tree)
    for _ in range(20):
        try:
            archive(store, tree)
            verify(store)
        except StoreError:
            continue
        break
    shutil.rmtree(tree / "data")
    with Root(str(tree)) as root:
        assert restore(store, root, token="t", owner=(0, 0)).problems == []
    assert told(tree) == before
    assert len(faults.done) > 10


def test_corruption_on_the_way_is_found_by_reading_back(faulty, tree):
    """The bucket of the tests takes any bytes, as S3 would not: a checksum is sent with them."""
    store, faults = faulty
    faults.choose = lambda _number, method, path: "corrupt" if method == "PUT" and "part-00001" in path else ""
    archive(store, tree)
    assert faults.done == ["corrupt"]
    with pytest.raises(DamagedError, match="part-00001"):
        verify(store)


def test_corruption_when_reading_is_found(faulty, tree):
    store, faults = faulty
    archive(store, tree)
    faults.choose = lambda _number, method, path: "corrupt" if method == "GET" and "part-00002" in path else ""
    with pytest.raises(DamagedError, match="part-00002"):
        verify(store)
    faults.choose = lambda _number, _method, _path: ""
    verify(store)
