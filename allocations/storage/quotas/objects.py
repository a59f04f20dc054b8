"""Areas as prefixes of a bucket: objects are listed and added up, and no limit can be enforced.

What takes place counts, not only what `ls` shows: old versions where the bucket keeps them, and parts of uploads that
were never completed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from allocations.storage.quotas.backends import BackendError, Found, Use, sentence
from allocations.storage.tree.usage import FOLDERS_COUNTED, LARGEST, FolderUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from allocations.storage.quotas.backends import Area

Page = dict[str, Any]


class Listings(Protocol):
    """What is used of a client of S3 (as boto3 makes them)."""

    def get_bucket_versioning(self, **asked: Any) -> Page: ...
    def list_objects_v2(self, **asked: Any) -> Page: ...
    def list_object_versions(self, **asked: Any) -> Page: ...
    def list_multipart_uploads(self, **asked: Any) -> Page: ...
    def list_parts(self, **asked: Any) -> Page: ...


class _Sum:
    """Adds up objects in bounded memory: all of them, and by the first folder of their keys."""

    def __init__(self) -> None:
        self.bytes = self.files = 0
        self._folders: dict[str, list[int]] = {}

    def add(self, key: str, size: int, files: int = 1) -> None:
        self.bytes += size
        self.files += files
        folder, slash, _rest = key.partition("/")
        if not slash:
            return
        of_folder = self._folders.setdefault(folder, [0, 0])
        of_folder[0] += size
        of_folder[1] += files
        if len(self._folders) > FOLDERS_COUNTED:
            kept = sorted(self._folders.items(), key=lambda item: -item[1][0])[: FOLDERS_COUNTED // 2]
            self._folders = dict(kept)

    def use(self) -> Use:
        folders = [FolderUse(name, count, files) for name, (count, files) in self._folders.items()]
        largest = sorted(folders, key=lambda one: (-one.bytes, one.path))[:LARGEST]
        return Use(self.bytes, self.files, tuple(largest))


class BucketPrefixes:
    """Areas that are prefixes of one bucket; the area at `ann` has the keys that begin with `ann/`."""

    enforces = False
    grain_bytes = 1

    def __init__(self, client: Listings, bucket: str) -> None:
        """`client`: as boto3 makes them, with time-outs and retries as the caller likes."""
        self._client = client
        self._bucket = bucket

    def usage(self, areas: Sequence[Area]) -> Found[Use]:
        """List all that is under each area's prefix."""
        try:
            versioning = self._client.get_bucket_versioning(Bucket=self._bucket).get("Status")
        except (ClientError, BotoCoreError) as error:
            raise BackendError(f"{self._bucket}: {error}") from error
        found: Found[Use] = Found()
        for area in areas:
            try:
                found.of[area.id] = self._measure(_prefix(area), has_versions=versioning is not None)
            except (ClientError, BotoCoreError, BackendError) as error:
                found.problems[area.id] = sentence(error)
        return found

    def limits(self, areas: Sequence[Area]) -> Found[int | None]:
        """Say that none has a limit; a prefix is there whether something is in it or not."""
        return Found(of={area.id: None for area in areas})

    def apply(self, area: Area, limit_bytes: int | None) -> None:
        """Refuse a limit, with BackendError; that there is none is so already."""
        if limit_bytes is not None:
            raise BackendError(f"{area.place}: a bucket enforces no limits")

    def make(self, area: Area) -> None:
        """Do nothing: a prefix needs no making."""

    def _measure(self, prefix: str, *, has_versions: bool) -> Use:
        total = _Sum()
        asked = {"Bucket": self._bucket, "Prefix": prefix}
        if has_versions:
            pages = _pages(
                self._client.list_object_versions,
                asked,
                {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"},
            )
            objects = (one for page in pages for one in page.get("Versions", ()))
        else:
            pages = _pages(self._client.list_objects_v2, asked, {"ContinuationToken": "NextContinuationToken"})
            objects = (one for page in pages for one in page.get("Contents", ()))
        for one in objects:
            total.add(one["Key"].removeprefix(prefix), one["Size"])
        for key, size in self._parts(asked):
            total.add(key.removeprefix(prefix), size, 0)
        return total.use()

    def _parts(self, asked: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of the parts of uploads that are not completed."""
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in _pages(self._client.list_multipart_uploads, asked, markers):
            for upload in page.get("Uploads", ()):
                of_upload = {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                try:
                    for parts in _pages(
                        self._client.list_parts, of_upload, {"PartNumberMarker": "NextPartNumberMarker"}
                    ):
                        yield from ((upload["Key"], part["Size"]) for part in parts.get("Parts", ()))
                except ClientError as error:
                    # Completed or given up since it was listed.
                    if error.response["Error"]["Code"] != "NoSuchUpload":
                        raise


def _prefix(area: Area) -> str:
    """Return the prefix with its slash, so that nobody pays for those whose names only begin alike."""
    if area.place.strip("/") != area.place or not area.place:
        raise BackendError(f"{area.place!r} is not a prefix: correct the place of area {area.id}")
    return f"{area.place}/"


def _pages(ask: Callable[..., Page], asked: Mapping[str, Any], markers: Mapping[str, str]) -> Iterator[Page]:
    """Yield the pages of a listing; `markers` names where an answer says how to go on."""
    on: dict[str, Any] = {}
    while True:
        page = ask(**asked, **on)
        yield page
        if not page.get("IsTruncated"):
            return
        on = {marker: page[answer] for marker, answer in markers.items() if answer in page}
        if not on:
            raise BackendError("the bucket breaks off its list and does not say how to go on")
