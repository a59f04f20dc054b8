"""A seed repeats its blows, spares nobody, and time that nobody was away excuses nothing."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from tests.cluster.chaos.killer import RECOVERY_SECONDS, Keeper, Outage, blows

VICTIMS = ("hub", "service", "etcd")
BEGIN = datetime(2027, 1, 15, 8, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def test_a_seed_repeats_its_blows_and_spares_nobody() -> None:
    first, again, other = (list(islice(blows(random.Random(seed), VICTIMS), 30)) for seed in (1, 1, 2))
    assert first == again != other
    assert Counter(blow.victim for blow in first) == dict.fromkeys(VICTIMS, 10)


def test_time_that_several_parts_were_away_counts_once_and_only_within_the_time_asked_for() -> None:
    outages = [Outage("hub", at(10), at(12)), Outage("etcd", at(11), at(20)), Outage("service", at(100), None)]
    keeper = Keeper([], Path("unused"), outages)
    assert keeper.seconds_away(at(0), at(60)) == 10 + RECOVERY_SECONDS
    assert keeper.seconds_away(at(15), at(18)) == 3
    assert keeper.seconds_away(at(50), at(90)) == 0
    assert keeper.seconds_away(at(90), at(107)) == 7
    assert keeper.seconds_away(at(0), at(60), of={"hub"}) == 2 + RECOVERY_SECONDS
    assert keeper.seconds_away(at(90), at(107), of={"hub", "etcd"}) == 0
