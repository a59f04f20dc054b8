"""How all tests choose their examples, and which folders hold no unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# The same examples each time: what a change breaks shows with that change, and not with a later one. Others are looked
# for by `make explore`.
# Nor are lines noted as they run, to explain what fails: that takes longer than what most tests do.
PHASES = [phase for phase in Phase if phase is not Phase.explain]
# Nor is any of it about time, which on a busy machine is nobody's fault.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", UNTIMED, derandomize=True, phases=PHASES)
settings.register_profile("explore", UNTIMED, max_examples=1000, print_blob=True)
settings.load_profile("same")

# Page by page through the whole service, and file by file through helm.
WHOLE = [Path(__file__).parent / name for name in ("web", "chart")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in WHOLE):
            item.add_marker(pytest.mark.slow)
