"""`meridian batch …` against the application itself, over HTTP, as one person on a terminal."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from allocations.app import PREFIX
from hub.batch.client import BatchClient, ServiceRefusalError
from hub.batch.commands import batch
from hub.batch.schedule_commands import schedule
from tests.allocations.test_api import StubIdentities
from tests.allocations.test_runs import PARAMETRIC
from tests.fresh_app import fresh_app
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.allocations.conftest import Bench


@dataclass
class Terminal:
    """Where ann types, with a notebook beside her."""

    url: str
    notebook: str
    allocation: str

    def type(self, *words: str) -> Result:
        command, words = (schedule, words[1:]) if words[0] == "schedule" else (batch, words)
        return CliRunner().invoke(command, words, env={"MERIDIAN_URL": self.url, "MERIDIAN_TOKEN": "ann"})

    def json(self, *words: str) -> Any:
        result = self.type(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def submit(self, *words: str) -> Any:
        return self.json("submit", self.notebook, "--allocation", self.allocation, "--size", "small", *words)


@pytest.fixture
def terminal(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-allocations")
    monkeypatch.setenv("JUPYTERHUB_OAUTH_CALLBACK_URL", f"{PREFIX}/oauth_callback")
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(PARAMETRIC))
    with serving(fresh_app(bench.services, StubIdentities("secret", PREFIX))) as url:
        yield Terminal(url, str(path), bench.accept("ann"))


def test_a_chain_is_submitted_and_shown(terminal: Terminal) -> None:
    first = terminal.submit()
    second = terminal.submit("--after", first["id"], "--even-if-failed")
    assert (second["waits_for"], second["after"][0]["run"]) == ("ended", first["id"])
    third = terminal.submit("--after", first["id"], "--after", second["id"])
    assert (third["waits_for"], len(third["after"])) == ("succeeded", 2)
    assert third["id"] in terminal.type("show", first["id"]).output
    shown = terminal.type("show", second["id"]).output
    assert "Waits until this run has ended" in shown
    assert f"{first['id']} n.ipynb: queued" in shown
    terminal.json("cancel", first["id"])
    refused = terminal.type(
        "submit", terminal.notebook, "--allocation", terminal.allocation, "--size", "small", "--after", first["id"]
    )
    assert refused.exit_code == 1
    assert "was cancelled" in refused.output


def test_the_client_submits_chains(terminal: Terminal) -> None:
    with BatchClient(terminal.url, "ann") as client:
        first = client.submit(terminal.notebook, terminal.allocation, "small")
        second = client.submit(terminal.notebook, terminal.allocation, "small", after=[first.id])
        assert [one.run for one in second.after] == [first.id]
        assert [one.run for one in client.get(first.id).followed_by] == [second.id]
        with pytest.raises(ServiceRefusalError, match="There is no run or sweep 'r-0' of yours"):
            client.submit(terminal.notebook, terminal.allocation, "small", after=["r-0"])


def test_a_schedule_is_added_shown_changed_and_removed(terminal: Terminal, bench: Bench) -> None:
    terms = ["--allocation", terminal.allocation, "--size", "small", "--cron", "0 6 * * *", "--zone", "Asia/Tokyo"]
    added = terminal.json("schedule", "add", terminal.notebook, *terms, "-p", "n", "3", "--max-minutes", "5")
    assert (added["title"], added["parameters"], added["max_seconds"]) == ("n", {"n": 3}, 300)
    assert (added["missed"], added["overlap"], added["next"]["at"]) == ("skip", "skip", "2027-01-15T21:00:00.000Z")
    schedule_id = added["id"]
    [listed] = terminal.json("schedule", "list")
    assert listed | {"coming": [], "times": []} == added | {"coming": [], "times": []}
    assert schedule_id in terminal.type("schedule", "list").output
    bench.clock.pass_seconds(13 * 3600)
    bench.services.schedule_duty.submit_due()
    # However wide the terminal is.
    shown = " ".join(terminal.type("schedule", "show", schedule_id).output.split())
    assert "Saturday 16 January 2027, 06:00 (JST, UTC+09:00): submitted r-" in shown
    assert re.search(r"Next +Sunday 17 January 2027, 06:00 \(JST, UTC\+09:00\)", shown)
    edited = terminal.json("schedule", "edit", schedule_id, "--cron", "0 7 * * *", "--notebook", terminal.notebook)
    assert (edited["cron"], edited["zone"], edited["parameters"]) == ("0 7 * * *", "Asia/Tokyo", {"n": 3})
    assert terminal.json("schedule", "pause", schedule_id)["state"] == "paused"
    assert "Would be next" in terminal.type("schedule", "show", schedule_id).output
    assert terminal.json("schedule", "resume", schedule_id)["next"]["at"] == "2027-01-15T22:00:00.000Z"
    assert terminal.type("schedule", "remove", schedule_id).output == f"Removed {schedule_id}.\n"
    assert terminal.json("schedule", "list") == []
    refused = terminal.type("schedule", "add", terminal.notebook, *terms[:-3], "often")
    assert refused.exit_code == 1
    assert "five fields" in refused.output


def test_a_schedule_takes_the_options_of_a_run(terminal: Terminal, bench: Bench, tmp_path: Path) -> None:
    for name in ("TOKEN", "OTHER"):
        bench.services.secrets.put("ann", name, "a")
    path = tmp_path / "named.ipynb"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "field = 'm31'", "outputs": []}
    path.write_text(json.dumps({**PARAMETRIC, "cells": [cell]}))
    terms = ["--allocation", terminal.allocation, "--size", "small", "--cron", "0 6 * * *"]
    options = ["--retries", "2", "--secret", "TOKEN", "--save-to", "scratch:nights", "-p", "field", "007"]
    added = terminal.json("schedule", "add", str(path), *terms, *options)
    assert (added["retries"], added["environment"], added["output"]) == (2, ["TOKEN"], "scratch:nights")
    assert (added["title"], added["parameters"]) == ("named", {"field": "007"})
    assert added["source"] == {"kind": "upload", "path": "named.ipynb", "address": None, "revision": None}
    shown = " ".join(terminal.type("schedule", "show", added["id"]).output.split())
    for part in ("2 of each run", "Secrets TOKEN", "scratch:nights", "upload named.ipynb"):
        assert part in shown

    def edit(*words: str) -> Any:
        return terminal.json("schedule", "edit", added["id"], *words)

    kept = edit("--title", "Weekly")
    assert {**kept, "title": "named"} == added, "what is left out stays"
    changed = edit("--secret", "OTHER", "--save-to", "home:nights", "--retries", "1")
    assert (changed["environment"], changed["output"], changed["retries"]) == (["OTHER"], "home:nights", 1)
    bare = edit("--no-secrets", "--save-to", "", "--retries", "0", "--notebook", terminal.notebook, "-p", "n", "4")
    assert (bare["environment"], bare["output"], bare["retries"]) == ([], None, 0)
    assert (bare["name"], bare["source"]["path"], bare["parameters"]) == ("n.ipynb", "n.ipynb", {"n": 4})
    for wrong, says in (
        (["edit", added["id"], "--secret", "GONE"], "no secret GONE"),
        (["edit", added["id"], "--secret", "TOKEN", "--no-secrets"], "one of the two"),
        (["add", terminal.notebook, *terms, "--after", "r-0"], "does not wait for runs or sweeps"),
        (["add", str(tmp_path / "none.ipynb"), *terms], "cannot be read"),
    ):
        refused = terminal.type("schedule", *wrong)
        assert refused.exit_code != 0
        assert says in " ".join(refused.output.split())


def test_a_schedule_does_not_wait_for_others(terminal: Terminal) -> None:
    with BatchClient(terminal.url, "ann") as client:
        made = client.schedules.add(terminal.notebook, terminal.allocation, "small", cron="0 6 * * *")
        chained: dict[str, Any] = {"after": ["r-0"]}
        with pytest.raises(TypeError, match="There is no term after here"):
            client.schedules.add(terminal.notebook, terminal.allocation, "small", cron="0 6 * * *", **chained)
        for chain in (chained, {"waits_for": "ended"}):
            with pytest.raises(ServiceRefusalError, match="A schedule does not wait for runs or sweeps") as refused:
                client.schedules.edit(made.id, **chain)
            assert (refused.value.status, refused.value.code) == (422, "invalid_input")
        assert client.schedules.get(made.id) == made


def test_a_term_that_is_spelt_wrong_is_not_left_out_in_silence(terminal: Terminal) -> None:
    wrong: dict[str, Any] = {"retry": 3}
    with BatchClient(terminal.url, "ann") as client:
        with pytest.raises(TypeError, match="There is no term retry here"):
            client.submit(terminal.notebook, terminal.allocation, "small", **wrong)
        with pytest.raises(TypeError, match="There is no term retry here"):
            client.sweeps.submit(terminal.notebook, terminal.allocation, "small", rows=[{}], **wrong)
