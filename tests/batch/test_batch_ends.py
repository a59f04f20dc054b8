"""The codes of ends: each way to end has its own, on both sides of the API, and none is guessed from a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from allocations.runs.ends import EndCode, meaning_of
from hub.batch import ends
from hub.batch.backend import Exited, Gone
from hub.batch.jobs import sight_of_claimed, sight_of_unclaimed
from hub.batch.model import RunError
from tests.batch.test_batch_jobs import ENDED, NOW, STARTED, job, run, terms

if TYPE_CHECKING:
    from pathlib import Path


def error(code: str = "", name: str = "ValueError") -> RunError:
    return RunError(2, name, "What it said.", "", code)


def test_both_sides_have_the_same_codes():
    assert frozenset(EndCode) - ends.CODES == {"not_admitted", "awaited_failed"}, "these are the service's own"
    assert frozenset(EndCode) >= ends.CODES


@pytest.mark.parametrize("code", [code for code in EndCode if code is not EndCode.SUCCEEDED])
def test_every_end_but_success_says_what_to_do_next(code):
    meaning = meaning_of(code, started=True)
    assert meaning is not None
    assert meaning.title
    assert meaning.meaning.endswith(".")
    assert meaning.remedy.endswith(".")


@pytest.mark.parametrize(
    ("outcome", "found", "code"),
    [
        ("succeeded", None, "succeeded"),
        ("cancelled", error(ends.LOST), "cancelled"),
        ("timed_out", error(ends.TIMED_OUT), "timed_out"),
        ("failed", error(), "notebook_error"),
        ("failed", error("what a notebook wrote"), "notebook_error"),
        ("failed", error(name="Lost"), "notebook_error"),
        ("failed", error(ends.OUT_OF_MEMORY), "out_of_memory"),
        ("failed", error(ends.KERNEL_DIED), "kernel_died"),
        ("lost", None, "lost"),
        ("lost", error(ends.NODE_LOST), "node_lost"),
    ],
)
def test_an_end_has_the_code_of_its_outcome_unless_its_error_says_more(outcome, found, code):
    assert ends.end_code(outcome, found) == code


def disrupted(reason: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}}


@pytest.mark.parametrize(
    ("pod", "code"),
    [
        ({}, "lost"),
        ({"status": {"reason": "NodeLost"}}, "node_lost"),
        (disrupted("DeletionByTaintManager"), "node_lost"),
        (disrupted("DeletionByPodGC"), "node_lost"),
        ({"status": {"reason": "Evicted"}}, "evicted"),
        (disrupted("PreemptionByScheduler"), "evicted"),
        (disrupted("EvictionByEvictionAPI"), "evicted"),
        ({"status": {"conditions": [{"type": "DisruptionTarget", "status": "False", "reason": "X"}]}}, "lost"),
    ],
)
def test_a_pod_that_is_lost_says_why(pod, code):
    assert ends.code_of_lost_pod(pod) == code


def ended_pod(why: str, exit_status: int, **status: Any) -> dict[str, Any]:
    terminated = {"reason": why, "exitCode": exit_status, "startedAt": STARTED, "finishedAt": ENDED}
    statuses = [{"name": "notebook", "state": {"terminated": terminated}}]
    return {"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": statuses, **status}}


def test_a_container_without_memory_is_out_of_memory_and_one_that_vanished_is_not():
    killed = sight_of_claimed(run(), ended_pod("OOMKilled", 137), None, NOW)
    assert isinstance(killed, Exited)
    assert (killed.result.outcome, killed.result.error and killed.result.error.code) == ("failed", "out_of_memory")
    vanished = sight_of_claimed(run(), ended_pod("Error", 137, reason="Evicted"), None, NOW)
    assert isinstance(vanished, Exited)
    assert vanished.result.error is not None
    assert (vanished.result.outcome, vanished.result.error.code) == ("cancelled", "evicted")


def test_an_image_that_cannot_be_had_is_a_failed_start():
    made = job(image_seconds=1)
    made["metadata"]["creationTimestamp"] = STARTED
    waiting = [{"name": "notebook", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    pod = {"metadata": {"name": "p"}, "status": {"phase": "Pending", "containerStatuses": waiting}}
    sight = sight_of_unclaimed(made, [pod], terms(image_seconds=1), NOW)
    assert isinstance(sight, Gone)
    assert sight.code == "start_failed"


@pytest.mark.parametrize(
    ("name", "text", "kills"),
    [
        ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),
        ("memory.events", "nothing of the kind\n", 0),
        ("other", "oom_kill 7\n", 0),
    ],
)
def test_kills_for_want_of_memory_are_counted_by_both_versions_of_cgroups(tmp_path: Path, name, text, kills):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert ends.memory_kills(tmp_path) == kills
