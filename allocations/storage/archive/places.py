"""Where archives are, as people and rows write it: `/a/folder`, or `s3://bucket/prefix`; nothing else is needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from allocations.storage.archive.format import COMMIT, MANIFEST, part_name
from allocations.storage.archive.stores import Folder, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.archive.s3 import S3
    from allocations.storage.archive.stores import Store

_S3 = "s3://"
_OBJECTS = {COMMIT, MANIFEST, part_name(0)}


class Found(NamedTuple):
    """An archive at a place; one that `is_finished` has its archive.json."""

    place: str
    is_finished: bool


def is_place(text: str) -> bool:
    """Say whether a text is a place, rather than an id."""
    return text.startswith(_S3) or "/" in text


def open_place(place: str, endpoint_url: str | None = None) -> Store:
    """Return the archive that is, or is to be, at a place; raises StoreError for what is none.

    `endpoint_url`: of a bucket that is not Amazon's; else as boto3's environment says.
    """
    return _bucket(place, endpoint_url) if place.startswith(_S3) else Folder(place)


class ArchivePlaces:
    """Gives each new archive a place beneath one of all, and opens it."""

    def __init__(self, place: str, endpoint_url: str | None = None) -> None:
        """Look at nothing yet."""
        self._place = place
        self._endpoint_url = endpoint_url

    def place_of(self, archive_id: str) -> str:
        """Return where an archive is to be; whole, so that nobody needs to know where others are."""
        return below(self._place, archive_id)

    def open(self, place: str) -> Store:
        """Return the archive at a place; raises StoreError."""
        return open_place(place, self._endpoint_url)


def below(place: str, *names: str) -> str:
    """Return a place within another."""
    return "/".join((place.rstrip("/"), *names))


def find_archives(place: str) -> Iterator[Found]:
    """Yield the archives at a place and beneath it, in order; raises StoreError."""
    found: dict[str, set[str]] = {}
    for where, name in _in_bucket(place) if place.startswith(_S3) else _in_folder(place):
        if name in _OBJECTS:
            found.setdefault(where, set()).add(name)
    for where, names in sorted(found.items()):
        yield Found(where, COMMIT in names)


def _bucket(place: str, endpoint_url: str | None = None) -> S3:
    from allocations.storage.archive.s3 import S3  # noqa: PLC0415  # folders do without what it takes to load it

    bucket, _slash, prefix = place.removeprefix(_S3).partition("/")
    if not bucket:
        raise StoreError(f"{place!r} names no bucket: write s3://bucket/prefix")
    return S3(bucket, prefix.rstrip("/"), endpoint_url=endpoint_url)


def _in_folder(place: str) -> Iterator[tuple[str, str]]:
    def fail(error: OSError) -> None:
        raise StoreError(f"{error.filename}: {error.strerror}: give a folder that can be read") from error

    for folder, _folders, names in os.walk(place, onerror=fail):
        for name in names:
            yield folder, name


def _in_bucket(place: str) -> Iterator[tuple[str, str]]:
    bucket = _bucket(place)
    for key in bucket.listed():
        folder, _slash, name = key.rpartition("/")
        yield below(f"{_S3}{bucket.bucket}", *([folder] if folder else [])), name
