"""Health: for load balancers and for people who ask what runs here. Public: it says nothing about anybody."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from allocations import __version__
from allocations.api.v1.common import Wired
from allocations.db.migrate import revision_of
from allocations.duties import WORKER_DUTY, Duties
from allocations.leases.views import View

router = APIRouter(tags=["health"])
# The worker beats every few seconds; a minute without a beat means that nobody renews leases.
WORKER_LAG_SECONDS_MAX = 60.0


class Health(View):
    """`status` is ok, or degraded when the worker lags, or down without a database."""

    status: str
    version: str
    policy_version: str
    database: str
    database_revision: str | None
    worker_lag_seconds: float | None


@router.get("/health", responses={503: {"model": Health}})
def health(services: Wired, response: Response) -> Health:
    """Version, database and worker lag; 503 when the database does not answer."""
    try:
        revision = revision_of(services.database)
        lag = Duties(services.database, services.clock).lag_seconds(WORKER_DUTY)
    except SQLAlchemyError:
        response.status_code = 503
        return Health(
            status="down",
            version=__version__,
            policy_version=services.policy.version,
            database="down",
            database_revision=None,
            worker_lag_seconds=None,
        )
    behind = lag is None or lag > WORKER_LAG_SECONDS_MAX
    return Health(
        status="degraded" if behind else "ok",
        version=__version__,
        policy_version=services.policy.version,
        database="ok",
        database_revision=revision,
        worker_lag_seconds=lag,
    )
