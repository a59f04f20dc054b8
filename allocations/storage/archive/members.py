"""Files as members of a tar archive, with all that lstat tells of them: nanoseconds, extended attributes, holes.

The form is POSIX pax, which GNU tar, bsdtar and Python read; a file with holes is written as GNU tar writes it (sparse
format 1.0, https://www.gnu.org/software/tar/manual/html_node/PAX-1.html): a map of where the data is, then the data
alone. Names are bytes as the file system has them; what is read back is bounded, whoever wrote it.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 512
# What ends a tar archive.
END = bytes(2 * BLOCK_BYTES)
PIECE_BYTES = 1 << 20
# Whoever owns a file may give it so many that they do not fit in memory.
XATTRS_BYTES = 1 << 20
HEADER_BYTES = 4 * XATTRS_BYTES
SEGMENTS = 250_000
MAP_BYTES = 40 * (SEGMENTS + 1)
_XATTR = b"SCHILY.xattr."
# Labels and capabilities (security.*, trusted.*) are the machine's, not the owner's: an archive must not give them.
_OURS = ("user.", "system.posix_acl_")
_MODE = 0o7777
# What fits in the fields that every tar has.
_OCTAL_7, _OCTAL_11 = 8**7 - 1, 8**11 - 1
_LARGEST = 1 << 63
_NOBODY = (1 << 32) - 1  # as (uid_t) -1, it would leave an owner as it is
_NO_XATTRS = {errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA}

FILE, LINK, SYMLINK, FOLDER, FIFO = b"0", b"1", b"2", b"5", b"6"
_TYPES = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO}


class Readable(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """Return as many bytes, fewer at the end or where no more are at hand, none at the end."""


class Digest(Protocol):
    """What sums up bytes, as hashlib has it."""

    def update(self, data: bytes, /) -> None:
        """Take more."""


class UnfitError(Exception):
    """A file that cannot be a member; the sentence says why."""


class DamagedError(Exception):
    """What is read is not what was written; the sentence says what is wrong."""


@dataclass(frozen=True, slots=True)
class Member:
    """What there is to a file beside its data. `path` and `link` (of a symbolic or hard link) as os.fsdecode makes
    them; `size` in bytes, holes included; times in nanoseconds; `stored` bytes follow the header."""

    path: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    size: int = 0
    link: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    sparse: bool = False
    stored: int = 0


def member(
    path: str, status: os.stat_result, *, link: str = "", xattrs: tuple[tuple[str, bytes], ...] = (), hard: bool = False
) -> Member:
    """Describe a file; `hard`: as another name of the file at `link`. Raises UnfitError for a socket or a device."""
    kind = LINK if hard else _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise UnfitError("sockets and devices cannot be archived")
    return Member(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        size=status.st_size if kind == FILE else 0,
        link=link,
        xattrs=xattrs,
    )


def attributes(fd: int) -> tuple[tuple[str, bytes], ...]:
    """Return the extended attributes that a file's owner gave it, sorted: names and values.

    Raises UnfitError beyond XATTRS_BYTES, and OSError.
    """
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    found = []
    taken = 0
    for name in sorted(names):
        if name.startswith(_OURS):
            try:
                found.append((name, os.getxattr(fd, name)))
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise
                continue
            taken += len(os.fsencode(name)) + len(found[-1][1])
            if taken > XATTRS_BYTES:
                raise UnfitError(f"its extended attributes take more than {XATTRS_BYTES:,} bytes")
    return tuple(found)


def segments(fd: int, size: int) -> array[int]:
    """Return where a file has data: offset, length, offset, length, …, in bytes, holes left out.

    Raises UnfitError where there are more than SEGMENTS, and OSError.
    """
    found = array("q")
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                break
            raise
        if start >= size:
            break
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        found.extend((start, end - start))
        if len(found) > 2 * SEGMENTS:
            raise UnfitError(f"it has more than {SEGMENTS:,} holes: copy it without holes")
    return found


def header(of: Member, data: array[int]) -> tuple[bytes, bytes]:
    """Write a member's header, and the map that a file with holes has before its data; `data`: see `segments`."""
    path = os.fsencode(of.path) + (b"/" if of.kind == FOLDER else b"")
    records: list[bytes] = []
    stored = of.size
    before = b""
    if of.kind == FILE and sum(data[1::2]) < of.size:
        # Without an empty piece at the end, GNU tar would not restore a hole there.
        ends = data if len(data) and data[-2] + data[-1] == of.size else data + array("q", (of.size, 0))
        before = _map(ends)
        stored = len(before) + sum(data[1::2])
        records = [
            _record(b"GNU.sparse.major", b"1"),
            _record(b"GNU.sparse.minor", b"0"),
            _record(b"GNU.sparse.name", path),
            _record(b"GNU.sparse.realsize", b"%d" % of.size),
        ]
        folder, slash, name = path.rpartition(b"/")
        # What a tar that knows nothing of holes calls it.
        path = folder + slash + b"GNUSparseFile.0/" + name
    records = [
        _record(b"path", path),
        _record(b"uid", b"%d" % of.uid),
        _record(b"gid", b"%d" % of.gid),
        _record(b"mtime", _seconds(of.mtime_ns)),
        _record(b"atime", _seconds(of.atime_ns)),
        *records,
    ]
    if stored > _OCTAL_11:
        # Only then: of a file with holes, Python's tarfile takes this for the size with them.
        records.append(_record(b"size", b"%d" % stored))
    if of.link:
        records.append(_record(b"linkpath", os.fsencode(of.link)))
    for key, value in of.xattrs:
        # As GNU tar does, so that the first = ends the key.
        quoted = os.fsencode(key).replace(b"%", b"%25").replace(b"=", b"%3D")
        records.append(_record(_XATTR + quoted, value))
    extended = b"".join(records)
    return _before(len(extended)) + _padded(extended) + _block(of.kind, path, stored, of), before


