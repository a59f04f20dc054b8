"""Chaos: whatever is killed at whatever moment, nothing is left over, nothing lost, nothing charged twice.

`make chaos MINUTES=30 SEED=1` is longer, or repeats a failure: the seed says who is killed when and what people do.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.cluster.chaos.killer import Keeper, blows
from tests.cluster.chaos.people import Person
from tests.cluster.chaos.platform import running_platform
from tests.cluster.chaos.verdict import Verdict, judge, leases_of, pods_without_lease
from tests.cluster.kube_bench import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.cluster.chaos.platform import Platform
    from tests.cluster.conftest import Cluster

MINUTES = float(os.environ.get("MERIDIAN_CHAOS_MINUTES") or 5)
SEED = os.environ.get("MERIDIAN_CHAOS_SEED") or "1"
PEOPLE = ("ada", "bob", "cho")
LOOK_SECONDS = 0.1
SAY_SECONDS = 10
READY_SECONDS = 180
# For a platform that answers; then the blow falls all the same.
WAIT_SECONDS = 40
# A pod that waits for a dead hub's spawner, a lease that expires, a job that is lost: each is over by then.
SETTLE_SECONDS = 600

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(MINUTES * 60 + 3600)]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def wait_for(what: str, keeper: Keeper, condition: Callable[[], object], seconds: float) -> bool:
    """Look after the parts until a condition holds; False when it did not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        keeper.attend()
        time.sleep(LOOK_SECONDS)
    return True


def wreak(platform: Platform, keeper: Keeper, people: Sequence[Person]) -> None:
    """Kill as planned while people work, until the time is over and no part was spared."""
    plan = blows(random.Random(f"blows {SEED}"), [part.name for part in keeper.parts])
    blow = next(plan)
    begin = said_at = struck_at = time.monotonic()
    while time.monotonic() - begin < MINUTES * 60 or any(not keeper.kills[part.name] for part in keeper.parts):
        now = time.monotonic()
        if now - struck_at >= blow.pause_seconds and (
            not blow.waits or now - struck_at > WAIT_SECONDS or (keeper.all_live and platform.answers())
        ):
            keeper.strike(blow)
            struck_at = time.monotonic()
            blow = next(plan)
        keeper.attend()
        for person in people:
            assert person.failure is None, person.failure
        if now - said_at > SAY_SECONDS:
            said_at = now
            done = answers_of(people)
            say(
                f"{now - begin:5.0f} of {MINUTES * 60:.0f} s: {keeper.kills.total()} kills, "
                f"{done['start 201'] + done['start 202']} servers, {sum(len(person.runs) for person in people)} runs"
            )
        time.sleep(LOOK_SECONDS)


def answers_of(people: Sequence[Person]) -> Counter[str]:
    """What people were answered, together."""
    return sum((person.answers for person in people), start=Counter())


def settle(platform: Platform, keeper: Keeper, people: Sequence[Person]) -> list[str]:
    """Let everything come up and to an end; what is left over."""
    for person in people:
        person.stopped.set()
    if not wait_for("people", keeper, lambda: not any(person.is_alive() for person in people), 120):
        return ["people wait for an answer for ever"]
    if not wait_for("all parts", keeper, lambda: keeper.all_live and platform.answers(), READY_SECONDS):
        return ["not all parts have come up again"]
    say("settling")
    left: list[str] = []

    def agreed() -> bool:
        with suppress(Exception):
            left[:] = pods_without_lease(platform, people)
            return not left
        return False

    faults = []
    if not wait_for("pods and leases", keeper, agreed, SETTLE_SECONDS):
        faults += [f"before the end: {one}" for one in left]
    finishing = time.monotonic()

    def ended() -> bool:
        done = [person.finish() for person in people]
        running = [
            run.id for person in people for run in platform.services.runs.list_of(person.person) if not run.ended_at
        ]
        left[:] = [f"run {run} goes on" for run in running] + pods_without_lease(platform, people)
        left.extend(f"lease {one.id} is open" for one in leases_of(platform, people) if one.state == "open")
        time.sleep(1)
        return all(done) and not left

    if not wait_for("the end", keeper, ended, SETTLE_SECONDS):
        faults += left
    say(f"settled after {time.monotonic() - finishing:.0f} s")
    return faults


def table(keeper: Keeper, people: Sequence[Person], verdict: Verdict) -> str:
    lines = [f"chaos of {MINUTES:g} minutes, SEED={SEED}", "", f"{'victim':<14}{'kills':>6}{'fell by itself':>16}"]
    lines += [f"{part.name:<14}{keeper.kills[part.name]:>6}{keeper.falls[part.name]:>16}" for part in keeper.parts]
    lines += ["", "answers: " + ", ".join(f"{name} {number}" for name, number in sorted(answers_of(people).items()))]
    lines += ["leases: " + ", ".join(f"{name} {number}" for name, number in sorted(verdict.leases.items()))]
    lines += ["runs: " + ", ".join(f"{name} {number}" for name, number in sorted(verdict.runs.items()))]
    lines += [
        f"seconds: {verdict.shown_seconds} shown, {verdict.charged_seconds} charged, {len(verdict.short)} leases short",
        *verdict.short,
    ]
    if verdict.faults:
        lines += ["", "FAULTS", *verdict.faults]
    return "\n".join(lines)


def test_whatever_is_killed_nothing_is_left_over_lost_or_charged_twice(cluster: Cluster, tmp_path: Path) -> None:
    say(f"SEED={SEED}, logs in {tmp_path}")
    with (
        running_platform(cluster, tmp_path) as platform,
        Witness(cluster.core, cluster.namespace).looking() as witness,
    ):
        keeper = Keeper(platform.parts, tmp_path / "chaos.log")
        assert wait_for("the platform", keeper, platform.answers, READY_SECONDS)
        people = [Person(name, platform.url, random.Random(f"{name} {SEED}")) for name in PEOPLE]
        for person in people:
            person.sign_in()
        for person in people:
            person.start()
        wreak(platform, keeper, people)
        left = settle(platform, keeper, people)
        verdict = judge(platform, people, keeper, witness)
        verdict.faults += left
        say(table(keeper, people, verdict))
        assert not verdict.faults, "\n".join(verdict.faults)
