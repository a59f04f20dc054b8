"""Lets plan and archive be read side by side: what is to be archived of a plan, and what became of it."""

from __future__ import annotations

import hashlib
import tempfile
from typing import TYPE_CHECKING

from allocations.storage.archive.format import MANIFEST, Stored, decompressed, read_lines
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.sources import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from allocations.storage.archive.format import Archive, Line
    from allocations.storage.archive.stores import Store
    from allocations.storage.purge.planfile import Planned
    from allocations.storage.tree.beneath import Root


def to_wanted(root: Root, planned: Iterable[Planned]) -> Iterator[Wanted]:
    """Yield what is to be archived, in the order of the plan.

    All of a plan is on the device of its area, whose number does not outlast the mount: it is taken from the root.
    """
    for one in planned:
        yield Wanted(one.path, root.identity.device, one.inode, one.size, one.mtime_ns, one.ctime_ns)


def archived_lines(store: Store, archive: Archive, folder: str | None = None) -> Iterator[Line]:
    """Yield the lines of a verified archive's manifest, none before all of it is known to be what was verified.

    It is kept meanwhile in a file without a name, in a folder of ours. Raises DamagedError, StoreError, OSError.
    """
    with tempfile.TemporaryFile(dir=folder) as kept:
        digest = hashlib.sha256()
        with store.read(MANIFEST) as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
                kept.write(piece)
        if Stored(kept.tell(), digest.hexdigest()) != archive.objects[MANIFEST]:
            raise DamagedError(f"{MANIFEST} is not what was verified")
        kept.seek(0)
        yield from read_lines(decompressed(kept))
