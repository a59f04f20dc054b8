"""A bucket that everybody may read, as archives have them, and one that only its owner may."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3

from tests.storage.archive.buckets import proxy, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.storage.archive.buckets import Faults

OPEN, CLOSED = "open", "closed"
RESOURCES = [f"arn:aws:s3:::{OPEN}", f"arn:aws:s3:::{OPEN}/*"]
READABLE_BY_ALL = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": RESOURCES}],
}


@dataclass
class Store:
    """A store of both buckets, behind a proxy that can fail."""

    url: str
    faults: Faults
    client: Any

    def put(self, bucket: str, key: str, path: Path) -> None:
        self.client.upload_file(str(path), bucket, key)


def environment_of(url: str) -> dict[str, str]:
    """The environment of somebody without credentials, wherever the tests run, who reads public buckets of a store."""
    return {
        "AWS_ENDPOINT_URL": url,
        "ROMAN_ACCESS_ANONYMOUS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_ACCESS_KEY_ID": "",
    }


@contextmanager
def store_of_buckets() -> Iterator[Store]:
    """Run a store with both buckets."""
    with s3_server() as address, proxy(address) as (url, faults):
        client = boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id="owner",
            aws_secret_access_key="key",
            region_name="us-east-1",
        )
        store = Store(url, faults, client)
        for bucket in (OPEN, CLOSED):
            store.client.create_bucket(Bucket=bucket)
        store.client.put_bucket_policy(Bucket=OPEN, Policy=json.dumps(READABLE_BY_ALL))
        yield store
