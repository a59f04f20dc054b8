"""What a ledger ought to hold, by plain dictionaries and arithmetic of its own: one unit, one hold a lease, no SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allocations.errors import (
    AllocationNotActiveError,
    AllocationsError,
    AtOnceLimitError,
    InsufficientBalanceError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


QUANTUM = 900
RENEW_BEFORE_MS, STOP_GRACE_MS = 300_000, 120_000
LONGEST_MS = 432_000_000
SERVERS_PER_PERSON = 2


@dataclass
class Node:
    """What the oracle knows of an allocation."""

    parent: str | None
    limit: int
    held: int = 0
    posted: int = 0
    suspended: bool = False
    closed: bool = False

    @property
    def free(self) -> int:
        return self.limit - self.held - self.posted


@dataclass
class Run:
    """What the oracle knows of a lease: its one open hold covers the seconds [held_from, held_to).

    Once it has ended, `charged_to` is the second to which it is charged, and `guessed` that nobody has reported when.
    """

    node: str
    person: str
    rate: int
    acquired_ms: int
    ends_ms: int
    state: str = "open"
    started_ms: int | None = None
    seen_ms: int | None = None
    held_from: int = 0
    held_to: int = QUANTUM
    charged_to: int = 0
    guessed: bool = False

    def seconds_at(self, at_ms: int) -> int:
        return 0 if self.started_ms is None else max(0, at_ms - self.started_ms) // 1000

    def within(self, at_ms: int, now_ms: int) -> int:
        return max(self.acquired_ms, min(at_ms, now_ms))

    @property
    def latest_end_ms(self) -> int:
        return self.acquired_ms + LONGEST_MS


@dataclass
class Oracle:
    """Limits, what is held and what is posted, by plain arithmetic."""

    nodes: dict[str, Node] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    def path(self, name: str) -> list[Node]:
        node = self.nodes[name]
        return [node] if node.parent is None else [*self.path(node.parent), node]

    def is_usable(self, name: str) -> bool:
        return not any(node.suspended or node.closed for node in self.path(name))

    def subtree(self, name: str) -> list[Node]:
        top = self.nodes[name]
        return [node for other, node in self.nodes.items() if any(above is top for above in self.path(other))]

    def refusal(self, name: str, person: str, rate: int) -> type[AllocationsError] | None:
        """Say how a new lease would be refused."""
        if not self.is_usable(name):
            return AllocationNotActiveError
        if any(node.free < rate * QUANTUM for node in self.path(name)):
            return InsufficientBalanceError
        if sum(run.person == person and run.state == "open" for run in self.runs.values()) >= SERVERS_PER_PERSON:
            return AtOnceLimitError
        return None

    def move(self, name: str, *, held: int, posted: int = 0) -> None:
        for node in self.path(name):
            node.held += held
            node.posted += posted

    def charge_until(self, run: Run, second: int) -> None:
        """End the hold: what it covers before the second is posted, or what was posted beyond it is given back."""
        run.charged_to = min(second, run.held_to)
        charged = run.charged_to - run.held_from
        self.move(run.node, held=-run.rate * (run.held_to - run.held_from), posted=run.rate * charged)

    def extend(self, run: Run, ran: int, wanted: int) -> None:
        begin = min(max(ran, run.held_from), run.held_to)
        free = min(node.free for node in self.path(run.node)) + run.rate * (run.held_to - begin)
        reach = min(wanted, begin + max(0, free) // run.rate)
        if reach > run.held_to:
            self.charge_until(run, begin)
            run.held_from, run.held_to = begin, reach
            self.move(run.node, held=run.rate * (reach - begin))

    def renew(self, run: Run, seen_ms: int, now_ms: int) -> None:
        if not self.is_usable(run.node):
            return
        if run.started_ms is None:
            run.ends_ms = min(now_ms + QUANTUM * 1000, run.latest_end_ms)
            return
        wanted = min(run.seconds_at(now_ms) + QUANTUM, run.seconds_at(run.latest_end_ms))
        self.extend(run, run.seconds_at(run.within(seen_ms, now_ms)), wanted)
        run.ends_ms = run.started_ms + run.held_to * 1000

    def tick(self, now_ms: int, *, is_stop_reported: bool) -> Iterator[str]:
        """Do what the worker does with all open leases, the oldest first; say what that was."""

        def those_that_end(by_ms: int) -> list[Run]:
            return [run for run in self.runs.values() if run.state == "open" and run.ends_ms <= by_ms]

        for run in those_that_end(now_ms + RENEW_BEFORE_MS):
            before_ms = run.ends_ms
            self.renew(run, run.seen_ms or now_ms, now_ms)
            yield "tick renews" if run.ends_ms > before_ms else "tick does not renew"
        ended = those_that_end(now_ms)
        for run in those_that_end(now_ms - STOP_GRACE_MS):
            self.expire(run)
            yield "tick expires"
        for run in ended:
            if run.state == "open" and is_stop_reported:
                self.settle(run, now_ms, now_ms)
                yield "tick stops"

    def settle(self, run: Run, ended_ms: int, now_ms: int) -> None:
        run.started_ms = run.acquired_ms if run.started_ms is None else run.started_ms
        ran = run.seconds_at(min(run.within(ended_ms, now_ms), run.latest_end_ms))
        if ran > run.held_to:
            self.extend(run, ran, ran)
        self.charge_until(run, ran)
        run.state = "settled"

    def expire(self, run: Run) -> None:
        """Charged to the end of what is held, unless it never started."""
        self.charge_until(run, 0 if run.started_ms is None else run.held_to)
        run.state, run.guessed = ("voided", True) if run.started_ms is None else ("expired", False)

    def vanish(self, run: Run, now_ms: int) -> None:
        """Charged to when it was last seen, unless it never started; until somebody knows better."""
        if run.started_ms is None:
            self.expire(run)
        else:
            self.settle(run, run.seen_ms or run.started_ms, now_ms)
        run.guessed = True

    def correct(self, run: Run, ended_ms: int, now_ms: int) -> str:
        """Charge what is missing after a guess, as far as the balance goes, or give back; say which."""
        was_voided = run.state == "voided"
        run.started_ms = run.acquired_ms if run.started_ms is None else run.started_ms
        ran = run.seconds_at(min(run.within(ended_ms, now_ms), run.latest_end_ms))
        free = max(0, min(node.free for node in self.path(run.node)))
        reach = min(ran, run.charged_to + free // run.rate)
        more = reach - run.charged_to
        self.move(run.node, held=0, posted=run.rate * more)
        run.state, run.guessed, run.charged_to = "settled", False, reach
        if reach < ran:
            return "late end, beyond the balance"
        if more > 0:
            return "late end after a void" if was_voided else "late end"
        return "late end, given back" if more < 0 else "late end, nothing more"
