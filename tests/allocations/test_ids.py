"""Identifiers do not repeat, in threads and in forked processes either."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from allocations.ids import TOGETHER, random_id


def test_no_two_are_the_same_whatever_thread_asks() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(random_id, ["l"] * (20 * TOGETHER)))
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"l-[0-9a-f]{20}", one) for one in ids)


def test_a_forked_process_has_others_than_its_parent() -> None:
    random_id("l")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, " ".join(random_id("l") for _ in range(TOGETHER)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        others = set(pipe.read().split())
    assert len(others) == TOGETHER
    assert others.isdisjoint({random_id("l") for _ in range(TOGETHER)})
