"""What is left when the killing is over: every lease against what the API server showed, every run, the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from allocations.leases.models import EndReason
from allocations.ledger.audit import audit_ledger
from allocations.runs.files import OUTPUT
from hub.spawner.manifests import LEASE
from tests.cluster.chaos.parts import CONTROL_PLANE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allocations.leases.views import LeaseView
    from allocations.runs.models import RunView
    from tests.cluster.chaos.killer import Keeper
    from tests.cluster.chaos.people import Person
    from tests.cluster.chaos.platform import Platform
    from tests.cluster.kube_bench import Witness

ALL = 100_000
# After the end of a pod: how long it takes until it is noticed.
LOOK_SECONDS = 20
# Who learns when a pod ends, and who shows it to them. All others may be away: what is learnt is reported later.
WITNESSES = frozenset({"hub", "batch", *CONTROL_PLANE})


@dataclass
class Verdict:
    """What was found; `faults` is what must not be."""

    faults: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    leases: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    charged_seconds: int = 0
    shown_seconds: int = 0


def leases_of(platform: Platform, people: Sequence[Person]) -> list[LeaseView]:
    """All leases of the people."""
    return [lease for one in people for lease in platform.services.reports.leases_of(one.person, ALL)]


def pods_without_lease(platform: Platform, people: Sequence[Person]) -> list[str]:
    """The pods of ours whose lease is not open, and the open leases whose pod is not there."""
    pods = platform.cluster.core.list_namespaced_pod(platform.cluster.namespace).items
    held = {lease.id for lease in leases_of(platform, people) if lease.state == "open"}
    by_lease = {(pod.metadata.annotations or {}).get(LEASE): pod.metadata.name for pod in pods}
    return [f"pod {name} of {lease} without a lease" for lease, name in by_lease.items() if lease not in held] + [
        f"lease {lease} without a pod" for lease in held if lease not in by_lease
    ]


def judge(platform: Platform, people: Sequence[Person], keeper: Keeper, witness: Witness) -> Verdict:
    """Compare everything with everything."""
    verdict = Verdict()
    for one in people:
        for run in platform.services.runs.list_of(one.person):
            _judge_run(verdict, platform, one, run)
        known = {run.id for run in platform.services.runs.list_of(one.person)}
        asked = [run.id for run in one.runs]
        if known != set(asked) or len(set(asked)) != len(asked):
            verdict.faults.append(f"{one.person} asked for the runs {asked} and has {known}")
    for lease in leases_of(platform, people):
        _judge_lease(verdict, lease, witness, keeper)
    with platform.services.database.read() as connection:
        verdict.faults += [f"audit: {violation}" for violation in audit_ledger(connection).violations]
    return verdict


def _judge_run(verdict: Verdict, platform: Platform, person: Person, run: RunView) -> None:
    verdict.runs[run.state] += 1
    submitted = next((one for one in person.runs if one.id == run.id), None)
    match run.state:
        case "succeeded":
            output = platform.services.runs.read_file(person.person, run.id, OUTPUT).decode()
            if f"product: {3 * run.parameters['number']}" not in output:
                verdict.faults.append(f"run {run.id} has succeeded without its notebook")
        case "cancelled":
            if submitted is None or not submitted.cancelled:
                verdict.faults.append(f"run {run.id} was cancelled by nobody")
        case _:
            if run.error is None:
                verdict.faults.append(f"run {run.id} is {run.state} and does not say why")
            else:
                verdict.runs[f"{run.state}: {run.error.name}: {run.error.message}"] += 1


def _judge_lease(verdict: Verdict, lease: LeaseView, witness: Witness, keeper: Keeper) -> None:
    verdict.leases[f"{lease.kind} {lease.state}"] += 1
    said = f"{lease.kind} lease {lease.id} of {lease.person}/{lease.server_name} ({lease.state}, {lease.end_reason})"
    if lease.state == "open" or lease.held_microcredits:
        verdict.faults.append(f"{said} has not ended, or holds {lease.held_microcredits}")
    charged, rest = divmod(lease.charged_microcredits, lease.microcredits_per_second)
    if rest:
        verdict.faults.append(f"{said} is charged {lease.charged_microcredits}, not of whole seconds")
    verdict.charged_seconds += charged
    if lease.id not in witness.started:
        # One whose end alone was seen ran no longer than since it was acquired; any other has not run.
        ended = witness.finished.get(lease.id)
        longest = (ended - datetime.fromisoformat(lease.acquired_at)).total_seconds() if ended else 0
        if charged > longest:
            verdict.faults.append(f"{said} is charged {charged} s, and was seen to run {longest} s at most")
        return
    finished = witness.finished.get(lease.id)
    if finished is None:
        verdict.faults.append(f"{said}: how its container ended was never seen, nor when")
        return
    shown = max(witness.seconds(lease), 0)
    verdict.shown_seconds += shown
    if charged > shown:
        verdict.faults.append(
            f"{said} is charged {charged} s and ran {shown} s: {witness.started[lease.id]} to {finished}, "
            f"by the ledger {lease.started_at} to {lease.ended_at}"
        )
    elif charged < shown:
        # Whoever could have told when it ended was away: then it was last seen earlier. Nobody else may lose a second.
        # While those who learn it lived, they have reported it, and that corrects what the worker may have guessed.
        begin, noticed = datetime.fromisoformat(lease.acquired_at), finished + timedelta(seconds=LOOK_SECONDS)
        away = keeper.seconds_away(begin, noticed)
        is_unseen = lease.end_reason != EndReason.STOPPED or keeper.seconds_away(begin, noticed, WITNESSES) > 0
        report = verdict.short if is_unseen and shown - charged <= away else verdict.faults
        report.append(
            f"{said} is charged {charged} of {shown} s: {witness.started[lease.id]} to {finished}, "
            f"by the ledger {lease.started_at} to {lease.ended_at}; for {away:.0f} s some part was away"
        )
