"""Paths on pages: shown with every character in sight, and read back from forms and addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocations.errors import InvalidInputError
from allocations.reports.storage_views import RawPath, from_json_path
from allocations.storage.paths import from_shown, to_shown

if TYPE_CHECKING:
    from allocations.reports.storage_views import PathInJson


def path_in_sight(path: PathInJson) -> str:
    """Return a path as pages and forms hold it."""
    return to_shown(from_json_path(path) if isinstance(path, RawPath) else path)


def to_path(text: str, field: str) -> str:
    """Read a path that a page showed or somebody typed, without slashes at its ends; a line's end is none of it."""
    try:
        return from_shown(text.rstrip("\n")).strip("/")
    except ValueError:
        raise InvalidInputError(
            f"{field}: that is no path.",
            "Copy it from the list; a backslash that is part of a name is written twice.",
        ) from None
