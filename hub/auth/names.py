"""User names from an identity provider's claims: readable, plain ASCII, and never the name of somebody else."""

from __future__ import annotations

import json
import re
import unicodedata
from base64 import b32encode
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

READABLE_LENGTH = 24
SUFFIX_LENGTHS = (6, 12, 26)
# Names that a person could be taken for the platform by, or that stand for it in the audit log.
RESERVED = frozenset(
    {
        "admin",
        "administrator",
        "allocations",
        "anonymous",
        "batch",
        "everybody",
        "hub",
        "jupyterhub",
        "meridian",
        "nobody",
        "operator",
        "platform",
        "proxy",
        "public",
        "root",
        "server",
        "service",
        "shared",
        "spawner",
        "staff",
        "support",
        "system",
        "user",
        "worker",
    }
)
_OTHERS = re.compile("[^a-z0-9]+")


def readable(text: str) -> str:
    """What can be read of a claim in a-z, 0-9 and single hyphens: without accents, case and look-alikes.

    At most 24 characters; empty when nothing is left, as for names in other scripts.
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return _OTHERS.sub("-", plain).strip("-")[:READABLE_LENGTH].strip("-")


def fingerprint(issuer: str, subject: str) -> str:
    """A digest of who a person is at a provider, in 52 letters and digits. Different people never share it."""
    # As JSON, so that no other issuer and subject are written the same.
    digest = sha256(json.dumps([issuer, subject]).encode()).digest()
    return b32encode(digest).decode().rstrip("=").lower()


def candidates(claim: str, issuer: str, subject: str) -> Iterator[str]:
    """Names for a person, best first: as the claim says, then with ever more of the person's fingerprint."""
    name = readable(claim)
    if name and name not in RESERVED:
        yield name
    digest = fingerprint(issuer, subject)
    for length in SUFFIX_LENGTHS:
        yield f"{name or 'user'}-{digest[:length]}"
