"""The ledger by itself: what it refuses even when nobody has looked before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.db.idempotency import IdempotencyKey
from allocations.errors import InsufficientBalanceError
from allocations.ledger.models import Account, Movement, Transaction, TransactionKind, Unit
from allocations.lifecycle.authority import Actor

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000


def hold(bench: Bench, path: list[str], amount: int) -> None:
    transaction = Transaction("tx-x", bench.clock.at_ms, TransactionKind.HOLD, "t", "p")
    movement = Movement(transaction, path, Unit.CREDITS, Account.FREE, Account.HELD, amount)
    with bench.services.database.write() as connection:
        bench.services.lifecycle.ledger.move(connection, [movement])


@pytest.mark.parametrize("credits", [1, 100])
def test_no_hold_goes_beyond_a_limit_of_its_path(bench: Bench, credits: int) -> None:  # noqa: A002  # the unit's name
    """INVARIANT 1, where the part's own limit binds and where the whole's does."""
    root = bench.consortium(credits=10)
    part = bench.services.tree.divide(
        Actor("lead"), root, name="Group", microcredits=min(credits, 15) * CREDIT, guaranteed=False, lead="lead"
    )
    most = min(credits, 10) * CREDIT
    with pytest.raises(InsufficientBalanceError):
        hold(bench, [root, part], most + 1)
    hold(bench, [root, part], most)
    with pytest.raises(InsufficientBalanceError):
        hold(bench, [root, part], 1)
    with bench.services.database.read() as connection:
        balances = [bench.services.lifecycle.ledger.balance(connection, node) for node in (root, part)]
    assert [balance.held for balance in balances] == [most, most]


def test_keys_of_different_callers_never_meet(bench: Bench) -> None:
    """INVARIANT 4 is of a caller's own keys, for divisions as for leases."""
    parts, leases = [], []
    for person in ("ann", "bob"):
        root = bench.consortium(person)
        for _ in range(2):
            part = bench.services.tree.divide(
                Actor(person),
                root,
                name="Group",
                microcredits=CREDIT,
                guaranteed=True,
                lead=person,
                idempotency_key="key",
            )
            parts.append(part)
            key = IdempotencyKey.for_request(person, "key-of-lease", "acquire", {"allocation": root})
            leases.append(bench.services.leases.acquire(bench.request(root, person), key).id)
    for made in (parts, leases):
        assert made[0] == made[1]
        assert made[2] == made[3]
        assert len(set(made)) == 2
