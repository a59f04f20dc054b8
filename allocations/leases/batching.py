"""Brings simultaneous requests together: those that wait for one hot root are decided in one transaction.

A request that finds nobody deciding for its root begins a transaction at once. Those that come while one is under way
wait for it, and are then decided together: the hotter the root, the more each transaction carries, and the row lock and
the commit that they would otherwise queue for, one by one, are paid once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Answer = TypeVar("Answer")
BATCH_MAX = 100


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: Future[Answer]


class Batching(Generic[Item, Answer]):
    """Lanes by key: in each, one batch at a time; different lanes go on side by side, up to `threads`.

    `carry_out` answers a batch in its order: an exception in place of an answer is raised to its asker alone. When it
    raises, the whole batch has failed; a batch of several is then carried out again one by one.
    """

    def __init__(self, carry_out: Callable[[Sequence[Item]], Sequence[Answer | Exception]], threads: int) -> None:
        self._carry_out = carry_out
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="admission")
        self._lock = threading.Lock()
        self._lanes: dict[str, list[_Waiting[Item, Answer]]] = defaultdict(list)

    def submit(self, lane: str, item: Item) -> Future[Answer]:
        """Queue an item; its future is answered when a batch with it has been committed."""
        waiting: _Waiting[Item, Answer] = _Waiting(item, Future())
        with self._lock:
            # A lane is known exactly as long as a thread works on it.
            begin = lane not in self._lanes
            self._lanes[lane].append(waiting)
        if begin:
            self._pool.submit(self._work, lane)
        return waiting.answer

    def _work(self, lane: str) -> None:
        while True:
            with self._lock:
                waiting = self._lanes[lane][:BATCH_MAX]
                if not waiting:
                    # Under the lock: an item cannot come between the look and the lane's end.
                    del self._lanes[lane]
                    return
                del self._lanes[lane][:BATCH_MAX]
            # From here on an asker who goes away cannot cancel: the answer is decided with the others'.
            batch = [one for one in waiting if one.answer.set_running_or_notify_cancel()]
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
