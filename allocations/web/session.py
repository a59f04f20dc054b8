"""Who looks at a page: sign-in at the hub, the session's scopes, forms that came from our own pages, sign-out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from allocations.api.identity import (
    SESSION_COOKIE,
    SESSION_SECONDS,
    STATE_COOKIE,
    STATE_SECONDS,
    HubIdentities,
    HubUnavailableError,
    Identity,
    MissingScopeError,
    NotSignedInError,
    Scope,
)
from allocations.errors import AllocationsError, InvalidInputError

HUB_LOGOUT = "/hub/logout"
NEXT_LENGTH_MAX = 1500  # it travels in a cookie
# A notebook may have many parameters, each with a field.
FIELDS_MAX = 250
# A notebook, and a table of parameters.
FILES_MAX = 2
# What a form holds beside a notebook: its other fields and the parts' headers.
FORM_BYTES_BESIDE_NOTEBOOK = 1_000_000

router = APIRouter(include_in_schema=False)


class ForgedFormError(AllocationsError):
    """A form did not come from a page of this session."""

    code = "forged_form"
    status = 403
    title = "The form was not accepted"

    def __init__(self) -> None:
        super().__init__(
            "The form did not come from a page of your present session, so nothing was changed.",
            "Go back, copy what you wrote, reload that page and send it again.",
        )


class FormTooLargeError(AllocationsError):
    """A form is larger than any that is taken."""

    code = "form_too_large"
    status = 413
    title = "Too large"


class SignInNeededError(Exception):
    """Nobody is signed in: the browser is sent to the hub, and comes back to the page."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A form of our own, and who sent it."""

    identity: Identity
    fields: FormData

    def text(self, name: str) -> str:
        """Return a field as text, empty when it is missing. A NUL, which PostgreSQL refuses, is left out."""
        value = self.fields.get(name)
        return value.replace("\0", "").replace("\r\n", "\n") if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """Return all fields of a name as texts, as boxes that are ticked give them."""
        return [value.replace("\0", "") for value in self.fields.getlist(name) if isinstance(value, str)]

    def key(self) -> str:
        """Return the form's idempotency key: sent twice, it acts once."""
        return self.text("key")

    def upload(self, name: str) -> tuple[str, bytes] | None:
        """Return an uploaded file's name and content, or None when none was chosen."""
        value = self.fields.get(name)
        if not isinstance(value, UploadFile) or not value.filename:
            return None
        return value.filename, value.file.read()


def page_needs(scope: Scope) -> Callable[[Request], Awaitable[Identity]]:
    """Return the dependency that lets in people whose session carries the scope."""

    async def visitor(request: Request) -> Identity:
        identities: HubIdentities = request.app.state.identities
        identity = await identities.from_session(request)
        if identity is None:
            raise SignInNeededError
        request.state.identity = identity  # an error page shows the navigation too
        await run_in_threadpool(request.app.state.services.reviewers.saw, identity.actor)
        if not identity.has(scope):
            raise MissingScopeError(
                "Your account does not have the role that this page needs.",
                "If you should have it, ask an administrator of the platform.",
            )
        return identity

    visitor.scope = scope  # type: ignore[attr-defined]  # read by the test that every page names its scope
    return visitor


async def anybody(request: Request) -> None:
    """Let everybody in, and find out who it is for the navigation, where that can be found out."""
    identities: HubIdentities = request.app.state.identities
    with suppress(HubUnavailableError):
        request.state.identity = await identities.from_session(request)


def form_needs(scope: Scope) -> Callable[[Request], AsyncIterator[Sent]]:
    """Return the dependency that takes forms of our own pages from people whose session carries the scope."""
    visitor = page_needs(scope)

    async def sent(request: Request) -> AsyncIterator[Sent]:
        _require_same_origin(request)
        identity = await visitor(request)
        _require_size(request)
        identities: HubIdentities = request.app.state.identities
        async with request.form(max_files=FILES_MAX, max_fields=FIELDS_MAX) as fields:
            token = fields.get("_csrf")
            if not (isinstance(token, str) and token.isascii() and identities.is_csrf_token(request, token)):
                raise ForgedFormError
            yield Sent(identity, fields)

    sent.scope = scope  # type: ignore[attr-defined]  # as above
    return sent


