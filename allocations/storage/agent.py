"""Does the duties of the process that has the mounts, each when it is due, however many such processes there are.

A duty is taken in the database for some seconds and kept by renewing it, so that no two processes have it at once; one
that was killed is taken over when its time is up. Each has a thread: long work holds up no other. All of them may be
broken off anywhere and begun again.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from allocations.clock import MS_PER_SECOND
from allocations.storage.archive.stores import StoreError
from allocations.storage.quotas.backends import BackendError, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from allocations.clock import Clock
    from allocations.duties import Duties

log = logging.getLogger(__name__)

# For how long a duty is taken, unless said otherwise, and how often it is renewed in that time: two may fail.
DUTY_SECONDS = 30
RENEWALS = 3
# How often a thread looks whether its duty is due, and how long one that failed is left alone.
LOOK_SECONDS = 5.0
RETRY_SECONDS = 60.0

_OUTCOMES = Counter("meridian_storage_duties_total", "Duties of storage, by what came of them", ["duty", "outcome"])
_DONE_AT = Gauge("meridian_storage_duty_done_timestamp_seconds", "When this process last did a duty whole", ["duty"])
_TOOK = Gauge("meridian_storage_duty_seconds", "How long a duty took the last time", ["duty"])
_HELD = Gauge("meridian_storage_duty_held", "1 while this process has a duty", ["duty"])


class Work(Protocol):
    """What a duty does: for as long as `goes_on` says so; returns whether all that was due is done."""

    def __call__(self, goes_on: Callable[[], bool], /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to do again and again: its name in the database, how often, and what.

    One that `is_shared` has locks of its own, area by area: every process has it at once.
    """

    name: str
    interval_seconds: float
    work: Work
    is_shared: bool = False


class Outcome(StrEnum):
    """What came of attending to a duty."""

    DONE = "done"
    NOT_DUE = "not due"
    ELSEWHERE = "elsewhere"
    BROKEN_OFF = "broken off"
    FAILED = "failed"


