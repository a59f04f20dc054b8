"""Version 1 of the API, under `/services/allocations/api/v1`."""

from allocations.api.v1 import allocations, health, leases, quotas, requests, runs

PARTS = (health, leases, allocations, quotas, requests, runs)
