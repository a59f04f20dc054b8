"""The invariants of the ledger, as the design numbers them: the code keeps, the tests show, the audit checks them."""

from __future__ import annotations

from enum import Enum


class Invariant(Enum):
    """A number, a name and a sentence; the sentence is of all that must hold, the audit sees what is stored."""

    WITHIN_LIMIT = 1, "posted + held stay within the limit; a limit lowered later only blocks new holds"
    HELD_IS_OPEN_HOLDS = 2, "held is the sum of the open holds in the subtree, and every transaction balances"
    HOLD_ENDS_ONCE = 3, "each hold ends once: settled (charged at most what was held), voided or expired"
    SAME_KEY_SAME_ANSWER = 4, "the same key and request get the same answer, and one thing is made under one key"
    JOURNAL_REBUILDS_BALANCES = 5, "balances rebuilt from the journal equal the stored ones"
    NOTHING_PAST_ITS_LEASE = 6, "nothing runs without a lease, and no lease stays open past its end"
    CHARGE_WITHIN_LIFETIME = 7, "a charge is at most the rate by the observed lifetime"
    SERVICE_CLOCK = 8, "only the service's clock counts, and it never runs backwards"
    STORAGE_DAY_ONCE = 9, "a day of an area is charged at most its bytes by its price, and what the journal charged"
    JOURNAL_REBUILDS_DAILY_USE = 10, "the use by day rebuilt from the journal equals the stored one"

    def __init__(self, number: int, sentence: str) -> None:
        self.number = number
        self.sentence = sentence