def padding(size: int) -> bytes:
    """Return what fills up the last block of so many bytes."""
    return bytes(-size % BLOCK_BYTES)


def content(fd: int, data: array[int]) -> Iterator[bytes]:
    """Yield the data of a file's segments; raises UnfitError where it cannot be read or has become shorter."""
    for offset, length in zip(data[::2], data[1::2], strict=True):
        at, end = offset, offset + length
        while at < end:
            try:
                piece = os.pread(fd, min(PIECE_BYTES, end - at), at)
            except OSError as error:
                raise UnfitError(f"it cannot be read: {error.strerror}") from error
            if not piece:
                raise UnfitError("it changed while it was read")
            yield piece
            at += len(piece)


def read_member(stream: Readable) -> Member | None:
    """Read the next header; None at the end of the archive. Raises DamagedError."""
    block = read_exactly(stream, BLOCK_BYTES)
    if not block.strip(b"\0"):
        return None
    kind, size = _unblock(block)[:2]
    if kind != b"x" or size > HEADER_BYTES:
        raise DamagedError("a member has no header, or too large a one")
    records = _records(read_exactly(stream, size + len(padding(size)))[:size])
    kind, size, mode = _unblock(read_exactly(stream, BLOCK_BYTES))
    if kind not in (FILE, LINK, SYMLINK, FOLDER, FIFO):
        raise DamagedError("a member is neither a file, a folder, a link nor a FIFO")
    try:
        sparse = b"GNU.sparse.realsize" in records
        stored = int(records.get(b"size", size))
        path = records[b"GNU.sparse.name" if sparse else b"path"]
        found = Member(
            path=os.fsdecode(path.removesuffix(b"/") if kind == FOLDER else path),
            kind=kind,
            mode=mode,
            uid=int(records[b"uid"]),
            gid=int(records[b"gid"]),
            mtime_ns=_nanoseconds(records[b"mtime"]),
            atime_ns=_nanoseconds(records[b"atime"]),
            size=int(records[b"GNU.sparse.realsize"]) if sparse else stored,
            link=os.fsdecode(records.get(b"linkpath", b"")),
            xattrs=tuple(
                (os.fsdecode(key.removeprefix(_XATTR).replace(b"%3D", b"=").replace(b"%25", b"%")), value)
                for key, value in records.items()
                if key.startswith(_XATTR)
            ),
            sparse=sparse,
            stored=stored,
        )
    except (KeyError, ValueError) as error:
        raise DamagedError("a header lacks a field, or has one that is no number") from error
    times = (found.mtime_ns, found.atime_ns)
    sizes = (found.stored, found.size)
    if (
        not all(0 <= size < _LARGEST for size in sizes)
        or not all(abs(time_ns) < _LARGEST for time_ns in times)
        or not all(0 <= number < _NOBODY for number in (found.uid, found.gid))
        or not 0 <= mode <= _MODE
        or (kind != FILE and found.stored)
        or not all(name.startswith(_OURS) for name, _value in found.xattrs)
    ):
        raise DamagedError("a header tells an impossible size, time, owner, mode or attribute")
    return found


