"""Version 1 of the API, under `/services/allocations/api/v1`."""

from allocations.api.v1 import (
    allocations,
    health,
    leases,
    members,
    notices,
    overrides,
    publications,
    quotas,
    requests,
    runs,
    transitions,
)

PARTS = (health, leases, allocations, members, publications, quotas, overrides, requests, notices, runs, transitions)
