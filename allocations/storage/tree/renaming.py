"""Gives something another name, over nothing that is there."""

from __future__ import annotations

import ctypes
import errno
import os

_RENAME_NOREPLACE = 1
# A file system that knows no RENAME_NOREPLACE, as NFS.
_NO_NOREPLACE = {errno.EINVAL, errno.ENOSYS}

_libc = ctypes.CDLL(None, use_errno=True)


def rename_over_nothing(name: str, folder: int, new_name: str, new_folder: int) -> bool:
    """Rename what is in an open folder, into another; return False where the file system cannot make sure that it goes
    over nothing, and has done nothing. Raises OSError."""
    if not _libc.renameat2(folder, os.fsencode(name), new_folder, os.fsencode(new_name), _RENAME_NOREPLACE):
        return True
    code = ctypes.get_errno()
    if code not in _NO_NOREPLACE:
        raise OSError(code, os.strerror(code), new_name)
    return False
