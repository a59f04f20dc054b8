"""Who people are: each name one person, each person one name, for ever; and what reports and mail need of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from allocations.errors import AllocationsError

if TYPE_CHECKING:
    from allocations.clock import Clock
    from allocations.db.database import Database
    from allocations.lifecycle.models import Person
    from allocations.lifecycle.stores.people import PeopleStore


class NameTakenError(AllocationsError):
    """The name is somebody else's, or was somebody's before."""

    code = "name_taken"
    status = 409
    title = "The name is taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleService:
    """People as the hub tells of them when they sign in.

    The ledger outlives the hub's database: a name goes to nobody else, whatever the hub has forgotten.
    """

    database: Database
    clock: Clock
    people: PeopleStore

    def register(self, person: Person, *, adopt: bool) -> Person:
        """Record a person; return them with the name that they have, which may be another than the one proposed.

        With `adopt`, a name whose owner was never identified becomes the person's: the hub vouches for it.
        NameTakenError when the name belongs to somebody else.
        """
        taken = NameTakenError(f"The name {person.name} belongs to somebody else.", "Propose another.")
        try:
            with self.database.write() as connection:
                known = self.people.identified(connection, person.issuer or "", person.subject or "")
                owner = self.people.named(connection, person.name)
                if known is not None:
                    person = replace(person, name=known.name)
                elif owner is not None and not (adopt and owner.issuer is None):
                    raise taken
                self.people.put(connection, person, self.clock.now_ms())
        except IntegrityError as error:
            # Two sign-ins proposed one name at once, and neither saw the other: the table lets one of them in.
            raise taken from error
        return person
