"""A world with an area and a clock, over both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.allocations.conftest import bench, database_url, postgres_server
from tests.storage.purge.worlds import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.allocations.conftest import Bench

__all__ = ["bench", "database_url", "postgres_server", "world"]


@pytest.fixture
def world(bench: Bench, tmp_path: Path) -> World:
    """Ann's scratch, which is empty."""
    return World(bench, tmp_path)
