"""Leases for tests of pods."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from hub.client import Lease, Resources

ACQUIRED_AT = datetime(2026, 11, 21, 11, tzinfo=UTC)
VALID_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def lease(**changes: Any) -> Lease:
    """A lease of a day."""
    return Lease(
        **{
            "id": "lease-1",
            "allocation": "a1",
            "allocation_name": "Entry of ada",
            "person": "ada",
            "size": "small",
            "tier": "entry",
            "resources": Resources(cores=2, memory_gib=8),
            "state": "open",
            "microcredits_per_hour": 120_000,
            "acquired_at": ACQUIRED_AT,
            "latest_end_at": ACQUIRED_AT + timedelta(days=1),
        }
        | changes
    )


def leases() -> st.SearchStrategy[Lease]:
    """Any lease: any names, any size that a policy may have, any length."""
    resources = st.builds(
        lambda cores, memory_gib, gpus: Resources(
            cores=cores, memory_gib=memory_gib, gpus=gpus, gpu_type="t4" if gpus else None
        ),
        st.integers(1, 10_000) | st.sampled_from([0.1, 0.5, 1.25]),
        st.integers(1, 10_000) | st.sampled_from([0.25, 0.5]),
        st.integers(0, 16),
    )
    name = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
    lengths = st.integers(1, 10**7).map(lambda seconds: ACQUIRED_AT + timedelta(seconds=seconds))
    return st.builds(
        lambda person, allocation, identity, resources, latest: lease(
            person=person, allocation=allocation, id=identity, resources=resources, latest_end_at=latest
        ),
        name,
        name,
        name,
        resources,
        lengths,
    )
