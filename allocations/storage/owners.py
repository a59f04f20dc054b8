"""Who has areas of which class, what their folders are called, and how much the policy gives them."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allocations.storage.models import PAYING_STATES, Owner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allocations.db.database import Database
    from allocations.lifecycle.models import Allocation
    from allocations.lifecycle.stores.allocations import AllocationStore
    from allocations.policy.models import Policy
    from allocations.storage.models import StorageClass, StoredArea
    from allocations.storage.store import StorageStore

EACH_PERSON = "person"

# What names labels of Kubernetes, as servers' folders in volumes that many share are called (hub/spawner/manifests.py).
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HASH_MARK = "__"
# Homes of people by their own names, as of local mode (hub/spawner/homes.py): none is hidden, relative or an option.
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?")
# What only we end names with: nobody can be called like the folder of somebody else.
_HASHED = re.compile(r".*__[0-9a-f]{24}")
_READABLE_LENGTH = 30
_HASH_LENGTH = 24


def place_of(owner: Owner, *, plain: bool = False) -> str:
    """Return the name of an owner's folder: their own where that is safe, else its readable part and a hash.

    `plain`: also names with `@`, `+` and `__` count as safe. No two owners of a class have the same.
    """
    name = owner.person if owner.person is not None else owner.allocation_id
    assert name is not None, "an area has an owner"
    is_label = _LABEL.fullmatch(name) and _HASH_MARK not in name
    is_plain = plain and _PLAIN.fullmatch(name) and ".." not in name and not _HASHED.fullmatch(name)
    if is_label or is_plain:
        return name
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_READABLE_LENGTH].strip("-") or "x"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{readable}{_HASH_MARK}{digest}"


def hard_limit(limit_bytes: int | None, hard_percent: int) -> int | None:
    """Return where writing is to fail, in bytes, for a limit of the policy."""
    return None if limit_bytes is None else limit_bytes * hard_percent // 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerService:
    """What the policy gives whom."""

    database: Database
    policy: Policy
    allocations: AllocationStore
    store: StorageStore

    def entitled(self, storage_class: StorageClass) -> list[Owner]:
        """Return who is to have an area of a class, by allocations that are in a state to pay for it.

        Those who have been entitled once keep what they have: files outlast allocations.
        """
        tiers = self.tier_bytes(storage_class)
        with self.database.read() as connection:
            allocations = [
                one for one in self.allocations.all(connection) if one.state in PAYING_STATES and one.tier in tiers
            ]
            if not self._is_each_persons(storage_class):
                return [Owner(allocation_id=one.id) for one in allocations]
            of_person = self.store.memberships(connection)
        entitling = {one.id for one in allocations}
        return [Owner(person=person) for person, ids in sorted(of_person.items()) if entitling & ids]

    def limits_bytes(self, storage_class: StorageClass, areas: Sequence[StoredArea]) -> dict[str, int | None]:
        """Return what the policy gives each area of a class in bytes, by the areas' ids; None: nothing, any more.

        A person has the most that the tiers of their allocations give, of those that can pay where there are some.
        """
        tiers = self.tier_bytes(storage_class)
        with self.database.read() as connection:
            allocations = {one.id: one for one in self.allocations.all(connection)}
            people = any(area.owner.person is not None for area in areas)
            of_person = self.store.memberships(connection) if people else {}
        return {area.id: _most(_of_owner(area.owner, of_person, allocations), tiers) for area in areas}

    def given_bytes(self, storage_class: StorageClass, allocations: Sequence[Allocation]) -> int | None:
        """Return the most that allocations give of a class in bytes; see `limits_bytes`."""
        return _most(allocations, self.tier_bytes(storage_class))

    def tier_bytes(self, storage_class: StorageClass) -> dict[str, int]:
        """Return what each tier gives of a class in bytes, where it gives some."""
        for one in self.policy.storage.classes:
            if one.name == storage_class.value:
                return {tier: limit for tier in one.limits_gb if (limit := one.limit_bytes(tier)) is not None}
        return {}

    def _is_each_persons(self, storage_class: StorageClass) -> bool:
        return any(one.name == storage_class.value and one.each == EACH_PERSON for one in self.policy.storage.classes)


def _of_owner(
    owner: Owner, of_person: Mapping[str, set[str]], allocations: Mapping[str, Allocation]
) -> list[Allocation]:
    if owner.person is not None:
        return [allocations[one] for one in of_person.get(owner.person, ()) if one in allocations]
    assert owner.allocation_id is not None, "an area has an owner"
    return [allocations[owner.allocation_id]] if owner.allocation_id in allocations else []


def _most(allocations: Sequence[Allocation], tiers: Mapping[str, int]) -> int | None:
    by_payment: dict[bool, list[int]] = defaultdict(list)
    for one in allocations:
        if one.tier in tiers:
            by_payment[one.state in PAYING_STATES].append(tiers[one.tier])
    return max(by_payment[True] or by_payment[False], default=None)
