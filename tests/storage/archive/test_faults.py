"""Whatever a bucket does: an archive is verified and right, or it is told that it is not and nothing is taken for it.

The faults are those of a process of its own before a real S3 server; what is there in truth is looked up past it.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import time
import uuid
from contextlib import suppress

import boto3
import pytest

from allocations.storage.archive import s3
from allocations.storage.archive.format import COMMIT, MANIFEST
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.restore import restore
from allocations.storage.archive.s3 import S3, Patience
from allocations.storage.archive.stores import AbsentError, PresentError, StoreError
from allocations.storage.archive.verify import verify
from allocations.storage.archive.write import OtherPlanError, write
from allocations.storage.tree.beneath import Root
from tests.forked import exit_code_of
from tests.storage.archive.buckets import s3_server
from tests.storage.archive.fault_proxy import FAULTS, fault_proxy
from tests.storage.archive.trees import make_everything, told, wanted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root restores owners"),
]
BUCKET = "faults"
TRIES = 4
# What no honest answer takes at each of the tries, even on a machine that does much else; a stall is longer by far.
WAITED_SECONDS = 3.0
# The least that S3 takes.
PIECE_BYTES = 5 << 20
# What there is to do about each is done by going on; what cannot be gone on with is begun again elsewhere.
TOLD = (StoreError, DamagedError, OtherPlanError)
ROUNDS = 8
# What is got over by doing it again; the others may be met at each round.
PASSING = {"throttle", "error", "portal", "drop", "lose answer", "stall", "drip", "cut", "shorten", "flip up noticed"}


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with s3_server() as address:
            boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
            yield address


@pytest.fixture(scope="module")
def proxy(server):
    with fault_proxy(server) as running:
        yield running


@pytest.fixture(autouse=True)
def quiet(proxy, monkeypatch):
    proxy.set()
    monkeypatch.setattr(s3, "PIECE_BYTES", PIECE_BYTES)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    make_everything(tmp_path / "tree")
    # In several pieces.
    (tmp_path / "tree" / "data" / "larger").write_bytes(os.urandom(PIECE_BYTES + 1_000_000))
    return tmp_path / "tree"


def connect(address, prefix, *, timeout_seconds=30.0):
    patience = Patience(tries=TRIES, timeout_seconds=timeout_seconds, first_wait_seconds=0.0)
    return S3(BUCKET, prefix, endpoint_url=address, patience=patience, sleep=lambda _seconds: None)


def archive(store, tree, part_paths=8):
    with Root(str(tree)) as root:
        return write(store, root, wanted(tree), name="a", made_at="now", about={}, part_paths=part_paths)


def is_right(store, tree, elsewhere):
    """Restore an archive past the proxy and compare it with the tree bit by bit."""
    elsewhere.mkdir()
    with Root(str(elsewhere)) as root:
        assert restore(store, root, token="t", owner=(0, 0)).problems == []
    assert told(elsewhere) == told(tree)
    shutil.rmtree(elsewhere)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_bucket_does_an_archive_is_right_or_told_not_to_be(server, proxy, tree, tmp_path, fault):
    """Each fault happens to a quarter of the requests, until an archive is verified through it."""
    is_slow = fault in ("stall", "drip")
    rule = {"fault": fault, "share": 0.1 if is_slow else 0.25, "seed": 3}
    if fault == "vanish":
        rule |= {"method": "GET", "path": f"^/{BUCKET}/[^?]+$"}
    proxy.set({**rule, "times": 4} if is_slow else rule)
    is_verified = False
    prefix = str(uuid.uuid4())
    for _round in range(ROUNDS):
        through = connect(proxy.address, prefix, timeout_seconds=WAITED_SECONDS if is_slow else 30.0)
        straight = connect(server, prefix)
        try:
            archive(through, tree)
        except TOLD:
            # Told to have failed, it is not committed; unless only the answer to that was lost.
            if straight.size(COMMIT) is None:
                with pytest.raises(AbsentError):
                    verify(straight)
        try:
            verify(through)
        except TOLD:
            pass
        else:
            is_right(straight, tree, tmp_path / "straight")
            is_verified = True
            break
        with suppress(*TOLD):
            verify(straight)
            continue
        if straight.size(COMMIT) is not None:
            # It is committed and not whole: to be removed and begun again, as purges do.
            prefix = str(uuid.uuid4())
    done, requests = proxy.told()
    assert done[fault] > 0
    assert requests < ROUNDS * 300
    assert is_verified or fault not in PASSING


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("flip down", 0),
        ("cut", 0),
        ("shorten", 0),
        ("drop", 0),
        ("throttle", 0),
        ("error", 0),
        ("portal", 0),
        ("stale absent", 1),
    ],
)
def test_a_fault_of_a_download_costs_one_file_at_most_and_none_when_done_again(
    server, proxy, tree, tmp_path, fault, expected
):
    prefix = str(uuid.uuid4())
    archive(connect(server, prefix), tree)
    whole = told(tree)
    proxy.set({"fault": fault, "method": "GET", "path": "part-00001", "times": 1})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Root(str(elsewhere)) as root:
        first = restore(connect(proxy.address, prefix), root, token="t", owner=(0, 0))
        assert proxy.told()[0][fault] == 1
        assert first.problem_count <= expected
        # What is there is right, whatever is not.
        files = {path: entry for path, entry in told(elsewhere).items() if entry[5] is not None}
        assert all(entry[5] == whole[path][5] for path, entry in files.items())
        again = restore(connect(proxy.address, prefix), root, token="t", owner=(0, 0))
    assert again.problems == []
    assert {path: entry[5] for path, entry in told(elsewhere).items()} == {
        path: entry[5] for path, entry in whole.items()
    }


@pytest.mark.parametrize("fault", ["drip", "stall"])
def test_what_hardly_comes_is_given_up_in_time(server, proxy, tree, fault):
    prefix = str(uuid.uuid4())
    archive(connect(server, prefix), tree)
    proxy.set({"fault": fault, "method": "GET"})
    begun = time.monotonic()
    with pytest.raises(StoreError, match="go on"):
        verify(connect(proxy.address, prefix, timeout_seconds=1.0))
    # So many tries of a second each; the machine of the tests is slow itself.
    assert time.monotonic() - begun < 20 * TRIES
    assert proxy.told()[1] <= 2 * TRIES


def test_parts_that_vanish_are_missed(server, proxy, tree):
    store = connect(proxy.address, str(uuid.uuid4()))
    proxy.set({"fault": "vanish", "method": "GET", "path": f"^/{BUCKET}/[^?]+part-00000", "times": 1})
    with pytest.raises(AbsentError, match="part-00000"):
        archive(store, tree)
    assert store.size(COMMIT) is None
    # The others are of the run before, and are not overwritten: such an archive is begun again elsewhere.
    with pytest.raises(PresentError, match="part-00001"):
        archive(store, tree)
    assert store.size(COMMIT) is None
    store = connect(proxy.address, str(uuid.uuid4()))
    archive(store, tree)
    for name in (MANIFEST, "part-00001.tar.zst"):
        store.client.delete_object(Bucket=BUCKET, Key=store.key(name))
        with pytest.raises(AbsentError):
            verify(store)


def die(address, prefix, tree, step, what):
    """Archive or verify, and be killed at the n-th request, before it is sent or when it is answered."""
    s3.PIECE_BYTES = PIECE_BYTES
    store = connect(address, prefix)
    calls = 0
    make = store.client._make_api_call

    def call(*args):
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = make(*args)
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    store.client._make_api_call = call
    what(store, tree)


@pytest.mark.parametrize("first", range(4))
def test_killed_at_any_request_it_goes_on_and_the_bucket_has_an_archive_and_nothing_else(server, tree, tmp_path, first):
    """Every request of an archive, before and after it; a quarter of them in each test."""
    step = first + 1
    died = 0
    while True:
        prefix = str(uuid.uuid4())
        store = connect(server, prefix)
        code = exit_code_of(die, server, prefix, tree, step, archive)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        died += 1
        step += 4
        if store.size(COMMIT) is None:
            with pytest.raises(AbsentError):
                verify(store)
        made = archive(store, tree)
        assert verify(store) == made
        assert sorted(store.listed()) == sorted(store.key(name) for name in (*made.objects, COMMIT))
        found = store.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        assert [one for one in found if one["Key"].startswith(prefix)] == []
    assert died > 5
    is_right(store, tree, tmp_path / "elsewhere")


def test_killed_while_it_is_verified_nothing_is_changed(server, tree):
    prefix = str(uuid.uuid4())
    store = connect(server, prefix)
    made = archive(store, tree)
    before = {key: store.client.head_object(Bucket=BUCKET, Key=key)["ETag"] for key in store.listed()}
    for step in range(1, 9, 2):
        assert exit_code_of(die, server, prefix, tree, step, lambda store, _tree: verify(store)) == -signal.SIGKILL
    assert {key: store.client.head_object(Bucket=BUCKET, Key=key)["ETag"] for key in store.listed()} == before
    assert verify(store) == made


def measure(address, prefix, tree, answer):
    """Tell how many bytes of memory archiving and verifying took more than what was there before."""
    store = connect(address, prefix)
    store.patience = store.patience._replace(tries=12)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    archive(store, tree)
    verify(store)
    answer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def test_memory_is_bounded_whatever_is_done_again(server, proxy, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    with open(tree / "large", "wb") as file:
        for _ in range(96):
            file.write(os.urandom(1 << 20))
    proxy.set({"fault": "throttle", "share": 0.3, "seed": 1}, {"fault": "lose answer", "share": 0.1, "seed": 2})
    ours, theirs = multiprocessing.Pipe(duplex=False)
    assert exit_code_of(measure, proxy.address, str(uuid.uuid4()), tree, theirs) == 0
    assert ours.recv() < 64 << 20
