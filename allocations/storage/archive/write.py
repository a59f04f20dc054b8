"""Writes an archive of files that their owners may change meanwhile, part by part.

Killed at any point, it is begun again with the same files in the same order, and goes on after the last part that is
there. What is not as it was planned, changes while it is read or cannot be read is left out and told. Nothing is taken
for archived before archive.json is there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections import deque
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

import zstandard

from allocations.storage.archive import members
from allocations.storage.archive.format import (
    COMMIT,
    MANIFEST,
    TYPES,
    Archive,
    Hashed,
    Line,
    Stored,
    Tally,
    decompressed,
    part_name,
    read_commit,
    read_list,
)
from allocations.storage.archive.members import END, UnfitError
from allocations.storage.archive.parts import LEVEL, Compressors, PartWriter
from allocations.storage.archive.scratch import raising, scratch_database
from allocations.storage.archive.sources import Reader, Source, Wanted
from allocations.storage.archive.stores import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from allocations.storage.archive.stores import Store
    from allocations.storage.tree.beneath import Root

# A part ends with the member that takes it beyond one of these: bytes of tar, paths, bytes of its list.
PART_BYTES = 512 << 20
PART_PATHS = 20_000
PART_LIST_BYTES = 16 << 20
# A file up to this size is read whole before its header is written; a longer one that changes has its part begun anew.
WHOLE_BYTES = 1 << 20


class OtherPlanError(Exception):
    """What is archived already is not what is to be archived."""


class _TornError(Exception):
    """A file turned out to be unfit when some of it was in the part already."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path)
        self.path = path
        self.why = why


class _Limits(NamedTuple):
    bytes: int
    paths: int


