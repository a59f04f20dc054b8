"""The places that a run's output can be saved to as well: a folder of the home or of scratch, or a bucket."""

from __future__ import annotations

import re

from allocations.errors import InvalidInputError

PLACE_LENGTH_MAX = 512
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
S3 = "s3://"
KINDS = ("home:", "scratch:")
# The keys of a bucket are secrets of these names; the first two have to be there.
BUCKET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
BUCKET_OPTIONS = ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


def require_place(text: str | None) -> str | None:
    """Return a place as it is kept, None for none; InvalidInputError for what is no place."""
    place = (text or "").strip()
    if not place:
        return None
    kind = next((kind for kind in (*KINDS, S3) if place.startswith(kind)), None)
    if kind is None or len(place) > PLACE_LENGTH_MAX or not place.isprintable():
        raise _wrong("is none that output can be saved to")
    parts = [part for part in place.removeprefix(kind).split("/") if part]
    if any(part in {".", ".."} for part in parts):
        raise _wrong("leads elsewhere")
    if kind == S3 and (not parts or not BUCKET.fullmatch(parts[0])):
        raise _wrong("names no bucket")
    return kind + "/".join(parts)


def keys_of(place: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the secrets that saving to a place needs, and of those that it takes when they are there."""
    return (BUCKET_KEYS, BUCKET_OPTIONS) if place and place.startswith(S3) else ((), ())


def _wrong(what: str) -> InvalidInputError:
    return InvalidInputError(
        f"The place of the output {what}.", "Write home:FOLDER, scratch:FOLDER or s3://BUCKET/PREFIX."
    )
