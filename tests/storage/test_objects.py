"""What is under a prefix of a bucket is counted, all of it and nothing else, against a real server's API."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from allocations.storage.quotas.backends import Area, BackendError, Use
from allocations.storage.quotas.objects import BucketPrefixes
from allocations.storage.quotas.reconcile import reconcile
from allocations.storage.tree.usage import FolderUse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ANN, ANNA, BOB = Area("s-1", 1, "people/ann"), Area("s-2", 2, "people/anna"), Area("s-3", 3, "people/bob")
PART_BYTES = 5 << 20


def client_at(port: int) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=30),
    )


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    _host, port = running.get_host_and_port()
    yield port
    running.stop()


@pytest.fixture
def client(server: int, request: pytest.FixtureRequest) -> Any:
    made = client_at(server)
    made.create_bucket(Bucket=bucket_of(request))
    return made


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    return bucket_of(request)


def bucket_of(request: pytest.FixtureRequest) -> str:
    return f"b{abs(hash(request.node.name))}"


def put(client: Any, bucket: str, key: str, size: int) -> None:
    client.put_object(Bucket=bucket, Key=key, Body=b"x" * size)


def test_a_prefix_is_that_owners_alone(client, bucket):
    for key, size in {"ann/a": 10, "ann/data/b": 5, "ann/data/c": 7, "ann/x/d": 1, "anna/a": 100, "ann": 1000}.items():
        put(client, bucket, f"people/{key}", size)
    found = BucketPrefixes(client, bucket).usage([ANN, ANNA, BOB])
    assert found.of[ANN.id] == Use(23, 4, (FolderUse("data", 12, 2), FolderUse("x", 1, 1)))
    assert found.of[ANNA.id] == Use(100, 1)
    assert found.of[BOB.id] == Use(0, 0)


def test_more_than_a_page_has_of_everything(client, bucket):
    for number in range(7):
        put(client, bucket, f"people/bob/{number}", 3)
    for number in range(3):
        upload = client.create_multipart_upload(Bucket=bucket, Key=f"people/bob/u{number}")["UploadId"]
        for part in (1, 2, 3):
            client.upload_part(
                Bucket=bucket, Key=f"people/bob/u{number}", UploadId=upload, PartNumber=part, Body=b"x" * 10
            )
    asked = SmallPages(client)
    found = BucketPrefixes(asked, bucket).usage([BOB])
    assert (found.of[BOB.id].bytes, found.of[BOB.id].files) == (21 + 90, 7)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(3):
        put(client, bucket, "people/bob/0", 3)
    found = BucketPrefixes(asked, bucket).usage([BOB])
    assert (found.of[BOB.id].bytes, found.of[BOB.id].files) == (30 + 90, 10)


class SmallPages:
    """A client whose answers have two entries each."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        sizes = {
            "list_objects_v2": "MaxKeys",
            "list_object_versions": "MaxKeys",
            "list_multipart_uploads": "MaxUploads",
            "list_parts": "MaxParts",
        }
        call = getattr(self._client, name)
        return partial(call, **{sizes[name]: 2}) if name in sizes else call


def test_old_versions_take_place(client, bucket):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for size in (10, 20, 30):
        put(client, bucket, "people/ann/a", size)
    client.delete_object(Bucket=bucket, Key="people/ann/a")
    found = BucketPrefixes(client, bucket).usage([ANN])
    assert (found.of[ANN.id].bytes, found.of[ANN.id].files) == (60, 3)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert BucketPrefixes(client, bucket).usage([ANN]).of[ANN.id].bytes == 60


def test_uploads_that_were_never_completed_take_place(client, bucket):
    put(client, bucket, "people/ann/a", 10)
    for _ in range(2):
        upload = client.create_multipart_upload(Bucket=bucket, Key="people/ann/big/file")["UploadId"]
        for number in (1, 2):
            client.upload_part(
                Bucket=bucket, Key="people/ann/big/file", UploadId=upload, PartNumber=number, Body=b"x" * PART_BYTES
            )
    found = BucketPrefixes(client, bucket).usage([ANN, BOB])
    assert found.of[ANN.id] == Use(10 + 4 * PART_BYTES, 1, (FolderUse("big", 4 * PART_BYTES, 0),))
    assert found.of[BOB.id] == Use(0, 0)


def test_what_fails_for_one_prefix_is_told_and_the_others_go_on(client, bucket):
    put(client, bucket, "people/ann/a", 10)
    backend = BucketPrefixes(Refusing(client, "people/anna/"), bucket)
    found = backend.usage([ANN, ANNA, Area("s-4", 4, ""), Area("s-5", 5, "people/")])
    assert found.of.keys() == {ANN.id}
    assert found.problems.keys() == {ANNA.id, "s-4", "s-5"}
    assert "NoSuchBucket" in found.problems[ANNA.id]


def test_a_list_that_cannot_be_gone_on_with_is_no_sum(client, bucket):
    put(client, bucket, "people/ann/a", 10)
    found = BucketPrefixes(Refusing(client, ""), bucket).usage([ANN])
    assert not found.of
    assert set(found.problems) == {ANN.id}


class Refusing:
    """A client for which one prefix leads nowhere; without one, each list is broken off and nothing says how."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client, self._prefix = client, prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_objects_v2(self, **asked: Any) -> dict[str, Any]:
        if not self._prefix:
            return {**self._client.list_objects_v2(**asked), "IsTruncated": True}
        if asked["Prefix"] == self._prefix:
            asked["Bucket"] = "there-is-none"
        return dict(self._client.list_objects_v2(**asked))


def test_a_bucket_that_is_not_there_or_does_not_answer_is_told(client, bucket):
    with pytest.raises(BackendError, match="there-is-none"):
        BucketPrefixes(client, "there-is-none").usage([ANN])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(BackendError, match=bucket):
            BucketPrefixes(client_at(closed.getsockname()[1]), bucket).usage([ANN])


def test_no_limit_is_applied_to_a_bucket(client, bucket):
    backend = BucketPrefixes(client, bucket)
    assert reconcile(backend, [ANN], {ANN.id: 5}).applied == []
    with pytest.raises(BackendError):
        backend.apply(ANN, 5)
