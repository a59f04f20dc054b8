"""Walks one tree with several processes, which hand each other folders to visit."""

from __future__ import annotations

import gc
import multiprocessing
import os
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from allocations.storage.tree.beneath import Root
from allocations.storage.tree.walk import Pace, Pending, Stack, Visitor, Walker

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

Result_co = TypeVar("Result_co", covariant=True)

# How many cores the process may use, where the kernel says so.
CORES = len(os.sched_getaffinity(0))
OBJECTS_BETWEEN_ROUNDS = 50_000
# A new interpreter takes as long to start as a walk of 100,000 files. What walks logs nothing and talks to nobody, so
# that no lock of another thread is in its way.
_processes = multiprocessing.get_context("fork")


class Collector(Visitor, Protocol[Result_co]):
    """A visitor that returns what it has seen; made in the process that walks, so that its class must be importable."""

    def result(self) -> Result_co:
        """Return what was seen (picklable, small: what is large goes to a file of its own)."""


class ScanError(Exception):
    """A process of a scan died."""


class _Shared:
    """What the processes of a scan share: folders that anyone may take, how many wait for some, and what is undone."""

    def __init__(self, processes: int) -> None:
        self.queue = _processes.SimpleQueue()
        self.idle = _processes.Value("i", 0)
        self.undone = _processes.Value("i", 0)
        self.processes = processes

    def put(self, folders: list[Pending]) -> None:
        with self.undone.get_lock():
            self.undone.value += 1
        self.queue.put(folders)

    def done(self) -> None:
        """One packet of folders is done; when it was the last, everybody is told to end."""
        with self.undone.get_lock():
            self.undone.value -= 1
            last = self.undone.value == 0
        if last:
            for _ in range(self.processes):
                self.queue.put(None)

    def share(self, stack: Stack) -> None:
        if self.idle.value and len(stack) > 1:
            self.put(stack.give())

    def take(self) -> list[Pending] | None:
        with self.idle.get_lock():
            self.idle.value += 1
        folders: list[Pending] | None = self.queue.get()
        with self.idle.get_lock():
            self.idle.value -= 1
        return folders


def scan(
    path: str,
    make: Callable[[int], Collector[Result_co]],
    *,
    processes: int = CORES,
    entries_per_second: float | None = None,
) -> list[Result_co]:
    """Visit all of a tree with collectors made by `make(number)`, one for each process, and return their results.

    `entries_per_second` bounds the load of all processes together. Raises OSError where the root cannot be opened, and
    ScanError where a process died.
    """
    if processes == 1:
        with Root(path) as root, Stack([Pending("", root.identity)]) as stack:
            collector = make(0)
            Walker(root, collector, pace=Pace(entries_per_second)).walk(stack)
            return [collector.result()]
    with Root(path) as root:
        first = [Pending("", root.identity)]
    shared = _Shared(processes)
    shared.put(first)
    each = entries_per_second / processes if entries_per_second else None
    started: list[tuple[ForkProcess, Connection]] = []
    try:
        for number in range(processes):
            ours, theirs = _processes.Pipe(duplex=False)
            process = _processes.Process(target=_work, args=(path, make, number, shared, each, theirs), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        return _results([connection for _process, connection in started])
    finally:
        for process, connection in started:
            # Handlers of SIGTERM are inherited.
            process.kill()
            process.join()
            connection.close()


def _results(connections: list[Connection]) -> list[Any]:
    """Wait for the answer of each; one that dies leaves the others waiting for what it had taken."""
    results: dict[int, Any] = {}
    waiting = dict(enumerate(connections))
    while waiting:
        ready = wait(list(waiting.values()))
        for number, connection in list(waiting.items()):
            if connection in ready:
                try:
                    answer = connection.recv()
                except EOFError:
                    raise ScanError("A process that scanned the tree died: scan again") from None
                if isinstance(answer, Exception):
                    raise answer
                results[number] = answer
                del waiting[number]
    return [results[number] for number in range(len(connections))]


def _work(
    path: str,
    make: Callable[[int], Collector[Result_co]],
    number: int,
    shared: _Shared,
    entries_per_second: float | None,
    answers: Connection,
) -> None:
    # What was made before the fork is none of its garbage. Rounds over what it holds itself, a batch at a time, would
    # find nothing and take a tenth of its time; they still come, so that no cycle grows for ever.
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_ROUNDS)
    try:
        with Root(path) as root:
            collector = make(number)
            walker = Walker(root, collector, pace=Pace(entries_per_second), after_each=shared.share)
            while (folders := shared.take()) is not None:
                with Stack(folders) as stack:
                    walker.walk(stack)
                shared.done()
        answers.send(collector.result())
    except Exception as error:  # noqa: BLE001 (raised again where the scan was asked for)
        answers.send(error)
