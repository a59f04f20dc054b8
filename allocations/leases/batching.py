"""Brings simultaneous requests together: what waits is decided in one transaction.

A request that finds nobody deciding begins a transaction at once. Those that come while one is under way wait for it,
and are then decided together: the more come, the more each transaction carries, and the locks, the statements and the
commit that they would otherwise pay for one by one are paid once.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Answer = TypeVar("Answer")
BATCH_MAX = 100
# Those whom a batch has answered often ask again at once. Without this moment they would always come just after the
# next batch has begun, and two halves would take turns, each paying for a transaction.
GATHER_SECONDS = 0.001
# A batch that takes longer waits for somebody; those who come meanwhile need not.
HELD_UP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: Future[Answer]


@dataclass(slots=True)
class _Lane(Generic[Item, Answer]):
    """What waits, and since when a batch is under way; `works` as long as a thread looks after it."""

    waiting: list[_Waiting[Item, Answer]] = field(default_factory=list)
    works: bool = False
    begun: float | None = None

    def is_held_up(self, now: float) -> bool:
        return self.begun is not None and now - self.begun > HELD_UP_SECONDS


class Batching(Generic[Item, Answer]):
    """A lane in which one batch is decided at a time, and others beside it for when it is held up.

    `carry_out` answers a batch in its order: an exception in place of an answer is raised to its asker alone. When it
    raises, the whole batch has failed; a batch of several is then carried out again one by one.
    """

    def __init__(
        self, name: str, carry_out: Callable[[Sequence[Item]], Sequence[Answer | Exception]], lanes: int
    ) -> None:
        self._carry_out = carry_out
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._lanes: list[_Lane[Item, Answer]] = [_Lane() for _ in range(lanes)]

    def submit(self, item: Item) -> Future[Answer]:
        """Queue an item; its future is answered when a batch with it has been committed."""
        waiting: _Waiting[Item, Answer] = _Waiting(item, Future())
        now = time.monotonic()
        with self._lock:
            free = (lane for lane in self._lanes if not lane.is_held_up(now))
            lane = next(free, None) or min(self._lanes, key=lambda one: len(one.waiting))
            lane.waiting.append(waiting)
            begin, lane.works = not lane.works, True
        if begin:
            self._pool.submit(self._work, lane)
        return waiting.answer

    def _work(self, lane: _Lane[Item, Answer]) -> None:
        together = 0
        while True:
            if together > 1:
                time.sleep(GATHER_SECONDS)
            with self._lock:
                waiting, lane.waiting = lane.waiting[:BATCH_MAX], lane.waiting[BATCH_MAX:]
                lane.begun = time.monotonic() if waiting else None
                if not waiting:
                    # Under the lock: an item cannot come between the look and the thread's end.
                    lane.works = False
                    return
            # From here on an asker who goes away cannot cancel: the answer is decided with the others'.
            batch = [one for one in waiting if one.answer.set_running_or_notify_cancel()]
            together = len(batch)
            if batch:
                self._answer(batch)

    def _answer(self, batch: Sequence[_Waiting[Item, Answer]]) -> None:
        try:
            answers = self._carry_out([one.item for one in batch])
        except Exception as error:  # noqa: BLE001  # whatever it was belongs to those who asked
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for one in batch:
                    self._answer([one])
            return
        for one, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
