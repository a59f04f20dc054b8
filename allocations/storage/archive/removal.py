"""Removes an archive for good: what commits it first, so that nobody takes what is left of it for an archive.

Killed at any point, it is begun again, and goes on with what is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from allocations.storage.archive.format import COMMIT, MANIFEST, read_commit
from allocations.storage.archive.members import DamagedError
from allocations.storage.archive.stores import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from allocations.storage.archive.stores import Store

# What `reached` is told, in order; the second for each object.
POINTS = ("commit removed", "object removed", "all removed")
_PART = re.compile(r"part-\d{5,}\.tar\.zst")


class OtherArchiveError(StoreError):
    """Another archive than the one that is to be removed is at its place."""


def remove_archive(
    store: Store,
    name: str,
    *,
    before_each: Callable[[], None] = lambda: None,
    reached: Callable[[str], None] = lambda _point: None,
) -> int:
    """Remove the archive of a name, finished or not; returns how many objects that were.

    Only what archives are made of is removed: whatever else is at the place stays. `before_each` is called before each
    object, and raises where it is not to go on. Raises OtherArchiveError, StoreError.
    """
    _check_name(store, name)
    names = [one for one in store.names() if one in {COMMIT, MANIFEST} or _PART.fullmatch(one)]
    names.sort(key=lambda one: (one != COMMIT, one))
    for one in names:
        before_each()
        store.remove(one)
        reached("commit removed" if one == COMMIT else "object removed")
    before_each()
    store.clear()
    left = set(names) & set(store.names())
    if left:
        raise StoreError(f"{min(left)} was removed, and is there still: see what keeps it, then go on")
    reached("all removed")
    return len(names)


def _check_name(store: Store, name: str) -> None:
    if store.size(COMMIT) is None:
        return
    try:
        found = read_commit(store).name
    except DamagedError:
        # It tells of no other archive; what is damaged can be removed too.
        return
    if found != name:
        raise OtherArchiveError(f"the archive at the place of {name} is {found}: see how it came there")
