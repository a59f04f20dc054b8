"""Makes HTML of templates: the frame that all pages share, their navigation, live parts, and what was just done."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from allocations.api.identity import Identity, Scope
from allocations.clock import to_rfc3339
from allocations.ids import random_id
from allocations.web import awards, figures, formats
from allocations.web.forms import in_words_of_forms

if TYPE_CHECKING:
    from fastapi import Request

    from allocations.errors import AllocationsError
    from allocations.factory import Services

# What a finished action is called in the address, and what the next page then says.
DONE = {
    "accepted": "You have accepted the agreement.",
    "divided": "The sub-allocation is open.",
    "share": "The share is changed.",
    "moved": "The budget is moved.",
    "closed": "It is closed, with all below it.",
    "invited": "The invitation is sent. The person finds it on their home page.",
    "revoked": "The invitation is revoked.",
    "joined": "You have accepted the invitation: the allocation is among yours.",
    "refused": "You have declined the invitation.",
    "member": "The member's place is changed.",
    "removed": "The member is removed.",
    "left": "You have left the allocation.",
    "reported": "The report is sent: a reviewer decides on the next instalment.",
    "draft": "The draft is kept. Nobody else reads it until you submit it.",
    "submitted": "The request is submitted: a reviewer reads it next.",
    "revised": "The changes are kept.",
    "withdrawn": "The request is withdrawn.",
    "reviewed": "Your review is recorded.",
    "approved": "The request is approved and carried out.",
    "declined": "The request is declined. The applicant reads your reason.",
    "revision": "The request is sent back. The applicant reads your reason.",
    "linked": "The publication is linked.",
    "unlinked": "The link is taken away; other allocations keep theirs.",
    "queued": "The run is queued. It starts when there is room.",
    "cancelled": "The run is being cancelled.",
    "suspended": "The allocation is suspended: nothing new starts on it, and nothing is renewed.",
    "resumed": "The allocation can be spent again.",
    "read": "Marked as read.",
    "archived": "The allocation is archived, with all below it.",
    "granted": "The override is in force.",
    "ended": "The override has ended.",
}
ALLOCATION_BADGES = {"active": "ok", "expiring": "warn", "grace": "warn", "suspended": "bad"}
RUN_BADGES = {"running": "ok", "succeeded": "ok", "admitted": "warn", "failed": "bad", "timed_out": "bad"}
REQUEST_BADGES = {"approved": "ok", "revision requested": "warn", "declined": "bad"}
DIGEST_LENGTH = 16
INTERNAL_ERROR = 500


@dataclass(frozen=True, slots=True)
class NavigationItem:
    """A link of the navigation, for those whose session carries the scope."""

    title: str
    path: str
    scope: Scope
    is_of_hub: bool = False
    counts_unread: bool = False


@dataclass(frozen=True, slots=True)
class LivePart:
    """A part of a page that fetches itself anew, and a digest of what it shows."""

    html: Markup
    digest: str

    def __html__(self) -> str:
        """Stand in a template as it is."""
        return self.html


NAVIGATION = (
    NavigationItem("Home", "/", Scope.READ),
    NavigationItem("Start a server", "/hub/spawn", Scope.READ, is_of_hub=True),
    NavigationItem("Servers", "/hub/home", Scope.READ, is_of_hub=True),
    NavigationItem("Runs", "/runs", Scope.RUN),
    NavigationItem("Requests", "/requests", Scope.REQUEST),
    NavigationItem("Publications", "/publications", Scope.READ),
    NavigationItem("Notices", "/notices", Scope.READ, counts_unread=True),
    NavigationItem("Policy", "/policy", Scope.READ),
    NavigationItem("Tokens", "/hub/token", Scope.READ, is_of_hub=True),
    NavigationItem("Review", "/review", Scope.REVIEW),
    NavigationItem("Allocations", "/admin/allocations", Scope.ADMIN),
    NavigationItem("Overrides", "/admin/overrides", Scope.ADMIN),
    NavigationItem("Report", "/admin/report", Scope.ADMIN),
    NavigationItem("Audit log", "/admin/audit", Scope.ADMIN),
    NavigationItem("Hub", "/hub/admin", Scope.ADMIN, is_of_hub=True),
)

_environment = Environment(
    loader=PackageLoader("allocations.web", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "credits": formats.to_credits,
    "exact_credits": formats.to_exact_credits,
    "number": formats.to_number,
    "quantities": formats.to_quantities,
    "duration": formats.to_duration,
    "moment": formats.to_moment,
    "day": formats.to_day,
    "rfc3339": to_rfc3339,
    "plain_text": formats.without_ansi,
}
_environment.globals |= {
    "asked_in_words": awards.asked_in_words,
    "bar_of": figures.Bar.of,
    "kinds": awards.KINDS,
    "detail": formats.to_detail,
    "lease_cost": figures.lease_cost,
    "run_cost": figures.run_cost,
    "run_seconds": figures.run_seconds,
    "cells_percent": figures.cells_percent,
    "seconds_until": formats.seconds_until,
    "days_until": formats.days_until,
    "unit_names": formats.UNITS,
    "allocation_badges": ALLOCATION_BADGES,
    "run_badges": RUN_BADGES,
    "request_badges": REQUEST_BADGES,
}


def page(
    request: Request,
    template: str,
    *,
    error: AllocationsError | None = None,
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """Render a page. With an error, it stands at the top, and its status is the page's."""
    error = in_words_of_forms(error) if error else None
    html = _render(
        request,
        template,
        navigation=_navigation(request, is_failure=error is not None and error.status >= INTERNAL_ERROR),
        mode=request.app.state.mode,
        static=request.app.state.assets.url,
        done=DONE.get(request.query_params.get("done", "")) if error is None else None,
        error=error,
        **context,
    )
    return HTMLResponse(html, error.status if error else status)