class _Queue:
    """Files still to be archived, some of which may be put back; false when there are none."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self._rest = iter(wanted)
        self._first: deque[Wanted] = deque()

    def __bool__(self) -> bool:
        if not self._first and (one := next(self._rest, None)) is not None:
            self._first.append(one)
        return bool(self._first)

    def take(self) -> Wanted:
        """Take the first; there must be one."""
        return self._first.popleft()

    def put_back(self, taken: Sequence[Wanted]) -> None:
        self._first.extendleft(reversed(taken))


@dataclass
class _Totals(Tally):
    objects: dict[str, Stored] = field(default_factory=dict)


def write(
    store: Store,
    root: Root,
    wanted: Iterable[Wanted],
    *,
    name: str,
    made_at: str,
    about: Mapping[str, str],
    threads: int = 2,
    part_bytes: int = PART_BYTES,
    part_paths: int = PART_PATHS,
) -> Archive:
    """Archive files, and the folders that they are in; returns what is in archive.json, at once where it is there.

    `made_at` is kept as it is said. Raises StoreError; DamagedError where a part that is there already is damaged, and
    OtherPlanError where it does not hold what is wanted: such an archive is to be removed and begun again.
    """
    if store.size(COMMIT) is not None:
        return read_commit(store)
    queue = _Queue(wanted)
    totals = _Totals()
    with raising(StoreError), _Links() as links, Compressors(threads) as compressors, Reader(root) as reader:
        _resume(store, queue, links, totals)
        while queue:
            number = len(totals.objects)
            part = _Part(number, reader, links, _Limits(part_bytes, part_paths))
            totals.objects[part_name(number)] = part.write(store, queue, compressors)
            for line in part.lines:
                totals.add(line)
    totals.objects[MANIFEST] = _write_manifest(store, totals.objects)
    archive = Archive(name, made_at, totals.objects, totals.members, totals.bytes, totals.left, about)
    with store.create(COMMIT) as sink:
        sink.write(archive.to_json())
        sink.commit()
    return archive


def _resume(store: Store, queue: _Queue, links: _Links, totals: _Totals) -> None:
    """Take note of the parts that are there, and pass over the files that they tell of."""
    while (size := store.size(name := part_name(len(totals.objects)))) is not None:
        for text in read_list(store, name, size).lines:
            line = Line.from_json(text)
            if not line.above and (not queue or queue.take().path != line.path):
                raise OtherPlanError(f"{name} holds other files than these: remove the archive, and begin again")
            totals.add(line)
            links.note(line)
        links.keep()
        with store.read(name) as stream:
            totals.objects[name] = Hashed(stream).finish()


def _write_manifest(store: Store, parts: Mapping[str, Stored]) -> Stored:
    """Put the lists of all parts together; one that is there already, of a run that was killed, must say the same."""
    if store.size(MANIFEST) is not None:
        with store.read(MANIFEST) as stream:
            packed = Hashed(stream)
            text = Hashed(decompressed(packed)).finish()
            stored = packed.finish()
        ours = hashlib.sha256()
        for name, part in parts.items():
            for line in read_list(store, name, part.bytes).lines:
                ours.update(line)
        if text.sha256 != ours.hexdigest():
            raise OtherPlanError(f"{MANIFEST} tells of other parts: remove the archive, and begin again")
        return stored
    with store.create(MANIFEST) as sink:
        compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True).compressobj()
        digest = hashlib.sha256()
        taken = 0

        def put(data: bytes) -> None:
            nonlocal taken
            digest.update(data)
            taken += len(data)
            sink.write(data)

        for name, part in parts.items():
            for line in read_list(store, name, part.bytes).lines:
                put(compressor.compress(line))
        put(compressor.flush())
        sink.commit()
    return Stored(taken, digest.hexdigest())


class _Links:
    """Which files with several names are archived already: in a file, as there may be millions. A context manager."""

    def __init__(self) -> None:
        self._db = scratch_database()
        self._db.execute("CREATE TABLE links (device, inode, path, sha256, ctime_ns, PRIMARY KEY (device, inode))")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._db.close()

    def note(self, line: Line) -> None:
        if line.type == "file" and line.links > 1:
            seen = (line.device, str(line.inode), os.fsencode(line.path), line.sha256, line.ctime_ns)
            self._db.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?)", seen)

    def first(self, status: os.stat_result) -> tuple[str, str] | None:
        """Return the path and the sha256 of the same file, as it is now."""
        found = self._db.execute(
            "SELECT path, sha256 FROM links WHERE device = ? AND inode = ? AND ctime_ns = ?",
            (status.st_dev, str(status.st_ino), status.st_ctime_ns),
        ).fetchone()
        return (os.fsdecode(found[0]), found[1]) if found else None

    def keep(self) -> None:
        """What was noted is in a part that is there."""
        self._db.commit()

    def forget(self) -> None:
        """What was noted since is not."""
        self._db.rollback()


class _Part:
    """Makes one part of as many files as it holds; `lines` is what it tells of them."""

    def __init__(self, number: int, reader: Reader, links: _Links, limits: _Limits) -> None:
        self.lines: list[Line] = []
        self._list: list[bytes] = []
        self._list_bytes = 0
        self._number = number
        self._reader = reader
        self._links = links
        self._limits = limits
        self._folders: set[str] = set()

    def write(self, store: Store, queue: _Queue, compressors: Compressors) -> Stored:
        """Write it into the store; each time that a file changes halfway, all of it once more without that file."""
        torn: dict[str, str] = {}
        while True:
            taken: list[Wanted] = []
            self.lines = []
            self._list = []
            self._list_bytes = 0
            self._folders = set()
            try:
                with store.create(part_name(self._number)) as sink:
                    tar = PartWriter(sink, compressors)
                    while queue and not self._is_full(tar):
                        taken.append(one := queue.take())
                        if one.path in torn:
                            self._tell(Line(one.path, left=torn[one.path]))
                            continue
                        try:
                            self._add(tar, one)
                        except UnfitError as why:
                            self._tell(Line(one.path, left=str(why)))
                    tar.write(END)
                    stored = tar.finish(self._list)
                    sink.commit()
            except _TornError as error:
                torn[error.path] = error.why
                queue.put_back(taken)
                self._links.forget()
            else:
                self._links.keep()
                return stored

    def _add(self, tar: PartWriter, wanted: Wanted) -> None:
        with self._reader.open(wanted) as source:
            self._add_folders(tar, wanted.path)
            if source.member.kind == members.FILE:
                first = self._links.first(source.status) if source.status.st_nlink > 1 else None
                if first is None:
                    self._add_file(tar, source)
                else:
                    path, sha256 = first
                    hard = members.member(wanted.path, source.status, link=path, hard=True)
                    self._add_header(tar, source, hard, sha256=sha256)
            else:
                self._add_header(tar, source, source.member)
                if source.member.kind == members.FOLDER:
                    self._folders.add(wanted.path)

    def _add_folders(self, tar: PartWriter, path: str) -> None:
        """Add the folders that a file is in, unless they are in this part already."""
        cut = path.find("/")
        while cut >= 0:
            if path[:cut] not in self._folders:
                with self._reader.above(path[:cut]) as source:
                    self._add_header(tar, source, source.member, above=True)
                self._folders.add(path[:cut])
            cut = path.find("/", cut + 1)

    def _add_header(
        self, tar: PartWriter, source: Source, of: members.Member, *, sha256: str = "", above: bool = False
    ) -> None:
        self._note(tar.at, source, of, sha256=sha256, above=above)
        tar.write(members.header(of, source.data if of.kind == members.FILE else array("q"))[0])

    def _add_file(self, tar: PartWriter, source: Source) -> None:
        assert source.fd is not None
        at = tar.at
        header, map_of_holes = members.header(source.member, source.data)
        pieces = members.content(source.fd, source.data)
        if source.member.size <= WHOLE_BYTES:
            content = b"".join((map_of_holes, *pieces))
            source.check()
            # At once, as there may be millions.
            tar.write(b"".join((header, content, members.padding(len(content)))))
            self._note(at, source, source.member, sha256=hashlib.sha256(content).hexdigest())
            return
        tar.write(header)
        digest = hashlib.sha256()
        begin = tar.at
        try:
            for piece in chain([map_of_holes], pieces):
                digest.update(piece)
                tar.write(piece)
            source.check()
        except UnfitError as error:
            raise _TornError(source.member.path, str(error)) from error
        tar.write(members.padding(tar.at - begin))
        self._note(at, source, source.member, sha256=digest.hexdigest())

    def _note(self, at: int, source: Source, of: members.Member, *, sha256: str = "", above: bool = False) -> None:
        status = source.status
        line = Line(
            path=of.path,
            type=TYPES[of.kind],
            size=status.st_size if stat.S_ISREG(status.st_mode) else 0,
            mode=of.mode,
            uid=of.uid,
            gid=of.gid,
            mtime_ns=of.mtime_ns,
            atime_ns=of.atime_ns,
            ctime_ns=status.st_ctime_ns,
            device=status.st_dev,
            inode=status.st_ino,
            links=status.st_nlink,
            link=of.link,
            sha256=sha256,
            part=self._number,
            at=at,
            above=above,
        )
        self._tell(line)
        self._links.note(line)

    def _tell(self, line: Line) -> None:
        self.lines.append(line)
        self._list.append(line.to_json())
        self._list_bytes += len(self._list[-1])

    def _is_full(self, tar: PartWriter) -> bool:
        return (
            tar.at >= self._limits.bytes or len(self.lines) >= self._limits.paths or self._list_bytes >= PART_LIST_BYTES
        )
