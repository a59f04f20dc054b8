"""Who is killed when, from a seed; and the keeper who starts again whatever is dead."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

    from tests.cluster.chaos.parts import Part

PAUSES_SECONDS = (2.0, 14.0)
DOWN_SECONDS = (0.0, 6.0)
# Of the blows, how many fall together with the one before, and how many wait for a platform that answers.
PAIRS = 0.2
WAITING = 0.4
FELL_DOWN_SECONDS = 1.0
# How long a part that was started again may take to do its work.
RECOVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Blow:
    """Kill a part so long after the blow before, and leave it dead for so long.

    waits: not before the platform answers, so that on a slow machine too there is something to kill.
    """

    pause_seconds: float
    victim: str
    down_seconds: float
    waits: bool


@dataclass
class Outage:
    """When a part was dead."""

    victim: str
    since: datetime
    until: datetime | None = None


def blows(dice: random.Random, victims: Sequence[str]) -> Iterator[Blow]:
    """The blows of a seed: at random moments, each victim as often as the others."""
    while True:
        for victim in dice.sample(list(victims), len(victims)):
            pause = 0.0 if dice.random() < PAIRS else dice.uniform(*PAUSES_SECONDS)
            yield Blow(pause, victim, dice.uniform(*DOWN_SECONDS), dice.random() < WAITING)


@dataclass
class Keeper:
    """Strikes as planned, and starts what is dead when its time has come, or at once when it fell by itself."""

    parts: Sequence[Part]
    diary: Path
    outages: list[Outage] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    falls: Counter[str] = field(default_factory=Counter)
    _dead: dict[str, tuple[float, Outage]] = field(default_factory=dict)

    def strike(self, blow: Blow) -> None:
        """Kill the victim; one that is dead already stays so a little longer."""
        part = next(part for part in self.parts if part.name == blow.victim)
        if part.lives():
            self._note_dead(part, blow.down_seconds)
            self._write(f"{part.name} is killed, for {blow.down_seconds:.1f} s")
            part.kill()
            self.kills[part.name] += 1

    def attend(self) -> None:
        """Look once after all parts."""
        for part in self.parts:
            if part.name in self._dead:
                restart_at, outage = self._dead[part.name]
                if time.monotonic() >= restart_at:
                    part.start()
                    outage.until = datetime.now(UTC)
                    self._write(f"{part.name} is started")
                    del self._dead[part.name]
            elif not part.lives():
                self.falls[part.name] += 1
                self._write(f"{part.name} has fallen by itself")
                self._note_dead(part, FELL_DOWN_SECONDS)

    def seconds_away(self, begin: datetime, end: datetime, of: Container[str] | None = None) -> float:
        """For how long between the two at least one part was dead, or had not been up again for long.

        `of` are the names of the parts that count, None for all.
        """
        away, reached = 0.0, begin
        outages = (outage for outage in self.outages if of is None or outage.victim in of)
        for outage in sorted(outages, key=lambda one: one.since):
            until = min(end, (outage.until or end) + timedelta(seconds=RECOVERY_SECONDS))
            away += max((until - max(reached, outage.since)).total_seconds(), 0)
            reached = max(reached, until)
        return away

    @property
    def all_live(self) -> bool:
        return not self._dead and all(part.lives() for part in self.parts)

    def _write(self, what: str) -> None:
        with self.diary.open("a") as diary:
            diary.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {what}\n")

    def _note_dead(self, part: Part, down_seconds: float) -> None:
        outage = Outage(part.name, datetime.now(UTC))
        self.outages.append(outage)
        self._dead[part.name] = (time.monotonic() + down_seconds, outage)
