"""A person's secrets: a list by name, a form to set one, a button to remove one. Values go in and never come out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from allocations.api.identity import Identity, Scope
from allocations.api.v1.common import Wired
from allocations.errors import AllocationsError
from allocations.web.render import page, see
from allocations.web.session import Sent, form_needs, page_needs

router = APIRouter(prefix="/secrets")
Runner = Annotated[Identity, Depends(page_needs(Scope.RUN))]
RunForm = Annotated[Sent, Depends(form_needs(Scope.RUN))]


@router.get("")
def show_secrets(request: Request, services: Wired, runner: Runner) -> Response:
    """Show which secrets a person has."""
    return _page(request, services, runner.name)


@router.post("")
def keep_secret(request: Request, services: Wired, sent: RunForm) -> Response:
    """Keep a secret. After an error the name stands in the form again, and the value does not."""
    name = sent.text("name").strip()
    try:
        services.secrets.put(sent.identity.name, name, sent.text("value"))
    except AllocationsError as error:
        return _page(request, services, sent.identity.name, error, name)
    return see(request, "/secrets", "secret")


@router.post("/remove")
def remove_secret(request: Request, services: Wired, sent: RunForm) -> Response:
    """Remove a secret."""
    try:
        services.secrets.remove(sent.identity.name, sent.text("name"))
    except AllocationsError as error:
        return _page(request, services, sent.identity.name, error)
    return see(request, "/secrets", "secret-removed")


def _page(
    request: Request, services: Wired, person: str, error: AllocationsError | None = None, name: str = ""
) -> Response:
    return page(request, "secrets.html", error=error, secrets=services.secrets.list_of(person), name=name)
