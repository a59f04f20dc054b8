"""A researcher's home page and the user agreement."""

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
        live=_overview(request, services, reader),
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


def _overview(request: Request, services: Wired, reader: Identity) -> LivePart:
    overview = services.reports.overview(reader.name)
    runs = services.runs.list_of(reader.name) if reader.has(Scope.RUN) else []
    active = [run for run in runs if run.state not in ENDED_STATES]
    return live(
        request,
        "home_live.html",
        f"{request.app.state.prefix}/live",
        overview=overview,
        usages=usage_of(overview.charges)[:USAGES_SHOWN],
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
