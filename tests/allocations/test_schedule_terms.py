"""What single runs have, runs of a schedule have too: retries, secrets, a place for the output, the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from allocations.db.schema import schedules
from allocations.runs.models import Outcome, RunSource, RunSourceKind
from tests.allocations.test_runs import PARAMETRIC, SMALL, finish
from tests.allocations.test_schedules import HOUR, add, notices, outcomes, seen, tick
from tests.allocations.test_sweep_terms import REFUSED

if TYPE_CHECKING:
    from allocations.runs.models import RunView
    from tests.allocations.conftest import Bench

REPOSITORY = RunSource(
    kind=RunSourceKind.REPOSITORY, address="https://ann:t@example.org/a/b.git", revision="0123abc", path="n/n.ipynb"
)
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def keep(bench: Bench, *names: str) -> None:
    for name in names:
        bench.services.secrets.put("ann", name, f"value of {name}")


def admitted(bench: Bench) -> RunView:
    """Deal with the time that comes within the hour, and take its run."""
    assert tick(bench, HOUR) == 1
    [run] = bench.services.runs.claim("batch", 10)
    return run


def test_each_run_of_a_schedule_gets_what_was_asked_for_all(bench: Bench) -> None:
    keep(bench, "TOKEN", "OTHER", *KEYS)
    made = add(
        bench, bench.accept("ann"), environment=["TOKEN"], output="s3://bucket/nights/", source=REPOSITORY, retries=2
    )
    source = REPOSITORY.model_copy(update={"address": "https://example.org/a/b.git"})
    assert (made.environment, made.output, made.source, made.retries) == (["TOKEN"], "s3://bucket/nights", source, 2)
    for _ in range(2):
        run = admitted(bench)
        assert (run.environment, run.output, run.source, run.retries) == (
            made.environment,
            made.output,
            made.source,
            made.retries,
        )
        given = bench.services.secrets.environment_of(run.id)
        assert given.values == {"TOKEN": "value of TOKEN"}
        assert set(given.output) == set(KEYS)
        finish(bench, run, Outcome.SUCCEEDED, ran=1)
    assert "value of" not in seen(bench, made).model_dump_json() + run.model_dump_json()
    bench.assert_clean()


def test_a_run_of_a_schedule_is_tried_again_and_each_attempt_is_charged(bench: Bench) -> None:
    made = add(bench, bench.accept("ann"), cron="0 9 * * *", retries=1)
    run = admitted(bench)
    bench.clock.pass_seconds(100)
    assert finish(bench, run, Outcome.FAILED, ran=20).state == "queued"
    [again] = bench.services.runs.claim("batch", 10)
    assert (again.id, again.attempt) == (run.id, 2)
    bench.clock.pass_seconds(100)
    ended = finish(bench, again, Outcome.FAILED, ran=30)
    assert (ended.state, ended.charged_microcredits) == ("failed", 50 * SMALL)
    [time] = seen(bench, made).times
    assert (time.run, time.run_state) == (run.id, "failed")
    bench.assert_clean()


def test_a_schedule_that_says_nothing_of_them_gives_its_runs_none(bench: Bench) -> None:
    made = add(bench, bench.accept("ann"))
    assert (made.retries, made.environment, made.output) == (0, [], None)
    # As a schedule of an earlier version is stored.
    with bench.services.database.write() as connection:
        connection.execute(update(schedules).values(source=None))
    run = admitted(bench)
    assert (run.retries, run.environment, run.output) == (0, [], None)
    assert run.source == RunSource(kind=RunSourceKind.UPLOAD)


@pytest.mark.parametrize(("wrong", "error"), REFUSED)
def test_what_is_refused_of_a_run_is_refused_of_a_schedule(
    bench: Bench, wrong: dict[str, Any], error: type[Exception]
) -> None:
    entry = bench.accept("ann")
    with pytest.raises(error):
        add(bench, entry, **wrong)
    assert bench.services.schedules.list_of("ann") == []
    made = add(bench, entry)
    with pytest.raises(error):
        bench.services.schedules.edit("ann", made.id, wrong)
    assert seen(bench, made) == made


@pytest.mark.parametrize("asked", [{"environment": ["TOKEN"]}, {"output": "s3://bucket/x"}])
def test_a_secret_that_is_gone_refuses_the_time_and_is_told(bench: Bench, asked: dict[str, Any]) -> None:
    keep(bench, "TOKEN", *KEYS)
    entry = bench.accept("ann")
    made, other = add(bench, entry, **asked), add(bench, entry, title="Other")
    gone = "TOKEN" if "environment" in asked else "AWS_ACCESS_KEY_ID"
    bench.services.secrets.remove("ann", gone)
    assert tick(bench, HOUR) == 2, "the other one is dealt with as if nothing were wrong"
    said = f"You have no secret {gone}. Set it first, or submit the run without it."
    [time] = seen(bench, made).times
    assert (time.outcome, time.run, time.detail) == ("refused", None, said)
    assert (seen(bench, made).refusals, seen(bench, made).state) == (1, "active")
    assert [outcome for _, outcome in outcomes(bench, other)] == ["submitted"]
    assert any(said in text for _, text in notices(bench))
    keep(bench, gone)
    tick(bench, HOUR)
    assert [outcome for _, outcome in outcomes(bench, made)] == ["refused", "submitted"]
    assert seen(bench, made).refusals == 0


def test_a_secret_is_given_as_it_is_when_the_run_begins(bench: Bench) -> None:
    keep(bench, "TOKEN")
    add(bench, bench.accept("ann"), environment=["TOKEN"])
    bench.services.secrets.put("ann", "TOKEN", "a new one")
    assert bench.services.secrets.environment_of(admitted(bench).id).values == {"TOKEN": "a new one"}


def test_what_each_run_gets_is_changed_and_taken_away(bench: Bench) -> None:
    keep(bench, "TOKEN", "OTHER")
    schedules_ = bench.services.schedules
    made = add(bench, bench.accept("ann"), environment=["TOKEN"], output="home:a", retries=1, source=REPOSITORY)
    assert schedules_.edit("ann", made.id, {"title": "Other"}).model_dump(
        include={"environment", "output", "retries", "source"}
    ) == made.model_dump(include={"environment", "output", "retries", "source"})
    changed = schedules_.edit("ann", made.id, {"environment": ["OTHER"], "output": "scratch:b", "retries": 3})
    assert (changed.environment, changed.output, changed.retries) == (["OTHER"], "scratch:b", 3)
    run = admitted(bench)
    assert (run.environment, run.output, run.retries) == (["OTHER"], "scratch:b", 3)
    bare = schedules_.edit("ann", made.id, {"environment": [], "output": None, "retries": 0})
    assert (bare.environment, bare.output, bare.retries, bare.source) == ([], None, 0, made.source)


def test_another_notebook_has_its_own_source(bench: Bench) -> None:
    made = add(bench, bench.accept("ann"), source=REPOSITORY)
    home = RunSource(kind=RunSourceKind.HOME, path="n.ipynb")
    edit = bench.services.schedules.edit
    assert edit("ann", made.id, {"notebook": PARAMETRIC, "source": home}).source == home
    assert edit("ann", made.id, {"notebook": PARAMETRIC}).source == RunSource(kind=RunSourceKind.UPLOAD)


def test_a_policy_that_allows_fewer_retries_refuses_the_time(bench: Bench) -> None:
    made = add(bench, bench.accept("ann"), retries=3)
    with bench.services.database.write() as connection:
        connection.execute(update(schedules).values(retries=99))
    tick(bench, HOUR)
    [time] = seen(bench, made).times
    assert time.outcome == "refused"
    assert "tried again at most 5 times" in (time.detail or "")
