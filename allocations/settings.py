"""What the processes read from their environment, in one place; secrets come this way and no other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from allocations.errors import InvalidInputError

ROOT = Path(__file__).resolve().parent.parent


def required(name: str) -> str:
    """Return a variable's value; InvalidInputError names the one that is missing."""
    value = os.environ.get(name)
    if not value:
        raise InvalidInputError(
            f"The environment variable {name} is not set.",
            "Start the platform with `make up`, which sets it.",
        )
    return value


@dataclass(frozen=True, slots=True)
class Settings:
    """What every process of the allocations service needs."""

    mode: str
    database_url: str
    policies: Path
    run_store: Path

    @classmethod
    def from_environment(cls) -> Settings:
        """Read MERIDIAN_MODE, MERIDIAN_DATABASE_URL, MERIDIAN_POLICIES and MERIDIAN_RUN_STORE."""
        return cls(
            mode=os.environ.get("MERIDIAN_MODE", "local"),
            database_url=required("MERIDIAN_DATABASE_URL"),
            policies=Path(os.environ.get("MERIDIAN_POLICIES", str(ROOT / "policies"))),
            run_store=Path(required("MERIDIAN_RUN_STORE")),
        )
