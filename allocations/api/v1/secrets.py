"""People's own secrets: written and removed by name, never read; given to the batch process for a run that begins."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response

from allocations.api.v1.common import Body, LeaseHolder, Runner, Wired, example
from allocations.leases.views import View
from allocations.runs.secrets import RunEnvironment, SecretView

log = logging.getLogger(__name__)
router = APIRouter(tags=["secrets"])


class SecretBody(Body):
    """The value of a secret. It can be replaced, and never read again but by one's own runs."""

    model_config = example(value="the value")

    value: str


class SecretList(View):
    """Secrets by name."""

    secrets: list[SecretView]


@router.get("/secrets")
def own_secrets(services: Wired, caller: Runner) -> SecretList:
    """The caller's secrets by name, without their values."""
    return SecretList(secrets=services.secrets.list_of(caller.name))


@router.put("/secrets/{secret}")
def put(secret: str, body: SecretBody, services: Wired, caller: Runner) -> SecretView:
    """Keep a secret, in the place of one of the same name; the environment variable has its name."""
    kept = services.secrets.put(caller.name, secret, body.value)
    log.info("secret set", extra={"person": caller.name, "secret": secret})
    return kept


@router.delete("/secrets/{secret}", status_code=204)
def remove(secret: str, services: Wired, caller: Runner) -> None:
    """Remove a secret; runs that ask for it and have not begun will fail."""
    services.secrets.remove(caller.name, secret)
    log.info("secret removed", extra={"person": caller.name, "secret": secret})


@router.get("/runs/{run_id}/environment")
def environment(run_id: str, response: Response, services: Wired, _caller: LeaseHolder) -> RunEnvironment:
    """The secrets that a run is given, for whoever executes it; only while it is admitted or runs."""
    response.headers["Cache-Control"] = "no-store"
    return services.secrets.environment_of(run_id)
