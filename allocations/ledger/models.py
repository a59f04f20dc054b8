"""What the ledger moves: units, accounts, kinds of transaction, and the shape of a balance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Unit(StrEnum):
    """What an allocation is limited in. Credits are counted in microcredits and always limited."""

    CREDITS = "credits"
    CORE_SECONDS = "core_seconds"
    GPU_SECONDS = "gpu_seconds"


class Account(StrEnum):
    """The accounts of an allocation. Limit = free + held + posted; the budget account is where limits come from."""

    BUDGET = "budget"
    FREE = "free"
    HELD = "held"
    POSTED = "posted"


class TransactionKind(StrEnum):
    """Why the journal has an entry."""

    GRANT = "grant"
    REFILL = "refill"
    HOLD = "hold"
    RENEW = "renew"
    SETTLE = "settle"
    REFUND = "refund"
    VOID = "void"
    EXPIRE = "expire"
    MOVE = "move"
    CLOSE = "close"
    LAPSE = "lapse"
    RENEWAL = "renewal"
    STORAGE = "storage"


@dataclass(frozen=True, slots=True)
class Transaction:
    """Who moves money, when, why: every journal entry of one transaction carries these."""

    id: str
    at_ms: int
    kind: TransactionKind
    actor: str
    policy_version: str
    lease_id: str | None = None
    memo: str | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """What an allocation has of a unit, its subtree's use included."""

    allocation_id: str
    unit: Unit
    limit: int
    held: int
    posted: int

    @property
    def available(self) -> int:
        """What a new hold may take; below zero when the limit was lowered under what is used."""
        return self.limit - self.held - self.posted


@dataclass(frozen=True, slots=True)
class Movement:
    """An amount that goes from one account (not the budget) to another: one row of the journal.

    It moves at the last allocation of the path (from the root down), and counts at each. `quantities` are the physical
    ones of what is posted, or given back.
    """

    transaction: Transaction
    path: Sequence[str]
    unit: Unit
    source: Account
    target: Account
    amount: int
    quantities: Mapping[str, int] | None = None