def read_data(stream: Readable, of: Member, digest: Digest) -> Iterator[tuple[int, bytes]]:
    """Yield the data after a header: offsets in the file and bytes, rising; read to the end, the next header follows.

    What is stored, a map too, goes through the digest. Raises DamagedError.
    """
    left = of.stored
    data = array("q", (0, of.size))
    if of.sparse:
        data, taken = _read_map(stream, left, digest)
        left -= taken
    if sum(data[1::2]) != left:
        raise DamagedError("a member has less or more data than it tells")
    end = 0
    for offset, length in zip(data[::2], data[1::2], strict=True):
        if offset < end or length < 0 or offset + length > of.size:
            raise DamagedError("the data of a member lies outside of it")
        at, end = offset, offset + length
        while at < end:
            piece = stream.read(min(PIECE_BYTES, end - at))
            if not piece:
                raise DamagedError("it ends too early")
            digest.update(piece)
            yield at, piece
            at += len(piece)
    read_exactly(stream, len(padding(of.stored)))


def read_exactly(stream: Readable, size: int) -> bytes:
    """Read so many bytes; raises DamagedError where there are fewer."""
    pieces = []
    while size:
        piece = stream.read(size)
        if not piece:
            raise DamagedError("it ends too early")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _map(data: array[int]) -> bytes:
    text = b"".join(b"%d\n" % number for number in (len(data) // 2, *data))
    return _padded(text)


def _read_map(stream: Readable, stored: int, digest: Digest) -> tuple[array[int], int]:
    """Read a map: segments, and how many bytes it took."""
    numbers = array("q")
    taken = 0
    rest = b""
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        if taken >= min(stored, MAP_BYTES):
            raise DamagedError("the map of a file's holes is too long")
        block = read_exactly(stream, BLOCK_BYTES)
        digest.update(block)
        *lines, rest = (rest + block).split(b"\n")
        taken += BLOCK_BYTES
        try:
            numbers.extend(int(line) for line in lines)
        except (ValueError, OverflowError) as error:
            raise DamagedError("the map of a file's holes is no list of numbers") from error
        if not numbers or not 0 <= numbers[0] <= SEGMENTS + 1:
            raise DamagedError("the map of a file's holes is no list of numbers")
    return numbers[1 : 1 + 2 * numbers[0]], taken


def _padded(text: bytes) -> bytes:
    return text + padding(len(text))


def _record(key: bytes, value: bytes) -> bytes:
    """Write "length key=value", the length being that of the whole, itself included."""
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    length = size + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _records(text: bytes) -> dict[bytes, bytes]:
    found = {}
    at = 0
    while at < len(text):
        space = text.find(b" ", at, at + 20)
        try:
            end = at + int(text[at:space])
        except ValueError as error:
            raise DamagedError("a header's record has no length") from error
        key, equals, value = text[space + 1 : end - 1].partition(b"=")
        if end > len(text) or space < at or end <= space or not equals or text[end - 1 : end] != b"\n":
            raise DamagedError("a header's record is malformed")
        found[key] = value
        at = end
    return found


@lru_cache(maxsize=1024)
def _before(size: int) -> bytes:
    """Write the block before so many bytes of records: most files have about as many."""
    return _block(b"x", b"pax", size, Member("", b"x", 0o600, 0, 0, 0, 0))


def _block(kind: bytes, path: bytes, size: int, of: Member) -> bytes:
    """Write the 512 bytes that every tar begins with; what does not fit is in the records before."""
    mtime = min(max(of.mtime_ns // 10**9, 0), _OCTAL_11)
    fields = [
        path[:100].ljust(100, b"\0"),
        b"%07o\0" % of.mode,
        b"%07o\0" % (of.uid if of.uid <= _OCTAL_7 else 0),
        b"%07o\0" % (of.gid if of.gid <= _OCTAL_7 else 0),
        b"%011o\0" % (size if size <= _OCTAL_11 else 0),
        b"%011o\0" % mtime,
        b" " * 8,
        kind,
        os.fsencode(of.link)[:100].ljust(100, b"\0"),
        b"ustar\00000",
    ]
    block = b"".join(fields).ljust(BLOCK_BYTES, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _unblock(block: bytes) -> tuple[bytes, int, int]:
    """Read kind, size and mode of a block that `_block` wrote."""
    plain = block[:148] + b" " * 8 + block[156:]
    try:
        if int(block[148:154], 8) != sum(plain):
            raise DamagedError("the sum over a header is wrong")
        return block[156:157], int(block[124:135], 8), int(block[100:107], 8)
    except ValueError as error:
        raise DamagedError("a header has a field that is no number") from error


def _seconds(nanoseconds: int) -> bytes:
    """Write a time as pax does, exactly: before 1970 too."""
    sign = b"-" if nanoseconds < 0 else b""
    return b"%s%d.%09d" % (sign, abs(nanoseconds) // 10**9, abs(nanoseconds) % 10**9)


def _nanoseconds(text: bytes) -> int:
    whole, _point, part = text.removeprefix(b"-").partition(b".")
    number = int(whole) * 10**9 + int(part)
    return -number if text.startswith(b"-") else number
