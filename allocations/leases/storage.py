"""How people's files stand to their limits, as far as admission and the start page have to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from allocations.errors import StorageLockedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

STORAGE_URL = "/hub/spawn"


@dataclass(frozen=True, slots=True)
class AreaStanding:
    """An area of a class of storage as it was last measured; `state` is as people are told it.

    `is_full`: writing fails, or is about to. `locks_at_ms` is when an area over its limit is locked, None for others.
    """

    storage: str
    state: str
    is_locked: bool
    is_full: bool
    used_bytes: int
    limit_bytes: int
    locks_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AreaStandings:
    """The homes of people, and the areas of allocations, that are measured and have a limit."""

    homes: Mapping[str, AreaStanding] = field(default_factory=dict)
    areas: Mapping[str, Sequence[AreaStanding]] = field(default_factory=dict)

    def require_unlocked(self, person: str, allocation_id: str) -> None:
        """Raise StorageLockedError where the person's home or an area of the allocation is locked."""
        home = self.homes.get(person)
        if home is not None and home.is_locked:
            raise StorageLockedError(
                "Your home has been over its limit for too long and is locked: nothing but a rescue server starts.",
                "Start a rescue server, which is free of charge, and delete or move files from your home.",
                STORAGE_URL,
            )
        for area in self.areas.get(allocation_id, ()):
            if area.is_locked:
                raise StorageLockedError(
                    f"The {area.storage} storage of this allocation has been over its limit for too long and is "
                    "locked: nothing but a rescue server starts on it.",
                    "Start a rescue server, which is free of charge, and delete or move files there, or choose "
                    "another allocation.",
                    STORAGE_URL,
                )


class StorageLook(Protocol):
    """Whoever knows what is stored."""

    def standings(
        self, connection: Connection, people: Iterable[str], allocations: Iterable[str], now_ms: int
    ) -> AreaStandings:
        """Return how the homes of people and the areas of allocations stand."""
        ...
