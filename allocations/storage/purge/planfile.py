"""The file of a plan: JSON lines in zstd, first what it is of, then a line for each entry, last the sums.

Frames that processes have written are put one after another, so that nothing is packed twice. Folders come last, what
is in a folder before the folder itself. A plan without its last line is none.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from json.encoder import encode_basestring_ascii
from typing import IO, TYPE_CHECKING, Any

import zstandard

from allocations.errors import AllocationsError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
UNFINISHED = ".new"
# The fastest that packs these lines to a tenth.
ZSTD_LEVEL = 1
_CHUNK_BYTES = 1 << 20


class PlanError(AllocationsError):
    """A plan cannot be made as asked for, or is not whole."""

    code = "purge_plan"
    status = 409
    title = "There is no such plan"


@dataclass(frozen=True, slots=True)
class Planned:
    """An entry that is to go: `type` is file, link, fifo or folder; times in nanoseconds; `ctime_ns` only shows that it
    was touched since; `why` is what its age counts from; `bytes` are those that the file system gets back."""

    path: str
    type: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    uid: int
    rule: str
    why: str
    bytes: int


@dataclass(slots=True)
class Count:
    """A number of entries and the bytes that they take."""

    entries: int = 0
    bytes: int = 0

    def add(self, other: Count) -> None:
        """Add another's."""
        self.entries += other.entries
        self.bytes += other.bytes


@dataclass(slots=True)
class Sums:
    """What a plan holds, and what it was made from.

    `seen_files`, `seen_folders`: entries looked at; `old_kept`, `old_exempt`: old enough for some rule, yet they stay;
    `future`: entries dated after the plan's own moment; `unarchivable`: old sockets and devices; `problems`:
    (path, sentence), the first of them.
    """

    files: Count = field(default_factory=Count)
    folders: Count = field(default_factory=Count)
    by_rule: dict[str, Count] = field(default_factory=dict)
    by_uid: dict[int, Count] = field(default_factory=dict)
    seen_files: int = 0
    seen_folders: int = 0
    old_kept: int = 0
    old_exempt: int = 0
    future: int = 0
    unarchivable: int = 0
    problem_count: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def json_path(path: str) -> str:
    """Return a path as JSON: text where it is UTF-8, else {"b64": …} of its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return json.dumps({"b64": base64.b64encode(os.fsencode(path)).decode("ascii")})
    return encode_basestring_ascii(path)


def path_of(value: str | dict[str, str]) -> str:
    """Return the path that `json_path` made, as os.fsdecode makes it."""
    return value if isinstance(value, str) else os.fsdecode(base64.b64decode(value["b64"]))


class PlanWriter:
    """Writes a plan elsewhere on its file system, and puts it into its place when it is whole; a context manager."""

    def __init__(self, path: str, header: dict[str, Any], *, unfinished: str | None = None) -> None:
        """Begin; `unfinished` is where it is until it is whole (None: beside its place). Raises OSError."""
        self._path, self._unfinished = path, unfinished or f"{path}{UNFINISHED}"
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = open(self._unfinished, "wb")  # noqa: SIM115 (closed by finish or __exit__)
        self.frame([json.dumps({"plan": VERSION, **header})])

    def __enter__(self) -> PlanWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove what did not become whole."""
        if not self._file.closed:
            # What it still holds may not find room, and need not.
            with suppress(OSError):
                self._file.close()
            os.unlink(self._unfinished)

    def frame(self, lines: list[str]) -> None:
        """Write some lines as a frame of their own."""
        packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress("\n".join([*lines, ""]).encode("ascii"))
        self._put(packed)

    def append(self, path: str) -> None:
        """Put in the frames that another process has written to a file."""
        with open(path, "rb") as frames:
            while chunk := frames.read(_CHUNK_BYTES):
                self._put(chunk)

    def finish(self, sums: Sums) -> str:
        """Write the sums and put the plan into its place; returns the SHA-256 of its bytes, hexadecimal."""
        self.frame([json.dumps({"end": asdict(sums)})])
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._unfinished, self._path)
        folder = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return self._digest.hexdigest()

    def _put(self, packed: bytes) -> None:
        self._digest.update(packed)
        self._file.write(packed)


class PlanReader:
    """Reads a plan: `header`, then its entries, then `sums` (a dictionary, None before the end was read)."""

    def __init__(self, path: str) -> None:
        """Read the first line; raises PlanError where it is of no plan, and OSError."""
        self._path = path
        self._lines = self._read()
        self.header: dict[str, Any] = next(self._lines, {})
        self.sums: dict[str, Any] | None = None
        if self.header.get("plan") != VERSION:
            raise self._broken()

    def __iter__(self) -> Iterator[Planned]:
        """Yield what is left of the entries; raises PlanError at the end where the plan is not whole."""
        count = 0
        for line in self._lines:
            if "end" in line:
                self.sums = line["end"]
                break
            line["path"] = path_of(line["path"])
            count += 1
            yield Planned(**line)
        if self.sums is None or self.sums["files"]["entries"] + self.sums["folders"]["entries"] != count:
            raise self._broken()

    def _read(self) -> Iterator[dict[str, Any]]:
        reader = zstandard.ZstdDecompressor()
        try:
            with open(self._path, "rb") as file, reader.stream_reader(file, read_across_frames=True) as packed:
                for line in io.TextIOWrapper(packed, encoding="ascii"):
                    yield json.loads(line)
        except (zstandard.ZstdError, ValueError) as error:
            raise self._broken() from error

    def _broken(self) -> PlanError:
        return PlanError(f"The plan {os.path.basename(self._path)!r} is not whole.", "Make the plan again.")
