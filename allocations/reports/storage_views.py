"""What the API and the pages show of storage; the shapes that others rely on."""

from __future__ import annotations

import base64
import os
from datetime import date  # pydantic reads it at run time

from allocations.errors import InvalidInputError
from allocations.leases.views import View
from allocations.storage.models import StorageClass, StorageState  # as above


class RawPath(View):
    """A path that is not UTF-8: its bytes in base64."""

    b64: str


PathInJson = str | RawPath
"""A path: as text where it is UTF-8."""


def to_json_path(path: str) -> PathInJson:
    """Return a path, as os.fsdecode makes it, as the API tells it."""
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return RawPath(b64=base64.b64encode(raw).decode())


def from_json_path(path: PathInJson) -> str:
    """Return a path that the API was told; InvalidInputError when it is none."""
    try:
        raw = path.encode() if isinstance(path, str) else base64.b64decode(path.b64, validate=True)
    except ValueError as error:  # no text that UTF-8 can say, or no base64
        raise InvalidInputError("A path can not be read.", "Send the paths that the API listed.") from error
    if b"\0" in raw:
        raise InvalidInputError("A path holds a NUL.", "Send the paths that the API listed.")
    return os.fsdecode(raw)


class FolderView(View):
    """What is beneath a folder: bytes that it takes on the file system, and files."""

    path: PathInJson
    bytes: int
    files: int


class AreaView(View):
    """An area of storage. Bytes are those on the file system; times are RFC 3339 in UTC.

    `limit_bytes` is what the policy gives, `hard_limit_bytes` where writing fails (None: nowhere). What was never
    measured has no `bytes`. `passed_over` counts what could not be looked into. `locks_at` is when an area that is over
    its limit is locked, or was. `microcredits_per_month`: 30 days of the present size at today's prices; `payer` is the
    allocation that they are charged to, None when nobody pays. `problem` is for administrators.
    """

    id: str
    storage_class: StorageClass
    title: str
    person: str | None
    allocation: str | None
    allocation_name: str | None
    state: StorageState
    bytes: int | None
    files: int | None
    passed_over: int | None
    measured_at: str | None
    limit_bytes: int | None
    hard_limit_bytes: int | None
    over_since: str | None
    locks_at: str | None
    microcredits_per_month: int | None
    payer: str | None
    largest: list[FolderView]
    problem: str | None


class AreaList(View):
    """Areas, one's own home first."""

    areas: list[AreaView]


class AreaPage(View):
    """Some of all areas, those with most bytes first; `next_start` continues, None at the end."""

    areas: list[AreaView]
    count: int
    next_start: int | None


class StorageDay(View):
    """What an area took on a day (UTC), and what it was charged for that; None while the day is not over."""

    day: date
    bytes: int
    files: int | None
    due_microcredits: int | None
    charged_microcredits: int


class StorageTrend(View):
    """An area's last 90 days, the first one first; days without a measure are left out."""

    area: str
    days: list[StorageDay]