class StorageAgent:
    """Attends to its duties until it is stopped."""

    def __init__(
        self, duties: Sequence[Duty], leads: Duties, clock: Clock, holder: str, duty_seconds: int = DUTY_SECONDS
    ) -> None:
        """`holder` tells this process from every other, also from an earlier one in its place.

        `duty_seconds`: for how long it takes a duty at a time; when it dies, another goes on so much later.
        """
        self._duties = duties
        self._leads = leads
        self._clock = clock
        self._holder = holder
        self._duty_seconds = duty_seconds
        self._stopping = threading.Event()
        self._held: set[str] = set()
        self._shared_begun_ms: dict[str, int] = {}
        self._guard = threading.Lock()

    def stop(self) -> None:
        """Let every duty come to its next end; may be called in a signal's handler."""
        self._stopping.set()

    def once(self) -> dict[str, Outcome]:
        """Do each duty once, in their order, whether it is due or not; return what came of each."""
        with self._renewing():
            return {duty.name: self.attend(duty, is_due=True) for duty in self._duties}

    def run(self, last_seconds: float) -> bool:
        """Attend until `stop`, then wait for so long; return whether all came to an end."""
        threads = [
            threading.Thread(target=self._attend_always, args=(duty,), name=duty.name, daemon=True)
            for duty in self._duties
        ]
        with self._renewing():
            for thread in threads:
                thread.start()
            self._stopping.wait()
            ends = time.monotonic() + last_seconds
            for thread in threads:
                thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def attend(self, duty: Duty, *, is_due: bool = False) -> Outcome:
        """Do a duty if it is due and nobody else has it; what it raises is logged."""
        try:
            outcome = self._attend(duty, is_due=is_due)
        except (BackendError, StoreError, OSError) as error:
            log.error("%s failed: %s", duty.name, sentence(error))  # noqa: TRY400 (an administrator's, not a bug's)
            outcome = Outcome.FAILED
        except SQLAlchemyError as error:
            log.warning("%s: the database does not answer: %s", duty.name, type(error).__name__)
            outcome = Outcome.FAILED
        except Exception:
            # A duty that meets what nobody foresaw must not end the others, nor itself for ever.
            log.exception("%s failed", duty.name)
            outcome = Outcome.FAILED
        if outcome is not Outcome.NOT_DUE:
            _OUTCOMES.labels(duty.name, outcome.value).inc()
        return outcome

    # ------------------------------------------------------------------ inside

    def _attend_always(self, duty: Duty) -> None:
        while not self._stopping.is_set():
            outcome = self.attend(duty)
            pause_seconds = RETRY_SECONDS if outcome is Outcome.FAILED else LOOK_SECONDS
            self._stopping.wait(min(pause_seconds, duty.interval_seconds))

    def _attend(self, duty: Duty, *, is_due: bool) -> Outcome:
        if not is_due and not self._is_due(duty):
            return Outcome.NOT_DUE
        if duty.is_shared:
            self._shared_begun_ms[duty.name] = self._clock.now_ms()
            whole = duty.work(lambda: not self._stopping.is_set())
            self._note_time(duty, self._shared_begun_ms[duty.name], whole=whole)
            return Outcome.DONE if whole else Outcome.BROKEN_OFF
        if not self._leads.take(duty.name, self._holder, self._duty_seconds):
            return Outcome.ELSEWHERE
        with self._holding(duty.name):
            # Another may have done it between the look and the taking.
            if not is_due and not self._is_due(duty):
                return Outcome.NOT_DUE
            begun_ms = self._clock.now_ms()
            whole = duty.work(lambda: self._goes_on(duty.name))
            whole = whole and duty.name in self._held
            self._note_time(duty, begun_ms, whole=whole)
            if whole:
                self._leads.done(duty.name, self._holder, begun_ms)
            return Outcome.DONE if whole else Outcome.BROKEN_OFF

    def _note_time(self, duty: Duty, begun_ms: int, *, whole: bool) -> None:
        now_ms = self._clock.now_ms()
        _TOOK.labels(duty.name).set((now_ms - begun_ms) / MS_PER_SECOND)
        if whole:
            _DONE_AT.labels(duty.name).set(now_ms / MS_PER_SECOND)

    def _is_due(self, duty: Duty) -> bool:
        if duty.is_shared:
            begun_ms = self._shared_begun_ms.get(duty.name)
            return begun_ms is None or self._clock.now_ms() - begun_ms >= duty.interval_seconds * MS_PER_SECOND
        lag_seconds = self._leads.lag_seconds(duty.name)
        return lag_seconds is None or lag_seconds >= duty.interval_seconds

    def _goes_on(self, name: str) -> bool:
        return not self._stopping.is_set() and name in self._held

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        with self._guard:
            self._held.add(name)
        _HELD.labels(name).set(1)
        try:
            yield
        finally:
            # Out of the set first: a renewal that came later would keep what nobody does any more.
            with self._guard:
                was_held = name in self._held
                self._held.discard(name)
            _HELD.labels(name).set(0)
            if was_held:
                self._leads.lay_down(name, self._holder)

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew what is held for as long as the block lasts."""
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew_always, args=(ended,), name="renewal", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join()

    def _renew_always(self, ended: threading.Event) -> None:
        while not ended.wait(self._duty_seconds / RENEWALS):
            self.renew()

    def renew(self) -> None:
        """Keep what is held; what another has taken meanwhile, for we were away for long, is held no more."""
        with self._guard:
            for name in list(self._held):
                try:
                    if not self._leads.take(name, self._holder, self._duty_seconds):
                        self._held.discard(name)
                        log.warning("%s: another process has it now", name)
                except SQLAlchemyError as error:
                    log.warning("%s is not renewed: %s", name, type(error).__name__)
