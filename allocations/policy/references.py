"""What a reference to a container image may look like, and from which registries one may come. Pure functions.

The grammar is that of the OCI distribution specification, read strictly: a registry's host with a dot, a port or the
name localhost, a path in lower case, and a tag or a digest by SHA-256 or both. Nothing in it means anything to a shell
or to YAML, and no registry or tag is ever guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REFERENCE_LENGTH_MAX = 255
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"(?:(?:{_LABEL}\.)+{_LABEL}(?::[0-9]{{1,5}})?|{_LABEL}:[0-9]{{1,5}}|localhost)"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"
_REPOSITORY = rf"{_HOST}(?:/{_PART})+"
_REFERENCE = re.compile(rf"(?P<repository>{_REPOSITORY})(?::(?P<tag>{TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII)
# A place among the allowed: a host, then parts of a path, of which `*` is any one.
_PLACE = re.compile(rf"{_HOST}(?:/(?:{_PART}|\*))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in its parts; at least one of tag and digest is there."""

    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def to_reference(text: str) -> Reference:
    """Read a reference; ValueError says as a sentence what is wrong with the text, without repeating it."""
    if len(text) > REFERENCE_LENGTH_MAX:
        raise ValueError(f"It is longer than {REFERENCE_LENGTH_MAX} characters.")
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ValueError("It is not a registry's host, a path in lower case, and a tag or a digest.")
    if found["tag"] is None and found["digest"] is None:
        raise ValueError("It names neither a tag nor a digest.")
    return Reference(found["repository"], found["tag"], found["digest"])


def is_place(text: str) -> bool:
    """Say whether a text is a place of an allow-list: a registry, perhaps with parts of a path."""
    return _PLACE.fullmatch(text) is not None


def is_within(reference: Reference, place: str) -> bool:
    """Say whether an image lies in a place: part for part, so that `a.org/lab` does not admit `a.org/laboratory`."""
    wanted, parts = place.split("/"), reference.repository.split("/")
    # A host matches as a whole and is never a wildcard.
    return len(parts) >= len(wanted) and all(
        one == part or (one == "*" and number > 0)
        for number, (one, part) in enumerate(zip(wanted, parts[: len(wanted)], strict=True))
    )
