"""How each person wants each kind of notice, as far as the policy lets them choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from allocations.db.schema import notice_choices
from allocations.errors import InvalidInputError
from allocations.policy.notices import MAILED, Delivery, NoticeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from allocations.db.database import Database
    from allocations.policy.models import Policy


class ChoiceStore:
    """What people chose; decides nothing."""

    def of_person(self, connection: Connection, person: str) -> dict[NoticeKind, Delivery]:
        """Return what a person chose, by kind; a kind that there is no more is left out."""
        rows = connection.execute(
            select(notice_choices.c.kind, notice_choices.c.delivery).where(
                notice_choices.c.person == person, notice_choices.c.kind.in_(list(NoticeKind))
            )
        )
        return {NoticeKind(row.kind): Delivery(row.delivery) for row in rows}

    def replace(self, connection: Connection, person: str, chosen: Mapping[NoticeKind, Delivery]) -> None:
        """Keep a person's choices of some kinds in place of earlier ones of the same kinds."""
        changed = (notice_choices.c.person == person, notice_choices.c.kind.in_(list(chosen)))
        connection.execute(delete(notice_choices).where(*changed))
        rows = [{"person": person, "kind": kind, "delivery": way} for kind, way in chosen.items()]
        if rows:
            connection.execute(insert(notice_choices), rows)


@dataclass(frozen=True, slots=True)
class Preference:
    """One kind of notice for one person: how it comes, and among what they may choose."""

    kind: NoticeKind
    delivery: Delivery
    choices: tuple[Delivery, ...]
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceService:
    """A choice counts as long as the policy allows it; where it does not, the policy's own way is taken."""

    database: Database
    policy: Policy
    choices: ChoiceStore

    def effective(self, kind: NoticeKind, chosen: Delivery | None) -> Delivery:
        """Return how a kind is delivered to somebody who chose so, None: not at all."""
        return self.policy.notices.kinds[kind].effective(chosen)

    def deliveries(self, connection: Connection, person: str) -> dict[NoticeKind, Delivery]:
        """Return how each kind is delivered to a person."""
        chosen = self.choices.of_person(connection, person)
        return {kind: self.effective(kind, chosen.get(kind)) for kind in NoticeKind}

    def hidden(self, connection: Connection, person: str) -> list[NoticeKind]:
        """Return the kinds that a person is not told at all."""
        return [kind for kind, way in self.deliveries(connection, person).items() if way is Delivery.OFF]

    def required(self, kind: NoticeKind) -> bool:
        """Say whether nobody can turn the mail of a kind off."""
        return self.policy.notices.kinds[kind].required

    def of_person(self, person: str) -> list[Preference]:
        """Return how each kind comes to a person, in the order of the kinds."""
        with self.database.read() as connection:
            deliveries = self.deliveries(connection, person)
        kinds = self.policy.notices.kinds
        return [Preference(kind, way, kinds[kind].choices, kinds[kind].required) for kind, way in deliveries.items()]

    def choose(self, person: str, wanted: Mapping[str, str]) -> None:
        """Keep how a person wants some kinds, by their names; InvalidInputError when that cannot be chosen."""
        chosen = {}
        for name, way in wanted.items():
            try:
                kind, delivery = NoticeKind(name), Delivery(way)
            except ValueError:
                raise _no_choice(f"There is no choice {way!r} for {name!r}.") from None
            if delivery not in self.policy.notices.kinds[kind].choices:
                raise _no_choice(f"The mail of “{name}” cannot be turned off.")
            chosen[kind] = delivery
        with self.database.write() as connection:
            self.choices.replace(connection, person, chosen)

    def stop_mail(self, connection: Connection, person: str) -> None:
        """Turn a person's mail off where it can be: what was mailed stands on their page from now on."""
        deliveries = self.deliveries(connection, person)
        mailed = [kind for kind, way in deliveries.items() if way in MAILED and not self.required(kind)]
        self.choices.replace(connection, person, dict.fromkeys(mailed, Delivery.PAGE))


def _no_choice(detail: str) -> InvalidInputError:
    return InvalidInputError(detail, "Choose among what the page of preferences offers.")
