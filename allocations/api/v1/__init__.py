"""Version 1 of the API, under `/services/allocations/api/v1`."""
