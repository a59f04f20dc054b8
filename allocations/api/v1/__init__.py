"""Version 1 of the API, under `/services/allocations/api/v1`."""

from allocations.api.v1 import (
    allocations,
    health,
    leases,
    members,
    notices,
    overrides,
    people,
    publications,
    purges,
    quotas,
    reports,
    requests,
    runs,
    schedules,
    storage,
    transitions,
)

PARTS = (
    health,
    leases,
    allocations,
    members,
    publications,
    quotas,
    overrides,
    people,
    requests,
    reports,
    notices,
    runs,
    schedules,
    storage,
    purges,
    transitions,
)
