"""A thousand servers of a thousand people on nodes that exist on paper, against plain KubeSpawner doing the same."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from benchmarks.fakes import fake_nodes
from benchmarks.kube import ClusterMissingError, Placing, kube_hub, kube_site, ledger_of
from benchmarks.machine import memory_mib
from benchmarks.report import Comparison, Report, Section, Share

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.fakes import FakeNodes
    from benchmarks.kube import KubeHub, Ledger, Site
    from benchmarks.report import Step

PEOPLE, PEOPLE_QUICK = 1_000, 100
CONNECTIONS = 32
WAVE_SECONDS = 1_800
WATCHED_SECONDS, WATCHED_SECONDS_QUICK = 60.0, 10.0
ACCEPTED = frozenset({201, 202, 204})
LOOK_SECONDS = 1.0
STARTS, STOPS = "jupyterhub_server_spawn_duration_seconds", "jupyterhub_server_stop_seconds"
COMPARES = (
    f"{PEOPLE:,} people start a server each, all at once, on nodes without kubelets whose pods run as soon as they are "
    "scheduled: our hub with the allocations service on PostgreSQL, against a hub with KubeSpawner; the same cluster."
)


@dataclass(frozen=True, slots=True)
class Wave:
    """What one hub took for it all: seconds, MiB, seconds of a processor."""

    started: float
    mean_start: float
    stopped: float
    empty_mib: float
    full_mib: float
    hub_processor: float
    idle_processor: float
    service_mib: tuple[float, float] = (0.0, 0.0)
    service_processor: float = 0.0
    admissions: float = 0.0


def steps(*, quick: bool) -> int:  # noqa: ARG001  as many, only smaller
    """Return how many steps of the progress bar `run` makes."""
    return 2 + 2 * 4


def run(step: Step, *, quick: bool) -> Report:
    """Measure one wave of each side, one after the other: two would not fit on the cluster's own processors."""
    report = Report("fleet", COMPARES, "plain KubeSpawner")
    people = [f"person-{number:04}" for number in range(PEOPLE_QUICK if quick else PEOPLE)]
    step("preparing the cluster")
    try:
        with ExitStack() as stack:
            site = stack.enter_context(kube_site())
            step("registering nodes")
            nodes = stack.enter_context(fake_nodes(len(people)))
            ledger = stack.enter_context(ledger_of(site, people))
            ours = _wave(site, nodes, people, ledger, step, quick=quick)
            theirs = _wave(site, nodes, people, None, step, quick=quick)
            ledger.audit()
    except ClusterMissingError as missing:
        report.notes.append(f"Left out. {missing}")
    else:
        report.sections.append(_section(len(people), ours, theirs))
        report.notes.append("The ledger audit is clean; every lease is settled.")
    return report


def _section(count: int, ours: Wave, theirs: Wave) -> Section:
    section = Section(f"{count:,} servers")
    section.comparisons += [
        Comparison(what, unit, [our], [their])
        for what, unit, our, their in (
            ("starts", "per second", count / ours.started, count / theirs.started),
            ("a start, mean", "s", ours.mean_start, theirs.mean_start),
            ("stops", "per second", count / ours.stopped, count / theirs.stopped),
            ("hub's processor for a start", "ms", _each(ours.hub_processor, count), _each(theirs.hub_processor, count)),
            ("hub's processor while all run", "% of a core", 100 * ours.idle_processor, 100 * theirs.idle_processor),
            ("hub's memory, no server", "MiB", ours.empty_mib, theirs.empty_mib),
            ("hub's memory, all run", "MiB", ours.full_mib, theirs.full_mib),
        )
    ]
    section.shares += [
        Share(what, unit, [value])
        for what, unit, value in (
            ("admissions", "per second", ours.admissions),
            ("service's processor for a start", "ms", _each(ours.service_processor, count)),
            ("service's memory, no server", "MiB", ours.service_mib[0]),
            ("service's memory, all run", "MiB", ours.service_mib[1]),
        )
    ]
    return section


def _each(seconds: float, count: int) -> float:
    return seconds / count * 1000


