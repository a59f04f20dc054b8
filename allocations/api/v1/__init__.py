"""Version 1 of the API, under `/services/allocations/api/v1`."""

from allocations.api.v1 import (
    allocations,
    health,
    images,
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
    storage,
    purges,
    transitions,
    images,
)
