"""Duties are done when they are due, by one at a time, go on after whoever had them died, and fail alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import OperationalError

from allocations import storage_agent
from allocations.duties import Duties
from allocations.storage.agent import DUTY_SECONDS, Duty, Outcome, StorageAgent
from allocations.storage.models import StorageClass
from allocations.storage.purge.deleting import OF_A_FILE
from allocations.storage.purge.guarding import HaltError
from allocations.storage.purge.models import PurgeState
from allocations.storage.quotas.backends import BackendError
from tests.allocations.conftest import bench, database_url, postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.allocations.conftest import Bench

__all__ = ["bench", "database_url", "postgres_server"]

HOUR = 3600


@dataclass
class Noted:
    """Work that notes that it was done, and does what it is told in the midst of it."""

    times: int = 0
    inside: Callable[[], object] = lambda: None
    is_whole: bool = True
    went_on: list[bool] = field(default_factory=list)

    def __call__(self, goes_on: Callable[[], bool]) -> bool:
        self.times += 1
        self.inside()
        self.went_on.append(goes_on())
        return self.is_whole and goes_on()


def agent_of(bench: Bench, holder: str, *duties: Duty) -> StorageAgent:
    return StorageAgent(duties, Duties(bench.services.database, bench.clock), bench.clock, holder)


def test_a_duty_is_done_once_an_interval_whoever_does_it(bench: Bench) -> None:
    work = Noted()
    duty = Duty("measure", HOUR, work)
    first, second = agent_of(bench, "one", duty), agent_of(bench, "two", duty)
    assert first.attend(duty) is Outcome.DONE
    assert second.attend(duty) is Outcome.NOT_DUE
    bench.clock.pass_seconds(HOUR - 1)
    assert first.attend(duty) is Outcome.NOT_DUE
    bench.clock.pass_seconds(1)
    assert second.attend(duty) is Outcome.DONE
    assert work.times == 2


def test_while_one_has_a_duty_no_other_does_it(bench: Bench) -> None:
    outcomes: list[Outcome] = []
    work = Noted()
    duty = Duty("measure", HOUR, work)
    first, second = agent_of(bench, "one", duty), agent_of(bench, "two", duty)
    work.inside = lambda: outcomes.append(second.attend(duty))
    assert first.attend(duty) is Outcome.DONE
    assert (outcomes, work.times) == ([Outcome.ELSEWHERE], 1)


def test_what_another_did_in_between_is_not_done_again(bench: Bench) -> None:
    """It was due when we looked, and done and laid down when we took it."""
    work = Noted()
    duty = Duty("measure", HOUR, work)
    other = agent_of(bench, "two", duty)
    outcomes: list[Outcome] = []

    class Slow(Duties):
        def take(self, name: str, holder: str, seconds: int) -> bool:
            outcomes.append(other.attend(duty))
            return super().take(name, holder, seconds)

    agent = StorageAgent([duty], Slow(bench.services.database, bench.clock), bench.clock, "one")
    assert (agent.attend(duty), outcomes, work.times) == (Outcome.NOT_DUE, [Outcome.DONE], 1)


def test_what_is_renewed_is_kept_and_what_is_not_is_taken_over(bench: Bench) -> None:
    """As by a process that stood still, or was killed: it sees that it is no longer meant."""
    outcomes: list[Outcome] = []
    work, other = Noted(), Noted()
    duty = Duty("measure", HOUR, work)
    first, second = agent_of(bench, "one", duty), agent_of(bench, "two", duty)

    def stand_still() -> None:
        bench.clock.pass_seconds(DUTY_SECONDS - 1)
        first.renew()
        bench.clock.pass_seconds(DUTY_SECONDS - 1)
        outcomes.append(second.attend(Duty("measure", HOUR, other)))
        bench.clock.pass_seconds(2)
        outcomes.append(second.attend(Duty("measure", HOUR, other)))
        first.renew()

    # The other is still at it when the first wakes up.
    other.inside = first.renew
    work.inside = stand_still
    assert first.attend(duty) is Outcome.BROKEN_OFF
    assert outcomes == [Outcome.ELSEWHERE, Outcome.DONE]
    assert work.went_on == [False]
    assert other.went_on == [True]


def test_what_is_broken_off_is_due_at_once(bench: Bench) -> None:
    work = Noted(is_whole=False)
    duty = Duty("measure", HOUR, work)
    assert agent_of(bench, "one", duty).attend(duty) is Outcome.BROKEN_OFF
    work.is_whole = True
    assert agent_of(bench, "two", duty).attend(duty) is Outcome.DONE


@pytest.mark.parametrize(
    "error", [BackendError("no"), OSError(5, "Input/output error"), OperationalError("", {}, Exception()), KeyError()]
)
def test_one_that_fails_is_not_done_and_free_and_the_others_go_on(bench: Bench, error: Exception) -> None:
    def fail() -> None:
        raise error

    good = Noted()
    bad = Duty("bad", HOUR, Noted(inside=fail))
    agent = agent_of(bench, "one", bad, Duty("good", HOUR, good))
    assert agent.once() == {"bad": Outcome.FAILED, "good": Outcome.DONE}
    assert agent_of(bench, "two").attend(bad) is Outcome.FAILED
    assert good.times == 1


def test_asked_to_do_all_once_it_does_what_is_not_due_but_not_what_another_has(bench: Bench) -> None:
    work = Noted()
    duty = Duty("measure", HOUR, work)
    agent = agent_of(bench, "one", duty)
    assert agent.once() == agent.once() == {"measure": Outcome.DONE}
    Duties(bench.services.database, bench.clock).take("measure", "another", DUTY_SECONDS)
    assert agent.once() == {"measure": Outcome.ELSEWHERE}
    assert work.times == 2


def test_what_has_locks_of_its_own_every_process_has_at_once_and_as_often(bench: Bench) -> None:
    outcomes: list[Outcome] = []
    work, other = Noted(), Noted()
    duty = Duty("purges", HOUR, work, is_shared=True)
    first, second = agent_of(bench, "one", duty), agent_of(bench, "two")
    work.inside = lambda: outcomes.append(second.attend(Duty("purges", HOUR, other, is_shared=True)))
    assert first.attend(duty) is Outcome.DONE
    assert outcomes == [Outcome.DONE]
    assert first.attend(duty) is Outcome.NOT_DUE
    bench.clock.pass_seconds(HOUR)
    assert first.attend(duty) is Outcome.DONE
    assert work.went_on == [True, True]


def test_it_stops_when_it_is_told_to_and_waits_for_what_is_under_way(bench: Bench) -> None:
    begun, may_end = threading.Event(), threading.Event()
    long, short = Noted(), Noted()

    def take_long() -> None:
        begun.set()
        may_end.wait(60)

    long.inside = take_long
    agent = agent_of(bench, "one", Duty("long", HOUR, long), Duty("short", HOUR, short))
    ended: list[bool] = []
    running = threading.Thread(target=lambda: ended.append(agent.run(60)))
    running.start()
    assert begun.wait(60)
    agent.stop()
    assert not ended
    may_end.set()
    running.join(60)
    assert (ended, long.went_on) == ([True], [False])
    # Laid down and not done, it is another's at once.
    assert agent_of(bench, "two").attend(Duty("long", HOUR, Noted())) is Outcome.DONE


def test_no_file_is_left_halfway_because_the_process_is_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    """It is in the trash between two of its points, which are too many to be told besides."""
    step = SimpleNamespace(
        area=SimpleNamespace(place="ann"), purge=SimpleNamespace(id="one", state=PurgeState.DELETING)
    )
    goes_on = iter([True, False, False])

    class Runner:
        def next_step(self, *_asked: object) -> object:
            return step

        def advance(self, _holder: str, _step: object, _mount: object, reached: Callable[[str], None]) -> PurgeState:
            reached(f"{OF_A_FILE}moved")
            with pytest.raises(HaltError):
                reached("batch begun")
            return PurgeState.DELETING

    services: Any = SimpleNamespace(purge_runner=Runner())
    settings: Any = SimpleNamespace(mount=lambda area: area)
    caplog.set_level("INFO")
    storage_agent._purge(services, settings, StorageClass.SCRATCH, "holder", lambda: next(goes_on, False))
    assert "batch begun" in caplog.text
    assert "moved" not in caplog.text