def _wave(site: Site, nodes: FakeNodes, people: list[str], ledger: Ledger | None, step: Step, *, quick: bool) -> Wave:
    whose = "of the plain hub" if ledger is None else "of ours"
    step(f"people {whose}")
    placing = Placing(nodes.node_selector, nodes.tolerations, nodes.port, WAVE_SECONDS)
    with kube_hub(site, people, ledger, placing) as hub:
        pids = [hub.pid, *([hub.service_pid] if hub.service_pid else [])]
        empty, before = [memory_mib(pid, "VmRSS") for pid in pids], [_processor(pid) for pid in pids]
        step(f"servers {whose} start")
        begin = time.perf_counter()
        asyncio.run(_ask("POST", hub, people))
        started = _seconds_until("The starts", lambda: _times(hub, STARTS)[0] >= len(people), begin)
        after, full = [_processor(pid) for pid in pids], [memory_mib(pid, "VmRSS") for pid in pids]
        admissions = 0.0 if ledger is None else _admissions(ledger)
        step(f"servers {whose} run")
        idle = _processor(hub.pid)
        watched = WATCHED_SECONDS_QUICK if quick else WATCHED_SECONDS
        time.sleep(watched)
        idle = (_processor(hub.pid) - idle) / watched
        count, seconds = _times(hub, STARTS)
        step(f"servers {whose} stop")
        begin = time.perf_counter()
        asyncio.run(_ask("DELETE", hub, people))
        stopped = _seconds_until("The stops", lambda: _times(hub, STOPS)[0] >= len(people), begin)
        if ledger is not None:
            _seconds_until("The settlements", lambda: _open_leases(ledger) == 0, begin)
        spent = [later - earlier for later, earlier in zip(after, before, strict=True)]
        wave = Wave(started, seconds / count, stopped, empty[0], full[0], spent[0], idle)
        if ledger is None:
            return wave
        return replace(wave, service_mib=(empty[1], full[1]), service_processor=spent[1], admissions=admissions)


async def _ask(method: str, hub: KubeHub, people: list[str]) -> None:
    """Ask for everybody's server, or its end, over some connections. Raises RuntimeError for a refusal."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    headers = {"Authorization": f"Bearer {hub.token}"}
    async with httpx.AsyncClient(
        base_url=f"{hub.url}/hub/api", headers=headers, limits=limits, timeout=WAVE_SECONDS
    ) as http:

        async def ask(person: str) -> None:
            body = hub.options if method == "POST" else None
            answer = await http.request(method, f"/users/{person}/server", json=body)
            if answer.status_code not in ACCEPTED:
                raise RuntimeError(f"{method} of {person}'s server: {answer.status_code} {answer.text[:500]}")

        await asyncio.gather(*map(ask, people))


def _metrics(hub: KubeHub) -> list[tuple[str, dict[str, str], float]]:
    answer = httpx.get(f"{hub.url}/hub/metrics", headers={"Authorization": f"Bearer {hub.token}"}, timeout=60)
    families = text_string_to_metric_families(answer.raise_for_status().text)
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def _times(hub: KubeHub, of: str) -> tuple[float, float]:
    """How many starts or stops were successful, and the seconds of all. Raises RuntimeError when one was not."""
    found = {f"{of}_count": 0.0, f"{of}_sum": 0.0}
    for name, labels, value in _metrics(hub):
        if name in found and labels["status"] == "success":
            found[name] = value
        elif name == f"{of}_count" and value:
            raise RuntimeError(f"{of}: {value:.0f} ended with {labels['status']}.\n{hub.complaints()}")
    return found[f"{of}_count"], found[f"{of}_sum"]


def _seconds_until(what: str, look: Callable[[], bool], begin: float) -> float:
    """Look seldom: the hub's metrics take it long to write. Returns the seconds since `begin`."""
    while not look():
        if time.perf_counter() - begin > WAVE_SECONDS:
            raise TimeoutError(f"{what} took more than {WAVE_SECONDS:,} s.")
        time.sleep(LOOK_SECONDS)
    return time.perf_counter() - begin


def _processor(pid: int) -> float:
    """The seconds of a processor that a process has had."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _admissions(ledger: Ledger) -> float:
    """How many leases were admitted in each second between the first and the last of them."""
    with ledger.services.database.read() as connection:
        count, first, last = connection.execute(
            text("SELECT count(*), min(acquired_at_ms), max(acquired_at_ms) FROM leases")
        ).one()
    return float(1000 * count / (last - first))


def _open_leases(ledger: Ledger) -> int:
    with ledger.services.database.read() as connection:
        query = text("SELECT count(*) FROM leases WHERE state <> 'settled'")
        return int(connection.execute(query).scalar_one())
