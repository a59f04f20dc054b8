"""Who starts and stops servers, and what the worker does about them as time goes by."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.allocations.conftest import START_MS
from tests.allocations.team_oracle import (
    DAY_MS,
    OPENS_DAYS,
    PEOPLE,
    QUANTUM,
    RATE,
    RENEW_BEFORE,
    SERVERS_PER_PERSON,
    STOP_GRACE,
    TERM_DAYS,
    Run,
    Team,
    people,
    places,
)


class Servers(Team):
    """Servers, ticks and days."""

    @rule(place=places, person=people)
    def start(self, place: int, person: str) -> None:
        node, name = self.nodes[place], f"s{len(self.runs)}"
        refusal = self.refusal(node, person)
        if refusal is not None:
            with pytest.raises(refusal):
                self.bench.acquire(node, person, server=name)
            self.note(f"start, {refusal.__name__}")
            return
        if min(self.limits[one] - self.used(one) for one in self.path(node)) < 100 * RATE * QUANTUM:
            return
        lease = self.bench.acquire(node, person, server=name)
        self.bench.services.leases.start(lease.id)
        self.hub.running[person, name] = lease.id
        self.runs[lease.id] = Run(node, person, self.now_ms)
        self.note("start")

    @rule(data=st.data(), times=st.integers(1, SERVERS_PER_PERSON + 1))
    def start_where_possible(self, data: st.DataObject, times: int) -> None:
        able = [
            (place, person)
            for place, node in enumerate(self.nodes)
            for person in PEOPLE
            if self.refusal(node, person) is None
        ]
        # A lead mostly cannot leave, which is what comes of it.
        able = [one for one in able if one[1] != "lead"] or able
        if able:
            place, person = data.draw(st.sampled_from(able))
            for _ in range(times):
                self.start(place, person)

    @precondition(lambda self: self.hub.running)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.hub.running)))
        self.end(self.hub.running[key])
        self.hub.stop(key)
        self.note("stop")

    def end(self, lease: str) -> None:
        run = self.runs[lease]
        run.lived, run.state = (self.now_ms - run.started_ms) // 1000, "settled"
        if run.node in self.closed:
            # What was closed has nothing left to charge a late stop to: only what was held.
            run.lived = min(run.lived, run.held_to)

    @rule(seconds=st.integers(0, 600))
    def tick(self, seconds: int) -> None:
        """The worker ends at once what somebody runs who left, and renews all but what was closed."""
        self.bench.clock.at_ms += seconds * 1000
        self.worker.tick()
        for lease, run in self.runs.items():
            if run.lived is not None:
                continue
            if run.person not in self.places[run.node]:
                self.note("tick ends the server of somebody who left")
                self.end(lease)
            elif self.now_ms < run.ends_ms - RENEW_BEFORE * 1000:
                continue
            elif not self.closed & set(self.path(run.node)):
                self.note("tick renews")
                run.held_to = (self.now_ms - run.started_ms) // 1000 + QUANTUM
            elif self.now_ms >= run.ends_ms + STOP_GRACE * 1000:
                self.note("tick expires what nobody stopped")
                run.lived, run.state = run.held_to, "expired"
            elif self.now_ms >= run.ends_ms:
                self.note("tick ends a server on what was closed")
                self.end(lease)

    @rule(days=st.integers(1, 12))
    def days_pass(self, days: int) -> None:
        """Within the year of the allocation: what has ended is not joined. Servers are stopped before."""
        if self.now_ms + days * DAY_MS < START_MS + (TERM_DAYS - 5) * DAY_MS:
            for key, lease in list(self.hub.running.items()):
                self.end(lease)
                self.hub.stop(key)
            self.bench.clock.at_ms += days * DAY_MS
            self.worker.tick()

    @rule()
    def come_near_the_end(self) -> None:
        """Random days seldom meet the weeks in which a renewal is asked for."""
        days = (START_MS + (TERM_DAYS - OPENS_DAYS + 5) * DAY_MS - self.now_ms) // DAY_MS
        if days > 0:
            self.days_pass(days)
