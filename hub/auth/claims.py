"""What a provider says of a person, read without trusting its form."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEXT_LENGTH_MAX = 200
GROUPS_MAX = 500
EMAIL_LENGTH_MAX = 254
_EMAIL = re.compile(r"[^@\s<>,;:\"()\[\]\\]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Person:
    """What is recorded of a person beside the name: for mail and for reports, never to decide anything."""

    full_name: str | None = None
    email: str | None = None
    institution: str | None = None
    country: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """The fields by name."""
        return asdict(self)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name; failing that, what a path with dots leads to, as `address.country` does."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def text(claims: Mapping[str, Any], paths: Iterable[str]) -> str | None:
    """The first of the claims that is a text: one line of at most 200 characters."""
    for path in paths:
        value = claim(claims, path)
        if isinstance(value, str):
            line = " ".join(unicodedata.normalize("NFC", value).split())
            line = "".join(letter for letter in line if letter.isprintable())[:TEXT_LENGTH_MAX].strip()
            if line:
                return line
    return None


def email(claims: Mapping[str, Any], path: str) -> str | None:
    """The address, its domain in lower case; None when there is none that mail could be sent to."""
    value = claim(claims, path)
    if not isinstance(value, str) or not value.isprintable() or len(value) > EMAIL_LENGTH_MAX:
        return None
    local, _, domain = unicodedata.normalize("NFC", value.strip()).rpartition("@")
    address = f"{local}@{domain.casefold()}"
    return address if _EMAIL.fullmatch(address) else None


def is_true(value: Any) -> bool:
    """Whether a claim says yes; some providers write the word."""
    return value is True or (isinstance(value, str) and value.casefold() == "true")


def groups(claims: Mapping[str, Any], paths: Iterable[str]) -> frozenset[str]:
    """The names in all of the claims: lists of texts, or one text."""
    found: set[str] = set()
    for path in paths:
        value = claim(claims, path)
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        found.update(name for name in names[:GROUPS_MAX] if _is_group(name))
    return frozenset(found)


def _is_group(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= TEXT_LENGTH_MAX and name.isprintable()
