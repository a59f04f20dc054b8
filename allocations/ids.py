"""Identifiers: short, safe in URLs, file names and Kubernetes labels; injected so that tests can fix them."""

from __future__ import annotations

import secrets
from typing import Protocol


class IdFactory(Protocol):
    """Makes a new identifier with the prefix of its kind."""

    def __call__(self, prefix: str) -> str: ...


def random_id(prefix: str) -> str:
    """Return `prefix-` and 80 random bits in lower-case hexadecimal."""
    return f"{prefix}-{secrets.token_hex(10)}"