def local_path(url: str, prefix: str) -> str:
    """Return the address when it is a page of ours, otherwise the home page: nobody is sent elsewhere."""
    home = f"{prefix}/"
    parts = urlsplit(url) if url.isascii() and url.isprintable() else None
    is_ours = (
        parts is not None
        and not (parts.scheme or parts.netloc)
        and parts.path.startswith(home)
        and not {"..", "."} & set(parts.path.split("/"))
        and "\\" not in url
        and len(url) <= NEXT_LENGTH_MAX
    )
    return url if is_ours else home


async def send_to_sign_in(request: Request, _error: Exception) -> Response:
    """Answer SignInNeededError: a page goes to the hub and comes back; a form or a live part says what to do."""
    prefix: str = request.app.state.prefix
    if request.headers.get("hx-request") == "true" and request.method == "GET":
        return Response(status_code=401, headers={"HX-Refresh": "true"})
    if request.method != "GET":
        error = NotSignedInError(
            "Your session has ended, so nothing was changed.",
            "Sign in again in another tab; then go back, copy what you wrote, reload that page and send it again.",
            f"{prefix}/",
        )
        answer: Response = await request.app.exception_handlers[AllocationsError](request, error)
        return answer
    query = request.url.query
    raw_path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    next_url = raw_path.decode("ascii", "replace") + (f"?{query}" if query else "")
    identities: HubIdentities = request.app.state.identities
    url, state = identities.begin_login(local_path(next_url, prefix))
    response = RedirectResponse(url, 303)
    _keep(request, response, STATE_COOKIE, state, STATE_SECONDS)
    return response


@router.get("/oauth_callback")
async def finish_sign_in(request: Request, code: str = "", state: str = "", error: str = "") -> Response:
    """Come back from the hub: keep the session, and go on to the page that was asked for."""
    prefix: str = request.app.state.prefix
    identities: HubIdentities = request.app.state.identities
    if error or not code or not state.isascii():
        raise NotSignedInError("The hub did not sign you in.", "Open the page again to sign in.", f"{prefix}/")
    try:
        session, next_url = await identities.finish_login(code, state, request.cookies.get(STATE_COOKIE, ""))
    except NotSignedInError:
        # Two tabs that sign in at the same time share the state cookie: the second to come back finds the other's
        # state, but also the session that the first one made.
        if await identities.from_session(request) is None:
            raise
        return RedirectResponse(f"{prefix}/", 303)
    response = RedirectResponse(local_path(next_url, prefix), 303)
    _keep(request, response, SESSION_COOKIE, session, SESSION_SECONDS)
    response.delete_cookie(STATE_COOKIE, path=prefix)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, _sent: Annotated[Sent, Depends(form_needs(Scope.READ))]) -> Response:
    """Forget the session here, and sign out at the hub."""
    response = RedirectResponse(HUB_LOGOUT, 303)
    response.delete_cookie(SESSION_COOKIE, path=request.app.state.prefix)
    return response


def _keep(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=request.app.state.prefix,
        secure=came_by_https(request),
        httponly=True,
        samesite="lax",
    )


def came_by_https(request: Request) -> bool:
    """Say whether the browser did, by the first of the proxies' words: each of them adds how it was reached itself.

    Whoever forges it for a request of their own changes nothing but their own cookie.
    """
    said = request.headers.get("x-forwarded-proto", request.url.scheme)
    return said.split(",")[0].strip() == "https"


def _require_same_origin(request: Request) -> None:
    """Refuse forms that other sites make a browser send; the token in the form is the second line."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        raise ForgedFormError
    origin = request.headers.get("origin")
    if site is None and origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise ForgedFormError


def _require_size(request: Request) -> None:
    """Refuse what is too large before it is read."""
    length = request.headers.get("content-length", "")
    most = request.app.state.services.policy.runs.notebook_max_bytes + FORM_BYTES_BESIDE_NOTEBOOK
    if not length.isdigit():
        raise InvalidInputError("The form does not say how long it is.", "Send it from a browser.")
    if int(length) > most:
        raise FormTooLargeError(
            f"What was sent is larger than {most // 1_000_000} MB.",
            "Clear the notebook's outputs, save it and send it again.",
        )
