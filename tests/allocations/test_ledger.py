"""The ledger by itself: what it refuses even when nobody has looked before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allocations.errors import InsufficientBalanceError
from allocations.ledger.models import Holding, Transaction, TransactionKind, Unit
from allocations.lifecycle.authority import Actor

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

CREDIT = 1_000_000


def hold(bench: Bench, path: list[str], amount: int) -> None:
    transaction = Transaction("tx-x", bench.clock.at_ms, TransactionKind.HOLD, "t", "p")
    with bench.services.database.write() as connection:
        bench.services.leases.ledger.hold(connection, [Holding(transaction, path, {Unit.CREDITS: amount})])


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
        balances = [bench.services.leases.ledger.balance(connection, node) for node in (root, part)]
    assert [balance.held for balance in balances] == [most, most]
