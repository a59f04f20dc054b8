"""Says which paths of an archive somebody wants back: all, or some files and folders with what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.storage.archive.format import check_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Selection:
    """Paths that are wanted; None: all of them. Raises DamagedError for a path that leads out of a tree."""

    def __init__(self, paths: Sequence[str] | None) -> None:
        """Begin with none found."""
        for path in paths or ():
            check_path(path)
        self._all = paths is None
        self._wanted = set(paths or ())
        self._above = {folder for path in self._wanted for folder in _folders_of(path)}
        self._found: set[str] = set()

    def has(self, path: str) -> bool:
        """Say whether a path of the archive is wanted."""
        if self._all:
            return True
        for candidate in (path, *_folders_of(path)):
            if candidate in self._wanted:
                self._found.add(candidate)
                return True
        return False

    def is_on_the_way(self, path: str) -> bool:
        """Say whether something that is wanted may be in a folder."""
        return path in self._above

    def missing(self) -> list[str]:
        """Return what was wanted and is not in the archive, in order."""
        return sorted(self._wanted - self._found)


def _folders_of(path: str) -> Iterator[str]:
    cut = path.rfind("/")
    while cut > 0:
        yield path[:cut]
        cut = path.rfind("/", 0, cut)
