"""An archive: what is in it, found by name, and asking for files, folders or all of it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError, InvalidInputError, NotFoundError
from allocations.storage.archives import ArchiveUnreadableError
from allocations.storage.purge.models import RestoreTarget
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs
from allocations.web.storage_paths import to_path

if TYPE_CHECKING:
    from allocations.factory import Services

router = APIRouter(prefix="/storage/archives")
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
RequesterForm = Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
# Each of a page's files may be ticked in one form, which takes 50 fields.
FILES_PAGE = 40
START_MAX = 10**12
Start = Annotated[int, Query(ge=0, le=START_MAX)]


@router.get("/{archive_id}")
def show_archive(
    request: Request, archive_id: str, services: Wired, reader: Reader, find: str = "", start: Start = 0
) -> Response:
    """Show what is in an archive, or what of it has a name that is looked for."""
    return _archive(request, services, reader, archive_id, find.replace("\0", "").strip(), start)


@router.post("/{archive_id}/restores")
def restore(
    request: Request, archive_id: str, services: Wired, sent: RequesterForm, find: str = "", start: Start = 0
) -> Response:
    """Ask for what is ticked, for one file or folder, or for all."""
    try:
        services.archives.archive(sent.identity.actor, archive_id)
        target = sent.text("target")
        if target not in set(RestoreTarget):
            raise InvalidInputError("It is not said where to.", "Choose one of the two places.")
        services.restores.ask(sent.identity.actor, archive_id, _paths(sent), RestoreTarget(target))
    except NotFoundError:
        raise
    except AllocationsError as error:
        return _archive(request, services, sent.identity, archive_id, find, start, error, sent)
    return see(request, f"/storage/archives/{archive_id}", "restore")


def _paths(sent: Sent) -> list[str]:
    """Return the paths that a form asks for; none for all."""
    what = sent.text("what")
    if what == "all":
        return []
    if what == "path":
        paths = [to_path(sent.text("path"), "File or folder")]
    elif what == "ticked":
        paths = [to_path(one, "File") for one in sent.texts("ticked")]
    else:
        raise InvalidInputError("It is not said what to bring back.", "Choose one of the three.")
    # Nothing at all would mean everything.
    if not paths or "" in paths:
        raise InvalidInputError("Nothing is chosen.", "Tick files in the list, write a path, or choose everything.")
    return paths


def _archive(
    request: Request,
    services: Services,
    reader: Identity,
    archive_id: str,
    find: str,
    start: int,
    error: AllocationsError | None = None,
    sent: Sent | None = None,
) -> Response:
    archive, stored = services.archives.archive(reader.actor, archive_id)
    listing = None
    try:
        listing = services.archives.listing(reader.actor, archive_id, find, start, FILES_PAGE)
    except ArchiveUnreadableError as unreadable:
        # Its files can be asked back all the same.
        error = error or unreadable
    except InvalidInputError as wrong:
        error = error or wrong
    restores = [one for one in services.restores.asked_of(reader.actor, stored.id) if one.archive_id == archive_id]
    return page(
        request,
        "archive.html",
        error=error,
        archive=archive,
        area=services.storage_reports.area(reader.actor, stored.id),
        listing=listing,
        find=find,
        start=start,
        here=urlencode({"find": find, "start": start}),
        following=urlencode({"find": find, "start": listing.following}) if listing and listing.following else "",
        may_ask=reader.has(Scope.REQUEST) and services.archives.may_ask(reader.actor, archive_id),
        restores=restores,
        typed={name: sent.text(name) if sent else "" for name in ("what", "path", "target")},
        ticked=set(sent.texts("ticked")) if sent else set(),
    )
