"""Makes HTML of templates: pages within the frame that all share, live parts, and what was just done."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from allocations import __version__
from allocations.api.identity import Identity, Scope
from allocations.clock import to_rfc3339
from allocations.ids import random_id
from allocations.reports.storage import TREND_DAYS
from allocations.settings import ROOT
from allocations.storage.paths import in_sight
from allocations.web import awards, figures, formats
from allocations.web.charts import percent_of
from allocations.web.forms import in_words_of_forms
from allocations.web.run_ends import end_of
from allocations.web.storage_figures import STORAGE_BADGES
from allocations.web.storage_paths import path_in_sight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import Request

    from allocations.errors import AllocationsError
    from allocations.factory import Services

HUB = "/hub/"
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
    "extended": "The server is extended. How long it can go on stands below.",
    "secret": "The secret is kept. Its value is not shown again.",
    "secret-removed": "The secret is removed.",
    "replayed": "The replay is queued. When it has ended, this page says whether it made the same.",
    "sweep-queued": "The sweep is queued. Its runs start as there is room.",
    "sweep-cancelled": "The sweep is being cancelled, with all of its runs that have not ended.",
    "sweep-retried": "The runs that had failed are queued again.",
    "queued": "The run is queued. It starts when there is room.",
    "cancelled": "The run is being cancelled.",
    "several-cancelled": "The chosen runs are being cancelled. What had ended already stays as it is.",
    "scheduled": "The schedule is made. Its next times stand below.",
    "schedule-changed": "The schedule is changed. What was submitted stays as it is.",
    "schedule-paused": "The schedule is paused: nothing is submitted until you resume it.",
    "schedule-resumed": "The schedule goes on with its next time.",
    "schedule-removed": "The schedule is removed. Its runs stay.",
    "suspended": "The allocation is suspended: nothing new starts on it, and nothing is renewed.",
    "resumed": "The allocation can be spent again.",
    "read": "Marked as read.",
    "preferences": "Your choices are kept.",
    "calendar": "Your calendar has a new address. Whoever had an earlier one finds nothing there.",
    "no-calendar": "Your calendar has no address any more.",
    "archived": "The allocation is archived, with all below it.",
    "person-suspended": "The person is suspended, and has been told why.",
    "person-resumed": "The suspension is lifted, and the person has been told.",
    "exemption": "The exemption is asked for: a reviewer decides on it, and you are told.",
    "exemption-ended": "The exemption has ended.",
    "exemption-granted": "The exemption is granted, and who asked has been told.",
    "exemption-refused": "The exemption is refused, and who asked has been told.",
    "age-extended": "Files may become older here, until the day that stands below.",
    "age-usual": "Files go at their usual age again.",
    "restore": "The files are being brought back. Their state stands below; you are told when they are there.",
    "planned": "The run is planned: what it would take appears as its areas are looked through.",
    "confirmed": "The run is confirmed, and goes on.",
    "run-stopped": "The run is stopped where it was.",
    "run-resumed": "The run goes on.",
    "run-cancelled": "The run is cancelled.",
    "all-stopped": "No purge goes on until the switch is off again.",
    "all-resumed": "Purges go on.",
    "granted": "The override is in force.",
    "ended": "The override has ended.",
}
ALLOCATION_BADGES = {"active": "ok", "expiring": "warn", "grace": "warn", "suspended": "bad"}
RUN_BADGES = {"running": "ok", "succeeded": "ok", "admitted": "warn", "failed": "bad", "timed_out": "bad"}
SCHEDULE_BADGES = {"active": "ok", "paused": "warn", "submitted": "ok", "refused": "bad", "missed": "warn"}
CELL_BADGES = {"running": "ok", "done": "ok", "failed": "bad", "stopped": "bad"}
SWEEP_BADGES = {"running": "ok", "succeeded": "ok", "failed": "bad"}
REQUEST_BADGES = {"approved": "ok", "revision requested": "warn", "declined": "bad"}
DIGEST_LENGTH = 16
INTERNAL_ERROR = 500
# The hub's pages and these are one product: the same navigation, not a copy.
SHARED = FileSystemLoader(ROOT / "hub" / "templates" / "shared")


@dataclass(frozen=True, slots=True)
class LivePart:
    """A part of a page that fetches itself anew, and a digest of what it shows."""

    html: Markup
    digest: str

    def __html__(self) -> str:
        """Stand in a template as it is."""
        return self.html


_environment = Environment(
    loader=ChoiceLoader([PackageLoader("allocations.web", "templates"), PrefixLoader({"shared": SHARED})]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "credits": formats.to_credits,
    "exact_credits": formats.to_exact_credits,
    "number": formats.to_number,
    "bytes": formats.to_bytes,
    "path": path_in_sight,
    "in_sight": in_sight,
    "day_of_ns": formats.to_day_of_ns,
    "quantities": formats.to_quantities,
    "duration": formats.to_duration,
    "short_duration": formats.to_short_duration,
    "moment": formats.to_moment,
    "day": formats.to_day,
    "plain_day": formats.to_plain_day,
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
    "run_end": end_of,
    "run_announcement": figures.run_announcement,
    "cells_percent": figures.cells_percent,
    "seconds_until": formats.seconds_until,
    "days_until": formats.days_until,
    "unit_names": formats.UNITS,
    "allocation_badges": ALLOCATION_BADGES,
    "run_badges": RUN_BADGES,
    "schedule_badges": SCHEDULE_BADGES,
    "cell_badges": CELL_BADGES,
    "sweep_badges": SWEEP_BADGES,
    "request_badges": REQUEST_BADGES,
    "storage_badges": STORAGE_BADGES,
    "percent_of": percent_of,
    "trend_days": TREND_DAYS,
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
        at=_frame(request, is_failure=error is not None and error.status >= INTERNAL_ERROR),
        version=__version__,
        static=request.app.state.assets.url,
        done=DONE.get(request.query_params.get("done", "")) if error is None else None,
        error=error,
        **context,
    )
    return HTMLResponse(html, error.status if error else status)


def fragment(request: Request, template: str, **context: Any) -> HTMLResponse:
    """Render a part of a page by itself."""
    return HTMLResponse(_render(request, template, **context))


def live(
    request: Request,
    template: str,
    url: str,
    *,
    active: bool = True,
    once: Mapping[str, object] | None = None,
    **context: Any,
) -> LivePart:
    """Render a part of a page that fetches itself anew while it is active.

    What the template shows of `once` is too dear for every look: it comes with the page only, inside of elements that
    say `hx-preserve` and so stay, and does not count as a change.
    """
    plain = _render(request, template, once={}, **context)
    digest = sha256(plain.encode()).hexdigest()[:DIGEST_LENGTH]
    body = Markup(_render(request, template, once=once, **context) if once else plain)  # noqa: S704  # autoescaped
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
    return RedirectResponse(f"{request.app.state.prefix}{path}{'&' if '?' in path else '?'}done={done}", 303)


def see_of(request: Request, path: str, done: str, **query: str) -> RedirectResponse:
    """As `see`, for a page that is told what it is about."""
    return RedirectResponse(f"{request.app.state.prefix}{path}?{urlencode({**query, 'done': done})}", 303)


def new_key() -> str:
    """Return an idempotency key for a form."""
    return random_id("form")


def _render(request: Request, template: str, **context: Any) -> str:
    services = request.app.state.services
    identity = _identity(request)
    return _environment.get_template(template).render(
        prefix=request.app.state.prefix,
        hub=HUB,
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


def _frame(request: Request, *, is_failure: bool) -> dict[str, object]:
    """Return what the frame shows; on a page that says that something failed without asking the database."""
    identity = _identity(request)
    prefix: str = request.app.state.prefix
    services: Services = request.app.state.services
    scopes = identity.scopes if identity else frozenset()
    return {
        "hub": HUB,
        "pages": f"{prefix}/",
        "here": request.url.path,
        "logo": request.app.state.assets.url("logo.svg"),
        "name": identity.name if identity else "",
        # The hub's own administration asks for a scope that no session here carries; the same people have it.
        "scopes": scopes | {"admin-ui"} if Scope.ADMIN in scopes else scopes,
        "unread": services.inbox.unread(identity.name) if identity and not is_failure else 0,
        "local": request.app.state.mode == "local",
    }
