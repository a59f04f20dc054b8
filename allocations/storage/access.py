"""Says who may know of an area, who may ask for something about it, and who is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.errors import NotFoundError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allocations.lifecycle.authority import Actor, Authority
    from allocations.storage.models import StoredArea
    from allocations.storage.store import StorageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaAccess:
    """Areas for those who may act on them."""

    areas: StorageStore
    authority: Authority

    def seen(self, connection: Connection, actor: Actor, area_id: str) -> StoredArea:
        """Return an area to its person, to who belongs to its allocation (here or above), and to administrators.

        To anybody else it is one that is not there: NotFoundError.
        """
        area = self.areas.find(connection, area_id)
        if area is None or not (actor.admin or self._belongs(connection, actor, area)):
            raise NotFoundError(f"There is no storage {area_id!r}.", "Choose one of your own.")
        return area

    def managed(self, connection: Connection, actor: Actor, area_id: str) -> StoredArea:
        """Return an area to its person, to who manages its allocation, and to administrators.

        Raises as `seen`, and NotAllowedError to the other members.
        """
        area = self.seen(connection, actor, area_id)
        if area.owner.allocation_id is not None:
            self.authority.managed(connection, actor, area.owner.allocation_id)
        return area

    def concerned(self, connection: Connection, area: StoredArea) -> list[str]:
        """Return whose files may be in an area: its person, or the members of its allocation and of its parts."""
        if area.owner.person is not None:
            return [area.owner.person]
        assert area.owner.allocation_id is not None, "an area has an owner"
        allocation = self.authority.find(connection, area.owner.allocation_id)
        tree = self.authority.allocations.subtree(connection, allocation)
        members = self.authority.allocations.members(connection, [one.id for one in tree])
        return list(dict.fromkeys(member.person for member in members))

    def name(self, connection: Connection, area: StoredArea) -> str:
        """Return how people know an area."""
        if area.owner.person is not None:
            return f"{area.storage_class} of {area.owner.person}"
        assert area.owner.allocation_id is not None, "an area has an owner"
        return f"{area.storage_class} of “{self.authority.find(connection, area.owner.allocation_id).name}”"

    # ------------------------------------------------------------------ inside

    def _belongs(self, connection: Connection, actor: Actor, area: StoredArea) -> bool:
        if area.owner.person is not None:
            return area.owner.person == actor.name
        assert area.owner.allocation_id is not None, "an area has an owner"
        path = self.authority.ledger.path(connection, area.owner.allocation_id)
        return bool(self.authority.allocations.roles_along(connection, path, actor.name))
