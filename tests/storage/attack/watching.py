"""Notes every time that somebody opens, reads or changes one of some files, by inotify: no access goes unseen."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ACCESS, MODIFY, ATTRIB, OPEN = 0x1, 0x2, 0x4, 0x20
MOVED_OR_GONE = 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Watches paths; a context manager."""

    def __init__(self, paths: Iterable[Path], events: int) -> None:
        """Begin."""
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._paths = {_libc.inotify_add_watch(self._fd, os.fsencode(path), events): path for path in paths}
        assert min(self._paths) > 0

    def __enter__(self) -> Self:
        """Return the watch itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End it."""
        os.close(self._fd)

    def seen(self) -> list[tuple[str, int]]:
        """Return what happened since: paths and events."""
        found: list[tuple[str, int]] = []
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                number, events, _cookie, size = struct.unpack_from("=iIII", data, at)
                found.append((str(self._paths.get(number)), events))
                at += 16 + size
