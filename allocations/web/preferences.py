"""How a person wants their notices, the address of their calendar, and what a mail's links do without a sign-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.policy.notices import Delivery, NoticeKind
from allocations.web.render import page, see
from allocations.web.session import Sent, came_by_https, form_needs, page_needs

if TYPE_CHECKING:
    from allocations.notify.preferences import Preference

router = APIRouter()
Choosing = Annotated[Sent, Depends(form_needs(Scope.READ))]

SETTINGS = "/notices/settings"
WAYS = {
    Delivery.AT_ONCE: "By mail at once",
    Delivery.DAILY: "In the daily mail",
    Delivery.PAGE: "On the page only",
    Delivery.OFF: "Not at all",
}
# Under which heading a kind stands, by what it is about; the others come last.
_GROUPS = {
    "Your account": (NoticeKind.PERSON_SUSPENDED, NoticeKind.PERSON_RESUMED, NoticeKind.OVERRIDE_GRANTED),
    "Your servers": (NoticeKind.SERVER_STOPS,),
    "Storage": (
        NoticeKind.STORAGE_NEARING,
        NoticeKind.STORAGE_OVER,
        NoticeKind.STORAGE_LOCKED,
        NoticeKind.PURGE_PLANNED,
        NoticeKind.PURGE_REMINDER,
        NoticeKind.PURGE_DONE,
        NoticeKind.PURGE_CALLED_OFF,
        NoticeKind.PURGE_BROKE_OFF,
        NoticeKind.EXEMPTION_DECIDED,
        NoticeKind.RESTORE_DONE,
        NoticeKind.RESTORE_FAILED,
        NoticeKind.STORAGE_ENDED,
        NoticeKind.STORAGE_ARCHIVED_SOON,
        NoticeKind.STORAGE_RETURNED,
        NoticeKind.ARCHIVE_EXPIRES,
    ),
    "Allocations": (
        NoticeKind.ENDS_SOON,
        NoticeKind.ENDED,
        NoticeKind.ARCHIVED,
        NoticeKind.RENEWED,
        NoticeKind.SUSPENDED,
        NoticeKind.RESUMED,
        NoticeKind.CLOSED,
    ),
    "People": (NoticeKind.INVITED, NoticeKind.INVITATION_ANSWERED, NoticeKind.MEMBER_REMOVED),
    "Requests": (
        NoticeKind.REQUEST_SUBMITTED,
        NoticeKind.REQUEST_WAITS,
        NoticeKind.REVISION_REQUESTED,
        NoticeKind.REQUEST_APPROVED,
        NoticeKind.REQUEST_DECLINED,
    ),
}
OTHERS = "Others"


@router.get(SETTINGS)
def show_preferences(
    request: Request, services: Wired, reader: Annotated[Identity, Depends(page_needs(Scope.READ))]
) -> Response:
    """Show how a person's notices come, and where their calendar is."""
    return _page(request, services, reader.name)


@router.post(SETTINGS)
def keep_preferences(request: Request, services: Wired, sent: Choosing) -> Response:
    """Keep how a person wants each kind that the form names."""
    wanted = {kind.value: sent.text(f"kind {kind}") for kind in NoticeKind if sent.text(f"kind {kind}")}
    try:
        services.preferences.choose(sent.identity.name, wanted)
    except AllocationsError as error:
        return _page(request, services, sent.identity.name, error)
    return see(request, SETTINGS, "preferences")


@router.post("/notices/calendar")
def renew_calendar(request: Request, services: Wired, sent: Choosing) -> Response:
    """Give the person's calendar a new address."""
    services.calendar.renew(sent.identity.name)
    return see(request, SETTINGS, "calendar")


@router.post("/notices/calendar/revoke")
def revoke_calendar(request: Request, services: Wired, sent: Choosing) -> Response:
    """Take the person's calendar from its address."""
    services.calendar.revoke(sent.identity.name)
    return see(request, SETTINGS, "no-calendar")


@router.get("/calendar/{token}.ics")
def read_calendar(token: str, services: Wired) -> Response:
    """Return a calendar to whoever knows its address: calendar programs have no session."""
    return Response(services.calendar.feed(token), media_type="text/calendar; charset=utf-8")


@router.get("/unsubscribe/{token}")
def ask_to_unsubscribe(token: str, request: Request, services: Wired) -> Response:
    """Ask before anything is changed: mail programs look links up by themselves."""
    services.unsubscribing.require(token)
    return page(request, "unsubscribe.html", done_now=False)


@router.post("/unsubscribe/{token}")
def unsubscribe(token: str, request: Request, services: Wired) -> Response:
    """Turn mail off for whoever has the mail: from its page here, or by the mail program's one click (RFC 8058).

    Neither has a session, so that the secret of the address takes the place of the form's token.
    """
    services.unsubscribing.unsubscribe(token)
    return page(request, "unsubscribe.html", done_now=True)


def _page(request: Request, services: Wired, person: str, error: AllocationsError | None = None) -> Response:
    token = services.calendar.token(person)
    return page(
        request,
        "preferences.html",
        error=error,
        groups=_grouped(services.preferences.of_person(person)),
        ways=WAYS,
        calendar_url=f"{_address(request)}/calendar/{token}.ics" if token else "",
    )


def _grouped(preferences: list[Preference]) -> list[tuple[str, list[Preference]]]:
    """Return the preferences under their headings."""
    by_kind = {kind: heading for heading, kinds in _GROUPS.items() for kind in kinds}
    groups: dict[str, list[Preference]] = {heading: [] for heading in (*_GROUPS, OTHERS)}
    for one in preferences:
        groups[by_kind.get(one.kind, OTHERS)].append(one)
    return [(heading, found) for heading, found in groups.items() if found]


def _address(request: Request) -> str:
    """Return where the pages are, as this browser found them."""
    scheme = "https" if came_by_https(request) else "http"
    prefix: str = request.app.state.prefix
    return f"{scheme}://{request.headers.get('host', '')}{prefix}"
