"""The form of an archive: parts, a manifest and, written last, what commits them.

    part-00000.tar.zst   a tar archive (see `members`) in frames of zstd, then its list and the sizes of its frames in a
                         frame that decompressors skip: a part and its list are there together or not at all
    manifest.jsonl.zst   the lists of all parts
    archive.json         bytes and sha256 of each of these, and its own sha256; an archive without it is not finished

Frames of equal size, each on its own, so that one file is read without what precedes it, and damage costs only what it
touches.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import zstandard

from allocations.storage.archive import members
from allocations.storage.archive.members import DamagedError, Readable, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from allocations.storage.archive.stores import Store

FORMAT = 1
COMMIT = "archive.json"
MANIFEST = "manifest.jsonl.zst"
FRAME_BYTES = 4 << 20
# What is read of anybody's archive is bounded: a list, archive.json, and what a decompressor may remember.
LIST_BYTES = 128 << 20
COMMIT_BYTES = 64 << 20
LINE_BYTES = 1 << 20
WINDOW_BYTES = 128 << 20
_SKIPPED = (0x184D2A5D).to_bytes(4, "little")
_MARK = b"MERIDIAN"
_TAIL_BYTES = 8 + len(_MARK)
# How a manifest calls the types of members.
TYPES = {
    members.FILE: "file",
    members.FOLDER: "folder",
    members.SYMLINK: "symlink",
    members.LINK: "link",
    members.FIFO: "fifo",
}


def part_name(number: int) -> str:
    """Return the name of a part, from 0 on."""
    return f"part-{number:05d}.tar.zst"


@dataclass(frozen=True, slots=True)
class Line:
    """What a manifest says of a path: either why it was `left`, or what was archived as `type`.

    Sizes in bytes, times in nanoseconds; device, inode and ctime_ns as they were when it was read; `link`: what a
    symbolic link says, or the path whose content this is another name of; `sha256` of what is stored, which is the
    content, but for a file with holes their map and its data; `part` and `at`: where its header is in the part's tar,
    in bytes; `above`: not asked for, but the folder of one that was.
    """

    path: str
    left: str = ""
    type: str = ""
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    device: int = 0
    inode: int = 0
    links: int = 1
    link: str = ""
    sha256: str = ""
    part: int = 0
    at: int = 0
    above: bool = False

    def to_json(self) -> bytes:
        """Write it on one line; what is as by default is left out."""
        told = {key: value for key, default in _FIELDS if (value := getattr(self, key)) != default}
        for key in ("path", "link"):
            if key in told:
                told[key] = _to_text(told[key])
        return _encode(told).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Line:
        """Read one; raises DamagedError, also where a path would lead out of a tree."""
        try:
            told = json.loads(text)
            line = cls(**{**told, **{key: _from_text(told[key]) for key in ("path", "link") if key in told}})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedError("a line of the manifest cannot be read") from error
        for key, default in _DEFAULTS.items():
            if type(getattr(line, key)) is not type(default):
                raise DamagedError("a line of the manifest has a field of another type")
        if min(line.size, line.part, line.at) < 0:
            raise DamagedError("a line of the manifest tells an impossible size or place")
        check_path(line.path)
        if line.type == "link":
            check_path(line.link)
        if not line.left and line.type not in TYPES.values():
            raise DamagedError("a line of the manifest is of no known type")
        return line


@dataclass
class Tally:
    """Counts the lines of a manifest: members and their bytes (as `ls` shows them), and paths left out."""

    members: int = 0
    bytes: int = 0
    left: int = 0

    def add(self, line: Line) -> None:
        """Take one more."""
        if line.left:
            self.left += 1
        elif not line.above:
            self.members += 1
            self.bytes += line.size

    def check(self, archive: Archive) -> None:
        """Raise DamagedError where archive.json tells of other files, or of more or fewer bytes."""
        if (self.members, self.bytes, self.left) != (archive.members, archive.total_bytes, archive.left):
            raise DamagedError(f"{MANIFEST} tells of more or fewer files or bytes than {COMMIT}")


_DEFAULTS: dict[str, Any] = {field.name: "" if field.name == "path" else field.default for field in fields(Line)}


_FIELDS = tuple(_DEFAULTS.items())
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Stored(NamedTuple):
    """An object of an archive: its size and its sha256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """What archive.json says: `objects` by name; members and their bytes (as `ls` shows them); paths left out;
    `about` is for whoever made it."""

    name: str
    made_at: str
    objects: Mapping[str, Stored]
    members: int
    total_bytes: int
    left: int
    about: Mapping[str, str]

    @property
    def parts(self) -> int:
        """Return how many parts there are."""
        return len(self.objects) - 1

    def to_json(self) -> bytes:
        """Write it."""
        told = asdict(self)
        told["objects"] = {name: stored._asdict() for name, stored in self.objects.items()}
        told = {"format": FORMAT, **told}
        return json.dumps({**told, "sha256": _sum(told)}, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Archive:
        """Read it; raises DamagedError."""
        try:
            told = json.loads(text)
            is_whole = told.pop("sha256") == _sum(told)
            if told.pop("format") != FORMAT:
                raise DamagedError(f"{COMMIT} is of a form that this version does not know")
            objects = {name: Stored(**stored) for name, stored in told.pop("objects").items()}
            archive = cls(objects=objects, **told)
            names = {MANIFEST, *(part_name(number) for number in range(archive.parts))}
            sound = (
                is_whole
                and names == set(objects)
                and all(
                    type(stored.bytes) is int and re.fullmatch("[0-9a-f]{64}", stored.sha256)
                    for stored in objects.values()
                )
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedError(f"{COMMIT} cannot be read") from error
        if not sound:
            raise DamagedError(f"{COMMIT} is not what was written, or tells of other objects than an archive has")
        return archive


def _sum(told: Mapping[str, Any]) -> str:
    """Return the sha256 of what archive.json says beside it, as nothing else tells whether that is whole."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def check_path(path: str) -> None:
    """Raise DamagedError unless a path stays beneath where it is restored to."""
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise DamagedError("a path in the archive leads out of the tree, or is none")


class PartList(NamedTuple):
    """What the end of a part says: sizes of its frames, and its lines, one JSON object each."""

    frames: list[int]
    lines: list[bytes]


def footer(frames: list[int], lines: list[bytes]) -> bytes:
    """Write the end of a part: a frame of zstd that is skipped."""
    head = json.dumps({"frame_bytes": FRAME_BYTES, "frames": frames}).encode() + b"\n"
    packed = zstandard.ZstdCompressor().compress(head + b"".join(lines))
    body = packed + len(packed).to_bytes(8, "little") + _MARK
    return _SKIPPED + len(body).to_bytes(4, "little") + body


def read_list(store: Store, name: str, size: int) -> PartList:
    """Read the end of a part of so many bytes; raises DamagedError, StoreError."""
    if size < _TAIL_BYTES:
        raise DamagedError(f"{name} is too short")
    with store.read(name, size - _TAIL_BYTES) as stream:
        tail = read_exactly(stream, _TAIL_BYTES)
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != _MARK or length > min(size - _TAIL_BYTES, LIST_BYTES):
        raise DamagedError(f"{name} does not end as a part does")
    with store.read(name, size - _TAIL_BYTES - length, size - _TAIL_BYTES) as stream:
        packed = read_exactly(stream, length)
    text = read_bounded(decompressed(io.BytesIO(packed)), LIST_BYTES)
    head, _newline, rest = text.partition(b"\n")
    try:
        told = json.loads(head)
        frames = [int(frame) for frame in told["frames"]]
        sound = told["frame_bytes"] == FRAME_BYTES and min(frames) > 0 and sum(frames) <= size
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{name} has no list of its frames") from error
    if not sound:
        raise DamagedError(f"{name} has a wrong list of its frames")
    return PartList(frames, rest.splitlines(keepends=True))


def read_commit(store: Store) -> Archive:
    """Read archive.json; raises DamagedError, StoreError, AbsentError where the archive is not finished."""
    with store.read(COMMIT) as stream:
        return Archive.from_json(read_bounded(stream, COMMIT_BYTES))


def read_lines(stream: Readable) -> Iterator[Line]:
    """Yield the lines of a manifest, as it is decompressed; raises DamagedError."""
    rest = b""
    while piece := stream.read(1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield Line.from_json(line)
        if len(rest) > LINE_BYTES:
            raise DamagedError("a line of the manifest is too long")
    if rest:
        raise DamagedError("the manifest ends within a line")


def read_bounded(stream: Readable, most: int) -> bytes:
    """Read all there is; raises DamagedError beyond a number of bytes."""
    pieces = []
    taken = 0
    while piece := stream.read(1 << 16):
        taken += len(piece)
        if taken > most:
            raise DamagedError("there is more of it than can be")
        pieces.append(piece)
    return b"".join(pieces)


def decompressed(stream: Readable) -> Readable:
    """Return what frames of zstd hold, one after the other; reading raises DamagedError."""
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).stream_reader(
        cast("IO[bytes]", stream), read_across_frames=True, read_size=1 << 18
    )
    return _Decompressed(reader)


class _Decompressed:
    """Tells damage as everything here does."""

    def __init__(self, reader: zstandard.ZstdDecompressionReader) -> None:
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            raise DamagedError("what was compressed cannot be decompressed") from error


class Hashed:
    """A stream that is summed up as it is read: `bytes` and `sha256` so far."""

    def __init__(self, stream: Readable) -> None:
        """Begin with nothing."""
        self._stream = stream
        self._hash = hashlib.sha256()
        self._bytes = 0

    def read(self, size: int, /) -> bytes:
        """Read on."""
        piece = self._stream.read(size)
        self._hash.update(piece)
        self._bytes += len(piece)
        return piece

    def finish(self) -> Stored:
        """Read what is left, and return what the whole is."""
        while self.read(1 << 20):
            pass
        return Stored(self._bytes, self._hash.hexdigest())


def _to_text(path: str) -> str | dict[str, str]:
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"b64": base64.b64encode(path.encode("utf-8", "surrogateescape")).decode()}
    return path


def _from_text(told: str | dict[str, str]) -> str:
    if isinstance(told, str):
        told.encode("utf-8", "surrogateescape")
        return told
    return base64.b64decode(told["b64"], validate=True).decode("utf-8", "surrogateescape")
