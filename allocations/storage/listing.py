"""Lists what is in an archive, a page at a time: its manifest is read as a stream, and never all of it is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allocations.storage.archive.format import (
    COMMIT,
    COMMIT_BYTES,
    LINE_BYTES,
    MANIFEST,
    Archive,
    Line,
    decompressed,
    read_bounded,
)
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.s3 import S3, Patience
from allocations.storage.archive.stores import AbsentError, Folder
from allocations.storage.paths import to_shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.archive.members import Readable
    from allocations.storage.archive.stores import Store

# Nobody waits for longer than it takes to look through so many: then they are asked whether to go on.
LOOKED_AT_ONCE = 100_000
_S3 = "s3://"
# Somebody waits for the page.
_PATIENCE = Patience(tries=2, timeout_seconds=10.0)
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Listing:
    """Some lines of a manifest; `following` is the number of the next line to look at, None at the end."""

    lines: tuple[Line, ...]
    following: int | None


def open_archive(place: str) -> Store:
    """Open the archive at a place, a folder or `s3://bucket/prefix`, for reading; raises StoreError."""
    if place.startswith(_S3):
        bucket, _slash, prefix = place.removeprefix(_S3).partition("/")
        return S3(bucket, prefix, patience=_PATIENCE)
    if not Path(place).is_dir():
        raise AbsentError(f"{place} is not there")
    return Folder(place)


def check_manifest(store: Store, sha256: str | None) -> None:
    """Raise DamagedError unless the manifest is as long as archive.json says, and that is the one of this sha256.

    That it is whole is not seen while it is read in part; None: it is not known what archive.json was.
    """
    with store.read(COMMIT) as stream:
        commit = read_bounded(stream, COMMIT_BYTES)
    if sha256 is not None and hashlib.sha256(commit).hexdigest() != sha256:
        raise DamagedError(f"{COMMIT} is not the one that was written")
    if store.size(MANIFEST) != Archive.from_json(commit).objects[MANIFEST].bytes:
        raise DamagedError("the manifest is not as long as it was")


def list_lines(store: Store, wanted: str, start: int, count_max: int, looked_max: int = LOOKED_AT_ONCE) -> Listing:
    """Return the next lines, from the `start`th of the manifest on, whose path as people read it holds a text.

    Case does not count. Folders that are there only for what is in them are left out. After `looked_max` lines it
    ends with what was found so far. Raises DamagedError, StoreError.
    """
    found: list[Line] = []
    sought = wanted.casefold()
    with store.read(MANIFEST) as stream:
        for number, raw in enumerate(_raw_lines(decompressed(stream))):
            if number < start:
                continue
            if len(found) == count_max or number - start >= looked_max:
                return Listing(tuple(found), number)
            line = _sought(raw, sought)
            if line is not None and not line.above:
                found.append(line)
    return Listing(tuple(found), None)


def _sought(raw: bytes, sought: str) -> Line | None:
    if sought:
        try:
            told = json.loads(raw)["path"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedError("a line of the manifest cannot be read") from error
        # What is not UTF-8 stands there in base64, and is read whole.
        if isinstance(told, str) and sought not in to_shown(told).casefold():
            return None
    line = Line.from_json(raw)
    return line if sought in to_shown(line.path).casefold() else None


def _raw_lines(stream: Readable) -> Iterator[bytes]:
    rest = b""
    while piece := stream.read(_PIECE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > LINE_BYTES:
            raise DamagedError("a line of the manifest is too long")
    if rest:
        raise DamagedError("the manifest ends within a line")