def live(request: Request, template: str, url: str, *, active: bool = True, **context: Any) -> LivePart:
    """Render a part of a page that fetches itself anew while it is active."""
    body = Markup(_render(request, template, **context))  # noqa: S704  # it comes from an autoescaped template
    digest = sha256(body.encode()).hexdigest()[:DIGEST_LENGTH]
    html = _render(request, "live.html", body=body, url=url, digest=digest, active=active)
    return LivePart(Markup(html), digest)  # noqa: S704  # as above


def live_response(request: Request, part: LivePart) -> Response:
    """Answer a live part's look for changes: nothing at all when it shows the present state already.

    What has not changed is not swapped, so that a selection or a reader's place in it stays.
    """
    if part.digest == request.query_params.get("seen"):
        return Response(status_code=204)
    return HTMLResponse(part.html)


def see(request: Request, path: str, done: str) -> RedirectResponse:
    """Go on to a page after a form was carried out, which then says what was done."""
    return RedirectResponse(f"{request.app.state.prefix}{path}?done={done}", 303)


def new_key() -> str:
    """Return an idempotency key for a form."""
    return random_id("form")


def _render(request: Request, template: str, **context: Any) -> str:
    services = request.app.state.services
    identity = _identity(request)
    return _environment.get_template(template).render(
        prefix=request.app.state.prefix,
        now_ms=services.clock.now_ms(),
        policy=services.policy,
        identity=identity,
        csrf=request.app.state.identities.csrf_token(request) if identity else "",
        **context,
    )


def _identity(request: Request) -> Identity | None:
    """Return who is signed in, once a dependency has found out."""
    identity: Identity | None = getattr(request.state, "identity", None)
    return identity


def _navigation(request: Request, *, is_failure: bool) -> list[dict[str, object]]:
    """Return the links that a person may use; on a page that says that something failed without asking the database."""
    identity = _identity(request)
    if identity is None:
        return []
    prefix: str = request.app.state.prefix
    path = request.url.path.removeprefix(prefix)
    services: Services = request.app.state.services
    unread = 0 if is_failure else services.inbox.unread(identity.name)
    return [
        {
            "title": item.title,
            "href": item.path if item.is_of_hub else prefix + item.path,
            "current": path == item.path or (item.path != "/" and path.startswith(f"{item.path}/")),
            "unread": unread if item.counts_unread else 0,
        }
        for item in NAVIGATION
        if identity.has(item.scope)
    ]
