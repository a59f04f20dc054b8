"""Gives up every right of the process but those that its duties need; see capabilities(7)."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

# From <linux/capability.h>.
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "SYS_ADMIN": 21,
    "LEASE": 28,
}
# Files and folders of other people: to read, write and remove them, to keep them from being written to as they are
# removed, and to give back what is restored.
FILES = frozenset(CAPABILITIES) - {"SYS_ADMIN"}
# Limits of btrfs and XFS are the administrator's of the whole machine, says the kernel.
LIMITS = frozenset({"SYS_ADMIN"})

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER = 24, 38, 47, 3
_VERSION_3 = 0x20080522
_WORDS = 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def keep_only(names: Collection[str]) -> None:
    """Give up every capability but these, of this thread and all that it will start, for good. Raises OSError.

    What the process does not have it does not get. Call it before other threads are started.
    """
    kept = sum(1 << CAPABILITIES[name] for name in names)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for number in range(32 * _WORDS):
        if not kept >> number & 1:
            # EINVAL: the kernel has no more of them. EPERM: not ours to drop, for an account that has none anyway.
            if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) and ctypes.get_errno() == errno.EINVAL:
                break
            _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, number, 0, 0)
    header, data = _Header(_VERSION_3, 0), (_Data * _WORDS)()
    _check(_libc.capget(ctypes.byref(header), data))
    for number, word in enumerate(data):
        mask = kept >> 32 * number & 0xFFFFFFFF
        word.effective &= mask
        word.permitted &= mask
        word.inheritable &= mask
    _check(_libc.capset(ctypes.byref(header), data))


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
