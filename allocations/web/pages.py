"""Adds the pages to the application: their routes, static files, error pages and response headers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter

from allocations.settings import ROOT
from allocations.web import (
    administration,
    allocation,
    applications,
    archives,
    asking,
    assets,
    exemptions,
    guide,
    history,
    home,
    notices,
    overrides,
    panel,
    people,
    person,
    policy,
    preferences,
    publications,
    purges,
    quotas,
    records,
    runs,
    schedules,
    secrets,
    session,
    software,
    storage,
    submission,
    sweep_form,
    sweeps,
    tree,
    use,
)
from allocations.web.examples import ExampleNotebooks
from allocations.web.failures import PageFailures
from allocations.web.headers import PageHeaders

if TYPE_CHECKING:
    from fastapi import FastAPI


def install(app: FastAPI, prefix: str) -> None:
    """Serve the pages under the prefix that the hub gave to the service."""
    app.state.prefix = prefix
    app.state.assets = assets.Assets(prefix)
    app.state.examples = ExampleNotebooks(Path(os.environ.get("MERIDIAN_EXAMPLES", ROOT / "example-notebooks")))
    pages = APIRouter(prefix=prefix, include_in_schema=False)
    # What submits runs and sweeps comes before these: its /runs/new would be taken for the id of one.
    for part in (
        assets,
        session,
        home,
        quotas,
        allocation,
        tree,
        use,
        storage,
        archives,
        people,
        asking,
        history,
        publications,
        submission,
        records,
        runs,
        schedules,
        secrets,
        sweep_form,
        sweeps,
        applications,
        notices,
        preferences,
        exemptions,
        panel,
        purges,
        administration,
        person,
        overrides,
        policy,
        software,
        guide,
    ):
        pages.include_router(part.router)
    app.include_router(pages)
    PageFailures(app, prefix).install(app)
    app.add_middleware(PageHeaders, prefix=prefix)
