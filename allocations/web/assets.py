"""Serves the pages' style sheets, scripts and logo: a short list of files, each with its version in the address."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from allocations.errors import InvalidInputError, NotFoundError
from allocations.settings import ROOT

HERE = Path(__file__).parent / "static"
FILES = {
    # The hub's pages and these are one product: the same files, not copies.
    "meridian.css": ROOT / "hub" / "static" / "meridian.css",
    "frame.js": ROOT / "hub" / "static" / "frame.js",
    "logo.svg": ROOT / "hub" / "static" / "logo.svg",
    "pages.css": HERE / "pages.css",
    "pages.js": HERE / "pages.js",
    "vendor/htmx.min.js": ROOT / "node_modules" / "htmx.org" / "dist" / "htmx.min.js",
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_EVER = "public, max-age=31536000, immutable"
VERSION_LENGTH = 12

router = APIRouter(include_in_schema=False)


class Assets:
    """The files' versions: digests of what they hold when the service starts."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._versions: dict[str, str] = {}
        for name, path in FILES.items():
            try:
                self._versions[name] = sha256(path.read_bytes()).hexdigest()[:VERSION_LENGTH]
            except OSError as error:
                raise InvalidInputError(
                    f"The file {name} of the pages is missing.", "Run `npm ci` in the repository's folder."
                ) from error

    def url(self, name: str) -> str:
        """Return the address of a file, which changes with its content."""
        return f"{self._prefix}/static/{name}?v={self._versions[name]}"

    def response(self, name: str, version: str) -> FileResponse:
        """Return a file; browsers keep it for as long as they like when they asked for this very version."""
        if name not in FILES:
            raise NotFoundError("There is nothing at this address.", "Go on from the home page.")
        is_current = version == self._versions[name]
        return FileResponse(
            FILES[name],
            media_type=MEDIA_TYPES[FILES[name].suffix],
            headers={"Cache-Control": FOR_EVER if is_current else "no-cache"},
        )


@router.get("/static/{name:path}")
def serve_asset(request: Request, name: str, v: str = "") -> FileResponse:
    """Serve a file to anybody: it says nothing about anybody."""
    assets: Assets = request.app.state.assets
    return assets.response(name, v)
