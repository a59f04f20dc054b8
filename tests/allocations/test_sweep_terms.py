"""What single runs have, runs of a sweep have too: retries, secrets, a place for the output, the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from allocations.errors import InvalidInputError
from allocations.runs.models import Outcome, RunFilter, RunSource, RunSourceKind, RunState
from allocations.runs.secrets import SecretMissingError
from allocations.runs.sweeps import Retry
from tests.allocations.test_runs import SMALL
from tests.allocations.test_sweeps import claim, finish, submit

if TYPE_CHECKING:
    from tests.allocations.conftest import Bench

REPOSITORY = RunSource(
    kind=RunSourceKind.REPOSITORY, address="https://ann:t@example.org/a/b.git", revision="0123abc", path="n/n.ipynb"
)


# What no run takes, and so neither sweeps nor schedules do.
REFUSED: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"retries": 6}, InvalidInputError),
    ({"retries": -1}, InvalidInputError),
    ({"environment": ["PATH"]}, InvalidInputError),
    ({"environment": ["TOKEN"]}, SecretMissingError),
    ({"output": "s3://bucket/x"}, SecretMissingError),
    ({"output": "/tmp"}, InvalidInputError),
    ({"source": RunSource(kind=RunSourceKind.REPOSITORY)}, InvalidInputError),
]


def test_each_run_of_a_sweep_gets_what_was_asked_for_all(bench: Bench) -> None:
    root = bench.consortium("ann")
    for name in ("TOKEN", "OTHER", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        bench.services.secrets.put("ann", name, f"value of {name}")
    made = submit(
        bench, root, count=2, environment=["TOKEN"], output="s3://bucket/sweep/", source=REPOSITORY, retries=2
    )
    source = REPOSITORY.model_copy(update={"address": "https://example.org/a/b.git"})
    assert (made.environment, made.output, made.source, made.retries) == (["TOKEN"], "s3://bucket/sweep", source, 2)
    runs = claim(bench)
    assert len(runs) == 2
    for run in runs:
        assert (run.environment, run.output, run.source, run.retries) == (
            made.environment,
            made.output,
            made.source,
            made.retries,
        )
        given = bench.services.secrets.environment_of(run.id)
        assert given.values == {"TOKEN": "value of TOKEN"}
        assert set(given.output) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert "value of" not in made.model_dump_json() + "".join(run.model_dump_json() for run in runs)


def test_a_run_of_a_sweep_is_tried_again_and_each_attempt_is_counted(bench: Bench) -> None:
    root = bench.consortium("ann")
    made = submit(bench, root, count=2, retries=1, max_seconds=600)
    bench.clock.pass_seconds(100)
    good, bad = claim(bench)
    bench.clock.pass_seconds(100)
    finish(bench, good, ran=10)
    waiting = finish(bench, bad, Outcome.FAILED, ran=20)
    assert (waiting.state, waiting.retried) == ("queued", 1)
    seen = bench.services.sweeps.get("ann", made.id)
    assert (seen.failed, seen.state, seen.charged_microcredits) == (0, "running", 30 * SMALL)
    [again] = claim(bench)
    assert (again.id, again.attempt) == (bad.id, 2)
    bench.clock.pass_seconds(100)
    finish(bench, again, Outcome.FAILED, ran=40)
    failed = bench.services.sweeps.get("ann", made.id)
    assert (failed.failed, failed.state, failed.charged_microcredits) == (1, "failed", 70 * SMALL)
    assert [one.charged_microcredits for one in bench.services.sweeps.all_results("ann", made.id)] == [
        10 * SMALL,
        60 * SMALL,
    ]
    # Queued again by hand, it may fail as often once more; what the former run cost is not counted as its own.
    bench.services.sweeps.retry("ann", made.id, Retry(), bench.key())
    [third] = claim(bench)
    assert (third.retried, third.retries, third.charged_microcredits) == (0, 1, 0)
    bench.clock.pass_seconds(100)
    assert finish(bench, third, Outcome.FAILED, ran=1).state == "queued"
    [last] = claim(bench)
    bench.clock.pass_seconds(100)
    finish(bench, last, ran=2)
    results = list(bench.services.sweeps.all_results("ann", made.id))
    assert [(one.charged_microcredits, one.charged_microcredits_before) for one in results] == [
        (10 * SMALL, 0),
        (3 * SMALL, 60 * SMALL),
    ]
    done = bench.services.sweeps.get("ann", made.id)
    assert (done.state, done.charged_microcredits) == ("succeeded", 73 * SMALL)
    estimate = bench.services.sweeps.estimate("ann", root, "small", 10, name="n.ipynb")
    assert (estimate.likely_from_runs, estimate.likely_microcredits) == (2, 65 * SMALL), "with the attempts before"
    bench.assert_clean()


def test_a_cancelled_sweep_tries_nothing_again(bench: Bench) -> None:
    made = submit(bench, bench.consortium("ann"), count=1, retries=3)
    [run] = claim(bench)
    bench.services.sweeps.cancel("ann", made.id)
    bench.clock.pass_seconds(30)
    assert finish(bench, run, Outcome.FAILED).state == "failed"


def test_an_estimate_counts_every_attempt(bench: Bench) -> None:
    entry = bench.accept("ann")  # of 30 credits
    once = bench.services.sweeps.estimate("ann", entry, "small", 100, max_seconds=10_000)
    assert (once.held_microcredits, once.most_microcredits, once.suffices) == (SMALL * 10**6, SMALL * 10**6, True)
    thrice = bench.services.sweeps.estimate("ann", entry, "small", 100, max_seconds=10_000, retries=2)
    assert (thrice.held_microcredits, thrice.most_microcredits) == (SMALL * 10**6, 3 * SMALL * 10**6)
    assert not thrice.suffices
    with pytest.raises(InvalidInputError, match="at most 5 times"):
        bench.services.sweeps.estimate("ann", entry, "small", 100, retries=6)


@pytest.mark.parametrize(("wrong", "error"), REFUSED)
def test_what_is_refused_of_a_run_is_refused_of_a_sweep_and_nothing_is_queued(
    bench: Bench, wrong: dict[str, Any], error: type[Exception]
) -> None:
    root = bench.consortium("ann")
    with pytest.raises(error):
        submit(bench, root, **wrong)
    assert bench.services.sweeps.list_of("ann") == []


def test_a_secret_that_is_gone_is_said_when_a_sweep_is_retried(bench: Bench) -> None:
    bench.services.secrets.put("ann", "TOKEN", "a")
    made = submit(bench, bench.consortium("ann"), count=1, environment=["TOKEN"])
    [run] = claim(bench)
    bench.clock.pass_seconds(30)
    finish(bench, run, Outcome.FAILED)
    bench.services.secrets.remove("ann", "TOKEN")
    with pytest.raises(SecretMissingError):
        bench.services.sweeps.retry("ann", made.id, Retry(), bench.key())
    runs = bench.services.runs.list_of("ann", wanted=RunFilter(sweep=made.id))
    assert [one.state for one in runs] == [RunState.FAILED]
