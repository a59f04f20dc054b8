"""Secrets of runs: they reach the notebook, and stand in no file, no argument and no log on the way."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hub.batch.environment import Given, SecretMissingError, ask, forget, give, is_wanted, memory_of
from hub.batch.files import RunDirectory
from hub.batch.model import Run
from hub.batch.service import ExecutorService
from tests.batch.batch_harness import wait_for
from tests.batch.test_batch_executor import executor, make_executor  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.batch.batch_harness import FakeService

GIVEN = Given({"TOKEN": "s3cret-of-ada"})


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def asked(directory: RunDirectory) -> tuple[threading.Thread, list[Any]]:
    """Ask from another thread, as a runner does from another machine."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(ask(directory, 1))
        except SecretMissingError as missing:
            answers.append(missing)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: is_wanted(directory, 1))
    return thread, answers


def test_a_runner_in_a_pod_asks_and_takes_away_what_it_is_given(directory):
    thread, answers = asked(directory)
    assert not is_wanted(directory, 2)
    give(directory, GIVEN.to_text(), os.getgid())
    thread.join(30)
    assert answers == [GIVEN]
    assert list(directory.path.iterdir()) == [], "neither the question nor the answer stays"


def test_a_secret_that_is_gone_by_then_is_said(directory):
    thread, answers = asked(directory)
    give(directory, json.dumps({"missing": "You have no secret TOKEN. Set it first."}), os.getgid())
    thread.join(30)
    assert "no secret TOKEN" in str(answers[0])


def test_what_is_given_is_for_the_group_alone_and_follows_no_link(directory, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    directory.given.symlink_to(elsewhere)
    give(directory, GIVEN.to_text(), os.getgid())
    assert not elsewhere.exists()
    assert stat.S_IMODE(directory.given.stat().st_mode) == 0o640
    forget(directory)
    assert not directory.given.exists()


def test_the_memory_of_a_local_runner_is_in_no_folder():
    descriptor = memory_of(GIVEN)
    assert str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:")
    with os.fdopen(descriptor) as file:
        assert Given.from_json(json.load(file)) == GIVEN


def test_nothing_says_a_value_by_accident():
    assert "s3cret" not in repr(GIVEN)


class Secretive:
    """What the service answers to the executor of a run that asks for secrets."""

    def __init__(self, service: FakeService) -> None:
        self.given: tuple[int, dict[str, Any]] = (200, {"values": {"TOKEN": "s3cret-of-ada"}})
        plain = service.answer

        def answer(method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            return self.given if path.endswith("/environment") else plain(method, path, body)

        service.answer = answer  # type: ignore[method-assign]


def test_a_secret_that_is_gone_fails_the_run_at_once_and_is_not_charged(service, executor, queue_run):  # noqa: F811
    Secretive(service).given = (409, {"code": "secret_missing", "detail": "You have no secret TOKEN."})
    queue_run("1", environment=["TOKEN"])
    executor.tick_until(lambda: service.finishes("run0"))
    (report,) = service.finishes("run0")
    assert (report["outcome"], report["end_code"], report["started_at"]) == ("failed", "secret_missing", None)


def test_secrets_that_the_service_cannot_give_now_are_asked_for_again(service, executor, queue_run):  # noqa: F811
    secretive = Secretive(service)
    secretive.given = (500, {"code": "internal"})
    queue_run("1", environment=["TOKEN"])
    executor.tick_until(lambda: any(path.endswith("/environment") for _, path, _, _ in service.calls))
    assert service.finishes("run0") == []
    executor.clock.seconds += 60
    secretive.given = (409, {"code": "secret_missing", "detail": "You have no secret TOKEN."})
    executor.tick_until(lambda: service.finishes("run0"))


@pytest.mark.slow
def test_a_local_run_has_its_secrets_and_nothing_else_does(
    service: FakeService,
    executor: Any,  # noqa: F811
    queue_run: Callable[..., RunDirectory],
) -> None:
    Secretive(service)
    code = "import os\nassert len(os.environ['TOKEN']) == 13\nprint('had it')"
    wait = "import time\nwhile not os.path.exists('go'): time.sleep(0.1)"
    directory = queue_run(code, wait, environment=["TOKEN"])
    executor.tick_until(lambda: (progress := directory.read_progress()) and progress.current_cell == 2)
    process = directory.read_process()
    assert process is not None
    for what in ("cmdline", "environ"):
        assert b"s3cret" not in Path(f"/proc/{process.pid}/{what}").read_bytes(), what
    spec = json.loads(directory.spec.read_text())
    (Path(spec["home"]) / "go").touch()
    executor.tick_until(lambda: service.finishes("run0"))
    assert service.finishes("run0")[0]["outcome"] == "succeeded"
    assert "had it" in directory.log.read_text()
    for path in directory.path.rglob("*"):
        if path.is_file():
            assert b"s3cret-of-ada" not in path.read_bytes(), path


def test_a_run_of_a_pod_gets_its_secrets_when_it_asks(service: FakeService, directory: RunDirectory) -> None:
    """The part of the cluster's backend that gives, without a cluster."""
    from hub.batch.kube import KubeBackend  # noqa: PLC0415

    Secretive(service)
    backend = object.__new__(KubeBackend)
    backend._environment_of = ExecutorService.connect(service.url, "t", "batch").environment
    run = replace(
        Run.from_json(
            {
                "id": "run0",
                "person": "ada",
                "allocation": "a1",
                "size": "small",
                "resources": {"cores": 1, "memory_gib": 1},
                "max_seconds": 9,
                "state": "running",
            }
        ),
        environment=("TOKEN",),
    )
    thread, answers = asked(directory)
    service.failures = [(503, {})]
    backend._give(run, directory)
    time.sleep(0.5)
    assert answers == [], "the service was away, and the runner waits"
    backend._give(run, directory)
    thread.join(30)
    assert answers == [GIVEN]
