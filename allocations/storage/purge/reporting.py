"""Writes, for people, what a purge is going to do to their files and what it has done, a line for each."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from allocations.clock import MS_PER_SECOND
from allocations.storage.purge.files import read_left
from allocations.storage.purge.listing import shown
from allocations.storage.purge.planfile import PlanReader
from allocations.storage.purge.telling import told_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allocations.storage.purge.files import PurgeFiles
    from allocations.storage.purge.models import Purge, StoredArchive


def list_lines(purge: Purge, files: PurgeFiles, ends_at_ms: int) -> Iterator[str]:
    """Yield the list of what is planned; raises PlanError."""
    yield f"Purge {purge.id}: {purge.files:,} files ({told_bytes(purge.bytes)}) and {purge.folders:,} empty folders"
    yield f"They are archived, and removed from here after {_moment(ends_at_ms)}."
    yield "What is changed until then stays. To keep something as it is, ask for an exemption on your page of storage."
    yield "A backslash stands before what is not to be read as it is: \\n is the end of a line, \\xff a byte."
    yield ""
    yield "bytes\trule\tits age counts from\tpath"
    for one in PlanReader(files.plan):
        yield f"{one.bytes}\t{one.rule}\t{one.why}\t{shown(one.path)}{'/' if one.type == 'folder' else ''}"


def report_lines(purge: Purge, files: PurgeFiles, archive: StoredArchive) -> Iterator[str]:
    """Yield what became of each; raises PlanError."""
    assert archive.keep_until_ms is not None, "it is kept"
    yield f"Purge {purge.id}: {purge.deleted_files:,} files ({told_bytes(purge.deleted_bytes)}) were removed"
    yield f"They are in the archive {archive.id}, which is kept until {_moment(archive.keep_until_ms)}:"
    yield "the page of your storage brings them back, and so do the administrators."
    yield f"{purge.left_files:,} files of the list were left, or were gone already; the reasons are at the end."
    yield ""
    yield "removed: bytes\tpath"
    left = read_left(files.left)
    stays = next(left, None)
    for number, one in enumerate(PlanReader(files.chosen)):
        if stays is not None and stays.number == number:
            stays = next(left, None)
            continue
        yield f"{one.bytes}\t{shown(one.path)}{'/' if one.type == 'folder' else ''}"
    yield ""
    yield "left: path\twhy"
    for stayed in chain(read_left(files.dropped), read_left(files.left)):
        yield f"{shown(stayed.path)}\t{stayed.why}"


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // MS_PER_SECOND, UTC):%Y-%m-%d %H:%M} UTC"
