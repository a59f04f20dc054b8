"""Identifiers: short, safe in URLs, file names and Kubernetes labels; injected so that tests can fix them."""

from __future__ import annotations

import os
from collections import deque
from typing import Protocol

RANDOM_BYTES = 10
# Asking the system for random bits costs more than everything else here, so they are asked for together.
TOGETHER = 256

_ready: deque[str] = deque()
# A forked process would give the same identifiers as its parent.
os.register_at_fork(after_in_child=_ready.clear)


class IdFactory(Protocol):
    """Makes a new identifier with the prefix of its kind."""

    def __call__(self, prefix: str) -> str: ...


def random_id(prefix: str) -> str:
    """Return `prefix-` and 80 random bits in lower-case hexadecimal."""
    try:
        bits = _ready.pop()
    except IndexError:
        drawn = os.urandom(RANDOM_BYTES * TOGETHER).hex()
        length = 2 * RANDOM_BYTES
        bits, *others = (drawn[begin : begin + length] for begin in range(0, len(drawn), length))
        _ready.extend(others)
    return f"{prefix}-{bits}"
