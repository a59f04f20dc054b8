"""Tells the allocations service who people are, and asks it what goes on in their names: its ledger outlives the hub's
database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jupyterhub import orm

from hub.client import AllocationDenied, AllocationsClient, AllocationsUnavailableError

if TYPE_CHECKING:
    from logging import Logger

    from sqlalchemy.orm import Session


class Telling:
    """What the service is told and asked, at its `url` (empty: there is none, and nothing is told)."""

    def __init__(self, url: str, db: Session, log: Logger) -> None:
        self._url = url
        self._db = db
        self._log = log
        self._client: AllocationsClient | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def tell(self, name: str, auth_model: dict[str, Any], *, adopt: bool) -> str:
        """Tell who has a name, and return the name that the service has for them. As `AllocationsClient`.

        `adopt`: what it has under the name is this person's.
        """
        state = auth_model["auth_state"]
        who = {"issuer": state["issuer"], "subject": state["subject"], "adopt": adopt}
        roles = self._roles(name, auth_model)
        return await self._service().register_person(name, who | state["person"] | {"roles": roles})

    def later(self, auth_model: dict[str, Any]) -> None:
        """Tell the service what it should know by now of a person whom it knows; the sign-in does not wait for it."""

        async def tell_now() -> None:
            try:
                # The hub has given the name: what the service has under it is this person's.
                name = await self.tell(auth_model["name"], auth_model, adopt=True)
            except (AllocationDenied, AllocationsUnavailableError) as error:
                self._log.error("What the service knows of %s is old: %s", auth_model["name"], error)
            else:
                if name != auth_model["name"]:
                    self._log.error("%s has the name %s at the service", auth_model["name"], name)

        if self._url:
            task = asyncio.ensure_future(tell_now())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def people_with_runs(self) -> list[str]:
        """Who has batch runs, whose accounts are looked at though they may have no server. As `AllocationsClient`."""
        return await self._service().people_with_runs() if self._url else []

    async def end_runs(self, name: str) -> None:
        """End the batch runs of somebody whose account has ended. As `AllocationsClient`."""
        ended = await self._service().end_runs(name)
        self._log.warning("Cancelled %d batch runs of %s, whose account has ended", ended, name)

    def _service(self) -> AllocationsClient:
        if self._client is None:
            self._client = AllocationsClient.from_environment(self._url)
        return self._client

    def _roles(self, name: str, auth_model: dict[str, Any]) -> list[str]:
        """The hub's roles of a person by name and by group, beyond those that everybody has; for people to read."""
        holders = [
            orm.User.find(self._db, name),
            *(orm.Group.find(self._db, one) for one in auth_model["groups"]),
        ]
        roles = {role.name for holder in holders if holder is not None for role in holder.roles} - {"user"}
        return sorted(roles)
