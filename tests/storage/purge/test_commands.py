"""`meridian purge …` over the database of an installation, as its administrators use it."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from allocations.cli import main
from allocations.commands.purge import out
from allocations.storage.purge.models import PurgeState

if TYPE_CHECKING:
    from click.testing import Result

    from tests.storage.purge.worlds import World


@pytest.fixture
def planted(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three old files."""
    monkeypatch.setattr(out, "width", 250)
    world.plant("a/x", "a/y", "b")
    return world


def meridian(world: World, *arguments: str) -> Result:
    url = world.bench.services.database.url.render_as_string(hide_password=False)
    return CliRunner().invoke(main, ["purge", *arguments, "--database", url, "--state", str(world.path)])


def told(world: World, *arguments: str) -> Any:
    result = meridian(world, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_a_run_is_begun_shown_stopped_and_let_go_on(planted: World) -> None:
    run = told(planted, "plan", "scratch")
    assert (run["made_by"], run["state"], run["dry_run"]) == (getpass.getuser(), "open", False)
    planted.work()
    [purge] = told(planted, "show", run["id"])["purges"]
    assert (purge["state"], purge["files"]) == ("noticed", 3)
    assert {one[0] for one in purge["summary"]["paths"]} >= {"a/x", "a/y", "b"}
    shown = meridian(planted, "show", run["id"]).output
    assert "a/x" in shown
    assert told(planted, "stop", run["id"], "--why", "wait")["state"] == "stopped"
    again = meridian(planted, "stop", run["id"], "--why", "wait")
    assert again.exit_code == 1
    assert told(planted, "resume", run["id"], "--why", "go on")["state"] == "open"
    planted.window_passes()
    planted.work()
    assert planted.files() == set()
    listed = told(planted, "list")
    assert [(one["id"], one["state"]) for one in listed["runs"]] == [(run["id"], "done")]
    assert run["id"] in meridian(planted, "list").output


def test_the_switch_stops_all(planted: World) -> None:
    told(planted, "plan", "scratch")
    told(planted, "stop", "all", "--why", "the archive is full")
    planted.work()
    assert planted.lists() == []
    assert told(planted, "list")["stopped"]["why"] == "the archive is full"
    assert "the archive is full" in meridian(planted, "list").output
    told(planted, "resume", "all", "--why", "room again")
    planted.work()
    assert len(planted.lists()) == 1


def test_what_is_beyond_the_ceiling_says_how_to_confirm_it(planted: World) -> None:
    # The command reads the policy that is shipped; the run here has planned more than it lets.
    run = told(planted, "plan", "scratch")
    planted.work()
    with planted.bench.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE purge_runs SET files = 1000001")
    shown = meridian(planted, "show", run["id"]).output
    assert "beyond the ceiling" in shown
    size = told(planted, "show", run["id"])["bytes"]
    refused = meridian(planted, "confirm", run["id"], "--files", "3", "--bytes", str(size), "--why", "seen")
    assert refused.exit_code == 1
    view = told(planted, "confirm", run["id"], "--files", "1000001", "--bytes", str(size), "--why", "seen")
    assert (view["confirmed_by"], view["awaits"]) == (getpass.getuser(), False)


def test_a_dry_run_may_look_at_a_day_to_come_and_a_run_may_not(planted: World) -> None:
    assert meridian(planted, "plan", "scratch", "--as-of", "2099-01-01").exit_code == 1
    assert meridian(planted, "plan", "scratch", "--dry-run", "--as-of", "soon").exit_code == 1
    run = told(planted, "plan", "scratch", "--dry-run", "--as-of", "2099-01-01")
    assert run["as_of_ms"] == 4_070_908_800_000
    planted.work()
    [purge] = told(planted, "show", run["id"])["purges"]
    assert (purge["state"], purge["files"]) == (PurgeState.PLANNED, 3)
    assert len(planted.files()) == 3


def test_a_run_is_cancelled(planted: World) -> None:
    run = told(planted, "plan", "scratch")
    assert told(planted, "cancel", run["id"], "--why", "a mistake")["state"] == "cancelled"
    assert meridian(planted, "show", "pr-none").exit_code == 1
