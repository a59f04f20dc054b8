"""A researcher's home page with its button that extends a server, and the user agreement."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.runs.models import ENDED_STATES
from allocations.web.burning import Chart, Outlook
from allocations.web.coming import coming_up
from allocations.web.figures import summary_of, usage_of
from allocations.web.render import LivePart, live, live_response, page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter()
Reader = Annotated[Identity, Depends(page_needs(Scope.READ))]
USAGES_SHOWN = 10
_markdown = MarkdownIt("commonmark", {"html": False})


@router.get("/")
def show_home(request: Request, services: Wired, reader: Reader) -> Response:
    """Show a person's allocations, what runs and the latest charges; first of all the agreement."""
    agreement = services.offers.agreement(reader.name)
    if not agreement.accepted:
        return RedirectResponse(f"{request.app.state.prefix}/agreement", 303)
    offers = services.members.offers_to(reader.name)
    return page(
        request,
        "home.html",
        offers=offers,
        may_answer=reader.has(Scope.REQUEST),
        live=_overview(request, services, reader, with_burn_downs=True),
    )


@router.get("/live")
def show_home_live(request: Request, services: Wired, reader: Reader) -> Response:
    """Show the part of the home page that changes."""
    return live_response(request, _overview(request, services, reader))


@router.get("/agreement")
def show_agreement(request: Request, services: Wired, reader: Reader) -> Response:
    """Show the agreement in force, with a button for whoever has not accepted it."""
    return _agreement(request, services, reader)


@router.post("/agreement")
def accept_agreement(
    request: Request, services: Wired, sent: Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
) -> Response:
    """Accept the version that was read."""
    try:
        services.agreements.accept(sent.identity.name, sent.text("version"))
    except AllocationsError as error:
        return _agreement(request, services, sent.identity, error)
    return see(request, "/", "accepted")


@router.post("/servers/{lease_id}/extend")
def extend_server(
    request: Request, lease_id: str, services: Wired, sent: Annotated[Sent, Depends(form_needs(Scope.REQUEST))]
) -> Response:
    """Extend a running server of one's own."""
    try:
        services.sessions.extend(lease_id, sent.identity.name)
    except AllocationsError as error:
        return page(request, "failure.html", error=error)
    return see(request, "/", "extended")


def _overview(request: Request, services: Wired, reader: Identity, *, with_burn_downs: bool = False) -> LivePart:
    overview = services.reports.overview(reader.name)
    now_ms = services.clock.now_ms()
    burned = services.reports.recent_burn_downs(reader.name) if with_burn_downs else {}
    runs = services.runs.list_of(reader.name) if reader.has(Scope.RUN) else []
    active = [run for run in runs if run.state not in ENDED_STATES]
    return live(
        request,
        "home_live.html",
        f"{request.app.state.prefix}/live",
        once={
            one.id: (Outlook.of(burned[one.id], one, now_ms), Chart.recent(burned[one.id], one, now_ms))
            for one in overview.allocations
            if one.id in burned
        },
        coming=coming_up(services, reader, overview.allocations),
        overview=overview,
        usages=usage_of(overview.charges)[:USAGES_SHOWN],
        outlooks={outlook.lease: outlook for outlook in services.sessions.outlooks_of(reader.name)},
        may_extend=reader.has(Scope.REQUEST),
        runs=active,
        summary=summary_of(len(overview.servers), len(active)),
    )


def _agreement(request: Request, services: Wired, reader: Identity, error: AllocationsError | None = None) -> Response:
    agreement = services.policy.agreement
    return page(
        request,
        "agreement.html",
        error=error,
        agreement=agreement,
        accepted=services.offers.agreement(reader.name).accepted,
        may_accept=reader.has(Scope.REQUEST),
        text=Markup(_markdown.render(agreement.text)),  # noqa: S704  # the renderer escapes HTML in the text
    )
