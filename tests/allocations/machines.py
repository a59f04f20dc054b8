"""Runs a machine until it has been everywhere, the same way every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Set as AbstractSet

EXAMPLES, STEPS = 8, 60
ROUNDS_MAX = 15


def come_everywhere(
    machine: type[RuleBasedStateMachine], ran: Counter[str], verbs: AbstractSet[str], rounds: int
) -> None:
    """Run a machine for some rounds, and on until it has noted every verb in `ran`.

    Hypothesis leaves out other rules in each example and repeats what it likes: any edit shifts what is rare. Its
    choices come from the machine's name, by which each round is another and all are the same again.
    """
    for number in range(ROUNDS_MAX):
        run_state_machine_as_test(
            type(f"{machine.__name__}{number}", (machine,), {}),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            ),
        )
        if number + 1 >= rounds and verbs <= ran.keys():
            return
    assert verbs - ran.keys() == set()
